//! Setting up and removing, on a machine that only remembers what it was asked.

use std::cell::RefCell;
use std::rc::Rc;

use tempfile::TempDir;

use super::entry::Found;
use super::host::Reply;
use super::*;

mod windows;

/// A machine below a folder, what it was asked, and which question fails.
struct Machine {
    folder: TempDir,
    host: Host,
    asked: Rc<RefCell<Vec<String>>>,
    failing: Rc<RefCell<Option<&'static str>>>,
    out: Rc<RefCell<String>>,
    /// Its services, where it is one of Windows.
    manager: windows::Scripted,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("run/systemd/system")).unwrap();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let (failing, out) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(String::new())));
        let (log, fails, answer) = (Rc::clone(&asked), Rc::clone(&failing), Rc::clone(&out));
        let runner = move |program: &str, arguments: &[&str]| {
            let line = [&[program], arguments].concat().join(" ");
            let success = fails.borrow().is_none_or(|fails| !line.contains(fails));
            log.borrow_mut().push(line);
            Ok(Reply { success, out: answer.borrow().clone(), err: "it says no".to_owned() })
        };
        let manager = windows::Scripted::default();
        let host = Host::new(folder.path(), Box::new(runner), Box::new(manager.clone()));
        Self { folder, host, asked, failing, out, manager }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow_mut().drain(..).collect()
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(path)).ok()
    }
}

fn service(user: bool) -> Service {
    Service {
        program: "tunnel-rs",
        role: Role::Server,
        name: None,
        user,
        home: PathBuf::from("/home/u"),
        config_home: PathBuf::from("/home/u/.config"),
        own_id: if user { 1000 } else { 0 },
    }
}

fn plan(run_as: Option<&str>) -> Plan {
    Plan {
        exe: PathBuf::from("/usr/local/bin/tunnel-rs"),
        config: PathBuf::from("/etc/tunnel-rs/a & b.toml"),
        run_as: run_as.map(str::to_owned),
    }
}

fn fine(_: &Service, _: &Plan, _: Option<&Account>) -> Result<(), ServiceError> {
    Ok(())
}

#[cfg(target_os = "linux")]
const UNIT: &str = "etc/systemd/system/tunnel-rs-server.service";

#[cfg(target_os = "linux")]
mod on_linux {
    use super::*;

    #[test]
    fn a_service_is_set_up_and_removed() {
        let (machine, service) = (Machine::new(), service(false));
        let lines = install(&machine.host, &service, plan(Some("root")), false, &fine).unwrap();
        assert!(
            lines.iter().any(|line| line == "Undo: tunnel-rs service uninstall server"),
            "{lines:?}"
        );
        let text = machine.read(UNIT).unwrap();
        assert!(text.contains("User=root\n"), "{text}");
        assert!(text.contains("--config \"/etc/tunnel-rs/a & b.toml\"\n"), "{text}");
        let unit = "tunnel-rs-server.service";
        let wanted =
            ["daemon-reload".to_owned(), format!("enable {unit}"), format!("restart {unit}")];
        assert_eq!(machine.asked(), wanted.map(|words| format!("systemctl {words}")));
        uninstall(&machine.host, &service).unwrap();
        assert_eq!(machine.read(UNIT), None);
        assert_eq!(machine.asked()[0], format!("systemctl disable --now {unit}"));
        let error = uninstall(&machine.host, &service).unwrap_err().to_string();
        assert!(error.contains("'tunnel-rs service install server --config FILE'"), "{error}");
    }

    #[test]
    fn what_failed_leaves_what_was_there() {
        let (machine, service) = (Machine::new(), service(false));
        *machine.failing.borrow_mut() = Some("enable");
        let error = install(&machine.host, &service, plan(Some("root")), false, &fine);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "'systemctl enable tunnel-rs-server.service' failed: it says no");
        assert_eq!(machine.read(UNIT), None);
        *machine.failing.borrow_mut() = None;
        install(&machine.host, &service, plan(Some("root")), false, &fine).unwrap();
        let before = machine.read(UNIT);
        *machine.failing.borrow_mut() = Some("restart");
        let other = Plan { config: PathBuf::from("/etc/other.toml"), ..plan(Some("root")) };
        install(&machine.host, &service, other, false, &fine).unwrap_err();
        assert_eq!(machine.read(UNIT), before);
    }

    #[test]
    fn somebody_elses_unit_is_kept() {
        let (machine, service) = (Machine::new(), service(false));
        for place in [UNIT, "usr/lib/systemd/system/tunnel-rs-server.service"] {
            let path = machine.folder.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "[Unit]\n").unwrap();
            let error = install(&machine.host, &service, plan(Some("root")), false, &fine);
            assert!(matches!(error, Err(ServiceError::Others(_))), "{error:?}");
            assert!(uninstall(&machine.host, &service).is_err());
            assert_eq!(machine.read(place).unwrap(), "[Unit]\n");
            assert!(machine.asked().is_empty());
            if place == UNIT {
                std::fs::remove_file(&path).unwrap();
            }
        }
        install(&machine.host, &service, plan(Some("root")), true, &fine).unwrap();
        assert!(machine.read(UNIT).unwrap().contains("ExecStart="));
    }

    #[test]
    fn nothing_is_done_before_the_configuration_is_known_to_be_good() {
        let (machine, service) = (Machine::new(), service(false));
        let wrong = |_: &Service, plan: &Plan, _: Option<&Account>| {
            Err(ServiceError::Wrong(plan.config.clone()))
        };
        let error = install(&machine.host, &service, plan(None), false, &wrong);
        assert!(matches!(error, Err(ServiceError::Wrong(_))), "{error:?}");
        assert!(machine.asked().is_empty() && machine.read(UNIT).is_none());
    }

    #[test]
    fn what_the_sandbox_hides_is_refused() {
        let (machine, service) = (Machine::new(), service(false));
        let at_home = PathBuf::from("/home/u/.local/bin/tunnel-rs");
        let refused =
            install(&machine.host, &service, Plan { exe: at_home, ..plan(None) }, false, &fine);
        assert!(matches!(refused, Err(ServiceError::HiddenProgram(_))), "{refused:?}");
        let config = PathBuf::from("/root/server.toml");
        let refused = install(&machine.host, &service, Plan { config, ..plan(None) }, false, &fine);
        assert!(matches!(refused, Err(ServiceError::HiddenConfig(_))), "{refused:?}");
    }

    #[test]
    fn links_into_what_the_sandbox_hides_are_refused() {
        let (machine, service) = (Machine::new(), service(false));
        let (at_home, linked) = ("home/u/server.toml", "etc/server.toml");
        for path in [at_home, linked] {
            let path = machine.folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let [at_home, link] = [at_home, linked].map(|path| machine.folder.path().join(path));
        std::fs::write(&at_home, "").unwrap();
        std::os::unix::fs::symlink(&at_home, link).unwrap();
        let config = Path::new("/").join(linked);
        let linked = Plan { config: config.clone(), ..plan(None) };
        let refused = install(&machine.host, &service, linked, false, &fine);
        assert!(matches!(&refused, Err(ServiceError::HiddenConfig(path)) if *path == config));
        let linked = Plan { exe: config, ..plan(None) };
        let refused = install(&machine.host, &service, linked, false, &fine);
        assert!(matches!(refused, Err(ServiceError::HiddenProgram(_))), "{refused:?}");
    }

    #[test]
    fn who_may_not_is_told_what_to_do() {
        let machine = Machine::new();
        let nobody = Service { own_id: 1000, ..service(false) };
        let error =
            install(&machine.host, &nobody, plan(None), false, &fine).unwrap_err().to_string();
        assert!(error.contains("sudo") && error.contains("--user"), "{error}");
        std::fs::remove_dir(machine.folder.path().join("run/systemd/system")).unwrap();
        let error = install(&machine.host, &service(false), plan(None), false, &fine);
        assert!(matches!(error, Err(ServiceError::NoManager(_))), "{error:?}");
    }

    #[test]
    fn a_service_of_a_user_is_in_its_configuration() {
        let machine = Machine::new();
        let service = Service { name: Some("office".to_owned()), ..service(true) };
        install(&machine.host, &service, plan(None), false, &fine).unwrap();
        let path = "home/u/.config/systemd/user/tunnel-rs-server-office.service";
        assert!(machine.read(path).unwrap().contains("uninstall server --user --name office'"));
        assert!(machine.asked().iter().all(|line| line.starts_with("systemctl --user ")));
    }

    #[test]
    fn the_status_says_what_systemd_knows() {
        let (machine, service) = (Machine::new(), service(false));
        install(&machine.host, &service, plan(Some("root")), false, &fine).unwrap();
        let stamp = "StateChangeTimestamp=Mon 2026-01-05 10:00:00 UTC";
        *machine.out.borrow_mut() = format!(
            "ActiveState=failed\nSubState=failed\n{stamp}\nMainPID=0\nNRestarts=2\nResult=exit-code\n\
             ExecMainStatus=2\nUnitFileState=enabled\n"
        );
        let State { running, lines } = status(&machine.host, &service).unwrap();
        assert!(!running);
        assert_eq!(
            lines[0],
            "tunnel-rs-server is failed (failed) since Mon 2026-01-05 10:00:00 UTC"
        );
        assert_eq!(
            lines[1..4],
            ["Ended with code 2 (exit-code)", "Restarts: 2", "Started at boot: yes"]
        );
    }
}

fn launchd<'a>(host: &'a Host, service: &'a Service) -> Manager<'a> {
    Manager::on("macos", host, service).unwrap()
}

#[test]
fn launchd_is_told_of_a_daemon() {
    let (machine, service) = (Machine::new(), service(false));
    let manager = launchd(&machine.host, &service);
    assert!(matches!(manager.user(None), Err(ServiceError::WhichUser)));
    // Not loaded yet.
    *machine.failing.borrow_mut() = Some(" print ");
    manager.install(&plan(Some("nobody-like-this")), &Found::Nothing).unwrap();
    let path = "Library/LaunchDaemons/io.github.tunnel-rs.tunnel-rs-server.plist";
    let text = machine.read(path).unwrap();
    assert!(text.contains("<string>/etc/tunnel-rs/a &amp; b.toml</string>"), "{text}");
    assert!(text.contains("<key>UserName</key>\n<string>nobody-like-this</string>"), "{text}");
    assert!(text.contains("<key>ExitTimeOut</key>\n<integer>86460</integer>"), "{text}");
    assert!(machine.asked()[1].starts_with("launchctl bootstrap system "));
    assert_eq!(machine.read("Library/Logs/tunnel-rs-server.log").unwrap(), "");
    *machine.failing.borrow_mut() = None;
    *machine.out.borrow_mut() = "x = {\n\tstate = running\n\tpid = 7\n}\n".to_owned();
    let state = manager.status().unwrap();
    assert!(state.running && state.lines[0].ends_with("process 7"), "{state:?}");
    machine.asked();
    manager.require_installed().unwrap();
    manager.uninstall().unwrap();
    let asked = machine.asked();
    assert_eq!(asked[1], "launchctl bootout system/io.github.tunnel-rs.tunnel-rs-server");
    assert_eq!(machine.read(path), None);
}

#[test]
fn launchd_is_told_of_an_agent() {
    let machine = Machine::new();
    let service = Service { name: Some("a".to_owned()), ..service(true) };
    let manager = launchd(&machine.host, &service);
    manager.install(&plan(None), &Found::Nothing).unwrap();
    let path = "home/u/Library/LaunchAgents/io.github.tunnel-rs.tunnel-rs-server-a.plist";
    let text = machine.read(path).unwrap();
    let comment = text.split("<!--").nth(1).unwrap().split("-->").next().unwrap();
    assert!(!comment.contains("--") && !text.contains("UserName"), "{text}");
    // One that is loaded is ended first.
    let verbs: Vec<_> = machine.asked().iter().map(|line| line[10..17].to_owned()).collect();
    assert_eq!(verbs, ["print g", "bootout", "bootstr"]);
}

#[test]
fn elsewhere_there_is_no_manager() {
    let (machine, service) = (Machine::new(), service(false));
    let refused = Manager::on("plan9", &machine.host, &service).err();
    assert!(matches!(refused, Some(ServiceError::NoManager(_))));
}

#[test]
fn names_need_no_quoting() {
    for good in ["a", "Office-2", "9_x"] {
        assert!(name(good).is_ok());
    }
    for bad in ["", "-a", "a b", "a.service", "a/b", "a@b", "é", &"a".repeat(65)] {
        assert!(name(bad).is_err(), "{bad}");
    }
}
