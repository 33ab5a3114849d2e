//! Services of Windows: its service control manager runs this program by `service run`, which clap does not know of.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::entry::Found;
use super::host::Host;
use super::scm::{Code, Condition, NEVER_STARTED, Phase, Registered, Start, Wanted};
use super::{Plan, Service, ServiceError, State, plain, tail};

mod words;

use words::{service_sid, split};

/// How often the manager is asked whether a service has come to run or to its end.
const POLL: Duration = Duration::from_millis(100);

/// How long a service may take to read its configuration. The manager itself gives a process 30 s to call.
const START: Duration = Duration::from_secs(60);

/// How long a service may take to end without a word. One that drains has one to say every 5 s.
const STOP: Duration = Duration::from_secs(60);

/// The accounts of the system: how they are called, shortened; what the manager calls them; and their identifiers.
const ACCOUNTS: [(&str, &str, &str); 3] = [
    ("localsystem", "LocalSystem", "S-1-5-18"),
    ("localservice", r"NT AUTHORITY\LocalService", "S-1-5-19"),
    ("networkservice", r"NT AUTHORITY\NetworkService", "S-1-5-20"),
];

/// Those who may read every service's log: the system, and administrators.
const READERS: [&str; 2] = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F"];

/// How a process says in its log that it is a service's. What stands before it in the line is the time.
pub(super) fn begins(id: &str, process: u32) -> String {
    format!("service {id} begins, process {process}")
}

pub(super) struct Windows<'a> {
    host: &'a Host,
    service: &'a Service,
}

impl<'a> Windows<'a> {
    pub(super) fn new(host: &'a Host, service: &'a Service) -> Self {
        Self { host, service }
    }

    /// What it is called in messages.
    pub(super) fn title(&self) -> String {
        format!("the service {}", self.service.id())
    }

    pub(super) fn require_rights(&self) -> Result<(), ServiceError> {
        self.host.scm().require_rights()
    }

    fn registered(&self) -> Result<Option<Registered>, ServiceError> {
        self.host.scm().find(&self.service.id())
    }

    /// Looks whose service of this name is there.
    ///
    /// # Errors
    ///
    /// Where the manager does not tell.
    pub(super) fn look(&self) -> Result<Found, ServiceError> {
        Ok(match self.registered()? {
            None => Found::Nothing,
            Some(registered) if self.is_ours(&registered.command) => {
                Found::Ours(registered.command)
            }
            Some(_) => Found::Other,
        })
    }

    fn is_ours(&self, command: &str) -> bool {
        let words = split(command);
        let role = self.service.role.words().join("-");
        let named = words.iter().position(|word| word == "--name").and_then(|at| words.get(at + 1));
        let program = words.first().and_then(|exe| exe.rsplit(['\\', '/']).next());
        let program = program.map(str::to_ascii_lowercase).unwrap_or_default();
        program.strip_suffix(".exe").unwrap_or(&program) == self.service.program
            && words.get(1..4).is_some_and(|words| words == ["service", "run", &role])
            && named == self.service.name.as_ref()
    }

    /// Refuses a program in a user's own folder, who could replace it. Who may write to other folders is not looked at.
    ///
    /// # Errors
    ///
    /// Where it is below the folder of the users' own.
    pub(super) fn check_places(&self, plan: &Plan) -> Result<(), ServiceError> {
        let lower = |path: &Path| path.to_string_lossy().to_lowercase();
        let exe = lower(&plan.exe);
        let exe = exe.strip_prefix(r"\\?\").unwrap_or(&exe);
        let home = lower(&self.service.home);
        let parent =
            home.trim_end_matches('\\').rsplit_once('\\').map(|(folder, _)| folder.to_owned());
        let profiles = [parent, self.host.profiles().map(lower)];
        // Of a home that is not two folders deep nothing can be told.
        let mut profiles = profiles.into_iter().flatten().filter(|folder| folder.contains('\\'));
        if profiles.any(|folder| exe.starts_with(&format!("{folder}\\"))) {
            return Err(ServiceError::UsersProgram(plan.exe.clone()));
        }
        Ok(())
    }

    /// The account that it runs as: one of its own, or one without a password.
    ///
    /// # Errors
    ///
    /// Where another one is asked for.
    pub(super) fn account(&self, asked: Option<&str>) -> Result<String, ServiceError> {
        let own = format!(r"NT SERVICE\{}", self.service.id());
        let Some(asked) = asked else { return Ok(own) };
        let lower = asked.to_ascii_lowercase();
        let short = lower.strip_prefix(r"nt authority\").unwrap_or(&lower).replace(' ', "");
        if let Some((_, account, _)) = ACCOUNTS.iter().find(|(name, ..)| *name == short) {
            return Ok((*account).to_owned());
        }
        if asked.eq_ignore_ascii_case(&own) {
            return Ok(own);
        }
        // The domain keeps the password of such a one (a group managed service account).
        if asked.contains('\\') && asked.ends_with('$') && !asked.chars().any(char::is_control) {
            return Ok(asked.to_owned());
        }
        Err(ServiceError::NeedsPassword { asked: asked.to_owned(), own })
    }

    /// An account as `icacls` takes it.
    fn grantee(&self, account: &str) -> String {
        let known = ACCOUNTS.iter().find(|(_, name, _)| *name == account);
        let sid = known.map(|(_, _, sid)| (*sid).to_owned());
        let own = || account.starts_with(r"NT SERVICE\").then(|| service_sid(&self.service.id()));
        sid.or_else(own).map_or_else(|| account.to_owned(), |sid| format!("*{sid}"))
    }

    fn log(&self) -> PathBuf {
        let id = self.service.id();
        self.log_folder().join(&id).join(format!("{id}.log"))
    }

    fn log_folder(&self) -> PathBuf {
        self.host.log_files().join("tunnel-rs")
    }

    /// Makes the folder of the log, in which only the service's account and administrators may read and write, whoever might
    /// before: the ticket stands in it. Where it is only administrators make folders.
    fn make_log_folder(&self, account: &str) -> Result<(), ServiceError> {
        let (log, logs) = (self.log(), self.log_folder());
        let Some(own) = log.parent() else { return Ok(()) };
        for folder in [&logs, own] {
            let failed =
                |error| ServiceError::File { verb: "make", path: folder.to_owned(), error };
            match fs::symlink_metadata(folder) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(ServiceError::NoFolder(folder.to_owned())),
                Err(_) => fs::create_dir_all(folder).map_err(failed)?,
            }
        }
        self.host
            .run(&self.host.system_program("icacls.exe"), &[plain(own)?, "/reset", "/T", "/L"])?;
        self.icacls(own, &[format!("{}:(OI)(CI)M", self.grantee(account))])
    }

    /// Lets the readers of all logs use a folder, and those more, and nobody else.
    fn icacls(&self, folder: &Path, more: &[String]) -> Result<(), ServiceError> {
        let mut words = vec![plain(folder)?, "/inheritance:r", "/grant:r"];
        words.extend(READERS);
        words.extend(more.iter().map(String::as_str));
        self.host.run(&self.host.system_program("icacls.exe"), &words)?;
        Ok(())
    }

    fn wanted(&self, plan: &Plan, account: &str) -> Result<Wanted, ServiceError> {
        let service = self.service;
        let (log, role) = (self.log(), service.role.words());
        let mut arguments = vec!["service", "run"];
        let of_role = role.join("-");
        arguments.extend([&of_role, "--config", plain(&plan.config)?, "--log", plain(&log)?]);
        if let Some(name) = &service.name {
            arguments.extend(["--name", name]);
        }
        let name = service.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        Ok(Wanted {
            display: format!("{} {}{name}", service.program, role.join(" ")),
            description: format!(
                "Runs by {}. '{}' removes it.",
                plan.config.display(),
                service.command("uninstall")
            ),
            exe: plan.exe.clone(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            account: account.to_owned(),
            start: Start::Automatic,
        })
    }

    /// What an earlier installation has registered, to be registered again.
    fn wanted_before(&self, registered: &Registered) -> Result<Option<Wanted>, ServiceError> {
        let words = split(&registered.command);
        let config = words.iter().position(|word| word == "--config");
        let config = config.and_then(|at| words.get(at + 1));
        let (Some(exe), Some(config)) = (words.first(), config) else { return Ok(None) };
        let plan = Plan { exe: exe.into(), config: config.into(), run_as: None };
        let wanted = self.wanted(&plan, &registered.account)?;
        let arguments = words.iter().skip(1).map(Into::into).collect();
        Ok(Some(Wanted { arguments, start: registered.start, ..wanted }))
    }

    /// Waits for a service to be as wanted, until it has said nothing for so long; how it is then.
    pub(super) fn wait(
        &self,
        time: Duration,
        wanted: impl Fn(Phase) -> bool,
    ) -> Result<Condition, ServiceError> {
        let (mut step, mut since) = (None, Instant::now());
        loop {
            let condition = self.host.scm().condition(&self.service.id())?;
            if step.replace(condition.step) != Some(condition.step) {
                since = Instant::now();
            }
            if wanted(condition.phase) || since.elapsed() >= time {
                return Ok(condition);
            }
            sleep(POLL);
        }
    }

    fn stop(&self) -> Result<(), ServiceError> {
        let id = self.service.id();
        // One that is still starting takes no such word.
        self.wait(START, |phase| phase != Phase::Starting)?;
        self.host.scm().stop(&id)?;
        match self.wait(STOP, |phase| phase == Phase::Stopped)?.phase {
            Phase::Stopped => Ok(()),
            _ => Err(ServiceError::DoesNotEnd { id, seconds: STOP.as_secs() }),
        }
    }

    /// Registers the service, and has it started now and with the system. Where that fails, also because its account cannot
    /// run by the configuration, a service of ours that was there before is there again, and runs if it did; somebody else's
    /// is gone.
    ///
    /// # Errors
    ///
    /// Where the manager refuses, or the service does not come to run.
    pub(super) fn install(&self, plan: &Plan, before: &Found) -> Result<Vec<String>, ServiceError> {
        let (scm, id) = (self.host.scm(), self.service.id());
        let account = self.account(plan.run_as.as_deref())?;
        let wanted = self.wanted(plan, &account)?;
        let registered = self.registered()?;
        let mut running = false;
        if registered.is_some() {
            running = scm.condition(&id)?.phase != Phase::Stopped;
            self.stop()?;
        }
        let log = self.log();
        let length = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let made = self.make_log_folder(&account).and_then(|()| match before {
            Found::Ours(_) => scm.change(&id, &wanted),
            // Nothing of what somebody has set for it is to stay.
            Found::Other => scm.delete(&id).and_then(|()| scm.create(&id, &wanted)),
            Found::Nothing => scm.create(&id, &wanted),
        });
        if let Err(mut error) = made.and_then(|()| self.begin(plan, &account, length)) {
            let is = self.put_back(before, registered.as_ref(), running);
            if let ServiceError::UnusableAccount { left, .. }
            | ServiceError::DoesNotStart { left, .. } = &mut error
            {
                *left = is;
            }
            return Err(error);
        }
        Ok(vec![format!("Log: {}", log.display())])
    }

    /// Has it begin, and waits until it runs. `length` is that of its log before. An error does not know what is left.
    fn begin(&self, plan: &Plan, account: &str, length: u64) -> Result<(), ServiceError> {
        let left = "";
        let id = self.service.id();
        self.host.scm().start(&id)?;
        let condition = self.wait(START, |phase| !matches!(phase, Phase::Starting))?;
        if condition.phase == Phase::Running {
            return Ok(());
        }
        let said = tail::since(&self.log(), length).unwrap_or_default();
        let said = said.iter().map(|line| format!("\n  {line}")).collect();
        match condition.code {
            // What its check says of a configuration that was good for whoever installs.
            Code::Own(2) => Err(ServiceError::UnusableAccount {
                config: plan.config.clone(),
                account: account.to_owned(),
                grantee: self.grantee(account),
                left,
                said,
            }),
            _ => Err(ServiceError::DoesNotStart { id, left, how: ended(&condition), said }),
        }
    }

    /// Undoes an installation that has failed; what is there then. Of a failure of that the first one says more.
    fn put_back(
        &self,
        before: &Found,
        registered: Option<&Registered>,
        running: bool,
    ) -> &'static str {
        let (scm, id) = (self.host.scm(), self.service.id());
        if let Ok(None) = self.registered() {
            return "no service was installed";
        }
        let _ = self.stop();
        let (Found::Ours(_), Some(registered)) = (before, registered) else {
            return match (scm.delete(&id), before) {
                (Err(_), _) => "a service that does not run is left",
                (Ok(()), Found::Nothing) => "no service was installed",
                (Ok(()), _) => "the service that was there before has been removed",
            };
        };
        let wanted = self.wanted_before(registered).ok().flatten();
        let changed = wanted.is_some_and(|wanted| {
            self.make_log_folder(&registered.account).is_ok() && scm.change(&id, &wanted).is_ok()
        });
        if changed && (!running || scm.start(&id).is_ok()) {
            "the service that was there before is as it was"
        } else {
            "the service that was there before could not be put back"
        }
    }

    /// Stops the service, and removes it. The log stays.
    ///
    /// # Errors
    ///
    /// Where it does not end, or the manager refuses; it is then still there.
    pub(super) fn uninstall(&self) -> Result<(), ServiceError> {
        self.stop()?;
        self.host.scm().delete(&self.service.id())
    }

    /// How the service is, and its last lines.
    ///
    /// # Errors
    ///
    /// Where the manager does not tell.
    pub(super) fn status(&self) -> Result<State, ServiceError> {
        let id = self.service.id();
        let condition = self.host.scm().condition(&id)?;
        let (log, running) = (self.log(), condition.phase == Phase::Running);
        let mut head = format!("{id} is {}", named(condition.phase));
        if let Some(process) = condition.process {
            if let Some(since) = tail::time_of_last(&log, &begins(&id, process)) {
                head += &format!(" since {since}");
            }
            head += &format!(", process {process}");
        } else {
            head += &format!(": {}", ended(&condition));
        }
        let mut lines = vec![head];
        if let Some(registered) = self.registered()? {
            let boot = if registered.start == Start::Automatic { "yes" } else { "no" };
            lines.push(format!("Started at boot: {boot}"));
            lines.push(format!("Account: {}", registered.account));
            lines.push(format!("Command: {}", registered.command));
        }
        lines.extend(tail::shown(&log));
        Ok(State { running, lines })
    }
}

fn named(phase: Phase) -> &'static str {
    match phase {
        Phase::Stopped => "stopped",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Paused => "paused",
    }
}

/// How a service has ended.
fn ended(condition: &Condition) -> String {
    match condition.code {
        Code::Own(code) => format!("it has ended with code {code}"),
        Code::System(0) => "it has ended in order".to_owned(),
        Code::System(NEVER_STARTED) => "it has not been started yet".to_owned(),
        Code::System(code) => {
            let text = std::io::Error::from_raw_os_error(code.cast_signed());
            if cfg!(windows) {
                format!("Windows says of its end: {text}")
            } else {
                format!("Windows says of its end: error {code}")
            }
        }
    }
}
