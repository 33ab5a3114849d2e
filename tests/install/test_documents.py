"""The commands of the documents that call install.sh, run as they stand there."""

import contextlib
import pathlib
import re
import subprocess

from releases import LATEST, OLD, PRE, ROOT
from stage import LIMIT, NOBODY, InstallTest, Stage, prepare

DEFAULT_URL = "https://github.com/tunnel-rs/tunnel-rs/releases"
DOCUMENTS = ("README.md", "docs/INSTALL.md")


def commands():
    """The lines with install.sh in blocks of code, without the comments behind them."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for block in re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if "/install.sh" in line:
                    yield document, re.sub(r"\s+#.*", "", line)


class Commands(InstallTest):
    def test_each_does_what_its_flags_say(self):
        found = list(commands())
        self.assertGreater(len(found), 5)
        for document, command in found:
            with self.subTest(document=document, command=command), contextlib.ExitStack() as stack:
                self.run_command(Stage(prepare()[0], stack), command)

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
