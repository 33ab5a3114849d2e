//! The same on a Windows whose manager does as the test says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use super::*;
use crate::service::scm::{Code, Condition, Phase, Registered, Scm, Start, Wanted};
use crate::service::windows::Windows;

const ID: &str = "tunnel-rs-server";
const OWN: &str = r"NT SERVICE\tunnel-rs-server";
const NOTHING: Code = Code::System(0);

/// A service control manager of the test.
#[derive(Clone, Default)]
pub(super) struct Scripted(Rc<RefCell<Script>>);

#[derive(Default)]
struct Script {
    services: BTreeMap<String, (Registered, Condition)>,
    /// What has been asked that changes something.
    asked: Vec<String>,
    /// The verb that fails.
    failing: Option<&'static str>,
    /// What services end with as soon as they are started, and what they say before.
    ending: Option<(Code, &'static str)>,
    /// Where they say it.
    log: PathBuf,
    wanted: Option<Wanted>,
    /// How often it still says that it goes on, when it is asked.
    words: u32,
}

fn condition(phase: Phase, process: Option<u32>, code: Code) -> Condition {
    Condition { phase, process, code, step: 0 }
}

fn quoted(word: &OsString) -> String {
    let word = word.to_str().unwrap();
    if word.contains(' ') { format!("\"{word}\"") } else { word.to_owned() }
}

impl Scripted {
    fn ask(&self, verb: &'static str, id: &str) -> Result<(), ServiceError> {
        let mut script = self.0.borrow_mut();
        script.asked.push(verb.to_owned());
        if script.failing == Some(verb) {
            let error = io::Error::other("it says no");
            return Err(ServiceError::Service { verb, id: id.to_owned(), error });
        }
        Ok(())
    }

    fn put(&self, id: &str, wanted: &Wanted) {
        let words = [&[wanted.exe.clone().into_os_string()], &wanted.arguments[..]].concat();
        let command = words.iter().map(quoted).collect::<Vec<_>>().join(" ");
        let (account, start) = (wanted.account.clone(), wanted.start);
        let registered = Registered { command, account, start };
        let condition = condition(Phase::Stopped, None, Code::System(1077));
        let mut script = self.0.borrow_mut();
        script.services.insert(id.to_owned(), (registered, condition));
        script.wanted = Some(wanted.clone());
    }

    fn condition_of(&self, id: &str, phase: Phase, process: Option<u32>, code: Code) {
        let mut script = self.0.borrow_mut();
        script.services.get_mut(id).unwrap().1 = condition(phase, process, code);
    }

    fn asked(&self) -> Vec<String> {
        self.0.borrow_mut().asked.drain(..).collect()
    }

    fn command(&self) -> Option<String> {
        self.0.borrow().services.get(ID).map(|(registered, _)| registered.command.clone())
    }
}

impl Scm for Scripted {
    fn require_rights(&self) -> Result<(), ServiceError> {
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Option<Registered>, ServiceError> {
        Ok(self.0.borrow().services.get(id).map(|(registered, _)| registered.clone()))
    }

    fn create(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError> {
        self.ask("make", id)?;
        assert!(self.find(id)?.is_none());
        self.put(id, wanted);
        Ok(())
    }

    fn change(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError> {
        self.ask("change", id)?;
        self.put(id, wanted);
        Ok(())
    }

    fn delete(&self, id: &str) -> Result<(), ServiceError> {
        self.ask("remove", id)?;
        self.0.borrow_mut().services.remove(id).unwrap();
        Ok(())
    }

    fn start(&self, id: &str) -> Result<(), ServiceError> {
        self.ask("start", id)?;
        let (ending, log) = (self.0.borrow().ending, self.0.borrow().log.clone());
        match ending {
            None => self.condition_of(id, Phase::Running, Some(42), NOTHING),
            Some((code, said)) => {
                let mut text = std::fs::read_to_string(&log).unwrap_or_default();
                text += said;
                std::fs::write(&log, text).unwrap();
                self.condition_of(id, Phase::Stopped, None, code);
            }
        }
        Ok(())
    }

    fn stop(&self, id: &str) -> Result<(), ServiceError> {
        self.ask("stop", id)?;
        self.condition_of(id, Phase::Stopped, None, NOTHING);
        Ok(())
    }

    fn condition(&self, id: &str) -> Result<Condition, ServiceError> {
        let mut script = self.0.borrow_mut();
        let words = script.words;
        script.words = words.saturating_sub(1);
        let condition = &mut script.services.get_mut(id).unwrap().1;
        condition.step += words.min(1);
        if words == 1 {
            condition.phase = Phase::Stopped;
        }
        Ok(*condition)
    }
}

fn of_windows() -> Service {
    Service { home: PathBuf::from(r"C:\Users\u"), ..service(false) }
}

fn plan_of_windows() -> Plan {
    Plan {
        exe: PathBuf::from(r"C:\Program Files\tunnel-rs\bin\tunnel-rs.exe"),
        config: PathBuf::from(r"C:\ProgramData\tunnel-rs\a server.toml"),
        run_as: None,
    }
}

struct Stage {
    machine: Machine,
    service: Service,
    log: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let machine = Machine::new();
        let log = machine.folder.path().join("LogFiles/tunnel-rs").join(ID);
        let log = log.join(format!("{ID}.log"));
        machine.manager.0.borrow_mut().log.clone_from(&log);
        Self { machine, service: of_windows(), log }
    }

    fn install(&self, plan: Plan, force: bool) -> Result<Vec<String>, ServiceError> {
        let manager = Manager::on("windows", &self.machine.host, &self.service).unwrap();
        install_by(&manager, &self.service, plan, force, &fine)
    }

    fn uninstall(&self) -> Result<String, ServiceError> {
        let manager = Manager::on("windows", &self.machine.host, &self.service).unwrap();
        uninstall_by(&manager, &self.service)
    }

    fn status(&self) -> (bool, Vec<String>) {
        let manager = Manager::on("windows", &self.machine.host, &self.service).unwrap();
        let state = manager.status().unwrap();
        (state.running, state.lines)
    }

    fn asked(&self) -> Vec<String> {
        self.machine.manager.asked()
    }
}

#[test]
fn a_service_is_set_up_and_removed() {
    let stage = Stage::new();
    let lines = stage.install(plan_of_windows(), false).unwrap();
    assert!(lines[0].ends_with(&format!("a server.toml, as user {OWN}")), "{lines:?}");
    assert_eq!(lines[1], format!("Log: {}", stage.log.display()));
    assert_eq!(stage.asked(), ["make", "start"]);
    let command = stage.machine.manager.command().unwrap();
    let log = stage.log.to_str().unwrap();
    assert_eq!(
        command,
        format!(
            r#""C:\Program Files\tunnel-rs\bin\tunnel-rs.exe" service run server --config "C:\ProgramData\tunnel-rs\a server.toml" --log {log}"#
        )
    );
    // The log's folder is the administrators' and the service's, by the number of an account that is not there yet; what
    // others were allowed is forgotten.
    let asked = stage.machine.asked();
    let readers = "/inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F";
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].ends_with(&format!("LogFiles/tunnel-rs/{ID} /reset /T /L")), "{asked:?}");
    assert!(asked[0].starts_with(r"C:\Windows\System32\icacls.exe "), "{asked:?}");
    assert!(
        asked[1].contains(&format!("LogFiles/tunnel-rs/{ID} {readers} *S-1-5-80-")),
        "{asked:?}"
    );
    assert!(asked[1].ends_with(":(OI)(CI)M"), "{asked:?}");

    let text = "T1 INFO service tunnel-rs-server begins, process 41\n\
                T2 INFO service tunnel-rs-server begins, process 42\nEndpointId: x\n";
    std::fs::write(&stage.log, text).unwrap();
    let (running, lines) = stage.status();
    assert!(running);
    assert_eq!(lines[0], "tunnel-rs-server is running since T2, process 42");
    assert_eq!(lines[1..3], ["Started at boot: yes".to_owned(), format!("Account: {OWN}")]);
    assert_eq!(lines.last().unwrap(), "  EndpointId: x");

    let said = stage.uninstall().unwrap();
    assert!(said.starts_with("Stopped tunnel-rs-server, and removed the service"), "{said}");
    assert_eq!(stage.asked(), ["stop", "remove"]);
    assert!(stage.log.exists());
    assert!(matches!(stage.uninstall(), Err(ServiceError::NotInstalled { .. })));
}

#[test]
fn an_account_that_cannot_run_by_the_configuration_leaves_nothing_behind() {
    let stage = Stage::new();
    stage.machine.manager.0.borrow_mut().ending = Some((Code::Own(2), "ERROR cannot read it\n"));
    let error = stage.install(plan_of_windows(), false).unwrap_err().to_string();
    assert!(error.contains(&format!("the account {OWN} cannot run by")), "{error}");
    assert!(error.contains("no service was installed"), "{error}");
    assert!(error.contains("\n  ERROR cannot read it\n"), "{error}");
    assert!(error.contains("icacls FILE /grant \"*S-1-5-80-"), "{error}");
    assert_eq!(stage.machine.manager.command(), None);
    stage.machine.manager.0.borrow_mut().ending = Some((Code::System(1067), ""));
    let error = stage.install(plan_of_windows(), false).unwrap_err().to_string();
    assert!(error.contains("tunnel-rs-server did not start") && error.contains("1067"), "{error}");
    assert_eq!(stage.machine.manager.command(), None);
    // What has nothing to do with its account.
    stage.machine.manager.0.borrow_mut().ending = Some((Code::Own(3), ""));
    let error = stage.install(plan_of_windows(), false).unwrap_err().to_string();
    assert!(error.contains("code 3") && !error.contains("icacls"), "{error}");
}

#[test]
fn what_failed_leaves_what_was_there() {
    let stage = Stage::new();
    stage.install(plan_of_windows(), false).unwrap();
    let before = stage.machine.manager.command();
    let other = || Plan { config: PathBuf::from(r"C:\b.toml"), ..plan_of_windows() };
    for failing in ["change", "start"] {
        stage.asked();
        stage.machine.manager.0.borrow_mut().failing = Some(failing);
        stage.install(other(), false).unwrap_err();
        assert_eq!(stage.machine.manager.command(), before, "{failing}");
    }
    stage.machine.manager.0.borrow_mut().failing = None;
    stage.machine.manager.0.borrow_mut().ending = Some((Code::System(1067), ""));
    stage.machine.manager.condition_of(ID, Phase::Running, None, NOTHING);
    let error = stage.install(other(), false).unwrap_err().to_string();
    assert!(error.contains("the service that was there before is as it was"), "{error}");
    assert_eq!(stage.asked().last().unwrap(), "start");
    // It runs if it did, and starts when it did.
    for (phase, start, last) in [
        (Phase::Running, Start::OnDemand, "start"),
        (Phase::Stopped, Start::Automatic, "change"),
        (Phase::Stopped, Start::Disabled, "change"),
    ] {
        stage.machine.manager.condition_of(ID, phase, None, NOTHING);
        stage.machine.manager.0.borrow_mut().services.get_mut(ID).unwrap().0.start = start;
        stage.machine.asked();
        let plan = Plan { run_as: Some("LocalService".to_owned()), ..other() };
        stage.install(plan, false).unwrap_err();
        assert_eq!(stage.asked().last().unwrap(), last);
        assert_eq!(stage.machine.manager.find(ID).unwrap().unwrap().start, start);
        // Its account has its log again.
        let granted = stage.machine.asked();
        assert!(granted[1].ends_with("*S-1-5-19:(OI)(CI)M"), "{granted:?}");
        assert!(granted.last().unwrap().contains(" *S-1-5-80-"), "{granted:?}");
    }
    stage.machine.manager.0.borrow_mut().ending = None;
    stage.machine.manager.0.borrow_mut().failing = None;
    stage.asked();
    stage.install(other(), false).unwrap();
    assert_eq!(stage.asked(), ["stop", "change", "start"]);
    assert!(stage.machine.manager.command().unwrap().contains(r"--config C:\b.toml "));
}

#[test]
fn one_that_says_that_it_goes_on_is_waited_for() {
    let stage = Stage::new();
    stage.install(plan_of_windows(), false).unwrap();
    let manager = Windows::new(&stage.machine.host, &stage.service);
    let time = Duration::from_millis(250);
    for (words, phase) in [(0, Phase::Stopping), (5, Phase::Stopped)] {
        stage.machine.manager.condition_of(ID, Phase::Stopping, Some(42), NOTHING);
        stage.machine.manager.0.borrow_mut().words = words;
        let condition = manager.wait(time, |phase| phase == Phase::Stopped).unwrap();
        assert_eq!(condition.phase, phase);
    }
}

#[test]
fn somebody_elses_service_is_kept() {
    let stage = Stage::new();
    for command in [
        r"C:\other\nssm.exe",
        r"C:\other\tunnel-rs.exe server --config C:\a.toml",
        r"C:\other\tunnel-rs-ice.exe service run server --config C:\a.toml --log C:\a.log",
        r"C:\other\tunnel-rs.exe service run client --config C:\a.toml --log C:\a.log",
        r"C:\other\tunnel-rs.exe service run server --config C:\a.toml --log C:\a.log --name x",
    ] {
        let words = command.split(' ').map(Into::into).collect::<Vec<OsString>>();
        let wanted = Wanted {
            display: String::new(),
            description: String::new(),
            exe: (&words[0]).into(),
            arguments: words[1..].to_vec(),
            account: "LocalSystem".to_owned(),
            start: Start::Automatic,
        };
        stage.machine.manager.put(ID, &wanted);
        let error = stage.install(plan_of_windows(), false).unwrap_err().to_string();
        assert!(error.starts_with("the service tunnel-rs-server is there already"), "{error}");
        assert!(matches!(stage.uninstall(), Err(ServiceError::NotOurs(_))));
        assert_eq!(stage.machine.manager.command().as_deref(), Some(command));
        assert!(stage.asked().is_empty());
    }
    stage.install(plan_of_windows(), true).unwrap();
    assert_eq!(stage.asked(), ["stop", "remove", "make", "start"]);
    stage.uninstall().unwrap();
}

#[test]
fn somebody_elses_service_that_was_replaced_in_vain_is_said_to_be_gone() {
    let stage = Stage::new();
    let wanted = Wanted {
        display: String::new(),
        description: String::new(),
        exe: r"C:\other\nssm.exe".into(),
        arguments: Vec::new(),
        account: "LocalSystem".to_owned(),
        start: Start::Automatic,
    };
    stage.machine.manager.put(ID, &wanted);
    stage.machine.manager.0.borrow_mut().ending = Some((Code::Own(2), ""));
    let error = stage.install(plan_of_windows(), true).unwrap_err().to_string();
    assert!(error.contains("the service that was there before has been removed"), "{error}");
    assert_eq!(stage.machine.manager.command(), None);
}

#[test]
fn a_service_with_a_name_is_another_one() {
    let mut stage = Stage::new();
    stage.service.name = Some("office".to_owned());
    stage.machine.manager.0.borrow_mut().ending = None;
    stage.install(plan_of_windows(), false).unwrap();
    let wanted = stage.machine.manager.0.borrow().wanted.clone().unwrap();
    assert_eq!(wanted.display, "tunnel-rs server (office)");
    assert_eq!(wanted.account, r"NT SERVICE\tunnel-rs-server-office");
    assert_eq!(wanted.arguments.last().unwrap(), "office");
    assert!(wanted.description.contains("'tunnel-rs service uninstall server --name office'"));
    stage.uninstall().unwrap();
}

#[test]
fn accounts_are_those_without_a_password() {
    let (machine, service) = (Machine::new(), of_windows());
    let manager = Manager::on("windows", &machine.host, &service).unwrap();
    let account = |asked: &str| manager.user(Some(asked.to_owned())).map(|(account, _)| account);
    for (asked, wanted) in [
        ("localsystem", "LocalSystem"),
        ("Local Service", r"NT AUTHORITY\LocalService"),
        (r"NT AUTHORITY\NETWORK SERVICE", r"NT AUTHORITY\NetworkService"),
        (r"nt service\Tunnel-RS-Server", OWN),
        (r"CORP\tunnels$", r"CORP\tunnels$"),
    ] {
        assert_eq!(account(asked).unwrap(), wanted);
    }
    for asked in ["", "me", r".\me", r"CORP\me", r"NT SERVICE\other", "$"] {
        let refused = account(asked);
        assert!(matches!(refused, Err(ServiceError::NeedsPassword { .. })), "{asked}: {refused:?}");
    }
    let users = Service { user: true, ..of_windows() };
    let refused = Manager::on("windows", &machine.host, &users).err();
    assert!(matches!(refused, Some(ServiceError::NoUserServices)));
}

#[test]
fn a_program_of_a_user_is_no_services() {
    let stage = Stage::new();
    for exe in [
        r"C:\Users\u\AppData\Local\Programs\tunnel-rs.exe",
        r"c:\users\v\tunnel-rs.exe",
        r"\\?\C:\Users\u\tunnel-rs.exe",
    ] {
        let plan = Plan { exe: PathBuf::from(exe), ..plan_of_windows() };
        let refused = stage.install(plan, false);
        assert!(matches!(refused, Err(ServiceError::UsersProgram(_))), "{refused:?}");
    }
    let plan = Plan { exe: PathBuf::from(r"C:\Users2\tunnel-rs.exe"), ..plan_of_windows() };
    stage.install(plan, false).unwrap();
}

#[cfg(unix)]
#[test]
fn a_log_goes_through_no_link() {
    let stage = Stage::new();
    let data = stage.machine.folder.path().join("LogFiles");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink("/tmp", data.join("tunnel-rs")).unwrap();
    let refused = stage.install(plan_of_windows(), false);
    assert!(matches!(refused, Err(ServiceError::NoFolder(_))), "{refused:?}");
    assert!(stage.asked().is_empty());
}
