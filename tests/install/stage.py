"""What each test of install.sh plays on: a shell with its tools, a home, releases on a server."""

import contextlib
import functools
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

import releases

WORK = pathlib.Path(os.environ["INSTALL_TEST_WORK"])
SCRIPT = WORK / "install.sh"
NOBODY = 65534

# How long one run may take, in seconds.
LIMIT = 60

# All that the script may need besides what downloads and what makes sums.
TOOLS = "awk cat chmod cp cut df grep gzip id mkdir mktemp mv rm sed tar tr uname"


def heed_signals():
    """A shell cannot trap what was ignored when it began, as SIGHUP is below nohup (POSIX, trap)."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Shell:
    """A shell, and a folder with all the tools that there are for it."""

    def __init__(self, name, command, tools=(), busybox=False):
        self.name = name
        self.command = command
        self.path = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="tools."))
        self.path.chmod(0o755)
        if busybox:
            for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
                (self.path / applet).symlink_to(shutil.which("busybox"))
        for tool in tools:
            (self.path / tool).symlink_to(which(tool))


def which(tool):
    found = shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise AssertionError(f"{tool} is not installed")
    return found


def tools(*more):
    return [*TOOLS.split(), *more]


@functools.cache
def prepare():
    """Makes the releases, once in a run, and gives the shells that everything is tried with."""
    # Who is started in the background may find it ignored, and so would every shell below.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    releases.make(WORK, WORK / "bin")
    # Where a user who is not root can read it.
    shutil.copy(releases.ROOT / "install.sh", SCRIPT)
    return [
        Shell("dash, curl", [which("dash")], tools("curl", "sha256sum")),
        Shell("dash, wget", [which("dash")], tools("wget", "sha256sum")),
        # As on macOS in version and mode, and with a third program for the sums.
        Shell("bash, curl, openssl", [which("bash"), "--posix"], tools("curl", "openssl")),
        # With nothing else, as on Alpine.
        Shell("busybox", [which("busybox"), "sh"], busybox=True),
    ]


class Stage:
    """A home, a folder for temporary files, and a server; `root` or not is who runs the script."""

    def __init__(self, shell, stack):
        self.shell = shell
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="stage "))
        stack.callback(shutil.rmtree, self.folder)
        self.home = self.folder / "home of a user"
        self.temporary = self.folder / "temporary"
        for folder in (self.folder, self.home, self.temporary):
            folder.mkdir(exist_ok=True)
            os.chown(folder, NOBODY, NOBODY)
            folder.chmod(0o755)
        self.server = releases.Server(WORK / "releases")
        stack.callback(self.server.close)
        self.first_in_path = self.folder / "first"
        self.first_in_path.mkdir()
        self.variables = {"TUNNEL_RS_BASE_URL": self.server.url}
        self.stack = stack

    @property
    def bin(self):
        return self.home / ".local/bin"

    def start(self, *arguments, root=False, script=SCRIPT, **options):
        """Begins to run the script, in a session of its own so that signals can be sent to all of it."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.first_in_path}:{self.shell.path}",
            "TMPDIR": str(self.temporary),
            **self.variables,
        }
        who = {} if root else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        return subprocess.Popen(
            [*self.shell.command, str(script), *arguments],
            env=environment, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, text=True, preexec_fn=heed_signals, **{"stdin": subprocess.DEVNULL, **who, **options},
        )

    def run(self, *arguments, **options):
        """Runs the script to its end."""
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise AssertionError(f"still running: {process.communicate()}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fake(self, name, text):
        """Puts a program of the test's own first in PATH."""
        program = self.first_in_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    def mount(self, place, *arguments):
        """Mounts something for the rest of the test."""
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *arguments, str(place)], check=True)
        self.stack.callback(subprocess.run, ["umount", str(place)], check=True)

    def archive(self, tag=releases.LATEST, program="tunnel-rs"):
        """The path of an archive on the server."""
        return f"download/{tag}/{program}-{tag}-{releases.TARGET}.tar.gz"

    def replace(self, content):
        """Has another archive in place of the latest one of tunnel-rs, and its sum among the sums."""
        self.server.files[self.archive()] = content
        name = self.archive().rsplit("/", 1)[1]
        sums = f"download/{releases.LATEST}/SHA256SUMS"
        lines = self.server.read(sums).decode().splitlines()
        others = [line for line in lines if not line.endswith(f"  {name}")]
        right = f"{hashlib.sha256(content).hexdigest()}  {name}"
        self.server.files[sums] = "\n".join([*others, right]).encode()


class InstallTest(unittest.TestCase):
    """What the tests of install.sh look at."""

    longMessage = True

    def assert_done(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def assert_fails(self, done, *words, code=1):
        self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
        for word in words:
            self.assertIn(word, done.stderr)

    def assert_installed(self, folder, **tags):
        """The folder holds these programs of these releases and nothing else; `_` in names stands for `-`."""
        wanted = {name.replace("_", "-"): tag for name, tag in tags.items()}
        found = {}
        if folder.exists():
            found = {program.name: releases.tag_of(program) for program in folder.iterdir()}
        self.assertEqual(found, wanted)
        for name in wanted:
            self.assertEqual((folder / name).stat().st_mode & 0o7777, 0o755)

    def assert_clean(self, stage):
        """Nothing temporary is left."""
        self.assertEqual(list(stage.temporary.iterdir()), [])


def every_shell(test):
    """Runs a test once with each shell, on a fresh stage."""

    @functools.wraps(test)
    def run(self):
        for shell in prepare():
            with self.subTest(shell=shell.name), contextlib.ExitStack() as stack:
                test(self, Stage(shell, stack))

    return run
