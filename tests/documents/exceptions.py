"""The commands that the tests of this folder do not run, and why."""

import dataclasses
import re

from commands import DOCUMENTS

README, INSTALL, CONTAINERS, TROUBLESHOOTING = DOCUMENTS


@dataclasses.dataclass(frozen=True)
class Entry:
    """Commands by their document and how they begin (a regular expression)."""

    document: str
    start: str
    # The test that runs them, or why none does.
    reason: str
    # How many there are, where that test takes certain lines and not whatever it finds.
    count: int | None = None

    def holds(self, command):
        return command.document == self.document and re.match(self.start, command.text) is not None


# Another test runs them, as it finds them in the document: FILE:CLASS.METHOD.
INSTALLERS = "tests/install/test_documents.py:Commands."
SERVICES = "tests/systemd/test_server.py:Documents.test_the_commands_of_install_do_what_they_say"
CONTAINER = "tests/containers/test_documents.py:Commands.test_they_make_the_image_and_the_secrets_that_the_files_ask_for"
ELSEWHERE = (
    Entry(README, r"curl .*/install\.sh \| ", f"{INSTALLERS}test_each_does_what_its_flags_say"),
    Entry(INSTALL, r"curl .*/install\.sh \| |wget -qO- URL \| ", f"{INSTALLERS}test_each_does_what_its_flags_say"),
    Entry(INSTALL, r"install\.sh ", f"{INSTALLERS}test_short_forms_are_of_commands_that_are_run"),
    Entry(INSTALL, "(sha256sum|gh) ", f"{INSTALLERS}test_what_is_downloaded_by_hand"),
    Entry(README, "tunnel-rs service install server --config FILE$",
          "tests/install/test_service.py:Documents.test_the_commands_do_what_they_say", 1),
    Entry(INSTALL, r"(sudo )?tunnel-rs service (install|status|uninstall) server(?!.*\$dir)|"
          "sudo (useradd|chown|chmod|systemctl reload) ", SERVICES, 8),
    Entry(INSTALL, "journalctl ", SERVICES, 1),
    Entry(INSTALL, "loginctl ", "tests/systemd/test_others.py:OfAUser.test_it_comes_and_goes", 1),
    Entry(INSTALL, "sudo (cp systemd/|systemctl daemon-reload|systemctl enable)|"
          "TUNNEL_RS_AUTH_TOKENS_FILE=/etc/tunnel-rs/tokens$", "tests/systemd/test_vpn.py:Vpn.test_both_sides", 4),
    Entry(INSTALL, r"\.ci/release$",
          "tests/install/test_release.py:Packages.test_each_program_has_an_archive_for_each_target", 1),
    Entry(INSTALL, r"\.ci/release profile$",
          "tests/install/test_release.py:Profiles.test_what_was_counted_is_what_the_programs_are_built_by", 1),
    Entry(CONTAINERS, "TUNNEL_RS_TICKET_FILE=/run/secrets/ticket$", "tests/documents/test_readme.py:Iroh.test_the_examples", 1),
    # All blocks but that of Compose, in one folder; and what is in running text.
    Entry(CONTAINERS, r"docker (run|build) |kubectl |\.ci/release |mkdir |tunnel-rs |\(umask 077; tunnel-rs ", CONTAINER),
    # That block.
    Entry(CONTAINERS, r"cd |\(umask 077; openssl |sudo chown |docker compose (up|logs) ",
          "tests/containers/test_compose.py:Up.test_a_client_reaches_both_services_by_name_and_not_the_host", 5),
    Entry(CONTAINERS, "sudo cp |docker compose restart ",
          "tests/containers/test_compose.py:Up.test_a_token_is_taken_back", 2),
)

# No test of ./test.sh runs these. docs/TESTING.md has the same list, for people.
THIS = "it runs this test"
POWERSHELL = "PowerShell, or a tool of Windows: neither is here, nor in Wine"
CANNOT = (
    Entry(README, r"\./test\.sh$", THIS),
    Entry(INSTALL, r"\.ci/run$", THIS),
    Entry(README, r"irm |& \(", POWERSHELL),
    Entry(INSTALL, r"irm |& \(|\$(dir|sid) = |New-Item |icacls |install\.ps1 |sc\.exe |(Get|Restart)-Service |"
          r"tunnel-rs service install server --config \$dir", POWERSHELL),
    Entry(TROUBLESHOOTING, r"install\.ps1 ", POWERSHELL),
    Entry(CONTAINERS, "podman unshare ", "it is for users who are not root, and the tests are root"),
    Entry(TROUBLESHOOTING, "sudo ufw allow 4433/udp$", "ufw is not among the packages of the tests"),
    Entry(TROUBLESHOOTING, "timedatectl( set-ntp true)?$", "the clock is the machine's, and no namespace has its own"),
)
