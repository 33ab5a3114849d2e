"""What the programs for Windows read and write, and what they say of it."""

import pathlib
import re
import shutil
import unittest

import stage
from stage import on_linux, on_windows, run, windows_path


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

    def test_a_missing_file_is_named(self):
        path = windows_path(stage.folder() / "none")
        _, err = run(on_windows("tunnel-rs", "show-server-id", "--secret-file", path), code=2)
        self.assertIn(path, err)


class Words(unittest.TestCase):
    def test_help_names_what_there_is_on_windows(self):
        vpn_or_service = re.compile(r"^  (vpn|service)\b", re.MULTILINE)
        unix = re.compile(r"chmod|systemd|launchd|~/|/etc|\bas root\b|\bsudo\b")
        for program in ("tunnel-rs", "tunnel-rs-ice"):
            out, _ = run(on_windows(program, "--help"))
            self.assertIsNone(vpn_or_service.search(out), out)
            commands = re.findall(r"^  ([a-z-]+)  ", out, re.MULTILINE)
            self.assertIn("client", commands)
            for command in commands:
                if command == "help":
                    continue
                with self.subTest(f"{program} {command}"):
                    text, _ = run(on_windows(program, command, "--help"))
                    self.assertIsNone(unix.search(text), text)
        out, _ = run(on_windows("tunnel-rs", "client", "--help"))
        self.assertIn(r"%APPDATA%\tunnel-rs", out)

    def test_the_default_configuration_is_in_the_users_folder_of_windows(self):
        appdata = run(["wine", "cmd", "/c", "echo %APPDATA%"])[0].strip()
        command = on_windows("tunnel-rs", "client", "--default-config")
        _, err = run(command, code=2)
        path = rf"{appdata}\tunnel-rs\client.toml"
        self.assertIn(f"cannot read {path}", err)
        path = pathlib.Path(run(["winepath", "--unix", path])[0].strip())
        path.parent.mkdir()
        self.addCleanup(shutil.rmtree, path.parent)
        path.write_bytes(b"\xef\xbb\xbfrole = \"client\"\r\n[iroh]\r\nsurprise = 1\r\n")
        _, err = run(command, code=2)
        self.assertIn("line 3: unknown field `surprise`", err)


