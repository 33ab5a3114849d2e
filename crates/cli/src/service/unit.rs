//! Units of systemd, all from one template: those in `systemd/` and those that `service install` writes.

use std::fmt::Write;
use std::path::Path;

use super::{Role, ServiceError, plain};

/// What a unit is to run.
pub(crate) struct Unit<'a> {
    /// The first line, a comment.
    pub(crate) header: String,
    /// What the service is called to people.
    pub(crate) description: String,
    pub(crate) role: Role,
    /// Who runs it; `None` is the user whose own service it is.
    pub(crate) user: Option<&'a str>,
    pub(crate) program: &'a Path,
    /// The configuration file; for the VPN, which has none, the file with its variables.
    pub(crate) config: &'a Path,
    /// The folder below /var/lib for what a service of the system keeps; only a relay keeps something.
    pub(crate) state: String,
}

/// What the role's work takes beyond files and the network.
fn capability(role: Role) -> Option<&'static str> {
    match role {
        Role::Server | Role::Client => None,
        Role::Relay => Some("CAP_NET_BIND_SERVICE"),
        Role::VpnServer | Role::VpnClient => Some("CAP_NET_ADMIN"),
    }
}

fn is_vpn(role: Role) -> bool {
    matches!(role, Role::VpnServer | Role::VpnClient)
}

/// Writes a unit.
///
/// # Errors
///
/// Where a path cannot stand in one.
pub(crate) fn render(unit: &Unit<'_>) -> Result<String, ServiceError> {
    let system = unit.user.is_some();
    let mut text = format!("# {}\n[Unit]\nDescription={}\n", unit.header, unit.description);
    text += "Documentation=https://github.com/tunnel-rs/tunnel-rs\n";
    // The manager of a user knows nothing of the network.
    if system {
        text += "Wants=network-online.target\nAfter=network-online.target\n";
    }
    text += "\n[Service]\nType=exec\n";
    if let Some(user) = unit.user {
        let _ = writeln!(text, "User={user}");
    }
    text += &command(unit)?;
    if matches!(unit.role, Role::Server | Role::Relay | Role::VpnServer) {
        text += "ExecReload=/bin/kill -HUP $MAINPID\n";
    }
    if let Some(time) = unit.role.stop_time() {
        text += "# Where it drains, it takes as long as its settings say, a day at most.\n";
        let _ = writeln!(text, "TimeoutStopSec={time}");
    }
    text += "Restart=always\nRestartSec=5\n";
    text += match unit.role {
        Role::Client | Role::VpnClient => {
            "# What cannot heal: a wrong configuration, a refused token, services that are not allowed.\n"
        }
        _ => "# A wrong configuration stays wrong.\n",
    };
    let codes: Vec<_> = unit.role.lasting().iter().map(u8::to_string).collect();
    let _ = writeln!(text, "RestartPreventExitStatus={}", codes.join(" "));
    text += "# A flow takes a file.\nLimitNOFILE=1048576\n\n";
    text += &if system { sandbox(unit) } else { sandbox_of_a_user() };
    let target = if system { "multi-user.target" } else { "default.target" };
    let _ = write!(text, "\n[Install]\nWantedBy={target}\n");
    Ok(text)
}

/// What is started, and what its words need.
fn command(unit: &Unit<'_>) -> Result<String, ServiceError> {
    let program = plain(unit.program)?;
    // systemd takes none of these in the name of a program, however it is quoted (`string_is_safe`, basic/string-util.c).
    if program.contains(['"', '\'', '\\']) {
        return Err(ServiceError::Program(unit.program.to_owned()));
    }
    let program = quoted(program, false);
    let config = plain(unit.config)?;
    let words = unit.role.words().join(" ");
    if is_vpn(unit.role) {
        // A file name to the end of the line; specifiers are the only thing that is replaced in it.
        let file = config.replace('%', "%%");
        return Ok(format!("EnvironmentFile={file}\nExecStart={program} {words}\n"));
    }
    let mut text = format!("ExecStart={program} {words} --config {}", quoted(config, true));
    if unit.role == Role::Relay && unit.user.is_some() {
        let _ = write!(text, " --state-dir /var/lib/{}", unit.state);
        let _ = write!(text, "\nStateDirectory={}\nStateDirectoryMode=0700", unit.state);
    }
    text.push('\n');
    Ok(text)
}

/// A word of a command line, as systemd.syntax(7) and systemd.service(5) have it. Variables are replaced in arguments,
/// but not in the path of the program.
fn quoted(word: &str, argument: bool) -> String {
    let usual = |c: char| c.is_ascii_alphanumeric() || "_/.:=@,+-".contains(c);
    if word.chars().all(usual) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' if argument => text.push_str("$$"),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

fn sandbox(unit: &Unit<'_>) -> String {
    let capability = capability(unit.role);
    let vpn = is_vpn(unit.role);
    let mut text = match unit.role {
        Role::Server | Role::Client => {
            "# What it may do: read its configuration, and speak to the network."
        }
        Role::Relay => {
            "# What it may do: read its configuration, keep its state, and speak to the network, at low ports too."
        }
        Role::VpnServer | Role::VpnClient => {
            "# What it may do: speak to the network, make a network device, and set up this machine's network."
        }
    }
    .to_owned();
    text += "\nUMask=0077\nNoNewPrivileges=yes\n";
    let _ = writeln!(text, "CapabilityBoundingSet={}", capability.unwrap_or_default());
    if let Some(capability) = capability {
        let _ = writeln!(text, "AmbientCapabilities={capability}");
    }
    text += "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n";
    text += if vpn {
        "DevicePolicy=closed\nDeviceAllow=/dev/net/tun rw\n\
         # Server and client may share it.\n\
         RuntimeDirectory=tunnel-rs\nRuntimeDirectoryPreserve=yes\n"
    } else {
        "PrivateDevices=yes\n"
    };
    // A capability in a user namespace of its own is none outside of it.
    if capability.is_none() {
        text += "PrivateUsers=yes\n";
    }
    text += "ProtectProc=invisible\n";
    // The kernel's parameters of the network are for the VPN to set.
    if !vpn {
        text += "ProcSubset=pid\nProtectKernelTunables=yes\n";
    }
    text += "ProtectClock=yes\nProtectControlGroups=yes\nProtectHostname=yes\nProtectKernelLogs=yes\n\
             ProtectKernelModules=yes\n";
    text + ADDRESS_FAMILIES + "RemoveIPC=yes\n" + FILTERS
}

const ADDRESS_FAMILIES: &str = "\
# Netlink tells of addresses and routes that change; a Unix socket leads to the system's resolver.
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
";

/// What takes neither namespaces nor capabilities.
const FILTERS: &str = "\
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
";

/// The rest of the sandbox takes namespaces, which a user may not have everywhere; the service would not start then.
fn sandbox_of_a_user() -> String {
    let head = "# As much of a sandbox as every system allows to the services of a user.\n";
    [head, "UMask=0077\nNoNewPrivileges=yes\n", ADDRESS_FAMILIES, FILTERS].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The units of the repository.
    const SHIPPED: [(Role, &str, &str); 5] = [
        (Role::Server, "A server", include_str!("../../../../systemd/tunnel-rs-server.service")),
        (Role::Client, "A client", include_str!("../../../../systemd/tunnel-rs-client.service")),
        (Role::Relay, "A relay", include_str!("../../../../systemd/tunnel-rs-relay.service")),
        (
            Role::VpnServer,
            "The server of a VPN",
            include_str!("../../../../systemd/tunnel-rs-vpn-server.service"),
        ),
        (
            Role::VpnClient,
            "A client of a VPN",
            include_str!("../../../../systemd/tunnel-rs-vpn-client.service"),
        ),
    ];

    fn unit<'a>(role: Role, user: Option<&'a str>, program: &'a str, config: &'a str) -> Unit<'a> {
        let words = role.words();
        Unit {
            header: "A test.".to_owned(),
            description: format!("tunnel-rs {}", words.join(" ")),
            role,
            user,
            program: Path::new(program),
            config: Path::new(config),
            state: format!("tunnel-rs-{}", words.join("-")),
        }
    }

    #[test]
    fn the_shipped_units_are_what_the_template_gives() {
        let folder = std::env::var_os("WRITE_UNITS");
        let mut others = Vec::new();
        for (role, what, shipped) in SHIPPED {
            let name = role.words().join("-");
            let extension = if is_vpn(role) { "env" } else { "toml" };
            let config = format!("/etc/tunnel-rs/{name}.{extension}");
            let header = format!("{what} of tunnel-rs. docs/INSTALL.md says how to set it up.");
            let unit = unit(role, Some("tunnel-rs"), "/usr/local/bin/tunnel-rs", &config);
            let text = render(&Unit { header, ..unit }).unwrap();
            if let Some(folder) = &folder {
                let path = Path::new(folder).join(format!("tunnel-rs-{name}.service"));
                std::fs::write(path, &text).unwrap();
            }
            if text != shipped {
                others.push(name);
            }
        }
        assert!(others.is_empty(), "WRITE_UNITS=FOLDER writes the units of {others:?} anew");
    }

    #[test]
    fn paths_are_quoted() {
        let (program, config) = (r"/opt/a $b/tunnel-rs", r#"/etc/50% of "it" $HOME\x.toml"#);
        let text = render(&unit(Role::Server, Some("u"), program, config)).unwrap();
        let line = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let wanted = r#"ExecStart="/opt/a $b/tunnel-rs" server --config "/etc/50%% of \"it\" $$HOME\\x.toml""#;
        assert_eq!(line, wanted);
    }

    #[test]
    fn a_path_that_would_be_another_line_is_refused() {
        for bad in ["/etc/a\nUser=root", "/etc/a\r", "/etc/\u{1b}[m"] {
            for (program, config) in [("/p", bad), (bad, "/c")] {
                let refused = render(&unit(Role::Server, Some("u"), program, config)).unwrap_err();
                assert!(matches!(refused, ServiceError::Path(_)), "{refused}");
            }
        }
    }

    #[test]
    fn a_program_that_systemd_would_not_start_is_refused() {
        for bad in ["/opt/it's/p", "/opt/\"p\"", r"/opt/a\p"] {
            let refused = render(&unit(Role::Server, Some("u"), bad, "/c")).unwrap_err();
            assert!(matches!(refused, ServiceError::Program(_)), "{refused}");
        }
    }

    #[test]
    fn a_service_of_a_user_needs_no_namespaces() {
        let text = render(&unit(Role::Relay, None, "/p", "/c")).unwrap();
        for absent in
            ["User=", "Private", "Protect", "Capabilit", "StateDirectory", "network-online"]
        {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        assert!(text.contains("NoNewPrivileges=yes") && text.contains("WantedBy=default.target"));
    }

    #[test]
    fn a_relay_of_the_system_keeps_its_state_where_it_may() {
        let text = render(&unit(Role::Relay, Some("u"), "/p", "/c")).unwrap();
        assert!(
            text.contains("ExecStart=/p relay --config /c --state-dir /var/lib/tunnel-rs-relay\n")
        );
        assert!(text.contains("\nStateDirectory=tunnel-rs-relay\n"));
    }
}
