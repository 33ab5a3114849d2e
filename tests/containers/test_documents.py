"""The commands of docs/CONTAINERS.md, run as they stand there, with Podman for Docker, and a stand-in for what speaks to
Kubernetes; and the command lines of the other pages for those who run servers. Those of Compose are in test_compose."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import manifests
from image import DEPLOY, NAME, ROOT, SOON, TARGETS, WORK, add_binaries, built, podman, runnable

sys.path.append(str(ROOT / "tests/documents"))
from commands import blocks, commands, lines  # noqa: E402  (Where the module is, is known only now.)

PAGE = "docs/CONTAINERS.md"
OPERATION = ("docs/MONITORING.md", "docs/TROUBLESHOOTING.md")

# Of kubectl's language what the page uses. What is named is in the manifests.
KUBECTL = re.compile(
    r"kubectl (create secret generic [a-z-]+( --from-file=\S+)+|apply --filename \S+|get (?P<get>service [a-z-]+)"
    r"|rollout status (?P<status>deployment/[a-z-]+)|logs (?P<logs>deployment/[a-z-]+))")

# Notes its own call. Of what would run for good only the command line is looked at.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
"""
DOCKER = STAND_IN + """case $1 in
run) exec podman "$@" ;;
# What the page lays out is for this architecture. Where there is another image whose name ends like that, Podman would
# take the name to be that one's; so this is among images of its own.
build) shift; exec podman {storage} build --platform linux/amd64 "$@" ;;
esac
exit 1
"""
# What it builds takes minutes; all else is the real one.
RELEASE = STAND_IN + """[ "$1" = build ] || exec {release} "$@"
"""
TUNNEL_RS = """#!/bin/sh
case $1 in
server | client | relay) exec {program} "$@" --help ;;
*) exec {program} "$@" ;;
esac
"""


class Commands(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="commands."))
        self.addCleanup(shutil.rmtree, self.folder)
        self.calls = self.folder / "calls"
        self.calls.touch()
        shutil.copytree(DEPLOY, self.folder / "container-deploy")
        (self.folder / ".ci").mkdir()
        self.add(".ci/release", RELEASE.format(release=ROOT / ".ci/release"))
        # The second is one of few letters, which Podman asks for.
        self.storage = [f"--root={self.folder}/images", "--runroot=/run/documents"]
        self.add("docker", DOCKER.format(storage=" ".join(self.storage)))
        self.add("kubectl", STAND_IN)
        self.add("tunnel-rs", TUNNEL_RS.format(program=WORK / "bin/tunnel-rs"))

    def add(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run_block(self, block, cwd):
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        done = subprocess.run(["sh", "-euc", block], cwd=cwd, env=environment, capture_output=True, text=True,
                              timeout=SOON, check=False)
        self.assertEqual(done.returncode, 0, (block, done.stderr))

    def test_they_make_the_image_and_the_secrets_that_the_files_ask_for(self):
        runnable()
        add_binaries(self.folder / "binaries", TARGETS["amd64"])
        found = [block for block in blocks(PAGE) if "docker compose" not in block]
        self.assertGreater(len(found), 4)
        server = subprocess.check_output([self.folder / "tunnel-rs", "generate-server-key", "--output", self.folder / "k"],
                                         text=True)
        self.assertIn("EndpointId", server)
        for block in found:
            # A ticket would take a server.
            self.run_block(block.replace("--ticket TICKET", "--server-node-id " + server.split()[-1]), self.folder)
        short = [command.text for command in commands() if command.document == PAGE and command.inline]
        for line in short:
            if line.startswith("kubectl "):
                self.run_block(line.replace("NAME", "tunnel-rs-relay"), self.folder)

        given = {}
        for line in self.calls.read_text().splitlines():
            words = line.split()
            if words[0] == "kubectl":
                self.assert_kubectl(line)
            if words[:4] == ["kubectl", "create", "secret", "generic"]:
                files = [word.split("=")[1] for word in words[5:]]
                given[words[4]] = {pathlib.Path(file).name for file in files}
                for file in files:
                    self.assertTrue((self.folder / file).read_text().strip(), file)
            if words[:2] == ["kubectl", "apply"]:
                self.assertTrue((self.folder / words[3]).is_file(), line)
            if words[:2] == ["docker", "run"]:
                self.assertIn(NAME, words)
        for name, pod in manifests.pods():
            used = str(pod["spec"]["containers"]) + "".join(
                str(config["data"]) for of, config in manifests.of_kind("ConfigMap") if of == name)
            for volume in pod["spec"]["volumes"]:
                if "secret" in volume:
                    wanted = set(re.findall(r"/run/secrets/tunnel-rs/([\w.-]+)", used))
                    self.assertEqual(wanted, given[volume["secret"]["secretName"]], name)

        (image,) = json.loads(podman(*self.storage, "image", "inspect", "localhost/tunnel-rs"))
        self.assertEqual(image["Config"], built())


    def assert_kubectl(self, line):
        match = KUBECTL.fullmatch(line)
        self.assertIsNotNone(match, line)
        for name in filter(None, (match["status"], match["logs"], match["get"])):
            kind, name = re.split("[/ ]", name)
            there = [document["metadata"]["name"] for _, document in manifests.of_kind(kind.capitalize())]
            self.assertIn(name, there, line)


class CommandLines(unittest.TestCase):
    def test_the_program_takes_those_that_are_shown(self):
        found = [line for page in OPERATION for block in blocks(page) for line in lines(block)]
        shown = [line.replace("...", "").split() for line in found if line.startswith("tunnel-rs")]
        self.assertGreater(len(shown), 2)
        for name, *words in shown:
            # What is wrong in front of it is an error first.
            done = subprocess.run([WORK / "bin" / name, *words, "--help"], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""), words)
