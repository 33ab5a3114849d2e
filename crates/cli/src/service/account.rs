//! Users of the system.

#[cfg(not(unix))]
pub(super) use other::{Account, own_id};
#[cfg(unix)]
pub(super) use unix::{Account, own_id};

#[cfg(unix)]
mod unix {
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use nix::unistd::{Uid, User};

    use crate::service::ServiceError;

    /// A user.
    #[derive(Clone, Debug)]
    pub(in crate::service) struct Account {
        uid: u32,
        gid: u32,
        home: PathBuf,
    }

    /// Whose rights this process has, by number.
    pub(in crate::service) fn own_id() -> u32 {
        Uid::effective().as_raw()
    }

    impl Account {
        /// The user of a name.
        ///
        /// # Errors
        ///
        /// Where the system's list of users cannot be read.
        pub(in crate::service) fn find(name: &str) -> Result<Option<Self>, ServiceError> {
            let found = User::from_name(name).map_err(|error| ServiceError::Account {
                name: name.to_owned(),
                reason: error.to_string(),
            })?;
            let account = |user: User| Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                home: user.dir,
            };
            Ok(found.map(account))
        }

        /// Its home directory.
        pub(in crate::service) fn home(&self) -> &Path {
            &self.home
        }

        /// Has a command run as this user.
        pub(in crate::service) fn run(&self, command: &mut Command) {
            // Rust's library leaves the supplementary groups of root behind with it.
            command.gid(self.gid).uid(self.uid);
        }

        /// Gives a file to this user.
        ///
        /// # Errors
        ///
        /// Where the system refuses.
        pub(in crate::service) fn own(&self, path: &Path) -> Result<(), ServiceError> {
            let verb = "change the owner of";
            std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
                .map_err(|error| ServiceError::File { verb, path: path.to_owned(), error })
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::path::Path;
    use std::process::Command;

    use crate::service::ServiceError;

    /// No user of such a system is known here.
    #[derive(Clone, Debug)]
    pub(in crate::service) enum Account {}

    /// Users have no numbers; nobody is root.
    pub(in crate::service) fn own_id() -> u32 {
        u32::MAX
    }

    impl Account {
        /// There is none.
        ///
        /// # Errors
        ///
        /// None.
        pub(in crate::service) fn find(_: &str) -> Result<Option<Self>, ServiceError> {
            Ok(None)
        }

        /// Its home directory.
        pub(in crate::service) fn home(&self) -> &Path {
            match *self {}
        }

        /// Has a command run as this user.
        pub(in crate::service) fn run(&self, _: &mut Command) {
            match *self {}
        }

        /// Gives a file to this user.
        ///
        /// # Errors
        ///
        /// None.
        pub(in crate::service) fn own(&self, _: &Path) -> Result<(), ServiceError> {
            match *self {}
        }
    }
}
