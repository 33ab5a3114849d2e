"""Every command of the documents is run by a test, or stands among those that cannot be; and what else looks like a part of a
command line is one."""

import ast
import functools
import re
import subprocess
import unittest

import exceptions
import test_install  # noqa: F401  (What they run is known once they are here.)
import test_readme  # noqa: F401
import test_troubleshooting  # noqa: F401
from commands import DOCUMENTS, ROOT, commands, flags, read
from stage import BIN, SECTIONS, elsewhere, mentioned

# What is asked whether it takes a part of a command line, in this order.
PROGRAMS = {
    "tunnel-rs": ("server", "client", "vpn server", "vpn client", "relay", "generate-token", "generate-server-key",
                  "show-server-id", "demo", "service install", "service uninstall", "service status", "service check"),
    "tunnel-rs-ice": ("server", "client", "generate-nostr-key", "show-npub", "service install"),
}
# In place of the words that stand for values.
VALUES = {"FILE": "file", "URL": "https://relay.example.org", "HOST": "host", "PORT": "1", "PUBLIC-IP": "203.0.113.7",
          "SECS": "1", "PIN": "0" * 64, "…": "0" * 64, "NAME": "n" * 56, "DIR": "/opt", "USER": "user"}
# Flags of other programs that stand in the commands.
OTHERS = """
--release --locked --path -p -d -h --check --ignore-missing --bundle --repo --signer-workflow --rm --entrypoint --tag --detach
--filename --from-file --udp --listening --numeric --system --home-dir --shell --now --workspace
""".split()
# Words of the programs' own messages, which name flags.
MESSAGE = re.compile(r": | is | are | and | needs | excludes ")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def call(*words):
    return subprocess.run([*map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


@functools.cache
def helps():
    """What all commands of both programs and the installer say of themselves."""
    texts = [call(BIN / program, *command.split(), "--help").stdout for program, names in PROGRAMS.items() for command in names]
    return "\n".join([*texts, call("sh", ROOT / "install.sh", "--help").stdout])


def taken(words):
    """The first command line that takes these flags: what is wrong in front of --help is an error first."""
    lines = [[BIN / program, *command.split()] for program, names in PROGRAMS.items() for command in names]
    for line in (*lines, ["sh", ROOT / "install.sh"]):
        done = call(*line, *words, "--help")
        if (done.returncode, done.stderr) == (0, ""):
            return line
    return None


def split(text):
    """The words of a part of a command line, with values."""
    for name, value in VALUES.items():
        text = re.sub(rf"(?<![\w-]){name}(?![\w-])", value, text)
    return [word.strip("'") for word in text.split()]


class Commands(unittest.TestCase):
    longMessage = True

    def test_each_is_run(self):
        found = commands()
        self.assertGreater(len(found), 100)
        left = [str(command) for command in found if (command.document, command.section) not in SECTIONS
                and not elsewhere(command) and not mentioned(command)]
        self.assertEqual(left, [], "these commands are run by no test")

    def test_the_lists_hold_nothing_else(self):
        found = commands()
        for entry in (*exceptions.ELSEWHERE, *exceptions.CANNOT):
            held = [str(command) for command in found if entry.holds(command)]
            self.assertTrue(held, f"there is no {entry.start} in {entry.document}")
            if entry.count is not None:
                self.assertEqual(len(held), entry.count, f"does {entry.reason} run all of these? {held}")
        sections = {(command.document, command.section) for command in found}
        self.assertEqual(set(SECTIONS) - sections, set())

    def test_the_other_tests_are_there(self):
        for entry in exceptions.ELSEWHERE:
            file, test = entry.reason.split(":")
            names = [f"{group.name}.{method.name}" for group in ast.parse((ROOT / file).read_text()).body
                     if isinstance(group, ast.ClassDef) for method in group.body if isinstance(method, ast.FunctionDef)]
            self.assertIn(test, names)

    def test_what_cannot_be_run_is_said(self):
        page = (ROOT / "docs/TESTING.md").read_text().partition("\n## Documents\n")[2].partition("\n## ")[0]
        for command in commands():
            if any(entry.holds(command) for entry in exceptions.CANNOT):
                words = command.text.replace("sudo ", "").split()
                name = {"&": "irm", "$dir": "icacls", "$sid": "sc.exe", "tunnel-rs": "icacls"}.get(words[0], words[0])
                self.assertTrue(f"`{name}" in page, f"docs/TESTING.md does not say that it is not run: {command}")

    def test_those_that_are_mentioned_are_there(self):
        for command in filter(mentioned, commands()):
            words = command.text.split()
            program = BIN / (words.pop(0) if words[0].startswith("tunnel-rs") else "tunnel-rs")
            with self.subTest(str(command)):
                done = call(program, *words, "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))


class Flags(unittest.TestCase):
    longMessage = True

    def test_each_that_is_named_is_there(self):
        known = {*FLAG.findall(helps()), *OTHERS}
        for document in DOCUMENTS:
            for section, text, _ in read(document):
                for flag in FLAG.findall(text):
                    self.assertTrue(flag in known, f"no program has {flag}: {document}, {section}: {text}")

    def test_the_programs_take_those_that_stand_alone(self):
        # Those of PowerShell begin with one dash and a capital; -L is ours.
        windows = (ROOT / "install.ps1").read_text()
        for part in flags():
            if MESSAGE.search(part.text):
                continue
            with self.subTest(str(part)):
                words = split(part.text)
                if re.match("-[A-Z][a-z]", words[0]):
                    self.assertIn(f"${words[0][1:]}", windows)
                # A flag without its value is one of those above.
                elif len(words) > 1:
                    self.assertIsNotNone(taken(words), "no program takes this")

    def test_each_variable_is_there(self):
        known = set(re.findall(r"TUNNEL_RS_\w+", helps())) | {"TUNNEL_RS_BASE_URL"}
        for document in DOCUMENTS:
            for section, text, _ in read(document):
                for name in re.findall(r"TUNNEL_RS_(?!X\b|X_)[A-Z_]*[A-Z]", text):
                    self.assertTrue({name, name.removesuffix("_FILE")} & known, f"{document}, {section}: {text}")
