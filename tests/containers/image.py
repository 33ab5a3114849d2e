"""What the Dockerfile makes, assembled without Docker, and containers of it."""

import contextlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ["CONTAINER_TEST_WORK"])
CHECKS = pathlib.Path(os.environ["CONTAINER_TEST_CHECKS"])
DEPLOY = ROOT / "container-deploy"
NAME = "ghcr.io/tunnel-rs/tunnel-rs:latest"

# As Docker calls this machine's architecture, and the release script's target for it.
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
TARGET = f"{platform.machine()}-unknown-linux-musl"

# For whatever takes no network, in seconds: longer only on a machine that is busy otherwise.
SOON = 30


class Dockerfile:
    """Its instructions, as far as this image has any."""

    def __init__(self, path=DEPLOY / "Dockerfile"):
        text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
        self.instructions = [(word.upper(), rest.strip()) for word, rest in lines]

    def all(self, word):
        return [rest for instruction, rest in self.instructions if instruction == word]

    def one(self, word):
        (rest,) = self.all(word)
        return rest

    def copies(self, arch):
        """Each COPY as its mode, sources and folder."""
        for line in self.all("COPY"):
            *words, folder = shlex.split(line.replace("${TARGETARCH}", arch))
            (mode,) = [word.split("=")[1] for word in words if word.startswith("--chmod=")]
            yield int(mode, 8), [word for word in words if not word.startswith("--")], folder

    @property
    def user(self):
        return self.one("USER").split(":")

    @property
    def entrypoint(self):
        return json.loads(self.one("ENTRYPOINT"))


def context(binaries, *archs):
    """What the image is built from, as the release script lays it out."""
    out = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="context."))
    subprocess.run([ROOT / ".ci/release", "image", binaries, out, *archs], check=True)
    return out


def assemble():
    """The image's files in a folder, with the built programs."""
    binaries = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="binaries."))
    shutil.copytree(WORK / "bin", binaries / TARGET)
    source = context(binaries, ARCH)
    root = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="image."))
    root.chmod(0o755)
    for mode, names, folder in Dockerfile(source / "Dockerfile").copies(ARCH):
        place = root / folder.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(source / name, place)
            (place / pathlib.Path(name).name).chmod(mode)
    return root


def add_libraries(root):
    """The C library's files where the programs are not static, as those of a release are."""
    for program in (root / "usr/local/bin").iterdir():
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            place = root / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)


class Container:
    """The image running. `mounts` are (source, place, "ro" or "rw"); the places are made."""

    def __init__(self, image, arguments, mounts=(), groups=(), variables=None):
        self.root = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="root."))
        shutil.copytree(image, self.root, dirs_exist_ok=True)
        self.root.chmod(0o755)
        (self.root / "proc").mkdir()
        for source, place, _ in mounts:
            inside = self.root / place.lstrip("/")
            if pathlib.Path(source).is_dir():
                inside.mkdir(parents=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
        dockerfile = Dockerfile()
        command = [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-B",
            str(pathlib.Path(__file__).with_name("enter.py")), str(self.root), *dockerfile.user,
            ",".join(map(str, groups)), ",".join(":".join(map(str, mount)) for mount in mounts),
            *dockerfile.entrypoint, *arguments,
        ]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(variables or {})}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, look):
        """What `look` returns, once that is something."""
        end = time.monotonic() + SOON
        while not (found := look()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("\n".join([f"code {self.process.poll()}", *self.lines]))
            time.sleep(0.02)
        return found

    def wait_line(self, start):
        """The rest of the first line with this beginning."""
        return self.wait_for(lambda: [line.removeprefix(start) or "." for line in self.lines if line.startswith(start)])[0]

    @property
    def pid(self):
        """The program's, outside."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text())

    def status(self):
        """What the kernel says of the program."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return {key: value.strip() for key, value in (line.split(":", 1) for line in text.splitlines())}

    def terminate(self):
        """Ends it in order; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.process.wait(SOON)
        self.reader.join(SOON)
        return code

    def close(self):
        # With the user the kernel has forgotten that it is to end with its parent (prctl(2), PR_SET_PDEATHSIG).
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(SOON)
        self.reader.join(SOON)
        self.process.stdout.close()
        shutil.rmtree(self.root)
