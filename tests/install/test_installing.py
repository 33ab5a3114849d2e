"""What install.sh installs, where, and how it comes off again."""

import pathlib
import subprocess

from releases import LATEST, OLD, PRE, TARGET
from stage import LIMIT, SCRIPT, InstallTest, every_shell


class Choosing(InstallTest):
    @every_shell
    def test_the_latest_stable_release_goes_to_the_users_own_folder(self, stage):
        done = stage.run()
        self.assert_done(done)
        self.assert_installed(stage.bin, tunnel_rs=LATEST)
        self.assert_clean(stage)
        self.assertIn(f"Installed tunnel-rs {LATEST}: {stage.bin}/tunnel-rs", done.stdout)
        self.assertIn(f'export PATH="{stage.bin}:$PATH"', done.stdout)
        self.assertIn("The signature has not been checked", done.stdout)
        shown = subprocess.check_output([stage.bin / "tunnel-rs", "--version"], text=True)
        self.assertTrue(shown.startswith("tunnel-rs "), shown)

    @every_shell
    def test_what_it_says_of_undoing_undoes_it(self, stage):
        done = stage.run("--ice")
        undo = next(line for line in done.stdout.splitlines() if line.startswith("To undo it:"))
        subprocess.run(["sh", "-c", undo.removeprefix("To undo it:")], check=True)
        self.assert_installed(stage.bin)

    @every_shell
    def test_a_tag_is_taken_and_one_may_go_back(self, stage):
        self.assert_done(stage.run())
        done = stage.run(OLD)
        self.assert_done(done)
        self.assert_installed(stage.bin, tunnel_rs=OLD)
        self.assertIn("It took the place of tunnel-rs ", done.stdout)

    @every_shell
    def test_prerelease_takes_the_greatest_version(self, stage):
        self.assert_done(stage.run("--prerelease"))
        self.assert_installed(stage.bin, tunnel_rs=PRE)

    @every_shell
    def test_the_list_of_releases_may_stand_on_one_line(self, stage):
        listed = stage.server.files["releases.json"]
        stage.server.files["releases.json"] = listed.replace(b"\n", b"").replace(b'"tag_name": ', b'"tag_name":')
        self.assert_done(stage.run("--prerelease"))
        self.assert_installed(stage.bin, tunnel_rs=PRE)

    @every_shell
    def test_ice_adds_the_second_program(self, stage):
        done = stage.run("--ice", PRE)
        self.assert_done(done)
        self.assert_installed(stage.bin, tunnel_rs=PRE, tunnel_rs_ice=PRE)
        self.assertIn(f"Installed tunnel-rs-ice {PRE}", done.stdout)

    @every_shell
    def test_the_script_may_come_through_a_pipe(self, stage):
        with open(SCRIPT, "rb") as script:
            self.assert_done(stage.run(OLD, script="-s", stdin=script))
        self.assert_installed(stage.bin, tunnel_rs=OLD)

    @every_shell
    def test_half_a_script_does_nothing(self, stage):
        text = SCRIPT.read_text()
        for part in (text[: len(text) // 2], text.removesuffix('main "$@"\n')):
            half = stage.folder / "half"
            half.write_text(part)
            stage.run(script=half)
            self.assert_installed(stage.bin)


class Places(InstallTest):
    @every_shell
    def test_root_installs_for_everybody(self, stage):
        local = stage.folder / "local"
        local.mkdir()
        stage.mount(pathlib.Path("/usr/local"), "--bind", str(local))
        # A cautious root's mask would make a program that nobody else can start.
        self.assert_done(stage.run(root=True, umask=0o077))
        self.assert_installed(local / "bin", tunnel_rs=LATEST)
        self.assertEqual((local / "bin").stat().st_mode & 0o777, 0o755)
        self.assert_done(stage.run("--uninstall", root=True))
        self.assert_installed(local / "bin")

    @every_shell
    def test_root_may_install_for_root_alone(self, stage):
        self.assert_done(stage.run("--user", root=True))
        self.assert_installed(stage.bin, tunnel_rs=LATEST)

    @every_shell
    def test_a_prefix_with_spaces_or_from_here(self, stage):
        for argument in (["--prefix", f"{stage.home}/a b"], [f"--prefix={stage.home}/a b/"], ["--prefix", "a b"]):
            self.assert_done(stage.run(*argument))
            self.assert_installed(stage.home / "a b/bin", tunnel_rs=LATEST)
            self.assert_done(stage.run("--uninstall", *argument))
            self.assert_installed(stage.home / "a b/bin")

    @every_shell
    def test_another_one_earlier_in_path_is_named(self, stage):
        stage.fake("tunnel-rs", "exit 0")
        stage.variables["PATH"] = f"{stage.first_in_path}:{stage.shell.path}:{stage.bin}"
        done = stage.run()
        self.assertEqual(done.returncode, 0)
        self.assertIn(f"{stage.first_in_path}/tunnel-rs comes first in PATH", done.stderr)


class Upgrading(InstallTest):
    @every_shell
    def test_a_program_that_runs_goes_on(self, stage):
        self.assert_done(stage.run(OLD))
        stage.bin.joinpath("token").write_text("ikAdvudu_ZxNXhNLCD\n")
        command = [stage.bin / "tunnel-rs", "server", "--allowed-tcp", "127.0.0.1/32", "--relay-url",
                   "http://127.0.0.1:9", "--auth-tokens-file", stage.bin / "token"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                self.assertIn("EndpointId", server.stdout.readline())
                self.assert_done(stage.run())
                self.assertIsNone(server.poll())
            finally:
                server.terminate()
            self.assertEqual(server.wait(timeout=LIMIT), 0)
        (stage.bin / "token").unlink()
        self.assert_installed(stage.bin, tunnel_rs=LATEST)

    @every_shell
    def test_uninstalling_takes_both_and_leaves_the_rest(self, stage):
        kept = stage.home / ".config/tunnel-rs/server.key"
        kept.parent.mkdir(parents=True)
        kept.write_text("secret")
        self.assert_done(stage.run("--ice"))
        done = stage.run("--uninstall")
        self.assert_done(done)
        self.assertIn(f"Removed {stage.bin}/tunnel-rs-ice", done.stdout)
        self.assert_installed(stage.bin)
        self.assertTrue(kept.exists())
        done = stage.run("--uninstall")
        self.assert_done(done)
        self.assertIn(f"Nothing to remove in {stage.bin}", done.stdout)


class Signatures(InstallTest):
    """With a program that stands for gh: what is asked of it, and what becomes of its answer."""

    @staticmethod
    def gh(stage, answer):
        stage.fake("gh", f"""case $* in
            'attestation verify --help') echo '      --signer-workflow string' ;;
            'attestation verify '*) printf '%s\\n' "$*" >>'{stage.folder}/asked'; {answer} ;;
        esac""")
        (stage.folder / "asked").touch()
        (stage.folder / "asked").chmod(0o666)

    @every_shell
    def test_a_signature_that_is_right(self, stage):
        self.gh(stage, "exit 0")
        stage.server.files[f"download/{LATEST}/attestation.json"] = b"{}"
        done = stage.run("--ice")
        self.assert_done(done)
        self.assertIn("the signature are right", done.stdout)
        asked = (stage.folder / "asked").read_text().splitlines()
        self.assertEqual(len(asked), 2)
        for line, program in zip(asked, ("tunnel-rs", "tunnel-rs-ice")):
            self.assertIn(f"{program}-{LATEST}-{TARGET}.tar.gz --bundle ", line)
            self.assertIn("--repo tunnel-rs/tunnel-rs --signer-workflow tunnel-rs/tunnel-rs/.github/workflows/", line)

    @every_shell
    def test_one_that_is_wrong_or_missing(self, stage):
        self.gh(stage, "echo 'no matching attestations' >&2; exit 1")
        self.assert_fails(stage.run(), "has no signature")
        stage.server.files[f"download/{LATEST}/attestation.json"] = b"{}"
        self.assert_fails(stage.run(), "could not be verified: no matching attestations")
        self.assert_installed(stage.bin)
        self.assert_clean(stage)
        self.assert_done(stage.run("--no-signature"))
        self.assert_installed(stage.bin, tunnel_rs=LATEST)

    @every_shell
    def test_a_gh_that_cannot_check_signatures_is_as_none(self, stage):
        stage.fake("gh", "exit 1")
        done = stage.run()
        self.assert_done(done)
        self.assertIn("The signature has not been checked", done.stdout)
