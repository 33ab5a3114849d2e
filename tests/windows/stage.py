"""What the tests for Windows play on: programs of both systems, services, and what goes through tunnels."""

import atexit
import contextlib
import hashlib
import os
import pathlib
import random
import select
import socket
import subprocess
import tempfile
import threading
import time

WORK = pathlib.Path(os.environ["WINDOWS_TEST_WORK"])
BINARIES = pathlib.Path(os.environ["WINDOWS_TEST_BINARIES"])
EXE = WORK / "exe"

# The address of this network that is no loopback.
LAN = "10.99.0.1"

# For whatever is asked for, in seconds: longer only on a machine that is busy otherwise. A program begins slowly under Wine.
SOON = 60

# Carried in each direction, in bytes.
BULK = 4 * 1024 * 1024


def folder():
    return pathlib.Path(tempfile.mkdtemp(dir=WORK))


def windows_path(path):
    """What Wine calls a path."""
    return "Z:" + str(path).replace("/", "\\")


def environment():
    """Nothing of the test's own that could rule a program."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TUNNEL_RS_", "RUST_"))}
    return {**kept, "NO_COLOR": "1"}


def on_linux(program, *arguments):
    return [str(BINARIES / program), *map(str, arguments)]


def on_windows(program, *arguments):
    return ["wine", windows_path(EXE / f"{program}.exe"), *map(str, arguments)]


def noting(command):
    """A command whose exit code stands in a file after its end, if it is one of Wine's, and that file."""
    if command[0] != "wine":
        return command, None
    file = folder() / "code"
    return ["wine", str(EXE / "code.exe"), windows_path(file), *command[1:]], file


def code_of(process, file):
    """The exit code of a process that has ended; `file` as `noting` tells it."""
    # There is none where it was killed.
    text = file.read_text() if file and file.exists() else ""
    return int(text) if text else process.returncode


def run(command, code=0, limit=SOON, **variables):
    """Runs a program to its end, which must be with this code; its standard output and standard error."""
    noted, file = noting(command)
    done = subprocess.run(
        noted, env={**environment(), **variables}, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    if (ended := code_of(done, file)) != code:
        raise AssertionError(f"{command}: code {ended}\n{out}\n{err}")
    return out, err


def nostr_keys():
    """Keys for nostr mode, of which Windows has made the first and Linux the second: the file and the public key of each."""
    generate = ["tunnel-rs-ice", "generate-nostr-key", "--output"]
    windows, linux = folder() / "key.nsec", folder() / "key.nsec"
    return [
        (windows, run(on_windows(*generate, windows_path(windows)))[0].strip()),
        (linux, run(on_linux(*generate, linux))[0].strip()),
    ]


class Program:
    """A running program, and the lines that it has printed."""

    def __init__(self, command):
        noted, self.code = noting(command)
        self.process = subprocess.Popen(
            noted, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.end = os.pidfd_open(self.process.pid)
        self.lines = []
        self.changed = threading.Condition()
        self.ended = False
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Until the program has ended: what it has started may keep its output for longer, such as the desktop of Wine's."""
        out = self.process.stdout.fileno()
        rest = b""
        while out in select.select([out, self.end], [], [])[0] and (part := os.read(out, 65536)):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                self.add(line.decode(errors="replace").rstrip("\r"))
        if rest:
            self.add(rest.decode(errors="replace"))
        self.add(None)

    def add(self, line):
        with self.changed:
            if line is None:
                self.ended = True
            else:
                self.lines.append(line)
            self.changed.notify_all()

    def wait_for(self, look, what):
        """What `look` finds in the lines, once that is something."""
        end = time.monotonic() + SOON
        with self.changed:
            while not (found := look(self.lines)):
                left = end - time.monotonic()
                if self.ended or left <= 0:
                    raise AssertionError("\n".join([f"no {what} from {self.process.args}", *self.lines]))
                self.changed.wait(left)
            return found

    def wait_line(self, part, count=1):
        """Waits until so many lines have this in them; the last of these."""
        return self.wait_for(lambda lines: [line for line in lines if part in line][count - 1 :], part)[0]

    def wait_value(self, start):
        """The rest of the first line with this beginning."""
        look = lambda lines: [line.removeprefix(start) for line in lines if line.startswith(start)]
        return self.wait_for(look, start)[0]

    def targets(self, count):
        """Where a client listens, in the order of its forwards."""

        def look(lines):
            printed = [line.split()[1] for line in lines if line.startswith("Forwarding ")]
            return printed if len(printed) == count else None

        ends = [text.split("://")[1].rsplit(":", 1) for text in self.wait_for(look, "forwards")]
        return [(host.strip("[]"), int(port)) for host, port in ends]

    def press_ctrl_c(self):
        """In its console: the program was started by `in_console`."""
        self.process.stdin.write(b"c")
        self.process.stdin.flush()

    def terminate(self):
        self.process.terminate()
        return self.wait()

    def wait(self):
        """Its exit code, at the end."""
        self.process.wait(SOON)
        self.reader.join(SOON)
        return code_of(self.process, self.code)

    def close(self):
        self.process.kill()
        self.wait()
        os.close(self.end)
        self.process.stdin.close()
        self.process.stdout.close()


def in_console(program, *arguments):
    """A program for Windows in a console."""
    return ["wine", windows_path(EXE / "console.exe"), windows_path(EXE / f"{program}.exe"), *map(str, arguments)]


class Services:
    """Services on Linux, for a server there to reach."""

    def __init__(self):
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        # Whether a connection is held open, and when it need not be any more.
        self.held, self.over = threading.Event(), threading.Event()
        self.tcp_port, self.udp_port = self.tcp.getsockname()[1], self.udp.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        threading.Thread(target=self.echo, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=self.tcp.accept()[:1], daemon=True).start()

    def serve(self, tcp):
        """Says what it has heard when the other side has said all, and as much as that of its own."""
        with tcp, contextlib.suppress(OSError):
            heard = read_all(tcp)
            if heard == b"hold":
                self.held.set()
                self.over.wait()
                return
            if heard == b"reset":
                # A linger time of zero: the close is a reset (socket(7)).
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            tcp.sendall(hashlib.sha256(heard).digest())
            tcp.sendall(heard[::-1])

    def echo(self):
        with contextlib.suppress(OSError):
            while True:
                packet, peer = self.udp.recvfrom(65536)
                self.udp.sendto(packet, peer)

    def close(self):
        self.over.set()
        self.tcp.close()
        self.udp.close()


def read_all(tcp):
    parts = []
    while part := tcp.recv(65536):
        parts.append(part)
    return b"".join(parts)


def connect(address):
    return socket.create_connection(address, timeout=SOON)


def wait_refused(address):
    """Waits until nobody listens there: what a program has open under Wine is closed a moment after its end."""
    end = time.monotonic() + SOON
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            connect(address).close()
            if time.monotonic() > end:
                raise AssertionError(f"somebody listens at {address}")
            time.sleep(0.05)


def ask(tcp, data):
    """Sends data and ends that direction; what comes back."""

    def send():
        tcp.sendall(data)
        tcp.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    answer = read_all(tcp)
    sender.join(SOON)
    return answer


def carries_tcp(address, seed=0, size=BULK):
    """Whether data arrives whole in both directions, with the end of each passed on by itself."""
    data = random.Random(seed).randbytes(size)
    with connect(address) as tcp:
        answer = ask(tcp, data)
    return answer == hashlib.sha256(data).digest() + data[::-1]


def exchange_udp(address, size, count=1):
    """Sends packets one after another until each has come back; none is taken for another."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.connect(address)
        end = time.monotonic() + SOON
        for number in range(count):
            packet = random.Random(number).randbytes(size)
            answer = None
            while answer != packet:
                # UDP may lose it.
                if time.monotonic() > end:
                    raise AssertionError(f"no answer to a packet of {size} B at {address}")
                with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                    udp.send(packet)
                    answer = udp.recv(65536)


def keep_wine():
    """Keeps Wine running until the end of the tests.

    It ends its services and their manager with its last program. What calls that manager meanwhile may hang, and so may what
    comes while the first program still starts it.
    """
    keeper = Program(["wine", "cmd"])
    atexit.register(keeper.close)
    keeper.wait_line("Microsoft Windows")


keep_wine()
