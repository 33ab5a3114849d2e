"""The units of systemd: that it understands them, and what it thinks of their sandboxes."""

import contextlib
import pathlib
import re
import subprocess
import unittest

from releases import ROOT
from stage import WORK, Stage, prepare

UNITS = sorted((ROOT / "systemd").glob("*.service"))

# Of 100, by `systemd-analyze security`; 0 is the safest, and a unit without a sandbox has 96.
EXPOSURE = 15


class UnitTest(unittest.TestCase):
    def test_systemd_understands_them(self):
        self.assertGreater(len(UNITS), 1)
        with contextlib.ExitStack() as stack:
            local = Stage(prepare()[0], stack)
            # Where the units look for the program.
            local.mount(pathlib.Path("/usr/local/bin"), "--bind", str(WORK / "bin"))
            done = subprocess.run(["systemd-analyze", "verify", *UNITS], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_their_sandboxes_are_tight(self):
        for unit in UNITS:
            command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_they_call_commands_that_there_are(self):
        for unit in UNITS:
            command = re.search(r"^ExecStart=/usr/local/bin/(\S+) (\S+) --config (\S+)$", unit.read_text(), re.MULTILINE)
            program, role, config = command.groups()
            self.assertEqual(config, f"/etc/tunnel-rs/{role}.toml")
            usage = subprocess.check_output([WORK / "bin" / program, role, "--help"], text=True)
            self.assertIn("--config", usage)
