"""What the image holds, run as the manifests and the Compose file say."""

import contextlib
import http.server
import pathlib
import socket
import subprocess
import tempfile
import threading
import unittest
import urllib.error
import urllib.request

import manifests
from image import ROOT, SOON, WORK, Container, Dockerfile, add_libraries, assemble, context

# Whatever proxy the test's environment names: it is not asked for what is in this network.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

HOSTS = "127.0.0.1 localhost\n10.99.0.1 relay.example.org\n"


def program(*arguments):
    return subprocess.check_output([WORK / "bin/tunnel-rs", *arguments], text=True)


def get(port, path, address="127.0.0.1"):
    """The code and the text of an answer; nothing where there is none."""
    try:
        with DIRECT.open(f"http://{address}:{port}{path}", timeout=SOON) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def make_secrets():
    """The files of all secrets, by the secrets' names in Kubernetes."""
    key = pathlib.Path(tempfile.mkdtemp(dir=WORK)) / "server.key"
    program("generate-server-key", "--output", key)
    token, relay_token = program("generate-token"), program("generate-token")
    server = {"server.key": key.read_text(), "tokens": token, "relay-token": relay_token}
    return {"tunnel-rs": server, "tunnel-rs-relay": {"relay-token": relay_token}}


class Contents(unittest.TestCase):
    def test_the_image_holds_two_programs_their_licences_and_nothing_else(self):
        root = assemble()
        files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        programs = {"usr/local/bin/tunnel-rs", "usr/local/bin/tunnel-rs-ice"}
        self.assertEqual(files, programs | {f"usr/share/doc/tunnel-rs/LICENSE-{name}" for name in ("APACHE", "MIT")})
        for name in files:
            mode = (root / name).stat().st_mode & 0o7777
            self.assertEqual(mode, 0o755 if name in programs else 0o644, name)

    def test_it_begins_as_a_user_with_a_number_with_a_program_that_it_has(self):
        dockerfile = Dockerfile()
        self.assertEqual(dockerfile.one("FROM"), "scratch")
        self.assertTrue(all(int(number) > 0 for number in dockerfile.user))
        self.assertTrue((assemble() / dockerfile.entrypoint[0].lstrip("/")).is_file())
        self.assertFalse(dockerfile.all("RUN"), "there is no shell in it")

    def test_the_release_script_lays_out_every_architecture(self):
        binaries = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        targets = {"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-musl"}
        for target in targets.values():
            (binaries / target).mkdir()
            for name in ("tunnel-rs", "tunnel-rs-ice"):
                (binaries / target / name).write_text(f"{name} for {target}")
        out = context(binaries)
        for arch, target in targets.items():
            for _, names, _ in Dockerfile(out / "Dockerfile").copies(arch):
                for name in names:
                    text = (out / name).read_text()
                    if name.startswith(arch):
                        self.assertEqual(text, f"{pathlib.Path(name).name} for {target}")
        done = subprocess.run([ROOT / ".ci/release", "image", binaries, out], capture_output=True, text=True, check=False)
        self.assertIn("is not empty", done.stderr)


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.image = assemble()
        add_libraries(cls.image)
        cls.secrets = make_secrets()
        # What a runtime mounts besides.
        etc = manifests.folder({"hosts": HOSTS, "resolv.conf": "nameserver 127.0.0.1\n"})
        cls.etc = [(etc / name, f"/etc/{name}", "ro") for name in ("hosts", "resolv.conf")]

    def start(self, start, *more):
        container = Container(self.image, [*start.arguments, *more], [*start.mounts, *self.etc], start.groups)
        self.addCleanup(container.close)
        return container

    def starts(self):
        of_compose = {**self.secrets["tunnel-rs"], "db_password": "x"}
        return [*manifests.kubernetes(self.secrets), manifests.of_compose(of_compose)]

    def assert_bare(self, container):
        """It has nothing that it could do harm with."""
        status = container.status()
        self.assertEqual(status["Uid"].split(), [Dockerfile().user[0]] * 4)
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[capabilities], 16), 0, capabilities)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["NSpid"].split()[-1], "1")
        mounts = pathlib.Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
        (root,) = [line.split() for line in mounts if line.split()[4] == "/"]
        self.assertIn("ro", root[5].split(","))

    def test_each_starts_as_its_manifest_says_and_ends_in_order(self):
        starts = self.starts()
        self.assertEqual(len(starts), 5)
        for start in starts:
            with self.subTest(start.name):
                container = self.start(start)
                container.wait_line("Waiting for clients to connect...")
                container.wait_for(lambda start=start: get(start.port, "/livez") == (200, "ok\n"))
                self.assertIn("# EOF", get(start.port, "/metrics")[1])
                self.assert_bare(container)
                warnings = [line for line in container.lines if "others can read it" in line]
                self.assertEqual(warnings, [])
                self.assertEqual(container.terminate(), 0, container.lines)

    def test_a_client_gets_through_by_the_relay_of_the_manifests(self):
        starts = {start.name: start for start in self.starts()}
        with contextlib.ExitStack() as stack:
            service = http.server.ThreadingHTTPServer(("10.96.0.80", 8000), Greeter)
            stack.callback(service.server_close)
            threading.Thread(target=service.serve_forever, daemon=True).start()
            stack.callback(service.shutdown)
            # As the service of the manifest does.
            stack.enter_context(forwarding(443, 8443))

            # All of them are in one network here, where a pod has one of its own.
            relay_start, server_start = starts["relay"], starts["standalone"]
            relay_start.arguments = [word.replace(":9090", ":9091") for word in relay_start.arguments]
            relay = self.start(relay_start)
            flags = relay.wait_line("Flags: ").split()
            relay.wait_for(lambda: get(9091, "/readyz") == (200, "ok\n"))
            token = "--relay-token-file=/run/secrets/tunnel-rs/relay-token"
            server = self.start(server_start, *flags, token)
            ticket = server.wait_line("Ticket: ")
            server.wait_for(lambda: get(server_start.port, "/readyz") == (200, "ok\n"))

            files = {"ticket": f"{ticket}\n", "token": self.secrets["tunnel-rs"]["tokens"],
                     "relay-token": self.secrets["tunnel-rs"]["relay-token"]}
            group = server_start.groups[0]
            mounts = [(manifests.folder(files, group), "/run/secrets/tunnel-rs", "ro"), *self.etc]
            variables = {
                "TUNNEL_RS_TICKET_FILE": "/run/secrets/tunnel-rs/ticket",
                "TUNNEL_RS_AUTH_TOKEN_FILE": "/run/secrets/tunnel-rs/token",
                "TUNNEL_RS_RELAY_TOKEN_FILE": "/run/secrets/tunnel-rs/relay-token",
            }
            words = ["client", "-L", "127.0.0.1:8081:10.96.0.80:8000", "--health-addr", "127.0.0.1:9092"]
            client = Container(self.image, words, mounts, [group], variables)
            self.addCleanup(client.close)
            client.wait_for(lambda: get(9092, "/readyz") == (200, "ok\n"))
            self.assert_bare(client)
            self.assertEqual(get(8081, "/"), (200, "through"), client.lines)
            for container in (client, server, relay):
                self.assertEqual(container.terminate(), 0, container.lines)


class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"through")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def forwarding(port, to):
    """Hands on TCP connections to another port of this network."""
    sockets = []

    def carry(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def run():
        with contextlib.suppress(OSError):
            while True:
                one = listener.accept()[0]
                sockets.append(one)
                other = socket.create_connection(("10.99.0.1", to))
                sockets.append(other)
                for pair in ((one, other), (other, one)):
                    threads.append(threading.Thread(target=carry, args=pair, daemon=True))
                    threads[-1].start()

    with socket.create_server(("10.99.0.1", port)) as listener:
        threads = [threading.Thread(target=run, daemon=True)]
        threads[0].start()
        yield
        # Wakes up whoever waits for one of them.
        for one in (listener, *sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(SOON)
        for one in sockets:
            one.close()
