"""A machine with a systemd of its own, and what goes on on it."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
from namespace import inside  # noqa: E402  (Where the module is, is known only now.)

WORK = pathlib.Path(os.environ["SYSTEMD_TEST_WORK"])
CGROUP = pathlib.Path(os.environ["SYSTEMD_TEST_CGROUP"])

# For whatever is asked for, in seconds: longer only on a machine that is busy otherwise.
SOON = 60

# What is this machine's own, and not what a fresh one would have: services and how systemd and its journal are set up,
# mounts, networks and the kernel's parameters, users.
ABSENT = """
etc/systemd etc/init.d etc/rc0.d etc/rc1.d etc/rc2.d etc/rc3.d etc/rc4.d etc/rc5.d etc/rc6.d etc/rcS.d etc/tmpfiles.d
etc/fstab etc/crypttab etc/netplan etc/sysctl.conf etc/sysctl.d etc/tunnel-rs etc/resolv.conf etc/machine-id etc/hostname
var/lib/systemd/linger var/lib/tunnel-rs-relay
"""

# Units that a machine of this kind has no use for: a login at a terminal, and what concerns the kernel.
MASKED = "getty.target systemd-journald-audit.socket sys-fs-fuse-connections.mount dev-hugepages.mount"

# Of the words of a log line these show that the sandbox is in the way; a filtered system call ends the process.
REFUSED = re.compile(r"permission denied|not permitted|read-only file system|status=31/SYS", re.IGNORECASE)


def call(*command):
    subprocess.run([*map(str, command)], check=True)


def children(process):
    """The numbers of a process's children; none where it has ended."""
    with contextlib.suppress(FileNotFoundError):
        return [int(number) for number in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


class Lines:
    """The lines that a command prints, as they come."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()

    def wait(self, pattern, after=0):
        """What a regular expression finds in the first such line behind so many."""
        found = []

        def look():
            found[:] = filter(None, (re.search(pattern, line) for line in self.lines[after:]))
            return found

        with self.changed:
            if not self.changed.wait_for(look, SOON):
                raise AssertionError("\n".join([f"no {pattern} in the log", *self.lines]))
            return found[0]

    def close(self):
        # nsenter has a child, and ends with it; without nsenter nobody would take note of the child's end.
        for process in children(self.process.pid) or [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        if not self.process.stdout.closed:
            self.process.stdout.close()


class Machine:
    """A machine. Its network is one cable to the test, 10.99.NUMBER.0/24 and fd99:NUMBER::/64, of which the test is the
    router (.1, ::1) to the other machines; it has .2 and ::2."""

    def __init__(self, number, stack):
        self.number = number
        self.address = f"10.99.{number}.2"
        self.folder = WORK / f"machine-{number}"
        self.root = self.folder / "root"
        self.host = self.folder / "host"
        self.process = self.log = self.teller = None
        self.prepare(stack)
        self.boot()

    def prepare(self, stack):
        folder = self.folder
        for each in (folder, self.root, self.host, folder / "changed", folder / "work"):
            each.mkdir()
        stack.callback(shutil.rmtree, folder)
        layers = f"lowerdir={WORK}/programs:/,upperdir={folder}/changed,workdir={folder}/work"
        self.mount(stack, self.root, "-t", "overlay", "-o", layers, "overlay")
        # Homes, logs and the places of mounts begin empty.
        for place in ("home", "root", "mnt", "var/log"):
            self.mount(stack, self.root / place, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        stack.callback(self.end)
        for name in ABSENT.split():
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in ("passwd", "shadow", "group", "gshadow"):
            path = self.root / "etc" / name
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if not line.startswith("tunnel-rs:")))
        units = self.root / "etc/systemd/system"
        units.mkdir(parents=True)
        for unit in MASKED.split():
            (units / unit).symlink_to("/dev/null")
        # Debian's systemd makes this folder, and so logs outlive the machine's end and users see their own.
        (self.root / "var/log/journal").mkdir()
        (self.root / "etc/machine-id").write_text(f"{self.number:032x}\n")
        (self.root / "etc/hostname").write_text(f"machine-{self.number}\n")
        # Nobody answers there, and that is known at once.
        (self.root / "etc/resolv.conf").write_text(f"nameserver 10.99.{self.number}.1\n")

    @staticmethod
    def mount(stack, place, *arguments):
        call("mount", *arguments, place)
        stack.callback(call, "umount", "--lazy", place)

    def boot(self):
        """Starts it; it has then reached the target of a machine without a screen."""
        notified = self.host / "notify"
        begun = time.time()
        notified.unlink(missing_ok=True)
        self.console, self.terminal = os.openpty()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
            news.bind(str(notified))
            news.settimeout(SOON)
            self.said = []
            self.listener = threading.Thread(target=self.listen, args=[self.console, self.said], daemon=True)
            self.listener.start()
            cgroup = CGROUP / f"machine-{self.number}"
            cgroup.mkdir(exist_ok=True)
            join = 'echo $$ >"$0" && exec "$@"'
            spaces = "--mount --net --uts --ipc --pid --cgroup --fork --kill-child".split()
            self.process = subprocess.Popen(
                ["sh", "-c", join, cgroup / "cgroup.procs", "unshare", *spaces, pathlib.Path(__file__).with_name("boot"),
                 self.root, self.host, os.ttyname(self.terminal)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            self.leader = self.wait_child()
            self.cable()
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            # Its end ends the wait too.
            self.teller = threading.Thread(target=self.tell_end, args=[self.process, notified], daemon=True)
            self.teller.start()
            said = b""
            with contextlib.suppress(TimeoutError):
                while said != b"END" and b"READY=1" not in said:
                    said = news.recv(65536)
            if b"READY=1" not in said:
                self.process.kill()
                raise AssertionError(f"no systemd has come up:\n{self.process.stdout.read()}\n{self.screen()}")
        # Of this start: the kernel's number of the boot, which --boot looks at, is the same for all.
        follow = f"journalctl --follow --lines=all --since=@{begun} --no-pager".split()
        self.log = Lines(self.enter(*follow))

    @staticmethod
    def tell_end(process, place):
        process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller, contextlib.suppress(OSError):
            teller.sendto(b"END", str(place))

    def wait_child(self):
        """The first process of the machine, by its number here."""
        end = time.monotonic() + SOON
        while self.process.poll() is None and time.monotonic() < end:
            if found := children(self.process.pid):
                return found[0]
            time.sleep(0.01)
        # What is read below ends with it.
        self.process.kill()
        raise AssertionError(f"no namespaces: {self.process.stdout.read()}")

    @staticmethod
    def listen(console, said):
        """A screen that nobody reads would hold systemd up once it is full."""
        # An error is its end.
        with contextlib.suppress(OSError):
            while part := os.read(console, 65536):
                said.append(part)

    def screen(self):
        return b"".join(self.said).decode(errors="replace")

    def cable(self):
        here, number = f"machine{self.number}", self.number
        call("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", self.leader)
        call("ip", "address", "add", f"10.99.{number}.1/24", "dev", here)
        call("ip", "address", "add", f"fd99:{number}::1/64", "dev", here, "nodad")
        call("ip", "link", "set", here, "up")
        there = ["nsenter", "--net", "--target", self.leader, "ip"]
        call(*there, "address", "add", f"{self.address}/24", "dev", "eth0")
        call(*there, "address", "add", f"fd99:{number}::2/64", "dev", "eth0", "nodad")
        call(*there, "link", "set", "eth0", "up")
        call(*there, "route", "add", "default", "via", f"10.99.{number}.1")
        call(*there, "route", "add", "default", "via", f"fd99:{number}::1")

    def enter(self, *words, user=None, variables=()):
        """What runs a command on the machine."""
        clean = ["env", "--ignore-environment", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", *variables]
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return [*map(str, ["nsenter", "--all", "--target", self.leader, *clean, *who, *words])]

    def try_run(self, *words, **options):
        return subprocess.run(
            self.enter(*words, **options), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SOON, check=False,
        )

    def run(self, *words, code=0, **options):
        """Runs a command to its end, which must be with this code; what it says."""
        done = self.try_run(*words, **options)
        if done.returncode != code:
            raise AssertionError(f"{words}: code {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.all()}")
        return done.stdout + done.stderr

    def shell(self, line):
        """Runs a line of a document, as root."""
        return self.run("sh", "-euc", line.replace("sudo ", ""))

    def all(self):
        return "\n".join(self.log.lines) if self.log else ""

    def path(self, path):
        """Where a path of the machine is for the test."""
        return pathlib.Path(f"/proc/{self.leader}/root{path}")

    def write(self, path, text, mode=0o644):
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def show(self, unit, name):
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def mark(self):
        """How many lines the log has, to wait for later ones; those of what has already happened are among them."""
        self.run("journalctl", "--sync")
        # journalctl follows, and may be behind.
        text = f"mark-{os.urandom(8).hex()}"
        self.run("systemd-cat", "--identifier=test", "echo", text)
        self.log.wait(text)
        with self.log.changed:
            return next(number for number, line in enumerate(self.log.lines) if text in line) + 1

    def wait(self, pattern, after=0):
        return self.log.wait(pattern, after)

    def inside(self, function, *arguments):
        """What a function gives in the machine's network: its sockets are there."""
        return inside(f"/proc/{self.leader}/ns/net", function, *arguments)

    def reboot(self):
        # A process that systemd has not started would be waited for.
        self.log.close()
        # It may be gone before it has answered.
        self.try_run("systemctl", "reboot")
        self.process.wait(SOON)
        self.end()
        self.boot()

    def end(self):
        """Ends it as a failing power supply does."""
        if not self.process:
            return
        self.process.kill()
        self.process.wait()
        # Whom it tells may be the next start otherwise.
        if self.teller:
            self.teller.join()
        self.process.stdin.close()
        self.process.stdout.close()
        if self.log:
            self.log.close()
        os.close(self.terminal)
        self.listener.join()
        os.close(self.console)
        # Its network lives on as long as there are sockets in it; otherwise this has gone with it, or is about to.
        subprocess.run(["ip", "link", "delete", f"machine{self.number}"], stderr=subprocess.DEVNULL, check=False)
