//! Services of systemd.

use std::path::{Path, PathBuf};

use super::entry::{Entry, Found, mark};
use super::host::Host;
use super::unit::{self, Unit};
use super::{Plan, Service, ServiceError, State};

/// Where others than this program put units of the system (systemd.unit(5)); one in /etc would hide them.
const ELSEWHERE: [&str; 4] = [
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What the sandbox of a service of the system hides: `ProtectHome`, `PrivateTmp`.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// How many lines of the log `status` shows.
const LINES: &str = "--lines=10";

pub(super) struct Systemd<'a> {
    host: &'a Host,
    service: &'a Service,
}

impl<'a> Systemd<'a> {
    pub(super) fn new(host: &'a Host, service: &'a Service) -> Self {
        Self { host, service }
    }

    fn unit_name(&self) -> String {
        format!("{}.service", self.service.id())
    }

    fn entry_in(&self, folder: &Path) -> Entry {
        Entry::new(self.host.path(&folder.join(self.unit_name())), self.service.program)
    }

    fn folder(&self) -> PathBuf {
        if !self.service.user {
            return PathBuf::from("/etc/systemd/system");
        }
        self.service.config_home.join("systemd/user")
    }

    pub(super) fn entry(&self) -> Entry {
        self.entry_in(&self.folder())
    }

    /// Whether there is a systemd to ask.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub(super) fn require(&self) -> Result<(), ServiceError> {
        // sd_booted(3) has this as the test.
        if self.host.path(Path::new("/run/systemd/system")).is_dir() {
            return Ok(());
        }
        Err(ServiceError::NoManager("systemd does not run on this machine"))
    }

    /// Refuses what the sandbox would hide from the service.
    ///
    /// # Errors
    ///
    /// Where the program or the configuration file is in such a place.
    pub(super) fn check_places(&self, plan: &Plan) -> Result<(), ServiceError> {
        if self.service.user {
            return Ok(());
        }
        // Links may lead to such a place, and such a place may be a link.
        let real = |path: &Path| {
            let path = self.host.path(path);
            path.canonicalize().unwrap_or(path)
        };
        let is_hidden = |path: &Path| {
            let mut places = HIDDEN.iter().map(Path::new);
            places.any(|hidden| path.starts_with(hidden) || real(path).starts_with(real(hidden)))
        };
        if is_hidden(&plan.exe) {
            return Err(ServiceError::HiddenProgram(plan.exe.clone()));
        }
        if is_hidden(&plan.config) {
            return Err(ServiceError::HiddenConfig(plan.config.clone()));
        }
        Ok(())
    }

    /// A unit of this name that somebody else has put somewhere.
    pub(super) fn elsewhere(&self) -> Option<PathBuf> {
        let folders = ELSEWHERE.iter().filter(|_| !self.service.user);
        let entries = folders.map(|folder| self.entry_in(Path::new(folder)));
        entries.map(|entry| entry.path().to_owned()).find(|path| path.symlink_metadata().is_ok())
    }

    fn systemctl(&self, words: &[&str]) -> Result<String, ServiceError> {
        let scope: &[&str] = if self.service.user { &["--user"] } else { &[] };
        let said = self.host.run("systemctl", &[scope, words].concat());
        match said {
            Err(ServiceError::Command { command, said }) if said.contains("connect to bus") => {
                Err(ServiceError::NoBus { command, said })
            }
            said => said,
        }
    }

    fn text(&self, plan: &Plan) -> Result<String, ServiceError> {
        let service = self.service;
        let (what, undo) = (service.id(), service.command("uninstall"));
        let name = service.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        unit::render(&Unit {
            header: format!("{}; '{undo}' removes it.", mark(service.program)),
            description: format!("{} {}{name}", service.program, service.role.words().join(" ")),
            role: service.role,
            user: plan.run_as.as_deref(),
            program: &plan.exe,
            config: &plan.config,
            state: what,
        })
    }

    /// Writes the unit, and has it started now and at every boot. What was there before is there again where that fails.
    ///
    /// # Errors
    ///
    /// Where a path cannot stand in a unit, or systemd refuses.
    pub(super) fn install(&self, plan: &Plan, before: &Found) -> Result<Vec<String>, ServiceError> {
        let (entry, unit) = (self.entry(), self.unit_name());
        let text = self.text(plan)?;
        entry.write(&text)?;
        let done = self
            .systemctl(&["daemon-reload"])
            .and_then(|_| self.systemctl(&["enable", &unit]))
            .and_then(|_| self.systemctl(&["restart", &unit]));
        if let Err(error) = done {
            self.put_back(before);
            return Err(error);
        }
        let journal = if self.service.user { "journalctl --user-unit" } else { "journalctl -u" };
        let mut lines = vec![format!("Log: {journal} {}", self.service.id())];
        if self.service.user {
            let text =
                "It runs while you are logged in; 'loginctl enable-linger' has it run from boot on";
            lines.push(text.to_owned());
        }
        Ok(lines)
    }

    /// Undoes an installation that has failed; of a failure of that, nothing better can be said than the first one.
    fn put_back(&self, before: &Found) {
        let (entry, unit) = (self.entry(), self.unit_name());
        if let Found::Ours(text) = before {
            let _ = entry.write(text);
            let _ = self.systemctl(&["daemon-reload"]);
            let _ = self.systemctl(&["restart", &unit]);
        } else {
            let _ = self.systemctl(&["disable", "--now", &unit]);
            let _ = entry.remove();
            let _ = self.systemctl(&["daemon-reload"]);
        }
    }

    /// Stops the service, and removes its unit.
    ///
    /// # Errors
    ///
    /// Where systemd refuses; the unit is then still there.
    pub(super) fn uninstall(&self) -> Result<(), ServiceError> {
        let unit = self.unit_name();
        self.systemctl(&["disable", "--now", &unit])?;
        self.entry().remove()?;
        self.systemctl(&["daemon-reload"])?;
        // Otherwise one that has failed is listed on; one that has not is no failure.
        let _ = self.systemctl(&["reset-failed", &unit]);
        Ok(())
    }

    /// How the service is, and its last lines.
    ///
    /// # Errors
    ///
    /// Where systemd does not tell.
    pub(super) fn status(&self) -> Result<State, ServiceError> {
        let unit = self.unit_name();
        let shown = self.systemctl(&[
            "show",
            &unit,
            "--property=ActiveState,SubState,StateChangeTimestamp,MainPID,NRestarts,Result,ExecMainStatus,UnitFileState",
        ])?;
        let value = |key: &str| {
            let lines = shown.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(found, _)| *found == key).map(|(_, value)| value).next().unwrap_or("")
        };
        let state = value("ActiveState");
        let mut head = format!("{} is {state} ({})", self.service.id(), value("SubState"));
        if !value("StateChangeTimestamp").is_empty() {
            head += &format!(" since {}", value("StateChangeTimestamp"));
        }
        let mut lines = vec![head];
        if !matches!(value("MainPID"), "" | "0") {
            lines.push(format!("Process: {}", value("MainPID")));
        } else if value("Result") != "success" {
            let (result, code) = (value("Result"), value("ExecMainStatus"));
            lines.push(format!("Ended with code {code} ({result})"));
        }
        if !matches!(value("NRestarts"), "" | "0") {
            lines.push(format!("Restarts: {}", value("NRestarts")));
        }
        let boot = if value("UnitFileState") == "enabled" { "yes" } else { "no" };
        lines.push(format!("Started at boot: {boot}"));
        lines.push(format!("Unit: {}", self.entry().path().display()));
        lines.extend(self.log(&unit));
        Ok(State { running: state == "active", lines })
    }

    fn log(&self, unit: &str) -> Vec<String> {
        let of = if self.service.user { "--user-unit" } else { "--unit" };
        let asked = [of, unit, LINES, "--no-pager", "--quiet", "--output=short-iso"];
        match self.host.run("journalctl", &asked) {
            Ok(text) if text.trim().is_empty() => {
                vec!["The log shows no lines of it to this user".to_owned()]
            }
            Ok(text) => std::iter::once("Last lines:".to_owned())
                .chain(text.lines().map(|line| format!("  {line}")))
                .collect(),
            Err(error) => vec![format!("The log cannot be read: {error}")],
        }
    }
}
