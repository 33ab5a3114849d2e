"""service install, status and uninstall, with a systemctl that writes down what it is asked, and an /etc of its own."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from releases import ROOT
from stage import LIMIT, NOBODY, WORK
from test_units import EXPOSURE, EXPOSURES

sys.path.append(str(ROOT / "tests/documents"))
from commands import blocks, commands, lines  # noqa: E402  (Where the module is, is known only now.)

UNITS = pathlib.Path("/etc/systemd/system")
FOLDER = pathlib.Path("/etc/tunnel-rs")
UNIT = UNITS / "tunnel-rs-server.service"
BIN = pathlib.Path("/usr/local/bin")

# It tells of a service what the test has said, and refuses what the test has said.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$ASKED"
case "$*" in
*"$REFUSE"*) echo "it was refused" >&2; exit 1 ;;
"show "* | "--user show "*) printf '%s\\n' "$SHOWN" ;;
esac
"""

JOURNALCTL = """#!/bin/sh
echo "a line of the log"
"""


class ServiceTest(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        self.folder.chmod(0o755)
        stack.callback(shutil.rmtree, self.folder)
        shutil.copytree("/etc", self.folder / "etc", symlinks=True)
        self.mount(stack, "/etc", "--bind", self.folder / "etc")
        self.mount(stack, "/run", "-t", "tmpfs", "tmpfs")
        pathlib.Path("/run/systemd/system").mkdir(parents=True)
        self.mount(stack, BIN, "--bind", WORK / "bin")
        self.tools = self.folder / "tools"
        self.tools.mkdir()
        for name, text in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)]:
            (self.tools / name).write_text(text)
            (self.tools / name).chmod(0o755)
        self.log = self.folder / "asked"
        self.log.touch()
        self.log.chmod(0o666)
        self.variables = {"REFUSE": "nothing"}
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(mode=0o700)
        self.before = self.files()

    def mount(self, stack, place, *arguments):
        subprocess.run(["mount", *arguments, place], check=True)
        stack.callback(subprocess.run, ["umount", place], check=True)

    def files(self):
        """What is below /etc, but for the configuration and what useradd changes."""
        users = r"/etc/\.?(passwd|shadow|group|gshadow|subuid|subgid)"
        found = {}
        for path in pathlib.Path("/etc").rglob("*"):
            if FOLDER in path.parents or re.match(users, str(path)):
                continue
            # What links lead to is none of it: mtab, say, is the kernel's list of mounts.
            if path.is_symlink():
                found[str(path)] = os.readlink(path).encode()
            elif path.is_file():
                found[str(path)] = path.read_bytes()
        return found

    def asked(self):
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines

    def run_program(self, *words, program="tunnel-rs", root=True, home="/nonexistent"):
        who = {} if root else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        path = program if "/" in program else BIN / program
        return subprocess.run(
            [path, *words], capture_output=True, text=True, timeout=LIMIT, check=False, cwd="/", **who,
            # A variable that would make any server's configuration good.
            env={"PATH": f"{self.tools}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "ASKED": str(self.log),
                 "TUNNEL_RS_AUTH_TOKENS": "ikAdvudu_ZxNXhNLCD", **self.variables},
        )

    def succeed(self, *words, **options):
        done = self.run_program(*words, **options)
        self.assertEqual(done.returncode, 0, done)
        return done.stdout

    def fail_with(self, code, *words, said=(), **options):
        done = self.run_program(*words, **options)
        self.assertEqual(done.returncode, code, done)
        for text in said:
            self.assertIn(text, done.stderr)

    def make_user(self):
        """As INSTALL.md and the error have it."""
        words = ["--system", "--home-dir", FOLDER, "--shell", "/usr/sbin/nologin", "tunnel-rs"]
        subprocess.run(["useradd", *words], check=True, capture_output=True)
        self.give(FOLDER)

    def give(self, folder):
        for path in [folder, *folder.iterdir()]:
            shutil.chown(path, "tunnel-rs")

    def write_server(self, path=FOLDER / "server.toml"):
        tokens = FOLDER / "tokens"
        tokens.write_text(self.succeed("generate-token"))
        path.write_text(f'role = "server"\n[iroh]\nauth_tokens_file = "{tokens}"\nallowed_tcp = ["127.0.0.1/32"]\n')
        for file in (tokens, path):
            file.chmod(0o600)
        return path

    def assert_good(self, unit):
        for words in (["verify"], ["security", "--offline=true", f"--threshold={EXPOSURES.get(unit.stem, EXPOSURE)}", "--no-pager"]):
            done = subprocess.run(["systemd-analyze", *words, unit], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def assert_unchanged(self):
        now = self.files()
        changed = {path for path in now.keys() | self.before.keys() if now.get(path) != self.before.get(path)}
        self.assertEqual(changed, set())
        self.assertEqual(self.asked(), [])


class Systemd(ServiceTest):
    def test_a_server_comes_and_goes(self):
        config = self.write_server()
        install = ["service", "install", "server", "--config", config]
        self.fail_with(1, *install, said=["useradd", "chown -R tunnel-rs /etc/tunnel-rs"])
        self.make_user()
        shutil.chown(FOLDER / "tokens", "root")
        self.fail_with(1, *install, said=["/etc/tunnel-rs/tokens: Permission denied", "chown tunnel-rs FILE"])
        self.assert_unchanged()
        shutil.chown(FOLDER / "tokens", "tunnel-rs")
        said = self.succeed(*install)
        self.assertIn("Undo: tunnel-rs service uninstall server\n", said)
        name = UNIT.name
        self.assertEqual(self.asked(), ["daemon-reload", f"enable {name}", f"restart {name}"])
        self.assertEqual(UNIT.stat().st_mode & 0o7777, 0o644)
        # But for who has written it, it is the one of the checkout.
        shipped = (ROOT / "systemd" / name).read_text().splitlines()
        self.assertEqual(UNIT.read_text().splitlines()[1:], shipped[1:])
        self.assert_good(UNIT)
        self.succeed(*install)
        self.asked()
        drop_in = UNITS / f"{name}.d" / "override.conf"
        drop_in.parent.mkdir()
        drop_in.write_text("[Service]\n")
        self.before[str(drop_in)] = b"[Service]\n"
        self.succeed("service", "uninstall", "server")
        self.assertEqual(self.asked(), [f"disable --now {name}", "daemon-reload", f"reset-failed {name}"])
        self.assert_unchanged()
        self.assertTrue(config.exists())
        self.fail_with(1, "service", "uninstall", "server", said=["there is no service tunnel-rs-server"])

    def test_the_status_tells_how_it_is(self):
        self.write_server()
        self.make_user()
        self.fail_with(1, "service", "status", "server", said=["'tunnel-rs service install server --config FILE'"])
        self.succeed("service", "install", "server", "--config", FOLDER / "server.toml")
        lines = ["ActiveState=active", "SubState=running", "StateChangeTimestamp=Mon 2026-01-05 10:00:00 UTC"]
        self.variables["SHOWN"] = "\n".join([*lines, "MainPID=4711", "UnitFileState=enabled"])
        said = self.succeed("service", "status", "server", root=False)
        self.assertIn("tunnel-rs-server is active (running) since Mon 2026-01-05 10:00:00 UTC\nProcess: 4711\n", said)
        self.assertIn("a line of the log", said)
        self.variables["SHOWN"] = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=2"
        self.fail_with(1, "service", "status", "server", said=["tunnel-rs-server does not run"])

    def test_a_wrong_configuration_installs_nothing(self):
        self.make_user()
        config = FOLDER / "server.toml"
        self.before = self.files()
        for text, said in [("[iroh]\nmax_session = 3\n", "max_session"), ("[iroh]\n", "no token is accepted")]:
            config.write_text(text)
            self.fail_with(2, "service", "install", "server", "-c", config, said=[said, "nothing was installed"])
            self.assert_unchanged()
        self.fail_with(2, "service", "install", "server", "-c", FOLDER / "none", said=["No such file"])
        self.fail_with(2, "service", "install", "client", "-c", self.write_server(), said=['role = "server"'])
        self.fail_with(2, "service", "install", "server", "-c", "/etc/a\nb", said=["/etc/a\\nb"])
        self.assert_unchanged()

    def test_what_systemd_refuses_is_undone(self):
        config = self.write_server()
        self.make_user()
        self.variables["REFUSE"] = "restart"
        self.fail_with(1, "service", "install", "server", "-c", config, said=["it was refused"])
        self.asked()
        self.assert_unchanged()

    def test_units_of_others_are_kept(self):
        config = self.write_server()
        self.make_user()
        shutil.copy(ROOT / "systemd" / UNIT.name, UNIT)
        self.before = self.files()
        self.fail_with(1, "service", "install", "server", "-c", config, said=["--name", "--force"])
        self.fail_with(1, "service", "uninstall", "server", said=["is kept"])
        self.assert_unchanged()
        self.succeed("service", "install", "server", "-c", config, "--name", "second")
        self.assertTrue((UNITS / "tunnel-rs-server-second.service").exists())
        self.succeed("service", "uninstall", "server", "--name", "second")
        self.succeed("service", "install", "server", "-c", config, "--force")
        self.succeed("service", "uninstall", "server")
        self.assertFalse(UNIT.exists())

    def test_strange_paths_mean_themselves(self):
        place = pathlib.Path("/etc/bin 50% of $HOME")
        place.mkdir()
        shutil.copy(BIN / "tunnel-rs", place)
        config = self.write_server(FOLDER / "50% 'it' \"s\" $HOME \\x")
        self.make_user()
        self.succeed("service", "install", "server", "-c", config, program=str(place / "tunnel-rs"))
        # It looks for the program where the unit says that it is.
        self.assert_good(UNIT)

    def test_homes_are_no_place_for_the_system(self):
        for place in ("/root/server.toml", "/tmp/server.toml"):
            self.fail_with(1, "service", "install", "server", "-c", place, said=[place, "/etc/tunnel-rs"])
        self.assert_unchanged()

    def test_who_is_not_root_may_have_one_too(self):
        home = self.folder / "home"
        home.mkdir()
        config = home / "a server.toml"
        config.write_text('[iroh]\nauth_tokens_file = "tokens"\n')
        (home / "tokens").write_text(self.succeed("generate-token"))
        for path in (home, config, home / "tokens"):
            os.chown(path, NOBODY, NOBODY)
        install = ["service", "install", "server", "--config", config]
        self.fail_with(1, *install, root=False, said=["sudo", "--user"])
        self.fail_with(2, *install, "--user", said=["root"])
        options = {"root": False, "home": str(home)}
        self.succeed(*install, "--user", "--name", "mine", **options)
        unit = home / ".config/systemd/user/tunnel-rs-server-mine.service"
        self.assertIn(f'--config "{config}"\n', unit.read_text())
        verify = ["systemd-analyze", "--user", "verify", unit]
        done = subprocess.run(verify, capture_output=True, text=True, check=False, env={"XDG_RUNTIME_DIR": "/run", **os.environ})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(all(line.startswith("--user ") for line in self.asked()))
        self.succeed("service", "uninstall", "server", "--user", "--name", "mine", **options)
        self.assertFalse(unit.exists())
        self.asked()
        self.assert_unchanged()

    def test_without_systemd_it_says_so(self):
        pathlib.Path("/run/systemd/system").rmdir()
        self.fail_with(1, "service", "install", "server", "-c", self.write_server(), said=["systemd does not run"])
        self.assert_unchanged()


class Documents(ServiceTest):
    def test_the_commands_do_what_they_say(self):
        self.write_server()
        (FOLDER / "relay.toml").write_text("[relay]\n")
        self.variables["SHOWN"] = "ActiveState=active"
        seen = []
        for document in ("docs/INSTALL.md", "docs/SELF-HOSTING.md"):
            for block in blocks(document):
                # What is for Windows is PowerShell.
                if re.search(r"tunnel-rs service|systemctl enable", block) and "$env:" not in block:
                    seen += lines(block)
        (short,) = [command.text for command in commands() if command.document == "README.md" and " service " in command.text]
        seen.append(short.replace("FILE", "/etc/tunnel-rs/server.toml"))
        seen = [line.replace("sudo ", "") for line in seen]
        for line in seen:
            self.run_line(line)
        asked = self.asked()
        wanted = ["restart tunnel-rs-server.service", "reload tunnel-rs-server", "disable --now tunnel-rs-server.service"]
        wanted += ["enable --now tunnel-rs-vpn-server", "restart tunnel-rs-relay.service", "restart tunnel-rs-server.service"]
        self.assertEqual([line for line in asked if line in wanted], wanted)

    def run_line(self, line):
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=LIMIT, check=False, cwd=ROOT,
            env={"PATH": f"{self.tools}:{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "ASKED": str(self.log), **self.variables},
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), line)


class Others(ServiceTest):
    """What is not a server of tunnel-rs."""

    def install(self, program, role, text):
        config = FOLDER / f"{program}-{role}.toml"
        config.write_text(text)
        self.give(FOLDER)
        self.succeed("service", "install", role, "-c", config, program=program)
        unit = UNITS / f"{program}-{role}.service"
        self.assert_good(unit)
        self.assertIn(f"ExecStart={BIN / program} {role} --config {config}", unit.read_text())
        self.succeed("service", "uninstall", role, program=program)

    def test_a_client(self):
        self.make_user()
        words = self.succeed("generate-server-key", "--output", FOLDER / "server.key").split()
        (FOLDER / "token").write_text(self.succeed("generate-token"))
        forward = '[[iroh.tunnels]]\nsource = "tcp://127.0.0.1:22"\ntarget = "127.0.0.1:2222"\n'
        self.install("tunnel-rs", "client",
                     f'[iroh]\nserver_node_id = "{words[-1]}"\nauth_token_file = "{FOLDER}/token"\n{forward}')
        self.fail_with(2, "service", "check", "client", "-c", ROOT / "server.toml.example", said=["role"])

    def test_a_relay(self):
        self.make_user()
        self.install("tunnel-rs", "relay", '[relay]\nlisten = "[::]:443"\n')

    def test_the_other_program(self):
        self.make_user()
        key = FOLDER / "key.nsec"
        peer = self.succeed("generate-nostr-key", "--output", FOLDER / "peer.nsec", program="tunnel-rs-ice").split()[-1]
        self.succeed("generate-nostr-key", "--output", key, program="tunnel-rs-ice")
        self.give(FOLDER)
        head = f'mode = "nostr"\n[nostr]\nnsec_file = "{key}"\n'
        self.install("tunnel-rs-ice", "server", f'{head}peer_npub = ["{peer}"]\nallowed_tcp = ["127.0.0.1/32"]\n')
        self.install("tunnel-rs-ice", "client", f'{head}peer_npub = "{peer}"\nlocal_forward = ["2222:127.0.0.1:22"]\n')
        config = FOLDER / "manual.toml"
        config.write_text('mode = "manual"\n')
        self.fail_with(2, "service", "install", "server", "-c", config, program="tunnel-rs-ice", said=["nostr"])
