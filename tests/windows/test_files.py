"""What the programs for Windows read and write, and what they say of it."""

import contextlib
import pathlib
import re
import shutil
import unittest

import stage
from stage import Program, on_linux, on_windows, run, windows_path


class Keys(unittest.TestCase):
    def test_a_key_of_each_program_is_written_once_and_read_by_both_systems(self):
        kinds = [
            ("tunnel-rs", "generate-server-key", ["show-server-id", "--secret-file"]),
            ("tunnel-rs-ice", "generate-nostr-key", ["show-npub", "--nsec-file"]),
        ]
        for program, generate, (show, flag) in kinds:
            with self.subTest(program):
                path = stage.folder() / "key"
                output = ["--output", windows_path(path)]
                made, _ = run(on_windows(program, generate, *output))
                kept = path.read_bytes()
                _, refused = run(on_windows(program, generate, *output), code=1)
                self.assertIn("--force", refused)
                self.assertEqual(path.read_bytes(), kept)
                # As an editor of Windows leaves it.
                path.write_bytes(b"\xef\xbb\xbf" + kept.rstrip() + b"\r\n")
                here, _ = run(on_windows(program, show, flag, windows_path(path)))
                there, _ = run(on_linux(program, show, flag, path))
                self.assertEqual({made.strip(), here.strip(), there.strip()}, {made.strip()})
                run(on_windows(program, generate, *output, "--force"))
                self.assertNotEqual(path.read_bytes().strip(), kept.strip())
                self.assertEqual([file.name for file in path.parent.iterdir()], ["key"])

    def test_authorities_of_a_relay_may_be_as_windows_writes_them(self):
        folder = stage.folder()
        tokens, authorities, config = folder / "tokens", folder / "ca.pem", folder / "server.toml"
        tokens.write_text(run(on_linux("tunnel-rs", "generate-token"))[0])
        # What is in it is not looked at before a relay is called.
        pem = "-----BEGIN CERTIFICATE-----\r\nAAEC\r\n-----END CERTIFICATE-----\r\n"
        config.write_text(f"""
            role = "server"
            [iroh]
            auth_tokens_file = '{windows_path(tokens)}'
            relay_urls = ["https://127.0.0.1:9"]
            relay_ca = '{windows_path(authorities)}'
        """)
        check = on_windows("tunnel-rs", "service", "check", "server", "--config", windows_path(config))
        for text in (b"\xef\xbb\xbf" + pem.encode(), b"\xff\xfe" + pem.encode("utf-16-le")):
            authorities.write_bytes(text)
            self.assertIn("is a configuration of 'tunnel-rs server'", run(check)[0])
        authorities.write_bytes(b"nothing")
        self.assertIn("it holds none", run(check, code=2)[1])

    def test_a_missing_file_is_named(self):
        path = windows_path(stage.folder() / "none")
        _, err = run(on_windows("tunnel-rs", "show-server-id", "--secret-file", path), code=2)
        self.assertIn(path, err)


class Secrets(unittest.TestCase):
    """Wine keeps no access lists: it makes a mode of one that a program gives, and a list of the mode where one is asked for.
    What the user has, the user's group has in the mode as well."""

    # What that list has for everybody else; and one for the user and Wine's system alone.
    OPEN = r"\(A;\w*;0x\w+;;;WD\)"
    OWN = r"^O:(S-1-5-21-[-\d]+)D:\(A;\w*;FA;;;SY\)\(A;\w*;FA;;;\1\)$"

    def sddl(self, path):
        return run(on_windows("sddl", windows_path(path)))[0].strip()

    def check_own(self, path):
        self.assertEqual(path.stat().st_mode & 0o007, 0, path)
        self.assertRegex(self.sddl(path), self.OWN)

    def test_a_key_has_its_access_list_from_its_first_moment(self):
        # By what is asked of Wine's server, of one that traces it.
        path = stage.folder() / "key"
        prefix = {"WINEPREFIX": str(stage.folder())}
        # All of Wine is installed for it, some 700 MB.
        long = 5 * stage.SOON
        run(["wine", "wineboot", "--init"], limit=long, **prefix)
        run(["wineserver", "--wait"], limit=long, **prefix)
        command = on_windows("tunnel-rs", "generate-server-key", "--output", windows_path(path))
        for command in (command, [*command, "--force"]):
            _, trace = run(command, limit=long, **prefix, WINEDEBUG="+server")
            # Access to write, of a file that was not there before.
            made = [line for line in trace.splitlines() if "create_file( access=4" in line and f"{path}" in line]
            self.assertEqual(len(made), 1, made)
            self.assertIn(" create=2, ", made[0])
            # There is a list (4), and it takes nothing over (0x1000).
            own = r"sd={control=00001004,owner=(S-1-5-21-[-\d]+),.*dacl={{type=ACCESS_ALLOWED,flags=0,mask=1f01ff,sid=\1}}}"
            self.assertRegex(made[0], own)

    def test_a_key_is_its_owners_alone(self):
        kinds = [("tunnel-rs", "generate-server-key"), ("tunnel-rs-ice", "generate-nostr-key")]
        for program, generate in kinds:
            with self.subTest(program):
                # Of more than the 260 characters that a path may have without further ado.
                path = stage.folder() / ("a" * 150) / ("b" * 150) / "key"
                path.parent.mkdir(parents=True)
                command = on_windows(program, generate, "--output", windows_path(path))
                run(command)
                self.check_own(path)
                path.chmod(0o644)
                self.assertRegex(self.sddl(path), self.OPEN)
                run([*command, "--force"])
                self.check_own(path)

    def test_what_a_relay_keeps_is_its_owners_alone(self):
        acme = ["--acme", "relay.example", "--acme-directory", "https://127.0.0.1:9/directory"]
        for options, made in [([], "relay.key"), (acme, "acme")]:
            with self.subTest(made):
                state = stage.folder() / "new" / "state"
                command = ["relay", "--listen", "127.0.0.1:0", "--state-dir", windows_path(state), *options]
                with contextlib.closing(Program(on_windows("tunnel-rs", *command))) as relay:
                    relay.wait_value("Relay: ")
                for path in (state.parent, state, state / made):
                    self.check_own(path)

    def test_one_that_others_can_read_is_warned_about(self):
        path = stage.folder() / "a key"
        run(on_windows("tunnel-rs", "generate-server-key", "--output", windows_path(path)))
        command = on_windows("tunnel-rs", "show-server-id", "--secret-file", windows_path(path))
        out, err = run(command)
        self.assertNotIn("WARN", err)
        path.chmod(0o644)
        again, err = run(command)
        self.assertEqual(again, out)
        owner = re.match("O:(S-[-0-9]+)D:", self.sddl(path)).group(1)
        name = windows_path(path)
        self.assertIn(
            f"{name} holds a secret and others can read it (Everyone): "
            f'icacls "{name}" /inheritance:r /grant "*{owner}:F" /remove:g "*S-1-1-0"',
            err,
        )


class Words(unittest.TestCase):
    def test_help_names_what_there_is_on_windows(self):
        vpn = re.compile(r"^  vpn\b", re.MULTILINE)
        unix = re.compile(r"chmod|systemd|launchd|macOS|~/|/etc|\b(as|no) root\b|\bsudo\b")
        for program in ("tunnel-rs", "tunnel-rs-ice"):
            out, _ = run(on_windows(program, "--help"))
            self.assertIsNone(vpn.search(out), out)
            commands = re.findall(r"^  ([a-z-]+)  ", out, re.MULTILINE)
            self.assertIn("client", commands)
            for command in commands:
                if command == "help":
                    continue
                with self.subTest(f"{program} {command}"):
                    text, _ = run(on_windows(program, command, "--help"))
                    self.assertIsNone(unix.search(text), text)
            self.assertIn("service", commands)
            for verb in ("install", "uninstall", "status", "check"):
                text, _ = run(on_windows(program, "service", verb, "--help"))
                self.assertIsNone(unix.search(text) or re.search("--user", text), text)
        out, _ = run(on_windows("tunnel-rs", "client", "--help"))
        self.assertIn(r"%APPDATA%\tunnel-rs", out)

    def test_the_default_configuration_is_in_the_users_folder_of_windows(self):
        appdata = run(["wine", "cmd", "/c", "echo %APPDATA%"])[0].strip()
        command = on_windows("tunnel-rs", "client", "--default-config")
        _, err = run(command, code=2)
        path = rf"{appdata}\tunnel-rs\client.toml"
        self.assertIn(f"cannot read {path}", err)
        path = pathlib.Path(run(["wine", "winepath", "--unix", path])[0].strip())
        path.parent.mkdir()
        self.addCleanup(shutil.rmtree, path.parent)
        path.write_bytes(b"\xef\xbb\xbfrole = \"client\"\r\n[iroh]\r\nsurprise = 1\r\n")
        _, err = run(command, code=2)
        self.assertIn("line 3: unknown field `surprise`", err)


