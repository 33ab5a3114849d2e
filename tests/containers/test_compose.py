"""The Compose file, brought up with the commands of docs/CONTAINERS.md. Its web service and its database are stand-ins under
the names of the images that the file asks for."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

import manifests
from image import CHECKS, DEPLOY, SOON, WORK, add_libraries, assert_bare, get, inspect, podman, runnable
from test_documents import PAGE, blocks, commands

PROJECT, SERVICES = manifests.compose()["name"], manifests.compose()["services"]
# Where the test's client tells health.
HEALTH = 9099
# By service: whom it runs as, and what of busybox it runs. The database shows that it can read the password that it was
# given, and then says what it hears.
STAND_INS = {
    "web": ("101:101", ["httpd", "-f", "-p", "8080", "-h", "/www"]),
    "db": ("0:0", ["nc", "-l", "-l", "-p", "5432", "-e", "/bin/busybox", "cat", "/run/secrets/db_password", "-"]),
}


def build_stand_ins():
    for service, (user, command) in STAND_INS.items():
        folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="stand-in."))
        busybox = shutil.which("busybox")
        for name in ("bin", "www"):
            (folder / "root" / name).mkdir(parents=True)
        shutil.copy(busybox, folder / "root/bin/busybox")
        add_libraries(folder / "root", busybox)
        (folder / "root/www/index.html").write_text("from the web service")
        words = ", ".join(f'"{word}"' for word in ["/bin/busybox", *command])
        (folder / "Dockerfile").write_text(f"FROM scratch\nCOPY root /\nUSER {user}\nENTRYPOINT [{words}]\n")
        image = SERVICES[service]["image"]
        # A short name means something to Docker alone.
        podman("build", "--quiet", "--tag", image, folder)


def container(service):
    return f"{PROJECT}_{service}_1"


# The first line of the tunnel's log, and the last one before clients may come.
START = "EndpointId: "
READY = r"^(Waiting for clients)"
# With the time that the file gives it.
GRACE = SERVICES["tunnel"]["stop_grace_period"].rstrip("s")
STOP = ["podman", "stop", f"--time={GRACE}", container("tunnel")]


def wait_for(look, explain):
    """What `look` returns, once that is something."""
    end = time.monotonic() + SOON
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(explain())
        time.sleep(0.05)
    return found


def whole_log():
    """What the tunnel has printed on both streams."""
    return subprocess.run(["podman", "logs", container("tunnel")], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=SOON, check=True).stdout


def log():
    """The same since it was started for the last time."""
    return "".join(whole_log().rpartition(START)[1:])


def wait_log(pattern):
    return wait_for(lambda: re.search(pattern, log(), flags=re.MULTILINE), log)[1]


def connect(port):
    return socket.create_connection(("127.0.0.1", port), SOON)


def read_all(stream):
    return b"".join(iter(lambda: stream.recv(65536), b""))


class Up(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        runnable()
        build_stand_ins()
        cls.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="compose."))
        shutil.copytree(DEPLOY, cls.folder / "container-deploy")
        cls.project = cls.folder / "container-deploy/compose"
        (cls.folder / "docker").write_text(f'#!/bin/sh\n[ "$1" = compose ] && shift && exec {CHECKS}/podman-compose "$@"\n')
        (cls.folder / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        for name in ("docker", "sudo"):
            (cls.folder / name).chmod(0o755)
        (up,) = [block for block in blocks(PAGE) if "docker compose up" in block]
        cls.addClassCleanup(cls.run_shell, "docker compose down --timeout 0", cls.project)
        cls.run_shell(up, cls.folder)
        wait_log(READY)

    @classmethod
    def run_shell(cls, commands, cwd):
        environment = {**os.environ, "PATH": f"{cls.folder}:{WORK}/bin:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-euc", commands], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=2 * SOON, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{commands}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start_again(self, command="docker compose start tunnel"):
        before = whole_log().count(START)
        self.run_shell(command, self.project)
        wait_for(lambda: whole_log().count(START) > before, whole_log)
        wait_log(READY)

    @contextlib.contextmanager
    def client(self, *more):
        """The client of the page, with a session and a token of the file."""
        (line,) = [block for block in blocks(PAGE) if "--ticket TICKET" in block]
        program, *words = line.replace("TICKET", wait_log(r"^Ticket: (\S+)$")).split()
        folder = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        shutil.copy(self.project / "secrets/tokens", folder / "token")
        command = [WORK / "bin" / program, *words, *more, "--health-addr", f"127.0.0.1:{HEALTH}"]
        output = folder / "output"
        with output.open("wb") as file, subprocess.Popen(command, cwd=folder, stdout=file, stderr=file) as process:
            try:
                wait_for(lambda: get("127.0.0.1", HEALTH, "/readyz") == (200, "ok\n"), output.read_text)
                yield process
            finally:
                process.terminate()
                process.wait(SOON)

    def test_the_secrets_are_files_that_nobody_else_can_read(self):
        for secret in manifests.compose()["secrets"].values():
            file = self.project / secret["file"]
            self.assertTrue(file.read_text().strip(), secret)
            self.assertEqual(file.stat().st_mode & 0o077, 0, secret)

    def test_the_tunnel_is_as_bare_as_the_file_says(self):
        found = inspect("container", container("tunnel"))
        assert_bare(self, found["State"]["Pid"])
        host = found["HostConfig"]
        self.assertEqual((host["Memory"], host["NanoCpus"], host["PidsLimit"]), (512 << 20, 10**9, 64))
        self.assertEqual(host["RestartPolicy"]["Name"], "unless-stopped")

    def test_only_the_tunnel_has_a_way_out(self):
        for service, way in (("tunnel", True), ("web", False), ("db", False)):
            found = inspect("container", container(service))
            self.assertEqual(found["HostConfig"]["PortBindings"] or {}, {}, service)
            routes = pathlib.Path(f"/proc/{found['State']['Pid']}/net/route").read_text().splitlines()[1:]
            self.assertEqual("00000000" in [line.split()[1] for line in routes], way, service)

    def test_a_client_reaches_both_services_by_name_and_not_the_host(self):
        with socket.create_server(("172.30.40.1", 0)) as host:
            host.setblocking(False)
            port = host.getsockname()[1]
            with self.client("-L", f"{port}:172.30.40.1:{port}"):
                self.assertEqual(get("127.0.0.1", 8080, "/"), (200, "from the web service"))
                with connect(5432) as stream:
                    stream.shutdown(socket.SHUT_WR)
                    self.assertEqual(read_all(stream), (self.project / "secrets/db_password").read_bytes())
                # The refusal may be here before the connection's maker has looked at it.
                with contextlib.suppress(ConnectionResetError), connect(port) as stream:
                    self.assertEqual(read_all(stream), b"")
            with self.assertRaises(BlockingIOError):
                host.accept()

    def test_a_stopped_tunnel_lets_a_connection_come_to_its_end(self):
        # Other tests want it back.
        self.addCleanup(self.start_again)
        with self.client(), connect(5432) as stream, contextlib.ExitStack() as stack:
            # Now the tunnel has it.
            self.assertTrue(stream.recv(1))
            stop = stack.enter_context(subprocess.Popen(STOP, stdout=subprocess.DEVNULL))
            wait_log(r"(draining for up to 30 s)")
            stream.sendall(b"the last words")
            stream.shutdown(socket.SHUT_WR)
            self.assertTrue(read_all(stream).endswith(b"the last words"))
            self.assertEqual(stop.wait(SOON), 0)
        self.assertIn("drained: no flow is open any more", log())
        self.assertEqual(inspect("container", container("tunnel"))["State"]["ExitCode"], 0)

    def test_a_token_is_taken_back(self):
        write, restart = [command.text for command in commands() if command.document == PAGE
                          and command.text.startswith(("sudo cp ", "docker compose restart "))]
        file = self.project / "secrets/tokens"
        first = file.read_text()
        with self.client() as client:
            self.run_shell("tunnel-rs generate-token > new-tokens", self.project)
            self.run_shell(write, self.project)
            wait_log("(rules read again)")
            self.assertEqual(client.wait(SOON), 3)
        with self.client():
            pass

        other = self.project / "secrets/other"
        other.touch(mode=0o600)
        other.write_text(first)
        shutil.chown(other, 65532, 65532)
        other.replace(file)
        self.start_again(restart)
        with self.client():
            pass
