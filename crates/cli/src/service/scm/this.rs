//! The service control manager itself.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use windows_service::Error;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceExitCode,
    ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState,
    ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::{Code, Condition, Phase, RESTART, Registered, Scm, Start, Wanted};
use crate::service::ServiceError;

// Microsoft's "System Error Codes".
const ACCESS_DENIED: i32 = 5;
const SERVICE_ALREADY_RUNNING: i32 = 1056;
const SERVICE_DOES_NOT_EXIST: i32 = 1060;
/// It is on its way to its end, or begins.
const SERVICE_CANNOT_ACCEPT_CTRL: i32 = 1061;
const SERVICE_NOT_ACTIVE: i32 = 1062;

/// After how long without a failure earlier ones are forgotten. Of no effect where all have the same consequence.
const RESET: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct This;

fn io(error: Error) -> io::Error {
    match error {
        Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}

fn failed(verb: &'static str, id: &str) -> impl FnOnce(Error) -> ServiceError {
    let id = id.to_owned();
    move |error| {
        let error = io(error);
        match error.raw_os_error() {
            // A service that is there may be started only by those whom it lets, and fails so, too, where its account
            // may not read the program.
            Some(ACCESS_DENIED) if verb != "start" => ServiceError::NotAdministrator,
            _ => ServiceError::Service { verb, id, error },
        }
    }
}

fn manager(access: ServiceManagerAccess) -> Result<ServiceManager, ServiceError> {
    let manager = ServiceManager::local_computer(None::<&str>, access);
    manager.map_err(failed("reach the manager of", "services"))
}

fn open(verb: &'static str, id: &str, access: ServiceAccess) -> Result<Service, ServiceError> {
    manager(ServiceManagerAccess::CONNECT)?.open_service(id, access).map_err(failed(verb, id))
}

/// What may be done to one that is made or changed; restarting it on a crash takes the right to start it.
fn all() -> ServiceAccess {
    ServiceAccess::CHANGE_CONFIG | ServiceAccess::START
}

fn info(id: &str, wanted: &Wanted) -> ServiceInfo {
    // Of an account that the system makes up for a service, or whose password the domain keeps, there is none to name;
    // those of the system have an empty one (CreateService, lpPassword).
    let made_up = wanted.account.starts_with(r"NT SERVICE\") || wanted.account.ends_with('$');
    ServiceInfo {
        name: id.into(),
        display_name: (&wanted.display).into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: match wanted.start {
            Start::Automatic => ServiceStartType::AutoStart,
            Start::OnDemand => ServiceStartType::OnDemand,
            Start::Disabled => ServiceStartType::Disabled,
        },
        error_control: ServiceErrorControl::Normal,
        executable_path: wanted.exe.clone(),
        launch_arguments: wanted.arguments.clone(),
        dependencies: Vec::new(),
        account_name: Some((&wanted.account).into()),
        account_password: (!made_up).then(OsString::new),
    }
}

fn finish(service: &Service, wanted: &Wanted) -> windows_service::Result<()> {
    service.set_description(&wanted.description)?;
    let again = ServiceAction { action_type: ServiceActionType::Restart, delay: RESTART };
    service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(RESET),
        reboot_msg: None,
        command: None,
        actions: Some(vec![again]),
    })
    // That an end with a code of its own is no crash is how services are made.
}

impl Scm for This {
    fn require_rights(&self) -> Result<(), ServiceError> {
        manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE).map(drop)
    }

    fn find(&self, id: &str) -> Result<Option<Registered>, ServiceError> {
        let manager = manager(ServiceManagerAccess::CONNECT)?;
        let service = match manager.open_service(id, ServiceAccess::QUERY_CONFIG) {
            Ok(service) => service,
            Err(error) => {
                return match io(error) {
                    error if error.raw_os_error() == Some(SERVICE_DOES_NOT_EXIST) => Ok(None),
                    error => {
                        Err(ServiceError::Service { verb: "look up", id: id.to_owned(), error })
                    }
                };
            }
        };
        let config = service.query_config().map_err(failed("look up", id))?;
        let account = config.account_name.unwrap_or_default();
        Ok(Some(Registered {
            command: config.executable_path.to_string_lossy().into_owned(),
            account: account.to_string_lossy().into_owned(),
            start: match config.start_type {
                ServiceStartType::AutoStart => Start::Automatic,
                ServiceStartType::Disabled => Start::Disabled,
                // The others are of drivers.
                _ => Start::OnDemand,
            },
        }))
    }

    fn create(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError> {
        let manager =
            manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
        let access = all() | ServiceAccess::DELETE;
        let service = manager.create_service(&info(id, wanted), access);
        let service = service.map_err(failed("make", id))?;
        finish(&service, wanted).map_err(|error| {
            // Half of a service is worse than none.
            let _ = service.delete();
            failed("set up", id)(error)
        })
    }

    fn change(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError> {
        let service = open("change", id, all())?;
        let changed = service.change_config(&info(id, wanted));
        changed.and_then(|()| finish(&service, wanted)).map_err(failed("change", id))
    }

    fn delete(&self, id: &str) -> Result<(), ServiceError> {
        open("remove", id, ServiceAccess::DELETE)?.delete().map_err(failed("remove", id))
    }

    fn start(&self, id: &str) -> Result<(), ServiceError> {
        let service = open("start", id, ServiceAccess::START)?;
        match service.start::<&str>(&[]) {
            Err(Error::Winapi(error)) if error.raw_os_error() == Some(SERVICE_ALREADY_RUNNING) => {
                Ok(())
            }
            started => started.map_err(failed("start", id)),
        }
    }

    fn stop(&self, id: &str) -> Result<(), ServiceError> {
        let service = open("stop", id, ServiceAccess::STOP)?;
        let stopping = [SERVICE_NOT_ACTIVE, SERVICE_CANNOT_ACCEPT_CTRL].map(Some);
        match service.stop() {
            Err(Error::Winapi(error)) if stopping.contains(&error.raw_os_error()) => Ok(()),
            stopped => stopped.map(drop).map_err(failed("stop", id)),
        }
    }

    fn condition(&self, id: &str) -> Result<Condition, ServiceError> {
        let status = open("look up", id, ServiceAccess::QUERY_STATUS)?.query_status();
        let status = status.map_err(failed("look up", id))?;
        Ok(Condition {
            phase: match status.current_state {
                ServiceState::Stopped => Phase::Stopped,
                ServiceState::StartPending => Phase::Starting,
                ServiceState::Running => Phase::Running,
                ServiceState::StopPending => Phase::Stopping,
                _ => Phase::Paused,
            },
            process: status.process_id.filter(|id| *id != 0),
            code: match status.exit_code {
                ServiceExitCode::Win32(code) => Code::System(code),
                ServiceExitCode::ServiceSpecific(code) => Code::Own(code),
            },
            step: status.checkpoint,
        })
    }
}
