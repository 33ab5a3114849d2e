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

# A relay listens at low ports, and a VPN changes the network: that takes a capability, and its own device.
EXPOSURES = {"tunnel-rs-relay": 18, "tunnel-rs-vpn-server": 23, "tunnel-rs-vpn-client": 23}


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
            threshold = f"--threshold={EXPOSURES.get(unit.stem, EXPOSURE)}"
            command = ["systemd-analyze", "security", "--offline=true", threshold, "--no-pager", unit]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_they_call_commands_that_there_are(self):
        for unit in UNITS:
            with self.subTest(unit=unit.name):
                self.look(unit)

    def look(self, unit):
        program, words = re.search(r"^ExecStart=/usr/local/bin/(\S+) (.*)$", unit.read_text(), re.MULTILINE).groups()
        command, *flags = re.split(r" (?=--)", words)
        name = command.replace(" ", "-")
        self.assertEqual(unit.stem, f"{program}-{name}")
        if command.startswith("vpn "):
            self.assertIn(f"EnvironmentFile=/etc/tunnel-rs/{name}.env\n", unit.read_text())
        else:
            self.assertEqual(flags[0], f"--config /etc/tunnel-rs/{name}.toml")
        if command.split()[0] not in subprocess.check_output([WORK / "bin" / program, "--help"], text=True):
            self.skipTest(f"{program} was built without {command}")
        usage = subprocess.check_output([WORK / "bin" / program, *command.split(), "--help"], text=True)
        for flag in flags:
            self.assertIn(flag.split()[0], usage)
