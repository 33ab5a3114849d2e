"""What the release script makes of binaries and the changelog."""

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import unittest
import zipfile

from releases import PROGRAMS, ROOT, release
from stage import WORK

TAG = "v1.2.3"

# What there is a unit of systemd for.
ROLES = ("server", "client", "relay", "vpn-server", "vpn-client")

# Instead of a program: what the release script asks one for.
STAND_IN = """#!/bin/sh
# {program} for {target}
case $1 in
completions) echo "{program} in $2" ;;
man-pages) mkdir -p "$3" && echo {program}.1 >"$3/{program}.1" ;;
esac
"""


class ReleaseTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        self.addCleanup(shutil.rmtree, self.folder)


class Packages(ReleaseTest):
    def setUp(self):
        super().setUp()
        self.targets = release("targets").stdout.split()
        for target in self.targets:
            (self.folder / "binaries" / target).mkdir(parents=True)
            for program in PROGRAMS:
                name = f"{program}.exe" if "windows" in target else program
                binary = self.folder / "binaries" / target / name
                binary.write_text(STAND_IN.format(program=program, target=target))
                binary.chmod(0o755)

    def package(self, out):
        done = release("package", TAG, self.folder / "binaries", self.folder / out)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.folder / out

    def test_each_program_has_an_archive_for_each_target(self):
        out = self.package("out")
        names = {"install.sh", "install.ps1", "SHA256SUMS"}
        for target in self.targets:
            for program in PROGRAMS:
                name = f"{program}-{TAG}-{target}"
                windows = "windows" in target
                names.add(name + (".zip" if windows else ".tar.gz"))
                files = self.unpack(out, name, windows)
                binary = files.pop(f"{name}/{program}" + (".exe" if windows else ""))
                self.assertEqual(binary, STAND_IN.format(program=program, target=target).encode())
                for shell, script in (
                    ("bash", f"{program}.bash"), ("fish", f"{program}.fish"), ("zsh", f"_{program}"),
                    ("powershell", f"_{program}.ps1"),
                ):
                    self.assertEqual(files.pop(f"{name}/completions/{script}"), f"{program} in {shell}\n".encode())
                self.assertEqual(files.pop(f"{name}/man/{program}.1"), f"{program}.1\n".encode())
                examples = ("server", "client") if program == "tunnel-rs" else ("server_ice", "client_ice")
                wanted = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"]
                wanted += [f"{example}.toml.example" for example in examples]
                if program == "tunnel-rs" and "linux" in target:
                    wanted += [f"systemd/tunnel-rs-{role}.service" for role in ROLES]
                self.assertEqual(files, {f"{name}/{file}": (ROOT / file).read_bytes() for file in wanted})
        self.assertEqual({file.name for file in out.iterdir()}, names)

    def unpack(self, out, name, windows):
        """The files of an archive, by their names; looks at owners and permissions on the way."""
        if windows:
            with zipfile.ZipFile(out / f"{name}.zip") as archive:
                return {file: archive.read(file) for file in archive.namelist() if not file.endswith("/")}
        with tarfile.open(out / f"{name}.tar.gz") as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            for member in members:
                self.assertEqual((member.uid, member.gid), (0, 0))
                program = member.name.rsplit("/", 1)[1] in PROGRAMS
                self.assertEqual(member.mode, 0o755 if program else 0o644, member.name)
            return {member.name: archive.extractfile(member).read() for member in members}

    def test_sums_name_every_other_file(self):
        out = self.package("out")
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)
        named = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
        self.assertEqual(named, {file.name for file in out.iterdir()} - {"SHA256SUMS"})
        for script in ("install.sh", "install.ps1"):
            self.assertEqual((out / script).read_bytes(), (ROOT / script).read_bytes())

    def test_the_same_input_makes_the_same_bytes(self):
        first = (self.package("first") / "SHA256SUMS").read_text()
        for file in self.folder.glob("binaries/*/*"):
            os.utime(file, (1, 1))
        self.assertEqual((self.package("second") / "SHA256SUMS").read_text(), first)

    def test_a_missing_binary_is_an_error(self):
        (self.folder / "binaries" / self.targets[0] / "tunnel-rs-ice").unlink()
        done = release("package", TAG, self.folder / "binaries", self.folder / "out")
        self.assertNotEqual(done.returncode, 0)
        self.assertFalse((self.folder / "out/SHA256SUMS").exists())

    def test_a_folder_with_something_in_it_is_an_error(self):
        self.package("out")
        done = release("package", TAG, self.folder / "binaries", self.folder / "out")
        self.assertIn("is not empty", done.stderr)


# Instead of cargo: it writes down what it was called with, and makes the programs.
CARGO = """#!/bin/sh
echo "$RUSTFLAGS" >>"$CALLS"
out=$CARGO_TARGET_DIR/x86_64-apple-darwin/release
mkdir -p "$out"
for program in tunnel-rs tunnel-rs-ice; do echo "$RUSTFLAGS" >"$out/$program"; done
"""

# Instead of rustc: where its tools are.
RUSTC = """#!/bin/sh
case $1 in
--print) echo "$SYSROOT" ;;
--version) echo "host: of-this-machine" ;;
esac
"""

# Instead of the merging of counts: for each of their folders its weight, and who has counted.
MERGE = """#!/bin/sh
[ "$1 $2" = "merge --output" ] || exit 1
out=$3
shift 3
while [ "$1" = --weighted-input ]; do
    echo "${2%%,*}"
    cat "${2#*,}"/*
    shift 2
done >"$out"
"""

# Instead of traffic: as a program with counters would.
TRAFFIC = """#!/bin/sh
while [ "$1" != --bin ]; do shift; done
counts=$(sed 's/.*profile-generate=//' "$2")
[ -z "$LLVM_PROFILE_FILE" ] || counts=${{LLVM_PROFILE_FILE%/*}}
mkdir -p "$counts" && echo {script} >"$counts/{script}"
while [ "$1" != --json ]; do shift; done
echo '[{{"figure": "TCP by {script}", "samples": [1]}}, {{"figure": "UDP by {script}", "samples": ['$CARRIED']}}]' >"$2"
"""


class Profiles(ReleaseTest):
    """A target of another system, which has no further flags."""

    def setUp(self):
        super().setUp()
        self.tools = self.folder / "sysroot/lib/rustlib/of-this-machine/bin"
        for name, text in (
            ("bin/cargo", CARGO), ("bin/rustc", RUSTC), ("tree/bench/run", TRAFFIC.format(script="run")),
            ("tree/bench/vpn", TRAFFIC.format(script="vpn")), (self.tools / "llvm-profdata", MERGE),
        ):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (self.folder / "tree/.ci").mkdir()
        shutil.copy(ROOT / ".ci/release", self.folder / "tree/.ci")

    def run_release(self, *arguments, carried="2"):
        environment = {"CARRIED": carried, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "CALLS": f"{self.folder}/calls",
                       "CARGO_TARGET_DIR": f"{self.folder}/target", "SYSROOT": f"{self.folder}/sysroot"}
        command = [self.folder / "tree/.ci/release", *arguments]
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)

    def test_what_was_counted_is_what_the_programs_are_built_by(self):
        done = self.run_release("profile", "x86_64-apple-darwin", "counted")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.folder / "counted").read_text(), "1\nrun\nvpn\n200\nrun\n")
        for arguments in ((), ("counted",)):
            done = self.run_release("build", "x86_64-apple-darwin", "out", *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
        flags = [line.strip() for line in (self.folder / "calls").read_text().splitlines()]
        self.assertRegex(flags[0], "^-C profile-generate=/")
        self.assertEqual(flags[1:], ["", f"-C profile-use={self.folder}/counted"])
        built = (self.folder / "out/x86_64-apple-darwin/tunnel-rs").read_text()
        self.assertEqual(built.strip(), flags[-1])

    def test_what_is_missing_is_said(self):
        done = self.run_release("build", "x86_64-apple-darwin", "out", "counted")
        self.assertEqual((done.returncode, done.stderr), (1, "release: counted is no profile\n"))
        (self.tools / "llvm-profdata").unlink()
        done = self.run_release("profile", "x86_64-apple-darwin", "counted")
        self.assertEqual(done.returncode, 1)
        self.assertIn("rustup component add llvm-tools", done.stderr)
        self.assertFalse((self.folder / "calls").exists())

    def test_what_has_not_carried_all_makes_no_profile(self):
        done = self.run_release("profile", "x86_64-apple-darwin", "counted", carried="")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "UDP by run\nrelease: so there is no profile: the programs with counters have not "
                                      "carried that\n")
        self.assertFalse((self.folder / "counted").exists())


class Notes(ReleaseTest):
    CHANGELOG = """# Changelog

## [Unreleased]

- Not out yet.

## [1.2.3] - 2026-01-02

### Added

- One.

## [1.2.2]

- Two.
"""

    def tree(self, version, changelog=CHANGELOG):
        """A tree with nothing but what the script reads, and the script of it."""
        (self.folder / ".ci").mkdir(exist_ok=True)
        shutil.copy(ROOT / ".ci/release", self.folder / ".ci")
        manifest = f'[workspace]\nmembers = []\n\n[workspace.package]\nversion = "{version}"\n\n[x]\nversion = "9"\n'
        (self.folder / "Cargo.toml").write_text(manifest)
        (self.folder / "CHANGELOG.md").write_text(changelog)

    def run_in_tree(self, *arguments):
        return subprocess.run([self.folder / ".ci/release", *arguments], capture_output=True, text=True, check=False)

    def test_notes_are_the_section_of_the_version(self):
        self.tree("1.2.3")
        self.assertEqual(self.run_in_tree("notes", "v1.2.3").stdout, "### Added\n\n- One.\n")
        self.assertEqual(self.run_in_tree("notes", "v1.2.2").stdout, "- Two.\n")

    def test_a_prerelease_has_what_is_not_released(self):
        self.tree("1.3.0-rc.1")
        self.assertEqual(self.run_in_tree("notes", "v1.3.0-rc.1").stdout, "- Not out yet.\n")
        self.assertEqual(self.run_in_tree("check", "v1.3.0-rc.1").returncode, 0)

    def test_what_does_not_fit_is_refused(self):
        for version, tag, word in (
            ("1.2.3", "v1.2.3", None),
            ("1.2.4", "v1.2.3", "the tag is v1.2.3, and Cargo.toml has version 1.2.4"),
            ("1.2.3", "1.2.3", "the tag is 1.2.3"),
            ("1.2.2", "v1.2.2", "has no date"),
            ("1.3.0", "v1.3.0", "says nothing of 1.3.0"),
        ):
            self.tree(version)
            done = self.run_in_tree("check", tag)
            if word is None:
                self.assertEqual((done.returncode, done.stderr), (0, ""))
            else:
                self.assertEqual(done.returncode, 1)
                self.assertIn(word, done.stderr)

    def test_the_version_of_this_tree_is_found(self):
        done = release("check", "v0.0.0")
        self.assertRegex(done.stderr, r"Cargo.toml has version \d+\.\d+\.\d+")
