"""The commands of docs/INSTALL.md that no other test runs."""

import datetime
import re

from commands import ROOT
from stage import ALONE, DocumentTest, fill, section

INSTALL = "docs/INSTALL.md"
# Where a clone comes from, instead of the place that the page names. The checkout may be somebody else's.
GIT = f"""
[url "{ROOT}"]
    insteadOf = https://github.com/tunnel-rs/tunnel-rs
[safe]
    directory = *
"""


class Install(DocumentTest):
    @section(INSTALL, "Windows")
    def test_a_token(self, found):
        self.there.run(found.take("tunnel-rs generate-token"))
        self.assertRegex((self.there.folder / "tokens").read_text(), r"^i\S{17}\n$")

    @section(INSTALL, "Completions and manual pages")
    def test_completions_and_manual_pages(self, found):
        machine, home = self.here, self.here.home
        machine.run(found.take("mkdir"))
        machine.run(found.take("tunnel-rs completions bash"))
        # bash-completion looks for the program's name there.
        file = home / ".local/share/bash-completion/completions/tunnel-rs"
        self.assertIn("-F ", machine.run(f"bash -c '. {file}; complete -p tunnel-rs'"))
        machine.run(fill(found.take("tunnel-rs completions zsh"), FOLDER="."))
        self.assertTrue((machine.folder / "_tunnel-rs").read_text().startswith("#compdef tunnel-rs\n"))
        machine.run(found.take("tunnel-rs completions fish"))
        self.assertIn("complete -c tunnel-rs", (home / ".config/fish/completions/tunnel-rs.fish").read_text())
        profile = machine.folder / "profile.ps1"
        machine.run(found.take("tunnel-rs completions powershell"), {"PROFILE": str(profile)})
        self.assertIn("Register-ArgumentCompleter -Native -CommandName 'tunnel-rs'", profile.read_text())
        machine.run(found.take("tunnel-rs man-pages"))
        pages = {page.name for page in (home / ".local/share/man/man1").iterdir()}
        self.assertLessEqual({"tunnel-rs.1", "tunnel-rs-server.1", "tunnel-rs-client.1"}, pages)

    @section(INSTALL, "As a service")
    def test_a_configuration_is_checked(self, found):
        self.make_token()
        config = self.there.folder / "server.toml"
        config.write_text('[iroh]\nauth_tokens_file = "token"\nallowed_tcp = ["127.0.0.1/32"]\n')
        check = fill(found.take("tunnel-rs service check"), FILE=config)
        self.there.run(check)
        server, _ = self.start_server(fill(found.take("tunnel-rs server"), FILE=config), ALONE)
        server.end()
        config.write_text("[iroh]\nallowed = []\n")
        self.there.run(check, code=2)

    @section(INSTALL, "From source")
    @section(INSTALL, "Making a release")
    def test_from_source_to_a_release(self, source, release):
        machine = self.here
        (machine.home / ".gitconfig").write_text(GIT)
        machine.run(source.take("git clone"))
        clone = machine.folder / "tunnel-rs"
        for program in ("tunnel-rs", "tunnel-rs-ice"):
            machine.run(source.take("cargo install"), cwd=clone)
            self.assertIn(program, machine.run(f"~/.cargo/bin/{program} --version"))
        machine.run(source.take("cargo uninstall"))
        self.assertEqual(list((machine.home / ".cargo/bin").iterdir()), [])

        # A release of the version that the page takes for an example, made of another one.
        update, check = release.take("cargo update"), release.take(".ci/release check")
        version = check.split()[-1].removeprefix("v")
        manifest, lock = clone / "Cargo.toml", clone / "Cargo.lock"
        # That of this checkout may have the version already.
        changelog = clone / "CHANGELOG.md"
        changelog.write_text("# Changelog\n\n## [Unreleased]\n\n- Something.\n")
        self.set_version(manifest, "0.0.1")
        machine.run(update, cwd=clone)
        self.assertIn('name = "tunnel-rs"\nversion = "0.0.1"', lock.read_text())
        machine.run(check, cwd=clone, code=1)
        self.set_version(manifest, version)
        machine.run(update, cwd=clone)
        self.assertIn(f'name = "tunnel-rs"\nversion = "{version}"', lock.read_text())
        machine.run(check, cwd=clone, code=1)
        heading = f"## [{version}] - {datetime.date.today()}"
        changelog.write_text(changelog.read_text().replace("## [Unreleased]", heading, 1))
        machine.run(check, cwd=clone)

    @staticmethod
    def set_version(manifest, version):
        text, count = re.subn(r'^version = ".*"$', f'version = "{version}"', manifest.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        manifest.write_text(text)
