"""The image, built from the real Dockerfile by Podman, and containers of it."""

import functools
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ["CONTAINER_TEST_WORK"])
CHECKS = pathlib.Path(os.environ["CONTAINER_TEST_CHECKS"])
DEPLOY = ROOT / "container-deploy"
NAME = "ghcr.io/tunnel-rs/tunnel-rs:latest"
# What the Dockerfile makes, and nothing else.
BUILT = "localhost/built"

# As Docker calls the architectures, and the release script's targets for them.
TARGETS = {"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-musl"}
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]

# For whatever takes no network, in seconds: longer only on a machine that is busy otherwise.
SOON = 90

# What every manifest and the Compose file ask for. Without its last word Podman would mount folders in memory that can be
# written to, which other runtimes do not.
BARE = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only-tmpfs=false")

NUMBERS = itertools.count(1)

# Whatever proxy the test's environment names: it is not asked for what is in this network.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(address, port, path):
    """The code and the text of an answer; nothing where there is none."""
    try:
        with DIRECT.open(f"http://{address}:{port}{path}", timeout=SOON) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def podman(*words):
    """What it prints; what it says to be wrong is in the error."""
    command = ["podman", *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SOON, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def inspect(kind, name):
    (found,) = json.loads(podman(kind, "inspect", name))
    return found


def context(binaries, *archs):
    """What the image is built from, as the release script lays it out."""
    out = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="context."))
    subprocess.run([ROOT / ".ci/release", "image", binaries, out, *archs], check=True)
    return out


def add_binaries(folder, target):
    """The built programs as those of the target."""
    shutil.copytree(WORK / "bin", folder / target)
    return folder


@functools.cache
def built():
    """The configuration of the image that the Dockerfile makes, with the built programs; its name is BUILT."""
    binaries = add_binaries(pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="binaries.")), TARGETS[ARCH])
    podman("build", "--quiet", "--tag", BUILT, context(binaries, ARCH))
    return inspect("image", BUILT)["Config"]


@functools.cache
def user():
    """The numbers of the image's user and group, as they stand there."""
    return built()["User"].split(":")


def add_libraries(root, program):
    """The C library's files that a program needs, if it is not static."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


@functools.cache
def runnable():
    """The same image under the name that the manifests have. Its programs are static in a release; here they may need the C
    library, which is added then."""
    built()
    folder = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="libraries."))
    (folder / "root").mkdir()
    add_libraries(folder / "root", WORK / "bin/tunnel-rs")
    add_libraries(folder / "root", WORK / "bin/tunnel-rs-ice")
    (folder / "Dockerfile").write_text(f"FROM {BUILT}\nCOPY root /\n")
    podman("build", "--quiet", "--tag", NAME, folder)
    return NAME


def status(pid):
    """What the kernel says of a process."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in text.splitlines())}


def assert_bare(test, pid):
    """The process has nothing that it could do harm with."""
    found = status(pid)
    test.assertEqual(found["Uid"].split(), [user()[0]] * 4)
    test.assertEqual(found["Gid"].split(), [user()[1]] * 4)
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        test.assertEqual(int(found[capabilities], 16), 0, capabilities)
    test.assertEqual(found["NoNewPrivs"], "1")
    # The runtime's filter of system calls.
    test.assertEqual(found["Seccomp"], "2")
    test.assertEqual(found["NSpid"].split()[-1], "1")
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    (root,) = [line.split() for line in mounts if line.split()[4] == "/"]
    test.assertIn("ro", root[5].split(","))


class Container:
    """The image running. `mounts` are (source, place, "ro" or "rw"), and `options` Podman's."""

    def __init__(self, arguments, mounts=(), groups=(), options=()):
        self.name = f"test-{next(NUMBERS)}"
        volumes = [f"--volume={source}:{place}:{mode}" for source, place, mode in mounts]
        members = [f"--group-add={group}" for group in groups]
        command = ["podman", "run", f"--name={self.name}", *BARE, *volumes, *members, *options, runnable(), *arguments]
        self.process = subprocess.Popen(
            command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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

    @functools.cached_property
    def running(self):
        """What Podman says of it, once it runs."""

        def look():
            command = ["podman", "container", "inspect", self.name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
            return [found for found in json.loads(done.stdout) if found["State"]["Running"]] if done.returncode == 0 else []

        return self.wait_for(look)[0]

    @property
    def pid(self):
        """The program's, outside."""
        return self.running["State"]["Pid"]

    @property
    def address(self):
        """Where it is reached: in the test's own network, if it has none of its own."""
        networks = self.running["NetworkSettings"].get("Networks") or {}
        return next((network["IPAddress"] for network in networks.values() if network["IPAddress"]), "127.0.0.1")

    def terminate(self):
        """Ends it in order; its exit code."""
        podman("stop", f"--time={SOON - 5}", self.name)
        code = self.process.wait(SOON)
        self.reader.join(SOON)
        return code

    def close(self):
        podman("rm", "--force", "--time=0", "--ignore", self.name)
        self.process.wait(SOON)
        self.reader.join(SOON)
        self.process.stdout.close()
