"""What the tests of services play on: machines, their configurations, and what goes through the tunnel."""

import contextlib
import os
import re
import socket
import sys
import threading
import unittest

from machine import REFUSED, ROOT, SOON, Machine

sys.path.append(str(ROOT / "tests/documents"))
from commands import blocks, commands, lines  # noqa: E402  (Where the module is, is known only now.)

# Carried in each direction, in bytes.
BULK = 1024 * 1024

SERVER = "tunnel-rs-server"
CLIENT = "tunnel-rs-client"
FOLDER = "/etc/tunnel-rs"

# linux/capability.h
NET_BIND_SERVICE = 1 << 10
NET_ADMIN = 1 << 12

MAKE_USER = "useradd --system --home-dir /etc/tunnel-rs --shell /usr/sbin/nologin tunnel-rs"


def documented(document, word):
    """The lines of the first block of a document with this word."""
    return list(lines(next(block for block in blocks(document) if word in block)))


def named(document, word):
    """The only command in the running text of a document that begins with this word."""
    (found,) = [command.text for command in commands() if command.document == document and command.text.startswith(f"{word} ")]
    return found


class Echo:
    """Services over TCP and UDP on a machine's loopback, which say what they hear."""

    def __init__(self, machine):
        self.tcp = machine.inside(socket.create_server, ("127.0.0.1", 0))
        self.udp = machine.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp_port, self.udp_port = self.tcp.getsockname()[1], self.udp.getsockname()[1]
        for work in (self.accept, self.answer):
            threading.Thread(target=work, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=self.tcp.accept()[:1], daemon=True).start()

    @staticmethod
    def serve(tcp):
        with tcp, contextlib.suppress(OSError):
            while part := tcp.recv(65536):
                tcp.sendall(part)

    def answer(self):
        with contextlib.suppress(OSError):
            while True:
                packet, peer = self.udp.recvfrom(65536)
                if peer is None:
                    return
                self.udp.sendto(packet, peer)

    def close(self):
        for each in (self.tcp, self.udp):
            # A thread that waits in it is woken.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class ServiceTest(unittest.TestCase):
    """Each test has machines of its own. At its end nothing in their logs may speak of a sandbox that is in the way."""

    longMessage = True

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.machines = []
        # What a test does on purpose.
        self.expected_refusals = []

    def machine(self):
        machine = Machine(len(self.machines) + 1, self.stack)
        self.machines.append(machine)
        return machine

    def tearDown(self):
        for machine in self.machines:
            machine.mark()
            ours = [line for line in machine.log.lines if re.search(r" tunnel-rs(-ice)?\[|tunnel-rs\S*\.service", line)]
            bad = [line for line in ours if REFUSED.search(line)]
            bad = [line for line in bad if not any(part in line for part in self.expected_refusals)]
            self.assertEqual(bad, [])

    # Configurations.

    def write_server(self, machine, more="", name="server", tokens=1):
        """A server's configuration and files, as root writes them; the tokens."""
        made = [machine.run("tunnel-rs", "generate-token").strip() for _ in range(tokens)]
        machine.write(f"{FOLDER}/tokens", "".join(f"{token}\n" for token in made), 0o600)
        if not machine.path(f"{FOLDER}/server.key").exists():
            machine.run("tunnel-rs", "generate-server-key", "--output", f"{FOLDER}/server.key")
        machine.write(
            f"{FOLDER}/{name}.toml",
            f'role = "server"\n[iroh]\nauth_tokens_file = "{FOLDER}/tokens"\nsecret_file = "{FOLDER}/server.key"\n'
            f'allowed_tcp = ["127.0.0.1/32"]\nallowed_udp = ["127.0.0.1/32"]\n{more}', 0o600,
        )
        return made

    def write_client(self, machine, peer, token, forwards, more=""):
        machine.write(f"{FOLDER}/token", f"{token}\n", 0o600)
        tunnels = "".join(f'[[iroh.tunnels]]\nsource = "{source}"\ntarget = "{target}"\n' for source, target in forwards)
        machine.write(
            f"{FOLDER}/client.toml", f'role = "client"\n[iroh]\n{peer}\nauth_token_file = "{FOLDER}/token"\n{more}{tunnels}',
            0o600,
        )

    def make_user(self, machine):
        machine.path(FOLDER).mkdir(exist_ok=True)
        if machine.try_run("id", "tunnel-rs").returncode:
            machine.run(*MAKE_USER.split())
        machine.run("chown", "-R", "tunnel-rs", FOLDER)
        machine.run("chmod", "-R", "go=", FOLDER)

    def install(self, machine, role="server", *more, program="tunnel-rs", config=None):
        self.make_user(machine)
        return machine.run(program, "service", "install", role, "--config", config or f"{FOLDER}/{role}.toml", *more)

    def start_server(self, machine, more="", tokens=1):
        """A service; its ticket and tokens."""
        made = self.write_server(machine, more, tokens=tokens)
        self.install(machine)
        return machine.wait(r"Ticket: (\S+)")[1], made

    def start_client(self, machine, peer, token, echo, more=""):
        """A service; where it forwards TCP and UDP."""
        forwards = [(f"tcp://127.0.0.1:{echo.tcp_port}", "127.0.0.1:2222"),
                    (f"udp://127.0.0.1:{echo.udp_port}", "127.0.0.1:2222")]
        self.write_client(machine, peer, token, forwards, more)
        self.install(machine, "client")
        return ("127.0.0.1", 2222)

    def pair(self, more="", tokens=1):
        """A server and a client, each a service on a machine of its own, and both are connected."""
        server, client = self.machine(), self.machine()
        echo = self.stack.enter_context(contextlib.closing(Echo(server)))
        ticket, made = self.start_server(server, more, tokens)
        address = self.start_client(client, f'ticket = "{ticket}"', made[0], echo)
        return server, client, address

    # What is carried.

    def connect(self, machine, address):
        """A connection to a client's port, once there is one that works."""
        return self.stack.enter_context(machine.inside(self.connect_here, address))

    @staticmethod
    def connect_here(address):
        end = threading.Event()
        timer = threading.Timer(SOON, end.set)
        timer.start()
        try:
            while True:
                # The port may not be there yet, nor the session, which resets it.
                with contextlib.suppress(OSError):
                    tcp = socket.create_connection(address, timeout=SOON)
                    tcp.sendall(b"?")
                    if tcp.recv(1) == b"?":
                        return tcp
                    tcp.close()
                if end.wait(0.05):
                    raise AssertionError(f"nothing answers at {address}")
        finally:
            timer.cancel()

    def ask(self, tcp, data=b"to and fro"):
        tcp.sendall(data)
        heard = b""
        while len(heard) < len(data) and (part := tcp.recv(len(data))):
            heard += part
        self.assertEqual(heard, data)

    def carries(self, machine, address):
        """TCP and UDP, by their contents."""
        tcp = self.connect(machine, address)
        data = os.urandom(BULK)
        sender = threading.Thread(target=tcp.sendall, args=[data])
        sender.start()
        heard = bytearray()
        while len(heard) < BULK and (part := tcp.recv(65536)):
            heard += part
        sender.join()
        self.assertEqual(bytes(heard), data)
        udp = self.stack.enter_context(machine.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        udp.settimeout(1)
        udp.connect(address)
        for size in (1, 1000, 20000):
            self.exchange(udp, os.urandom(size))

    def exchange(self, udp, packet):
        for _ in range(SOON):
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                udp.send(packet)
                if udp.recv(65536) == packet:
                    return
        self.fail(f"no answer to a packet of {len(packet)} B")

    def assert_cut(self, tcp):
        try:
            self.assertEqual(tcp.recv(1), b"")
        except ConnectionResetError:
            pass

    # Services.

    def assert_active(self, machine, unit, state):
        self.assertEqual(machine.show(unit, "ActiveState"), state, machine.all())

    # Sandboxes.

    def status(self, machine, process):
        text = machine.run("cat", f"/proc/{process}/status")
        return dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))

    def as_it_is_there(self, machine, process, line):
        """Runs a line of shell where the process is, but as root: what even root cannot do there, it cannot."""
        return machine.try_run("nsenter", "--target", process, "--mount", "--root", "--wd=/", "sh", "-c", line)

    def check(self, machine, unit, capabilities=0, alone=True):
        process = machine.show(unit, "MainPID")
        status = self.status(machine, process)
        user = machine.run("id", "--user", "tunnel-rs").strip()
        self.assertEqual(status["Uid"].split(), [user] * 4)
        for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[name], 16), capabilities, (unit, name))
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"], status["Umask"]), ("1", "2", "0077"))
        spaces = [machine.run("readlink", f"/proc/{number}/ns/user") for number in (process, 1)]
        self.assertEqual(spaces[0] != spaces[1], alone)
        # Homes, what others keep in /tmp, and the files of the system.
        machine.write("/home/secret", "x")
        machine.write("/root/secret", "x")
        machine.write("/tmp/secret", "x")
        look = "ls --almost-all /home /root /tmp /var/tmp /run/user"
        self.assertNotIn("secret", self.as_it_is_there(machine, process, look).stdout)
        for place in ("/etc", FOLDER, "/usr", "/var/lib"):
            done = self.as_it_is_there(machine, process, f"touch {place}/new")
            self.assertIn("Read-only file system", done.stderr, place)
        # Processes of others; as the service itself, for which root would see them.
        done = machine.try_run("nsenter", "--target", process, "--mount", "--root", "--wd=/", "setpriv", f"--reuid={user}",
                               f"--regid={user}", "--clear-groups", "ls", "/proc")
        self.assertNotIn("1", done.stdout.split(), done.stderr)
