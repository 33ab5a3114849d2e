//! The process that Windows starts as a service.

use std::ffi::OsString;
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::{Args, Command, FromArgMatches, ValueEnum};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    ServiceControlHandlerResult, ServiceStatusHandle, register,
};
use windows_service::{define_windows_service, service_dispatcher};

use super::windows::begins;
use super::{Role, ServiceError, id, name};
use crate::signals::{self, End};
use crate::{Outcome, output};

/// How often the manager is told that the end of the service goes on, and when it is to expect that at the latest.
const PROGRESS: Duration = Duration::from_secs(5);
const HINT: Duration = Duration::from_secs(30);

/// A service that this process is.
#[derive(Debug)]
pub struct Started {
    /// The program's name.
    program: &'static str,
    role: Role,
    /// The service's name.
    id: String,
    config: PathBuf,
    log: PathBuf,
}

/// What `service run` takes. It is no command of the program's for people, who would find it in completions even if it was
/// hidden.
#[derive(Args, Debug)]
struct RunArgs<R: ValueEnum + Send + Sync + 'static> {
    #[arg(value_enum)]
    role: R,
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    log: PathBuf,
    #[arg(long, value_parser = name)]
    name: Option<String>,
}

/// The service that this process is to be, where the words behind the program's name say so; as `service install` has
/// registered them.
///
/// # Errors
///
/// Where they make no sense otherwise.
pub fn started<R: ValueEnum + Into<Role> + Send + Sync + 'static>(
    program: &'static str,
    words: &[OsString],
) -> Option<Result<Started, clap::Error>> {
    let words = words.strip_prefix(&["service", "run"].map(OsString::from))?;
    let command = RunArgs::<R>::augment_args(Command::new(program)).no_binary_name(true);
    let args =
        command.try_get_matches_from(words).and_then(|found| RunArgs::from_arg_matches(&found));
    Some(args.map(|RunArgs { role, config, log, name }: RunArgs<R>| {
        let role: Role = role.into();
        Started { program, role, id: id(program, role, name.as_deref()), config, log }
    }))
}

/// What the functions that Windows calls know: they take no arguments of ours.
static SERVICE: OnceLock<String> = OnceLock::new();
static CONNECTED: Mutex<Option<oneshot::Sender<windows_service::Result<()>>>> = Mutex::new(None);
static MANAGER: OnceLock<ServiceStatusHandle> = OnceLock::new();
static ENDS: OnceLock<UnboundedSender<End>> = OnceLock::new();

/// Whether the service has been told to end.
static ENDING: AtomicBool = AtomicBool::new(false);
/// How often the manager has been told that it is ending.
static STEPS: AtomicU32 = AtomicU32::new(0);

define_windows_service!(main, serve);

/// The thread that Windows gives a service. The work is done by others, and ends the process.
fn serve(_: Vec<OsString>) {
    connected();
    loop {
        std::thread::park();
    }
}

fn connected() {
    let name = SERVICE.get().map(String::as_str).unwrap_or_default();
    // No closure: the library frees one on the first word to end, and there may be a second one.
    let done = register(name, control).map(|handle| {
        let _ = MANAGER.set(handle);
    });
    if let Some(sender) = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = sender.send(done);
    }
}

/// What the manager says. A service that is stopped drains, as after SIGTERM elsewhere; the system's end waits for nobody.
fn control(control: ServiceControl) -> ServiceControlHandlerResult {
    let end = match control {
        ServiceControl::Interrogate => return ServiceControlHandlerResult::NoError,
        ServiceControl::Stop => End::Terminate,
        ServiceControl::Shutdown => End::Interrupt,
        _ => return ServiceControlHandlerResult::NotImplemented,
    };
    ENDING.store(true, Ordering::SeqCst);
    report(ServiceState::StopPending, ServiceExitCode::NO_ERROR);
    if let Some(sender) = ENDS.get() {
        let _ = sender.send(end);
    }
    ServiceControlHandlerResult::NoError
}

/// Tells the manager how the service is.
fn report(state: ServiceState, exit_code: ServiceExitCode) {
    let Some(manager) = MANAGER.get() else { return };
    let pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
    let accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN,
        // It ends the drain.
        ServiceState::StopPending => ServiceControlAccept::SHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code,
        checkpoint: if pending { STEPS.fetch_add(1, Ordering::SeqCst) } else { 0 },
        wait_hint: if pending { HINT } else { Duration::ZERO },
        process_id: None,
    };
    if let Err(error) = manager.set_service_status(status) {
        error!("cannot tell the service control manager that the service is {state:?}: {error:?}");
    }
}

impl Started {
    /// What it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Does the work, as a service: after `check` has found the configuration good. Ends the process.
    ///
    /// # Errors
    ///
    /// Where Windows has not started this process as a service.
    pub async fn run<W: Future<Output = Outcome>>(
        self,
        check: impl FnOnce(Role, &Path) -> Outcome,
        work: impl FnOnce(Role, PathBuf) -> W,
    ) -> Outcome {
        self.connect().await?;
        if let Err(error) = output::into_file(self.log.clone()) {
            // Another one, such as that somebody reads it and lets nobody write, may pass.
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) {
                let code = error.raw_os_error().map_or(1, i32::cast_unsigned);
                report(ServiceState::Stopped, ServiceExitCode::Win32(code));
            }
            std::process::exit(1);
        }
        std::panic::set_hook(Box::new(|panic| {
            let _ = writeln!(output::log(), "{panic}");
        }));
        let _ = ENDS.set(signals::by_manager());
        info!("{}", begins(&self.id, std::process::id()));
        let outcome = match check(self.role, &self.config) {
            Err(failure) => Err(failure),
            Ok(()) => {
                report(ServiceState::Running, ServiceExitCode::NO_ERROR);
                in_progress(work(self.role, self.config.clone())).await
            }
        };
        self.finish(outcome)
    }

    /// Has Windows call, which it does where it has started this process as a service.
    async fn connect(&self) -> Outcome {
        let (sender, connected) = oneshot::channel();
        let (failing, failed) = oneshot::channel();
        let _ = SERVICE.set(self.id.clone());
        *CONNECTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let id = self.id.clone();
        // Blocked for as long as the service runs.
        std::thread::spawn(move || {
            if let Err(error) = service_dispatcher::start(id, main) {
                let _ = failing.send(error);
            }
        });
        let refused = tokio::select! {
            Ok(done) = connected => done.err(),
            Ok(error) = failed => Some(error),
            else => None,
        };
        match refused {
            None => {
                report(ServiceState::StartPending, ServiceExitCode::NO_ERROR);
                Ok(())
            }
            Some(error) => {
                let command = [&[self.program], self.role.words()].concat().join(" ");
                let command = format!("{command} --config {}", self.config.display());
                tracing::debug!("the service control manager: {error:?}");
                Err(ServiceError::NotByManager(command).into())
            }
        }
    }

    /// Ends the process. One that could not do its work now, but perhaps later, ends without a word to the manager, which
    /// counts that as a crash and starts it again.
    fn finish(&self, outcome: Outcome) -> ! {
        let code = match &outcome {
            Ok(()) => 0,
            Err(failure) => {
                error!("{failure}");
                failure.number()
            }
        };
        let ending = ENDING.load(Ordering::SeqCst);
        if code == 0 || ending || self.role.lasting().contains(&code) {
            info!("service {} has ended with code {code}", self.id);
            let code = match code {
                0 => ServiceExitCode::NO_ERROR,
                code => ServiceExitCode::ServiceSpecific(code.into()),
            };
            report(ServiceState::Stopped, code);
        }
        std::process::exit(code.into())
    }
}

/// Does the work, and tells the manager while its end takes time.
async fn in_progress(work: impl Future<Output = Outcome>) -> Outcome {
    let mut work = pin!(work);
    let mut progress = interval(PROGRESS);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = progress.tick() => {
                if ENDING.load(Ordering::SeqCst) {
                    report(ServiceState::StopPending, ServiceExitCode::NO_ERROR);
                }
            }
        }
    }
}
