use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{START_LIMIT, folder, free_address};
use crate::{
    Error, Result,
    netns::{Namespace, command_in},
    process::{Proc, run},
};

/// Where sshd locks up its unprivileged half; its service file would have created it.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// The name that the client knows the host key by, whatever address it connects to.
const HOST_ALIAS: &str = "testlab";

/// OpenSSH's server, where root logs in by a key of this service's own.
///
/// root must not be locked (`!` in /etc/shadow): without PAM, sshd lets no locked user in.
#[derive(Debug)]
pub struct Sshd {
    /// Where it listens.
    pub address: SocketAddr,
    /// The program.
    pub process: Proc,
    folder: TempDir,
}

impl Sshd {
    /// Makes its keys and starts it.
    pub fn start(namespace: Option<&Namespace>, address: IpAddr) -> Result<Self> {
        let address = free_address(namespace, address)?;
        let folder = folder()?;
        let host_key = generate_key(&folder, "host_key")?;
        let client_key = generate_key(&folder, "client_key")?;
        let known = format!("{HOST_ALIAS} {}", read(&host_key.with_extension("pub"))?);
        write(&folder.path().join("known_hosts"), &known)?;
        let config = folder.path().join("sshd_config");
        write(&config, &server_config(address, &host_key, &client_key))?;
        let action = format!("create {PRIVILEGE_SEPARATION}");
        fs::create_dir_all(PRIVILEGE_SEPARATION).map_err(Error::io(action))?;

        // sshd executes itself again for each connection, so it insists on its whole path.
        let mut command = command_in(namespace, "/usr/sbin/sshd");
        let process = Proc::spawn(command.args(["-D", "-e", "-f"]).arg(&config))?;
        process.wait_line(|line| line.starts_with("Server listening on"), START_LIMIT)?;
        Ok(Self { address, process, folder })
    }

    /// The options for `ssh` and `scp` to reach it on a port that may be a tunnel's. The user is root; the
    /// host key is checked.
    pub fn client_options(&self, port: u16) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec!["-F".into(), "none".into(), "-i".into()];
        options.push(self.folder.path().join("client_key").into());
        let known_hosts = self.folder.path().join("known_hosts");
        for option in [
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("HostKeyAlias={HOST_ALIAS}"),
            format!("UserKnownHostsFile={}", known_hosts.display()),
            "User=root".to_owned(),
            format!("Port={port}"),
        ] {
            options.extend([OsString::from("-o"), OsString::from(option)]);
        }
        options
    }
}

fn generate_key(folder: &TempDir, name: &str) -> Result<PathBuf> {
    let path = folder.path().join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", HOST_ALIAS, "-f"]);
    run(command.arg(&path), START_LIMIT)?;
    Ok(path)
}

fn server_config(address: SocketAddr, host_key: &Path, client_key: &Path) -> String {
    let host_key = host_key.display();
    let client_key = client_key.with_extension("pub");
    let client_key = client_key.display();
    format!(
        "ListenAddress {address}\n\
         HostKey {host_key}\n\
         AuthorizedKeysFile {client_key}\n\
         PermitRootLogin prohibit-password\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         StrictModes no\n\
         UsePAM no\n\
         UseDNS no\n\
         PidFile none\n\
         Subsystem sftp internal-sftp\n"
    )
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}
