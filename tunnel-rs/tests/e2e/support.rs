//! What the tests have in common.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tunnel_testlab::process::{Proc, run};

/// The program under test.
pub(crate) const TUNNEL_RS: &str = env!("CARGO_BIN_EXE_tunnel-rs");

pub(crate) const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";
pub(crate) const OTHER_TOKEN: &str = "iw3nLKic3oV7zmFJ8v";

/// For whatever takes no network: longer only on a machine that is busy otherwise.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGINT: i32 = 2;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

/// What a test returns; a failure is shown as it is worded.
pub(crate) type TestResult<T = ()> = Result<T, Failure>;

/// Any error, worded.
pub(crate) struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Moves this thread, and the programs and sockets that it will open, into a fresh network with nothing but loopback
/// and an interface on a network without anybody else. It is gone with the thread and its programs.
pub(crate) fn own_network() -> TestResult {
    unshare(CloneFlags::CLONE_NEWNET)?;
    for line in [
        "link set lo up",
        // The kernel may lack interfaces of type dummy; the other end of this cable hears everything and says nothing.
        "link add lan type veth peer name nobody",
        "address add 10.99.0.1/24 dev lan",
        "link set nobody up",
        "link set lan up",
    ] {
        run(Command::new("ip").args(line.split(' ')), SOON)?;
    }
    Ok(())
}

/// A folder with a token file in it.
pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> TestResult<Self> {
        let folder = Self(tempfile::tempdir()?);
        folder.write("token", &format!("{TOKEN}\n"))?;
        Ok(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file for its owner alone, in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> TestResult<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let (path, beside) = (self.path(name), self.path(&format!("{name}.new")));
        std::fs::write(&beside, text)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &path)?;
        Ok(path)
    }
}

/// The program with nothing of the test's environment that could rule it.
pub(crate) fn tunnel_rs(arguments: &[&str]) -> Command {
    let mut command = Command::new(TUNNEL_RS);
    command.args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TUNNEL_RS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end; its exit code and everything it printed.
pub(crate) fn exit(arguments: &[&str]) -> TestResult<(i32, String)> {
    let process = Proc::spawn(&mut tunnel_rs(arguments))?;
    let status = process.wait_exit(SOON)?;
    let code = status.code().ok_or_else(|| Failure(format!("ended by {status}")))?;
    Ok((code, process.output()))
}

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Proc,
    pub(crate) id: String,
    pub(crate) ticket: String,
}

pub(crate) fn server(folder: &Folder, arguments: &[&str]) -> TestResult<Server> {
    let mut command = tunnel_rs(&["server", "--auth-tokens-file"]);
    serving(command.arg(folder.path("token")).args(arguments))
}

/// Starts a server and waits until clients can come.
pub(crate) fn serving(command: &mut Command) -> TestResult<Server> {
    let process = Proc::spawn(command)?;
    process.wait_line(|line| line == "Waiting for clients to connect...", SOON)?;
    Ok(Server {
        id: process.wait_value("EndpointId: ", SOON)?,
        ticket: process.wait_value("Ticket: ", SOON)?,
        process,
    })
}

/// A running client.
pub(crate) struct Client {
    pub(crate) process: Proc,
    pub(crate) targets: Vec<SocketAddr>,
}

pub(crate) fn client(folder: &Folder, server: &[&str], sources: &[String]) -> TestResult<Client> {
    let mut command = tunnel_rs(&["client", "--auth-token-file"]);
    command.arg(folder.path("token")).args(server);
    for source in sources {
        command.args(["--source", source, "--target", "127.0.0.1:0"]);
    }
    started(&mut command, sources.len())
}

/// Starts a client and waits until it listens everywhere.
pub(crate) fn started(command: &mut Command, forwards: usize) -> TestResult<Client> {
    let process = Proc::spawn(command)?;
    let targets = process.wait_lines(
        |lines| {
            let printed = lines.iter().filter_map(|line| line.text.strip_prefix("Forwarding "));
            let targets: Vec<SocketAddr> = printed
                .filter_map(|text| text.split_once(" to ")?.0.split_once("://")?.1.parse().ok())
                .collect();
            (targets.len() == forwards).then_some(targets)
        },
        SOON,
    )?;
    Ok(Client { process, targets })
}

impl Client {
    pub(crate) fn open(self) -> TestResult<Self> {
        self.process.wait_line(|line| line.contains("session open"), SOON)?;
        Ok(self)
    }

    /// How many sessions it has had.
    pub(crate) fn sessions(&self) -> usize {
        let output = self.process.output();
        output.lines().filter(|line| line.contains("session open")).count()
    }

    pub(crate) fn wait_sessions(&self, count: usize, limit: Duration) -> TestResult {
        let open = |lines: &[tunnel_testlab::process::Line]| {
            let sessions = lines.iter().filter(|line| line.text.contains("session open")).count();
            (sessions >= count).then_some(())
        };
        Ok(self.process.wait_lines(open, limit)?)
    }
}

/// A TCP service that answers every connection with what it was sent, in capitals.
pub(crate) fn shouting_service() -> TestResult<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = format!("tcp://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            std::thread::spawn(move || shout(tcp));
        }
    });
    Ok(source)
}

fn shout(mut tcp: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = tcp.read(&mut buffer) {
        buffer[..n].make_ascii_uppercase();
        if tcp.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// A UDP service that answers every packet with itself.
pub(crate) fn echo_service() -> TestResult<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let source = format!("udp://{}", socket.local_addr()?);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    Ok(source)
}

/// A connection to a forward on which nothing waits for ever.
pub(crate) fn connect(target: SocketAddr) -> TestResult<TcpStream> {
    let tcp = TcpStream::connect_timeout(&target, SOON)?;
    tcp.set_read_timeout(Some(SOON))?;
    tcp.set_write_timeout(Some(SOON))?;
    Ok(tcp)
}

/// A request over plain HTTP, and all of the answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> TestResult<String> {
    get_over(&mut connect(address)?, path)
}

/// The same over a connection that is there.
pub(crate) fn get_over(tcp: &mut TcpStream, path: &str) -> TestResult<String> {
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks a shouting service something.
pub(crate) fn ask(tcp: &mut TcpStream, text: &str) -> TestResult {
    tcp.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    tcp.read_exact(&mut answer)?;
    assert_eq!(answer, text.to_ascii_uppercase().as_bytes());
    Ok(())
}

/// Whether a fresh connection is reset; that may come before the connecting is over.
pub(crate) fn is_turned_away(target: SocketAddr) -> TestResult<bool> {
    match TcpStream::connect_timeout(&target, SOON) {
        Ok(mut tcp) => {
            // Fails where the reset has come already, which the reading tells as well.
            let _ = tcp.set_read_timeout(Some(SOON));
            Ok(is_reset(&mut tcp))
        }
        Err(error) => Ok(error.kind() == std::io::ErrorKind::ConnectionReset),
    }
}

/// Whether the connection ends with a reset, however much comes before.
pub(crate) fn is_reset(tcp: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match tcp.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub(crate) fn text(path: &Path) -> &str {
    // Temporary folders have names of ASCII.
    path.to_str().unwrap_or_default()
}
