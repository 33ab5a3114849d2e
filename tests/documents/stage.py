"""What the commands of the documents are run on: two machines on one cable, `here` where a service is wanted and `there` where
it is; and what sees to it that all commands of a section are run."""

import contextlib
import functools
import inspect
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from commands import ROOT, commands
from exceptions import CANNOT, ELSEWHERE

sys.path.append(str(ROOT / "tests"))
from namespace import inside  # noqa: E402  (Where the module is, is known only now.)

WORK = pathlib.Path(os.environ["DOCUMENT_TEST_WORK"])
BIN = WORK / "bin"
# The home of the quick start's `user`, by the file of users.
HOME = WORK / "home"

HERE, THERE = "10.98.0.1", "10.98.0.2"

# For whatever is asked for, in seconds: longer only on a machine that is busy otherwise.
SOON = 60

# Names a discovery server that is not there, so that none of the public ones, which are not there either, is waited for at the
# start. Every flag has such a variable.
ALONE = {"TUNNEL_RS_DNS_SERVER": f"http://{THERE}:9"}

# On a link without a way out the names of the public ones are not found, and each side has its own addresses.
NO_STUN = {"TUNNEL_RS_STUN_SERVER": f"{THERE}:9"}

# What the test has in place of programs: root needs no sudo, and tcpdump shows packets when they come, as at a terminal. A
# build of a release takes minutes, so cargo looks at the words, and what it would build is what the tests have built; only
# the lock file is its own work.
STAND_INS = {
    "sudo": 'exec "$@"\n',
    "tcpdump": f'exec {shutil.which("tcpdump")} -l "$@"\n',
    "cargo": f"""
real=$DOCUMENT_TEST_CARGO
words=$*
case $1 in
run)
    "$real" ${{words%% -- *}} -h >/dev/null
    package=$(echo "$words" | sed 's/.* -p \\([^ ]*\\).*/\\1/')
    test -f "{ROOT}/$package/Cargo.toml"
    exec "{BIN}/$package" ${{words#* -- }}
    ;;
install)
    "$real" "$@" -h >/dev/null
    for folder in "$@"; do :; done
    grep -q "^name = \\"$(basename "$folder")\\"" "$folder/Cargo.toml"
    mkdir -p "$HOME/.cargo/bin"
    cp "{BIN}/$(basename "$folder")" "$HOME/.cargo/bin"
    ;;
uninstall)
    "$real" "$@" -h >/dev/null
    shift
    for program in "$@"; do
        rm "$HOME/.cargo/bin/$program"
    done
    ;;
update) CARGO_NET_OFFLINE=true exec "$real" "$@" ;;
*) exit 1 ;;
esac
""",
}


class Running:
    """A command that runs. What it prints on both streams is kept."""

    def __init__(self, command, **options):
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, **options,
        )
        self.lines = []
        self.ended = False
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def all(self):
        return "\n".join([str(self.command[-1]), *self.lines])

    def wait(self, pattern):
        """What a regular expression finds in the first such line."""
        with self.changed:
            def look():
                return next(filter(None, (re.search(pattern, line) for line in self.lines)), None)

            found = self.changed.wait_for(lambda: look() or self.ended, SOON) and look()
        if not found:
            raise AssertionError(f"no line has {pattern!r}:\n{self.all()}")
        return found

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self, number=signal.SIGINT, code=0):
        """Ends it as Ctrl-C does; its exit code must be this one."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.join(code)

    def join(self, code=0):
        """Waits for its end."""
        try:
            found = self.process.wait(SOON)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.all()}") from None
        self.reader.join(SOON)
        if found != code:
            raise AssertionError(f"code {found} instead of {code}:\n{self.all()}")

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(SOON)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


class Machine:
    """A network namespace, and a folder that commands are run in."""

    def __init__(self, name, home, tools, stack):
        self.name = name
        self.home = home
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix=f"{name}."))
        self.stack = stack
        self.variables = {
            "HOME": str(home), "PATH": f"{tools}:{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
            **{name: os.environ[name] for name in ("DOCUMENT_TEST_CARGO", "CARGO_HOME", "RUSTUP_HOME")},
        }

    def prepare(self, shell, text, variables, cwd):
        enter = ["nsenter", f"--net=/run/netns/{self.name}", shell, "-euc", text]
        return enter, {"env": {**self.variables, **(variables or {})}, "cwd": cwd or self.folder}

    def run(self, text, variables=None, cwd=None, code=0, said=""):
        """Runs a command to its end, which must be with this code; what it says on both streams."""
        command, options = self.prepare("sh", text, variables, cwd)
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=SOON, check=False,
                              **options)
        if done.returncode != code:
            raise AssertionError(f"{text}\ncode {done.returncode} instead of {code}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def run_until(self, text, pattern):
        """Runs a command until it says so: a log may tell a moment before the program is so."""
        end = time.monotonic() + SOON
        while not re.search(pattern, said := self.run(text)):
            if time.monotonic() > end:
                raise AssertionError(f"{text}: no {pattern!r} in\n{said}")
            time.sleep(0.05)

    def start(self, text, variables=None, cwd=None):
        """Begins to run a command, which takes the place of the shell, so that signals reach it alone."""
        command, options = self.prepare("bash", text, variables, cwd)
        running = Running(command, **options)
        self.stack.callback(running.close)
        return running

    def inside(self, function, *arguments):
        """What a function gives in the machine's network: its sockets are there."""
        return inside(f"/run/netns/{self.name}", function, *arguments)

    def serve(self, address, port):
        """A service over TCP that says what it hears."""
        service = self.inside(socket.create_server, (address, port))
        self.stack.callback(stop, service)
        threading.Thread(target=accept, args=[service], daemon=True).start()

    def serve_udp(self, address, port):
        """The same over UDP."""
        service = self.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        service.bind((address, port))
        self.stack.callback(stop, service)
        threading.Thread(target=answer, args=[service], daemon=True).start()

    def ask(self, port, text=b"to and fro"):
        """Whether what is said to a port of this machine comes back."""
        with self.inside(socket.create_connection, ("127.0.0.1", port), SOON) as stream:
            stream.sendall(text)
            heard = b""
            while len(heard) < len(text) and (part := stream.recv(1024)):
                heard += part
        if heard != text:
            raise AssertionError(f"port {port} answers {heard!r}")

    def ask_udp(self, port):
        """The same over UDP, where a packet may be lost."""
        with self.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as flow:
            flow.settimeout(1)
            flow.connect(("127.0.0.1", port))
            for _ in range(SOON):
                with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                    flow.send(b"to and fro")
                    if flow.recv(1024) == b"to and fro":
                        return
        raise AssertionError(f"port {port} does not answer")


def stop(service):
    # A thread that waits in it is woken.
    with contextlib.suppress(OSError):
        service.shutdown(socket.SHUT_RDWR)
    service.close()


def accept(service):
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=echo, args=service.accept()[:1], daemon=True).start()


def echo(stream):
    with stream, contextlib.suppress(OSError):
        while part := stream.recv(65536):
            stream.sendall(part)


def answer(service):
    with contextlib.suppress(OSError):
        while True:
            packet, peer = service.recvfrom(65536)
            if peer is None:
                return
            service.sendto(packet, peer)


def fill(text, **values):
    """A command with values in place of the words in capitals that stand for them; `_` in names stands for `-`, and MORE for
    the dots where the reader's own flags go."""
    for name, value in values.items():
        name = re.escape("..." if name == "MORE" else name.replace("_", "-"))
        filled, count = re.subn(rf"(?<![\w-]){name}(?![\w-])", lambda _, value=value: str(value), text)
        if not count:
            raise AssertionError(f"{text!r} has no {name}")
        text = filled
    return text


# By document and section, the test that runs its commands.
SECTIONS = {}


class Section:
    """The commands of a section that no test has taken yet."""

    def __init__(self, document, name):
        self.document, self.name = document, name
        self.left = [command for command in commands() if (command.document, command.section) == (document, name)]

    def take(self, start):
        """The next command that begins so, as it stands there."""
        for command in self.left:
            if command.text.startswith(start):
                self.left.remove(command)
                return command.text
        raise AssertionError(f"{self.document}, {self.name}: no command begins with {start!r}")


def section(document, name):
    """Marks a test as the one that runs all commands of a section, which it is given; but for those that another test runs, and
    those that cannot be run here."""

    def mark(test):
        @functools.wraps(test)
        def run(self, *others):
            found = Section(document, name)
            found.left = [command for command in found.left if not elsewhere(command)]
            test(self, *others, found)
            self.assertEqual([str(command) for command in found.left if not mentioned(command)], [],
                             "these commands are run by no test")

        if (document, name) in SECTIONS:
            raise AssertionError(f"{name} of {document} has two tests")
        SECTIONS[document, name] = f"{inspect.getmodule(test).__name__}.{test.__qualname__}"
        return run

    return mark


def elsewhere(command):
    """Whether another test runs it, or none can."""
    return any(entry.holds(command) for entry in (*ELSEWHERE, *CANNOT))


def mentioned(command):
    """Whether it is the bare name of a command, for which it is enough that there is one."""
    return command.inline and re.fullmatch(r"(tunnel-rs(-ice)? )?[a-z-]+( [a-z-]+)?", command.text) is not None \
        and command.text.split()[0] in ("tunnel-rs", "tunnel-rs-ice", "service", "vpn")


class DocumentTest(unittest.TestCase):
    """Each test has fresh folders and homes."""

    longMessage = True

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="test."))
        self.stack.callback(shutil.rmtree, folder)
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name, text in STAND_INS.items():
            (self.tools / name).write_text(f"#!/bin/sh -eu\n{text}")
            (self.tools / name).chmod(0o755)
        shutil.rmtree(HOME)
        for home in (HOME, folder / "home"):
            home.mkdir(mode=0o700)
        self.here = Machine("here", HOME, self.tools, self.stack)
        self.there = Machine("there", folder / "home", self.tools, self.stack)

    def start_nostr_relay(self):
        """What names it to both sides of tunnel-rs-ice."""
        relay = self.there.start(f"lab-nostr-relay --listen {THERE} --port 7777")
        relay.wait("^Listening: ")
        return {**NO_STUN, "TUNNEL_RS_RELAY": f"ws://{THERE}:7777"}

    def make_token(self):
        """A token that both machines have in their folder."""
        token = self.there.run("tunnel-rs generate-token")
        for machine in (self.here, self.there):
            (machine.folder / "token").touch(mode=0o600)
            (machine.folder / "token").write_text(token)

    def start_server(self, text, variables=None, **options):
        """A server of tunnel-rs that clients may come to, and its ticket."""
        server = self.there.start(text, ALONE if variables is None else variables, **options)
        server.wait("^Waiting for clients")
        return server, server.wait(r"^Ticket: (\S+)$")[1]

    def start_client(self, text, variables=None, **options):
        """A client of tunnel-rs that has a session."""
        client = self.here.start(text, ALONE if variables is None else variables, **options)
        client.wait("INFO session open")
        return client
