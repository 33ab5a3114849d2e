"""What install.sh says when something is wrong, and that all is then as it was."""

import io
import os
import pathlib
import signal
import ssl
import subprocess
import tarfile

import releases
from releases import LATEST, OLD
from stage import LIMIT, NOBODY, InstallTest, every_shell


class FailureTest(InstallTest):
    def assert_unchanged(self, stage, *arguments, words, code=1, **options):
        """Fails with these words, and leaves what was installed before as it was."""
        self.assert_done(stage.run("--ice", OLD))
        done = stage.run("--ice", *arguments, **options)
        self.assert_fails(done, *words, code=code)
        self.assert_installed(stage.bin, tunnel_rs=OLD, tunnel_rs_ice=OLD)
        self.assert_clean(stage)


class Usage(InstallTest):
    @every_shell
    def test_wrong_arguments(self, stage):
        for arguments, word in (
            (["--fast"], "--fast: no such flag"),
            (["v1", "v2"], "one tag is enough"),
            (["--prerelease", "v1.0.0"], "either --prerelease or the tag"),
            (["--user", "--system"], "only one of"),
            (["--prefix"], "--prefix needs a folder"),
            (["--prefix="], "--prefix needs a folder"),
            (["../../v1"], "cannot be the tag"),
            ([""], "cannot be the tag"),
        ):
            self.assert_fails(stage.run(*arguments), word, code=2)
        self.assert_installed(stage.bin)

    @every_shell
    def test_help(self, stage):
        done = stage.run("--help")
        self.assert_done(done)
        for flag in ("--prerelease", "--ice", "--user", "--system", "--prefix", "--no-signature", "--uninstall"):
            self.assertIn(flag, done.stdout)


class Platforms(FailureTest):
    @every_shell
    def test_systems_and_processors_without_archives(self, stage):
        for system, machine, words in (
            ("FreeBSD", "amd64", ["no archives for FreeBSD", "cargo install"]),
            ("Linux", "riscv64", ["no archives for Linux on riscv64", "cargo install"]),
            ("MINGW64_NT-10.0", "x86_64", ["install.ps1"]),
        ):
            stage.fake("uname", f"case $1 in -s) echo {system} ;; -m) echo {machine} ;; esac")
            self.assert_fails(stage.run(), *words)
        self.assert_installed(stage.bin)

    @every_shell
    def test_each_platform_asks_for_an_archive_that_a_release_has(self, stage):
        asked = set()
        for system, machine, translated in (
            ("Linux", "x86_64", 0), ("Linux", "amd64", 0), ("Linux", "aarch64", 0), ("Linux", "arm64", 0),
            ("Darwin", "x86_64", 0), ("Darwin", "arm64", 0), ("Darwin", "x86_64", 1),
        ):
            stage.fake("uname", f"case $1 in -s) echo {system} ;; -m) echo {machine} ;; esac")
            stage.fake("sysctl", f"echo {translated}")
            stage.server.files[f"download/{OLD}/SHA256SUMS"] = b""
            error = stage.run(OLD).stderr
            start = f"install.sh: release {OLD} has no archive tunnel-rs-{OLD}-"
            self.assertTrue(error.startswith(start), error)
            asked.add(error.removeprefix(start).split(".tar.gz")[0])
            if translated:
                self.assertIn("aarch64-apple-darwin", error)
        made = releases.release("targets").stdout.split()
        self.assertEqual(asked | {"x86_64-pc-windows-msvc"}, set(made))
        self.assertIn("'x86_64-pc-windows-msvc'", (releases.ROOT / "install.ps1").read_text())

    @every_shell
    def test_a_program_that_does_not_run_here_is_not_put_in_place(self, stage):
        name = stage.archive().rsplit("/", 1)[1].removesuffix(".tar.gz")
        foreign = b"\x7fELF of another processor"
        member = tarfile.TarInfo(f"{name}/tunnel-rs")
        member.size, member.mode = len(foreign), 0o755
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.addfile(member, io.BytesIO(foreign))
        stage.replace(packed.getvalue())
        self.assert_unchanged(stage, words=["does not run here", "Nothing has been changed"])


class Network(FailureTest):
    @every_shell
    def test_nobody_listens(self, stage):
        self.assert_done(stage.run("--ice", OLD))
        stage.variables["TUNNEL_RS_BASE_URL"] = "http://127.0.0.1:9/releases"
        self.assert_unchanged_by(stage, [], "cannot download http://127.0.0.1:9/releases/latest", "Is there a network?")

    @every_shell
    def test_no_network_at_all(self, stage):
        self.assert_done(stage.run("--ice", OLD))
        del stage.variables["TUNNEL_RS_BASE_URL"]
        for arguments, address in (
            ([], "https://github.com/tunnel-rs/tunnel-rs/releases/latest/download/SHA256SUMS"),
            ([LATEST], f"https://github.com/tunnel-rs/tunnel-rs/releases/download/{LATEST}/SHA256SUMS"),
            (["--prerelease"], "https://api.github.com/repos/tunnel-rs/tunnel-rs/releases"),
        ):
            self.assert_unchanged_by(stage, arguments, f"cannot download {address}", "Is there a network?")

    def assert_unchanged_by(self, stage, arguments, *words):
        self.assert_fails(stage.run("--ice", *arguments), *words)
        self.assert_installed(stage.bin, tunnel_rs=OLD, tunnel_rs_ice=OLD)
        self.assert_clean(stage)

    @every_shell
    def test_a_certificate_that_nobody_vouches_for(self, stage):
        key, certificate = stage.folder / "key", stage.folder / "certificate"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
             key, "-out", certificate, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http = stage.server.http
        http.socket = context.wrap_socket(http.socket, server_side=True)
        http.handle_error = lambda *_: None
        stage.variables["TUNNEL_RS_BASE_URL"] = stage.server.url.replace("http:", "https:")
        self.assert_fails(stage.run(), "certificate")
        self.assert_installed(stage.bin)

    @every_shell
    def test_tools_that_are_missing(self, stage):
        stage.variables["PATH"] = str(stage.folder / "few")
        os.mkdir(stage.variables["PATH"])
        few = pathlib.Path(stage.variables["PATH"])
        for tool in ("id", "uname", "mktemp", "rm", "awk", "df", "gzip", "tar"):
            (few / tool).symlink_to((stage.shell.path / tool).resolve())
        # Some shells look into themselves first.
        standalone = stage.shell.name == "busybox"
        if not standalone:
            self.assert_fails(stage.run(), "neither curl nor wget is here")
            (few / "curl").symlink_to("/usr/bin/curl")
            self.assert_fails(stage.run(), "none of sha256sum, shasum and openssl is here")


class Releases(FailureTest):
    @every_shell
    def test_a_tag_without_a_release(self, stage):
        self.assert_unchanged(stage, "v7.7.7", words=["no release v7.7.7", "SHA256SUMS"])

    @every_shell
    def test_no_stable_release_yet(self, stage):
        stage.server.hidden.add("latest/download/SHA256SUMS")
        self.assert_unchanged(stage, words=["no stable release", "--prerelease"])

    @every_shell
    def test_no_list_or_an_empty_one(self, stage):
        stage.server.files["releases.json"] = b"[]"
        self.assert_unchanged(stage, "--prerelease", words=["names no release"])
        stage.server.hidden.add("releases.json")
        self.assert_fails(stage.run("--prerelease"), "there is no list of releases")

    @every_shell
    def test_sums_are_missing(self, stage):
        stage.server.hidden.add(f"download/{LATEST}/SHA256SUMS")
        self.assert_unchanged(stage, LATEST, words=["no sums"])

    @every_shell
    def test_sums_do_not_name_the_archive(self, stage):
        sums = stage.server.read(f"download/{LATEST}/SHA256SUMS")
        stage.server.files[f"download/{LATEST}/SHA256SUMS"] = sums.replace(b"tunnel-rs-ice-v", b"other-v")
        self.assert_unchanged(stage, words=["has no archive tunnel-rs-ice-"])

    @every_shell
    def test_an_archive_is_missing(self, stage):
        stage.server.hidden.add(stage.archive(program="tunnel-rs-ice"))
        self.assert_unchanged(stage, words=["has no archive tunnel-rs-ice-"])

    @every_shell
    def test_a_sum_is_wrong(self, stage):
        path = stage.archive(program="tunnel-rs-ice")
        content = bytearray(stage.server.read(path))
        content[-1] ^= 1
        stage.server.files[path] = bytes(content)
        self.assert_unchanged(stage, words=["has been altered", "its SHA-256 is", "and should be"])

    @every_shell
    def test_an_archive_ends_too_early_on_its_way(self, stage):
        stage.server.cut.add(stage.archive())
        self.assert_done(stage.run(OLD))
        done = stage.run()
        # Some programs that download take no notice; the sum does.
        self.assertRegex(done.stderr, "cannot download|has been altered")
        self.assertEqual(done.returncode, 1)
        self.assert_installed(stage.bin, tunnel_rs=OLD)
        self.assert_clean(stage)

    @every_shell
    def test_an_archive_was_cut_off_before_its_sum_was_made(self, stage):
        name = stage.archive().rsplit("/", 1)[1]
        stage.replace(stage.server.read(stage.archive())[:1000000])
        self.assert_unchanged(stage, words=[f"cannot unpack {name}"])


class Space(FailureTest):
    @every_shell
    def test_none_where_the_programs_go(self, stage):
        # Room for the old program, and not for a second one beside it.
        self.assert_done(stage.run(OLD))
        program = stage.bin / "tunnel-rs"
        size = program.stat().st_size * 3 // 2
        program.unlink()
        stage.mount(stage.bin, "-t", "tmpfs", "-o", f"size={size},mode=755,uid={NOBODY}", "tmpfs")
        self.assert_done(stage.run(OLD))
        self.assert_fails(stage.run(), f"cannot write to {stage.bin}", "No space left", "Nothing has been changed")
        self.assert_installed(stage.bin, tunnel_rs=OLD)
        self.assert_clean(stage)

    @every_shell
    def test_none_for_what_is_downloaded(self, stage):
        # The archive does not fit, or the archive does and the program in it does not.
        for size in ("4m", "24m"):
            stage.mount(stage.temporary, "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs")
            self.assert_unchanged(stage, words=[f"cannot write to {stage.temporary}", "space"])

    def assert_unchanged(self, stage, *arguments, words, code=1, **options):
        done = stage.run(*arguments, **options)
        self.assert_fails(done, *words, code=code)
        self.assert_installed(stage.bin)
        self.assert_clean(stage)


class Permission(FailureTest):
    @every_shell
    def test_a_folder_that_belongs_to_somebody_else(self, stage):
        done = stage.run("--system")
        self.assert_fails(done, "cannot write to /usr/local/bin", "sudo", "--user")
        self.assert_clean(stage)

    @every_shell
    def test_a_file_system_that_is_read_only(self, stage):
        self.assert_done(stage.run(OLD))
        stage.mount(stage.bin, "--bind", str(stage.bin))
        subprocess.run(["mount", "-o", "remount,bind,ro", stage.bin], check=True)
        self.assert_fails(stage.run("--user", root=True), f"cannot write to {stage.bin}", "Read-only file system")
        self.assert_fails(stage.run("--uninstall", "--user", root=True), f"cannot remove {stage.bin}/tunnel-rs")
        self.assert_installed(stage.bin, tunnel_rs=OLD)
        self.assert_clean(stage)

    @every_shell
    def test_a_folder_stands_where_the_program_goes(self, stage):
        (stage.bin / "tunnel-rs").mkdir(parents=True)
        os.chown(stage.bin, NOBODY, NOBODY)
        self.assert_fails(stage.run(), f"{stage.bin}/tunnel-rs is a folder")
        self.assertEqual(os.listdir(stage.bin), ["tunnel-rs"])

    @every_shell
    def test_no_folder_for_temporary_files(self, stage):
        stage.variables["TMPDIR"] = str(stage.folder / "none")
        self.assert_fails(stage.run(), "TMPDIR names another one")

    @every_shell
    def test_no_home(self, stage):
        stage.variables["HOME"] = ""
        self.assert_fails(stage.run(), "HOME is not set")


class Interruption(FailureTest):
    @every_shell
    def test_by_ctrl_c_which_goes_to_all(self, stage):
        self.interrupt(stage, lambda process: os.killpg(process.pid, signal.SIGINT), 130)

    @every_shell
    def test_by_sigterm_to_the_shell(self, stage):
        self.interrupt(stage, lambda process: process.send_signal(signal.SIGTERM), 143)

    @every_shell
    def test_by_a_terminal_that_goes_away(self, stage):
        self.interrupt(stage, lambda process: os.killpg(process.pid, signal.SIGHUP), 129)

    def interrupt(self, stage, send, code):
        self.assert_done(stage.run("--ice", OLD))
        # When one of two programs has been downloaded, and half of the other one.
        stage.server.held.add(stage.archive(program="tunnel-rs-ice"))
        process = stage.start("--ice")
        self.assertTrue(stage.server.holding.wait(LIMIT))
        send(process)
        # Its end, and that of all who have its output: of what downloads, too.
        process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, code)
        self.assert_installed(stage.bin, tunnel_rs=OLD, tunnel_rs_ice=OLD)
        self.assert_clean(stage)
