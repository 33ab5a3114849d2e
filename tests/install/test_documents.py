"""The commands of the documents that call install.sh, or do by hand what it does, run as they stand there."""

import contextlib
import pathlib
import shlex
import shutil
import subprocess
import sys

from releases import LATEST, OLD, PRE, ROOT, TARGET
from stage import LIMIT, NOBODY, WORK, InstallTest, Stage, prepare

sys.path.append(str(ROOT / "tests/documents"))
from commands import commands  # noqa: E402  (Where the module is, is known only now.)

DEFAULT_URL = "https://github.com/tunnel-rs/tunnel-rs/releases"
# By hand, in running text, for the script's own URL.
WGET = "wget -qO- URL | sh"


def those_with(words):
    """The commands with this in them, each with its document."""
    return [(command.document, command.text) for command in commands() if words in command.text]


class Commands(InstallTest):
    def test_each_does_what_its_flags_say(self):
        found = those_with("/install.sh | ")
        self.assertGreater(len(found), 5)
        by_wget = [(document, text.replace("URL", f"{DEFAULT_URL}/latest/download/install.sh"))
                   for document, text in those_with(WGET)]
        self.assertEqual(len(by_wget), 1)
        for document, command in found + by_wget:
            with self.subTest(document=document, command=command), contextlib.ExitStack() as stack:
                self.run_command(Stage(prepare()[0], stack), command)

    def test_short_forms_are_of_commands_that_are_run(self):
        run = [text for _, text in those_with("/install.sh | ")]
        short = [text.removeprefix("install.sh ") for _, text in those_with("install.sh ") if text.startswith("install.sh ")]
        self.assertTrue(short)
        for flags in short:
            self.assertTrue(any(text.endswith(f"sh -s -- {flags}") for text in run), flags)

    def test_what_is_downloaded_by_hand(self):
        with contextlib.ExitStack() as stack:
            stage = Stage(prepare()[0], stack)
            release, name = WORK / "releases" / LATEST, f"tunnel-rs-{LATEST}-{TARGET}.tar.gz"
            for file in ("SHA256SUMS", name):
                shutil.copy(release / file, stage.folder)
            (sums,) = [text for document, text in those_with("SHA256SUMS") if document == "docs/INSTALL.md"]
            check = {"cwd": stage.folder, "capture_output": True, "text": True, "timeout": LIMIT, "check": False}
            done = subprocess.run(["sh", "-c", sums], **check)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, f"{name}: OK\n", ""))
            with (stage.folder / name).open("ab") as archive:
                archive.write(b"!")
            self.assertNotEqual(subprocess.run(["sh", "-c", sums], **check).returncode, 0)

            # The signature is of GitHub's, whose program asks the network. It is asked the same by install.sh.
            stage.fake("gh", f"""case $* in
                *--help) echo --signer-workflow ;;
                *) printf '%s\\n' "$@" >'{stage.temporary}/../asked' ;;
            esac""")
            (stage.folder / "asked").touch()
            (stage.folder / "asked").chmod(0o666)
            stage.server.files[f"download/{LATEST}/attestation.json"] = b"{}"
            self.assert_done(stage.run())
            asked = [pathlib.Path(word).name if word.startswith("/") else word
                     for word in (stage.folder / "asked").read_text().splitlines()]
            ((_, verify),) = those_with("gh attestation")
            self.assertEqual(["gh", *asked], shlex.split(verify.replace("ARCHIVE", name)))

    def run_command(self, stage, command):
        root = "| sudo " in command
        if root:
            command = command.replace("| sudo ", "| ")
            local = stage.folder / "local"
            local.mkdir()
            stage.mount(pathlib.Path("/usr/local"), "--bind", str(local))
        done = subprocess.run(
            ["sh", "-c", command.replace(DEFAULT_URL, stage.server.url)],
            env={"HOME": str(stage.home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **stage.variables},
            capture_output=True, text=True, timeout=LIMIT, check=False,
            **({} if root else {"user": NOBODY, "group": NOBODY, "extra_groups": []}),
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        wanted = OLD if OLD in command else PRE if "--prerelease" in command else LATEST
        programs = {"tunnel_rs": wanted}
        if "--ice" in command:
            programs["tunnel_rs_ice"] = wanted
        if "--uninstall" in command:
            programs = {}
        self.assert_installed(local / "bin" if root else stage.bin, **programs)
