"""What stands in a real archive beside the program: completions and manual pages."""

import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from releases import LATEST, PROGRAMS, TARGET
from stage import WORK, prepare

# Lets bash complete a command line whose words are the arguments, as if Tab had been pressed behind the last one.
COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
"$function" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


class ArchiveTest(unittest.TestCase):
    def setUp(self):
        prepare()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        self.addCleanup(shutil.rmtree, self.folder)
        for program in PROGRAMS:
            with tarfile.open(WORK / "releases" / LATEST / f"{program}-{LATEST}-{TARGET}.tar.gz") as archive:
                archive.extractall(self.folder, filter="data")

    def unpacked(self, program):
        return self.folder / f"{program}-{LATEST}-{TARGET}"

    def complete(self, program, *words):
        script = self.unpacked(program) / "completions" / f"{program}.bash"
        command = ["bash", "-c", COMPLETE, "complete", script, program, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    def test_bash_completes_commands_and_flags(self):
        self.assertEqual(self.complete("tunnel-rs", "generate-"), ["generate-server-key", "generate-token"])
        self.assertEqual(self.complete("tunnel-rs", "client", "--tick"), ["--ticket"])
        self.assertEqual(self.complete("tunnel-rs", "server", "--congestion", "b"), ["bbr"])
        self.assertEqual(self.complete("tunnel-rs-ice", "show"), ["show-npub"])
        self.assertIn("--peer-npub", self.complete("tunnel-rs-ice", "server", "nostr", "--p"))

    def test_every_command_has_a_page_with_its_flags(self):
        for program in PROGRAMS:
            binary = self.unpacked(program) / program
            pages = {page.name: page.read_text() for page in (self.unpacked(program) / "man").iterdir()}
            seen = set()
            self.look(binary, [program], pages, seen)
            self.assertEqual(seen, set(pages))

    def look(self, binary, command, pages, seen):
        """Compares a command's page with its help, and goes on to the commands below it."""
        usage = subprocess.check_output([binary, *command[1:], "--help"], text=True)
        name = "-".join(command) + ".1"
        self.assertIn(name, pages)
        seen.add(name)
        flags = re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", usage, flags=re.MULTILINE)
        self.assertTrue(flags)
        for flag in flags:
            self.assertIn(flag.replace("-", r"\-"), pages[name], name)
        listed = usage.partition("Commands:\n")[2].partition("\n\n")[0]
        for below in re.findall(r"^  ([a-z-]+)", listed, flags=re.MULTILINE):
            if below != "help":
                self.look(binary, [*command, below], pages, seen)
