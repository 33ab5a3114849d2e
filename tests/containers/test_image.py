"""The image as a registry gets it, and its containers, started as the manifests say."""

import hashlib
import http.server
import json
import pathlib
import re
import subprocess
import tarfile
import tempfile
import threading
import unittest

import manifests
from image import (
    ARCH, BUILT, ROOT, TARGETS, WORK, Container, assert_bare, built, context, get, inspect, podman, runnable, user,
)

# The other end of what a relay's name leads to.
HOST = "10.99.0.1"

# What a service answers: more than whatever else passes between a client and a server.
ANSWER = "through " * 32768


def program(*arguments):
    return subprocess.check_output([WORK / "bin/tunnel-rs", *arguments], text=True)


def make_secrets():
    """The files of all secrets, by the secrets' names in Kubernetes."""
    key = pathlib.Path(tempfile.mkdtemp(dir=WORK)) / "server.key"
    program("generate-server-key", "--output", key)
    token, relay_token = program("generate-token"), program("generate-token")
    server = {"server.key": key.read_text(), "tokens": token, "relay-token": relay_token}
    return {"tunnel-rs": server, "tunnel-rs-relay": {"relay-token": relay_token}}


class Layers:
    """The files of an image, as a registry gets them: `folder` is an OCI layout."""

    def __init__(self, folder, manifest):
        self.folder = folder
        self.config = self.json(manifest["config"])
        self.entries = {}
        for layer in manifest["layers"]:
            with tarfile.open(self.blob(layer)) as archive:
                for entry in archive:
                    self.entries["/" + entry.name.strip("/")] = entry, entry.isfile() and archive.extractfile(entry).read()

    def blob(self, descriptor):
        return self.folder / "blobs" / descriptor["digest"].replace(":", "/")

    def json(self, descriptor):
        return json.loads(self.blob(descriptor).read_text())

    @classmethod
    def of(cls, *push):
        """Each image that Podman pushes with these words, by its architecture."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="layout."))
        podman(*push, f"oci:{folder}")
        found = cls.images(folder, json.loads((folder / "index.json").read_text()))
        return {image.config["architecture"]: image for image in found}

    @classmethod
    def images(cls, folder, index):
        for descriptor in index["manifests"]:
            document = json.loads((folder / "blobs" / descriptor["digest"].replace(":", "/")).read_text())
            if "manifests" in document:
                yield from cls.images(folder, document)
            else:
                yield cls(folder, document)

    @property
    def files(self):
        return {name: content for name, (entry, content) in self.entries.items() if entry.isfile()}


class Contents(unittest.TestCase):
    def test_the_image_holds_two_programs_their_licences_and_nothing_else(self):
        config = built()
        image = Layers.of("push", BUILT)[ARCH]
        programs = {f"/usr/local/bin/{name}": WORK / "bin" / name for name in ("tunnel-rs", "tunnel-rs-ice")}
        licences = {f"/usr/share/doc/tunnel-rs/{name}": ROOT / name for name in ("LICENSE-APACHE", "LICENSE-MIT")}
        self.assertEqual(set(image.files), set(programs) | set(licences))
        for name, source in {**programs, **licences}.items():
            self.assertEqual(hashlib.sha256(image.files[name]).digest(), hashlib.sha256(source.read_bytes()).digest(), name)
        for name, (entry, _) in image.entries.items():
            self.assertTrue(entry.isfile() or entry.isdir(), name)
            # Its own user can change none of it.
            self.assertEqual((entry.uid, entry.gid), (0, 0), name)
            self.assertEqual(entry.mode & 0o7777, 0o644 if name in licences else 0o755, name)
        # Each of them is there once: a changed mode would be another copy in another layer.
        size = inspect("image", BUILT)["Size"]
        self.assertLess(size - sum(map(len, image.files.values())), 64 * 1024)

        self.assertEqual((config["Entrypoint"], config["Cmd"]), (["/usr/local/bin/tunnel-rs"], ["--help"]))
        self.assertTrue(all(int(number) > 0 for number in user()), "Kubernetes asks for numbers")
        self.assertEqual(len(user()), 2)
        self.assertEqual([word.split("=")[0] for word in config["Env"]], ["PATH"])
        self.assertFalse({"Volumes", "ExposedPorts", "Healthcheck"} & set(config))
        label = "org.opencontainers.image."
        labels = {name.removeprefix(label): text for name, text in config["Labels"].items() if name.startswith(label)}
        self.assertEqual(set(labels), {"title", "description", "source", "documentation", "licenses"})
        self.assertEqual((labels["title"], labels["licenses"]), ("tunnel-rs", "MIT OR Apache-2.0"))
        self.assertTrue((ROOT / labels["documentation"].removeprefix(f"{labels['source']}/blob/main/")).is_file())

    def test_the_image_of_each_architecture_has_its_own_programs(self):
        binaries = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        for target in TARGETS.values():
            (binaries / target).mkdir()
            for name in ("tunnel-rs", "tunnel-rs-ice"):
                (binaries / target / name).write_text(f"{name} for {target}")
        out = context(binaries)
        # As the release workflow does: one machine for all, as nothing of the image is run.
        platforms = ",".join(f"linux/{arch}" for arch in TARGETS)
        label = "org.opencontainers.image.version=1.2.3"
        podman("build", "--platform", platforms, "--label", label, "--manifest", "localhost/all", out)
        images = Layers.of("manifest", "push", "--all", "localhost/all")
        self.assertEqual(set(images), set(TARGETS))
        for arch, target in TARGETS.items():
            for name in ("tunnel-rs", "tunnel-rs-ice"):
                self.assertEqual(images[arch].files[f"/usr/local/bin/{name}"].decode(), f"{name} for {target}")
            self.assertEqual(images[arch].config["config"]["Labels"]["org.opencontainers.image.version"], "1.2.3")
        done = subprocess.run([ROOT / ".ci/release", "image", binaries, out], capture_output=True, text=True, check=False)
        self.assertIn("is not empty", done.stderr)


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        runnable()
        cls.secrets = make_secrets()
        # As pods are in a cluster: each with an address of its own, in a network where only the test's names are known.
        # Between the isolated ones there is no way; from both there is one to the third.
        for name, options in (("pods", []), ("servers", ["--opt=isolate=true"]), ("clients", ["--opt=isolate=true"])):
            podman("network", "create", "--disable-dns", *options, name)
            cls.addClassCleanup(podman, "network", "rm", "--force", name)

    def run_image(self, arguments, mounts=(), groups=(), options=(), network="pods"):
        network = [f"--network={network}", "--dns=127.0.0.1", f"--add-host=relay.example.org:{HOST}"]
        container = Container(arguments, mounts, groups, [*network, *options])
        self.addCleanup(container.close)
        return container

    def start(self, start, *more, options=(), network="pods"):
        network = "host" if start.host_network else network
        return self.run_image([*start.arguments, *more], start.mounts, start.groups, options, network)

    def wait_ready(self, container, port):
        container.wait_for(lambda: get(container.address, port, "/readyz") == (200, "ok\n"))

    def test_each_starts_as_its_manifest_says_and_ends_in_order(self):
        starts = list(manifests.kubernetes(self.secrets))
        self.assertEqual(len(starts), 4)
        for start, container in [(start, self.start(start)) for start in starts]:
            with self.subTest(start.name):
                container.wait_line("Waiting for clients to connect...")
                container.wait_for(lambda s=start, c=container: get(c.address, s.port, "/livez") == (200, "ok\n"))
                self.assertIn("# EOF", get(container.address, start.port, "/metrics")[1])
                assert_bare(self, container.pid)
                warnings = [line for line in container.lines if "others can read it" in line]
                self.assertEqual(warnings, [])
                self.assertEqual(container.terminate(), 0, container.lines)

    def test_clients_get_through_by_the_relay_of_the_manifests(self):
        starts = {start.name: start for start in manifests.kubernetes(self.secrets)}
        service = http.server.ThreadingHTTPServer(("10.96.0.80", 8000), Greeter)
        self.addCleanup(service.server_close)
        threading.Thread(target=service.serve_forever, daemon=True).start()
        self.addCleanup(service.shutdown)

        relay_start, server_start = starts["relay"], starts["standalone"]
        relay = self.start(relay_start, options=manifests.published("relay", HOST))
        flags = relay.wait_line("Flags: ").split()
        self.wait_ready(relay, relay_start.port)

        def relayed():
            """What it has sent on, in bytes."""
            metrics = get(relay.address, relay_start.port, "/metrics")[1]
            return int(re.search(r"^relayserver_bytes_sent_total (\d+)$", metrics, re.MULTILINE)[1])

        token = "--relay-token-file=/run/secrets/tunnel-rs/relay-token"
        server = self.start(server_start, *flags, token, network="servers")
        ticket = server.wait_line("Ticket: ")
        self.wait_ready(server, server_start.port)

        secrets = self.secrets["tunnel-rs"]
        files = {"ticket": f"{ticket}\n", "token": secrets["tokens"], "relay-token": secrets["relay-token"]}
        group = server_start.groups[0]
        mounts = [(manifests.folder(files, group), "/run/secrets/tunnel-rs", "ro")]
        relay_token = "TUNNEL_RS_RELAY_TOKEN_FILE=/run/secrets/tunnel-rs/relay-token"
        by_files = ("TUNNEL_RS_TICKET_FILE=/run/secrets/tunnel-rs/ticket",
                    "TUNNEL_RS_AUTH_TOKEN_FILE=/run/secrets/tunnel-rs/token", relay_token)
        by_values = (f"TUNNEL_RS_TICKET={ticket}", f"TUNNEL_RS_AUTH_TOKEN={secrets['tokens'].strip()}", relay_token)
        words = ["client", "-L", "*:8081:10.96.0.80:8000", "--health-addr", "0.0.0.0:9090"]
        for variables in (by_files, by_values):
            options = [f"--env={variable}" for variable in variables]
            client = self.run_image(words, mounts, [group], options, "clients")
            self.wait_ready(client, 9090)
            assert_bare(self, client.pid)
            before = relayed()
            self.assertEqual(get(client.address, 8081, "/"), (200, ANSWER), client.lines)
            # It may count what it has sent a moment later.
            relay.wait_for(lambda: relayed() - before >= len(ANSWER))
            self.assertEqual(client.terminate(), 0, client.lines)
        for container in (server, relay):
            self.assertEqual(container.terminate(), 0, container.lines)


class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *_):
        pass
