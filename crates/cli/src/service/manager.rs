//! The service manager of this system.

use super::entry::{Entry, Found};
use super::host::Host;
use super::launchd::Launchd;
use super::systemd::Systemd;
use super::windows::Windows;
use super::{Account, Plan, Service, ServiceError, State, USER};

/// Which ones there are.
enum Kind<'a> {
    Systemd(Systemd<'a>),
    Launchd(Launchd<'a>),
    Windows(Windows<'a>),
}

pub(super) struct Manager<'a> {
    kind: Kind<'a>,
    service: &'a Service,
}

impl<'a> Manager<'a> {
    /// The manager, for changing something.
    ///
    /// # Errors
    ///
    /// Where there is none that is known, or this user may not change it.
    pub(super) fn of(host: &'a Host, service: &'a Service) -> Result<Self, ServiceError> {
        let manager = Self::for_reading(host, service)?;
        if let Kind::Windows(windows) = &manager.kind {
            windows.require_rights()?;
            return Ok(manager);
        }
        if !service.user && service.own_id != 0 {
            return Err(ServiceError::NotRoot);
        }
        // It would have root's own manager in mind, and hardly ever what the user behind sudo wants.
        if service.user && service.own_id == 0 {
            return Err(ServiceError::RootsOwn);
        }
        Ok(manager)
    }

    /// The manager, for asking something.
    ///
    /// # Errors
    ///
    /// Where there is none that is known, or it has no such services.
    pub(super) fn for_reading(host: &'a Host, service: &'a Service) -> Result<Self, ServiceError> {
        Self::on(std::env::consts::OS, host, service)
    }

    /// The manager of an operating system.
    pub(super) fn on(
        system: &str,
        host: &'a Host,
        service: &'a Service,
    ) -> Result<Self, ServiceError> {
        let kind = match system {
            "linux" => {
                let systemd = Systemd::new(host, service);
                systemd.require()?;
                Kind::Systemd(systemd)
            }
            "macos" => Kind::Launchd(Launchd::new(host, service)),
            "windows" if service.user => return Err(ServiceError::NoUserServices),
            "windows" => Kind::Windows(Windows::new(host, service)),
            _ => {
                return Err(ServiceError::NoManager(
                    "there is no service manager here that it knows",
                ));
            }
        };
        Ok(Self { kind, service })
    }

    /// The file of the service, where the manager has files.
    fn entry(&self) -> Option<Entry> {
        match &self.kind {
            Kind::Systemd(systemd) => Some(systemd.entry()),
            Kind::Launchd(launchd) => Some(launchd.entry()),
            Kind::Windows(_) => None,
        }
    }

    fn look(&self) -> Result<Found, ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.entry().look(),
            Kind::Launchd(launchd) => launchd.entry().look(),
            Kind::Windows(windows) => windows.look(),
        }
    }

    /// What the manager has of the service, in a few words.
    pub(super) fn title(&self) -> String {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.entry().path().display().to_string(),
            Kind::Launchd(launchd) => launchd.entry().path().display().to_string(),
            Kind::Windows(windows) => windows.title(),
        }
    }

    /// Where the file of the service is, where the manager has files.
    pub(super) fn file(&self) -> Option<String> {
        self.entry().map(|entry| entry.path().display().to_string())
    }

    /// Refuses what a service could not read or run.
    pub(super) fn check_places(&self, plan: &Plan) -> Result<(), ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.check_places(plan),
            Kind::Launchd(_) => Ok(()),
            Kind::Windows(windows) => windows.check_places(plan),
        }
    }

    /// Refuses to replace what this program has not written.
    pub(super) fn require_own(&self, force: bool) -> Result<Found, ServiceError> {
        let found = self.look()?;
        let other = match (&found, &self.kind) {
            (Found::Other, _) => Some(self.title()),
            (_, Kind::Systemd(systemd)) => {
                systemd.elsewhere().map(|path| path.display().to_string())
            }
            (_, Kind::Launchd(_) | Kind::Windows(_)) => None,
        };
        match other {
            Some(other) if !force => Err(ServiceError::Others(other)),
            _ => Ok(found),
        }
    }

    /// Refuses to remove what this program has not set up.
    pub(super) fn require_installed(&self) -> Result<(), ServiceError> {
        match self.look()? {
            Found::Ours(_) => Ok(()),
            Found::Other => Err(ServiceError::NotOurs(self.title())),
            Found::Nothing => Err(self.not_there()),
        }
    }

    /// Whether there is such a service, whoever has set it up.
    pub(super) fn require_known(&self) -> Result<(), ServiceError> {
        let elsewhere = match &self.kind {
            Kind::Systemd(systemd) => systemd.elsewhere(),
            Kind::Launchd(_) | Kind::Windows(_) => None,
        };
        if self.look()? == Found::Nothing && elsewhere.is_none() {
            return Err(self.not_there());
        }
        Ok(())
    }

    fn not_there(&self) -> ServiceError {
        let install = format!("{} --config FILE", self.service.command("install"));
        ServiceError::NotInstalled { id: self.service.id(), install }
    }

    /// The user that a service of the system runs as; its rights where this process can take them.
    pub(super) fn user(
        &self,
        asked: Option<String>,
    ) -> Result<(String, Option<Account>), ServiceError> {
        let name = match (asked, &self.kind) {
            // What its account may read is found out by starting it.
            (asked, Kind::Windows(windows)) => {
                return windows.account(asked.as_deref()).map(|account| (account, None));
            }
            (Some(name), _) => name,
            (None, Kind::Systemd(_)) => USER.to_owned(),
            // There is no one command there that makes a user for a service.
            (None, Kind::Launchd(_)) => return Err(ServiceError::WhichUser),
        };
        // Other characters could mean something else in a service's file.
        let usual = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let account = if name.chars().all(usual) { Account::find(&name)? } else { None };
        match account {
            Some(account) => Ok((name, Some(account))),
            None if name == USER => Err(ServiceError::NoOwnUser),
            None => Err(ServiceError::NoUser(name)),
        }
    }

    pub(super) fn install(&self, plan: &Plan, before: &Found) -> Result<Vec<String>, ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.install(plan, before),
            Kind::Launchd(launchd) => launchd.install(plan, before),
            Kind::Windows(windows) => windows.install(plan, before),
        }
    }

    pub(super) fn uninstall(&self) -> Result<(), ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.uninstall(),
            Kind::Launchd(launchd) => launchd.uninstall(),
            Kind::Windows(windows) => windows.uninstall(),
        }
    }

    pub(super) fn status(&self) -> Result<State, ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.status(),
            Kind::Launchd(launchd) => launchd.status(),
            Kind::Windows(windows) => windows.status(),
        }
    }
}
