//! The service manager of this system.

use std::path::PathBuf;

use super::entry::{Entry, Found};
use super::host::Host;
use super::launchd::Launchd;
use super::systemd::Systemd;
use super::{Account, Plan, Service, ServiceError, State, USER};

/// Which ones there are.
enum Kind<'a> {
    Systemd(Systemd<'a>),
    Launchd(Launchd<'a>),
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
    /// Where there is none that is known.
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
            _ => {
                return Err(ServiceError::NoManager(
                    "there is no service manager here that it knows",
                ));
            }
        };
        Ok(Self { kind, service })
    }

    pub(super) fn entry(&self) -> Entry {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.entry(),
            Kind::Launchd(launchd) => launchd.entry(),
        }
    }

    /// Refuses what a service could not read or run.
    pub(super) fn check_places(&self, plan: &Plan) -> Result<(), ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.check_places(plan),
            Kind::Launchd(_) => Ok(()),
        }
    }

    /// Refuses to replace what this program has not written.
    pub(super) fn require_own(&self, force: bool) -> Result<Found, ServiceError> {
        let entry = self.entry();
        let found = entry.look()?;
        let other = match (&found, &self.kind) {
            (Found::Other, _) => Some(entry.path().to_owned()),
            (_, Kind::Systemd(systemd)) => systemd.elsewhere(),
            (_, Kind::Launchd(_)) => None,
        };
        match other {
            Some(path) if !force => Err(ServiceError::Others(path)),
            _ => Ok(found),
        }
    }

    /// The file of a service that this program has set up.
    pub(super) fn require_installed(&self) -> Result<PathBuf, ServiceError> {
        let entry = self.entry();
        match entry.look()? {
            Found::Ours(_) => Ok(entry.path().to_owned()),
            Found::Other => Err(ServiceError::NotOurs(entry.path().to_owned())),
            Found::Nothing => Err(self.not_there()),
        }
    }

    /// Whether there is such a service, whoever has set it up.
    pub(super) fn require_known(&self) -> Result<(), ServiceError> {
        let elsewhere = match &self.kind {
            Kind::Systemd(systemd) => systemd.elsewhere(),
            Kind::Launchd(_) => None,
        };
        if self.entry().look()? == Found::Nothing && elsewhere.is_none() {
            return Err(self.not_there());
        }
        Ok(())
    }

    fn not_there(&self) -> ServiceError {
        let install = format!("{} --config FILE", self.service.command("install"));
        ServiceError::NotInstalled { id: self.service.id(), install }
    }

    /// The user that a service of the system runs as.
    pub(super) fn user(&self, asked: Option<String>) -> Result<(String, Account), ServiceError> {
        let name = match (asked, &self.kind) {
            (Some(name), _) => name,
            (None, Kind::Systemd(_)) => USER.to_owned(),
            // There is no one command there that makes a user for a service.
            (None, Kind::Launchd(_)) => return Err(ServiceError::WhichUser),
        };
        // Other characters could mean something else in a service's file.
        let usual = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let account = if name.chars().all(usual) { Account::find(&name)? } else { None };
        match account {
            Some(account) => Ok((name, account)),
            None if name == USER => Err(ServiceError::NoOwnUser),
            None => Err(ServiceError::NoUser(name)),
        }
    }

    pub(super) fn install(&self, plan: &Plan, before: &Found) -> Result<Vec<String>, ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.install(plan, before),
            Kind::Launchd(launchd) => launchd.install(plan, before),
        }
    }

    pub(super) fn uninstall(&self) -> Result<(), ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.uninstall(),
            Kind::Launchd(launchd) => launchd.uninstall(),
        }
    }

    pub(super) fn status(&self) -> Result<State, ServiceError> {
        match &self.kind {
            Kind::Systemd(systemd) => systemd.status(),
            Kind::Launchd(launchd) => launchd.status(),
        }
    }
}
