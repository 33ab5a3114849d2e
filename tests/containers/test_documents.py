"""The commands of docs/CONTAINERS.md, run as they stand there, with what speaks to Docker and Kubernetes replaced; and
the command lines of the other pages for those who run servers."""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import manifests
from image import DEPLOY, NAME, ROOT, SOON, WORK

PAGE = ROOT / "docs/CONTAINERS.md"
OPERATION = ("docs/MONITORING.md", "docs/TROUBLESHOOTING.md")

# Notes its own call. Of what would run for good only the command line is looked at.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
"""
TUNNEL_RS = """#!/bin/sh
case $1 in
server | client | relay) exec {program} "$@" --help ;;
*) exec {program} "$@" ;;
esac
"""


def blocks(page=PAGE):
    return re.findall(r"^```\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


class Commands(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="commands."))
        self.addCleanup(shutil.rmtree, self.folder)
        self.calls = self.folder / "calls"
        self.calls.touch()
        shutil.copytree(DEPLOY, self.folder / "container-deploy")
        (self.folder / ".ci").mkdir()
        self.add(".ci/release", STAND_IN)
        for name in ("docker", "kubectl", "sudo"):
            self.add(name, STAND_IN)
        self.add("tunnel-rs", TUNNEL_RS.format(program=WORK / "bin/tunnel-rs"))

    def add(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run_block(self, block, cwd):
        environment = {"PATH": f"{self.folder}:/usr/bin:/bin", "CALLS": str(self.calls), "HOME": str(self.folder)}
        done = subprocess.run(["sh", "-euc", block], cwd=cwd, env=environment, capture_output=True, text=True,
                              timeout=SOON, check=False)
        self.assertEqual(done.returncode, 0, (block, done.stderr))

    def test_they_make_the_secrets_that_the_files_ask_for(self):
        found = blocks()
        self.assertGreater(len(found), 4)
        server = subprocess.check_output([self.folder / "tunnel-rs", "generate-server-key", "--output", self.folder / "k"],
                                         text=True)
        self.assertIn("EndpointId", server)
        for block in found:
            # A ticket would take a server.
            self.run_block(block.replace("--ticket TICKET", "--server-node-id " + server.split()[-1]), self.folder)

        given = {}
        for line in self.calls.read_text().splitlines():
            words = line.split()
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
        for secret in manifests.compose()["secrets"].values():
            file = self.folder / "container-deploy/compose" / secret["file"]
            self.assertTrue(file.read_text().strip(), secret)
            self.assertEqual(file.stat().st_mode & 0o077, 0, secret)


class CommandLines(unittest.TestCase):
    def test_the_program_takes_those_that_are_shown(self):
        lines = [line for page in OPERATION for block in blocks(ROOT / page) for line in block.splitlines()]
        shown = [line.split("#")[0].replace("...", "").split() for line in lines if line.startswith("tunnel-rs")]
        self.assertGreater(len(shown), 2)
        for name, *words in shown:
            # What is wrong in front of it is an error first.
            done = subprocess.run([WORK / "bin" / name, *words, "--help"], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""), words)
