//! Services of launchd: daemons of the system, agents of a user (launchd.plist(5)).

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use super::account::Account;
use super::entry::{Entry, Found, mark};
use super::host::Host;
use super::{Plan, Service, ServiceError, State, plain, tail};

pub(super) struct Launchd<'a> {
    host: &'a Host,
    service: &'a Service,
}

impl<'a> Launchd<'a> {
    pub(super) fn new(host: &'a Host, service: &'a Service) -> Self {
        Self { host, service }
    }

    fn label(&self) -> String {
        format!("io.github.tunnel-rs.{}", self.service.id())
    }

    fn domain(&self) -> String {
        if self.service.user { format!("gui/{}", self.service.own_id) } else { "system".to_owned() }
    }

    fn target(&self) -> String {
        format!("{}/{}", self.domain(), self.label())
    }

    fn library(&self) -> PathBuf {
        if self.service.user {
            self.service.home.join("Library")
        } else {
            PathBuf::from("/Library")
        }
    }

    pub(super) fn entry(&self) -> Entry {
        let folder = if self.service.user { "LaunchAgents" } else { "LaunchDaemons" };
        let path = self.library().join(folder).join(format!("{}.plist", self.label()));
        Entry::new(self.host.path(&path), self.service.program)
    }

    fn log(&self) -> PathBuf {
        self.library().join("Logs").join(format!("{}.log", self.service.id()))
    }

    /// What launchd is told.
    fn text(&self, plan: &Plan) -> Result<String, ServiceError> {
        let (mark, undo) = (mark(self.service.program), self.service.command("uninstall"));
        let words = self.service.role.words();
        let mut arguments = vec![plain(&plan.exe)?];
        arguments.extend(words);
        arguments.extend(["--config", plain(&plan.config)?]);
        let log = self.log();
        let log = escaped(plain(&log)?);
        // A comment must not have two hyphens in a row (XML 1.0, section 2.5), as flags do.
        let undo = undo.replace("--", "- -");
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!-- {mark}; '{undo}' removes it. -->\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <plist version=\"1.0\">\n<dict>\n\
             <key>Label</key>\n<string>{}</string>\n\
             <key>ProgramArguments</key>\n<array>\n",
            self.label()
        );
        for argument in arguments {
            let _ = writeln!(text, "<string>{}</string>", escaped(argument));
        }
        text += "</array>\n";
        if let Some(user) = &plan.run_as {
            let _ = write!(text, "<key>UserName</key>\n<string>{}</string>\n", escaped(user));
        }
        if let Some(time) = self.service.role.stop_time() {
            let _ = write!(text, "<key>ExitTimeOut</key>\n<integer>{time}</integer>\n");
        }
        // 63 is 077.
        text += "<key>RunAtLoad</key>\n<true/>\n<key>KeepAlive</key>\n<true/>\n\
                 <key>Umask</key>\n<integer>63</integer>\n\
                 <key>ProcessType</key>\n<string>Interactive</string>\n";
        for stream in ["StandardOutPath", "StandardErrorPath"] {
            let _ = write!(text, "<key>{stream}</key>\n<string>{log}</string>\n");
        }
        text += "</dict>\n</plist>\n";
        Ok(text)
    }

    fn is_loaded(&self) -> Result<bool, ServiceError> {
        Ok(self.host.ask("launchctl", &["print", &self.target()])?.success)
    }

    fn bootout(&self) -> Result<(), ServiceError> {
        if self.is_loaded()? {
            self.host.run("launchctl", &["bootout", &self.target()])?;
        }
        Ok(())
    }

    fn bootstrap(&self) -> Result<(), ServiceError> {
        let path = self.entry().path().to_owned();
        self.host.run("launchctl", &["bootstrap", &self.domain(), plain(&path)?])?;
        Ok(())
    }

    /// The log has to be there for a daemon that is not root, which cannot make files in that folder.
    fn make_log(&self, plan: &Plan) -> Result<(), ServiceError> {
        let path = self.host.path(&self.log());
        let failed = |error| ServiceError::File { verb: "write", path: path.clone(), error };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        // It holds what the server prints: its ticket.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path).map_err(failed)?;
        match plan.run_as.as_deref().map(Account::find) {
            Some(account) => account?.map_or(Ok(()), |account| account.own(&path)),
            None => Ok(()),
        }
    }

    /// Writes the list of properties, and has the service started now and at every boot or login. What was there before
    /// is there again where that fails.
    ///
    /// # Errors
    ///
    /// Where a path cannot stand in it, or launchd refuses.
    pub(super) fn install(&self, plan: &Plan, before: &Found) -> Result<Vec<String>, ServiceError> {
        let (entry, text) = (self.entry(), self.text(plan)?);
        self.make_log(plan)?;
        self.bootout()?;
        entry.write(&text)?;
        if let Err(error) = self.bootstrap() {
            if let Found::Ours(text) = before {
                let _ = entry.write(text);
                let _ = self.bootstrap();
            } else {
                let _ = entry.remove();
            }
            return Err(error);
        }
        let mut lines = vec![format!("Log: {}", self.log().display())];
        if self.service.user {
            lines.push("It runs while you are logged in".to_owned());
        }
        Ok(lines)
    }

    /// Stops the service, and removes its list of properties. The log stays.
    ///
    /// # Errors
    ///
    /// Where launchd refuses.
    pub(super) fn uninstall(&self) -> Result<(), ServiceError> {
        self.bootout()?;
        self.entry().remove()
    }

    /// How the service is, and its last lines.
    ///
    /// # Errors
    ///
    /// Where launchd cannot be asked.
    pub(super) fn status(&self) -> Result<State, ServiceError> {
        let reply = self.host.ask("launchctl", &["print", &self.target()])?;
        let value = |key: &str| {
            let lines = reply.out.lines().filter_map(|line| line.trim().split_once(" = "));
            lines.filter(|(found, _)| *found == key).map(|(_, value)| value).next()
        };
        let state = if reply.success { value("state").unwrap_or("loaded") } else { "not loaded" };
        let mut head = format!("{} is {state}", self.service.id());
        if let Some(process) = value("pid") {
            let since = self.host.ask("ps", &["-o", "lstart=", "-p", process])?;
            if since.success {
                head += &format!(" since {}", since.out.trim());
            }
            head += &format!(", process {process}");
        } else if let Some(code) = value("last exit code") {
            head += &format!(", last exit code {code}");
        }
        let mut lines = vec![head, format!("Properties: {}", self.entry().path().display())];
        lines.extend(tail::shown(&self.host.path(&self.log())));
        Ok(State { running: state == "running", lines })
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
