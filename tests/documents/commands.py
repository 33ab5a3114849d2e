"""The commands of the documents, as they stand there."""

import dataclasses
import pathlib
import re
import shutil
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/INSTALL.md", "docs/CONTAINERS.md", "docs/TROUBLESHOOTING.md")

# Blocks that show something else than commands, by how they begin.
SHOWN = ("Forwarding tcp://", "Path: ", "ikAdvudu_ZxNXhNLCD")

# In running text a word of code is a command if it begins with one of these, or with a program that is installed here.
PROGRAMS = set("""
tunnel-rs tunnel-rs-ice install.sh install.ps1 cargo curl wget docker podman kubectl openssl ssh ping ss ip nft sudo journalctl
systemctl loginctl timedatectl chmod chown cp mkdir git gh sh sc.exe icacls ufw tcpdump ulimit echo cat
Get-Service Restart-Service irm
""".split())
# The same, where the name of the program is left out.
SUBCOMMANDS = ("generate-token", "generate-server-key", "show-server-id", "generate-nostr-key", "show-npub", "service", "vpn",
               "completions", "man-pages", "demo")
# And what only seems to be one.
MEANT_OTHERWISE = ("docker compose", "ssh -D", "chown 65532", "sh -s --", "kubectl logs",
                   "who may use the relay stays as it is: …")
# These have no arguments.
BARE = ("timedatectl",)
# Where Debian has its programs, so that it is the same everywhere what is one.
PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"

# A block, or the heading of a section.
PART = re.compile(r"^( *)```\w*\n(?P<block>.*?)^\1```$|^#+ (?P<heading>[^\n]*)$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(^|\s+)#(\s.*|$)")


@dataclasses.dataclass(frozen=True)
class Command:
    """What stands in a section of a document: a line of a block, or code in running text."""

    document: str
    section: str
    text: str
    inline: bool

    def __str__(self):
        return f"{self.document}, {self.section}: {self.text}"


def is_command(code):
    """Whether code in running text is a command, or a variable that is set for one."""
    words = code.split()
    if code in MEANT_OTHERWISE:
        return False
    if code in BARE or re.match(r"[A-Z_]+=\S", code) or words[0].startswith(("./", ".ci/")):
        return True
    return len(words) > 1 and bool(words[0] in PROGRAMS or words[0] in SUBCOMMANDS or shutil.which(words[0], path=PLACES))


def is_flags(text):
    """Whether it is a part of a command line."""
    return re.match(r"--?[A-Za-z]", text) is not None and not text.startswith("-----")


def lines(block):
    """The lines of a block, with those that go on in the next one as one."""
    for line in block.replace("\\\n", " ").splitlines():
        line = " ".join(COMMENT.sub("", line).split())
        if line:
            yield line


def read(document):
    """All code of a document: (section, text, whether it is in running text)."""
    text = (ROOT / document).read_text()
    section, place = "", 0
    parts = []
    for found in PART.finditer(text):
        parts.append((section, text[place:found.start()], True))
        place = found.end()
        if found["block"] is None:
            section = found["heading"]
        else:
            parts.append((section, textwrap.dedent(found["block"]), False))
    parts.append((section, text[place:], True))
    for section, part, inline in parts:
        if inline:
            for code in re.findall(r"`([^`]+)`", part):
                yield section, " ".join(code.replace("\\|", "|").split()), True
        elif not part.startswith(SHOWN):
            for line in lines(part):
                yield section, line, False


def blocks(document):
    """All blocks of a document."""
    found = [part["block"] for part in PART.finditer((ROOT / document).read_text())]
    return [textwrap.dedent(block) for block in found if block is not None]


def shown(document, start):
    """The lines of the block that begins so."""
    (found,) = [block for block in blocks(document) if block.startswith(start)]
    return found.splitlines()


def commands():
    """All of them, each once in a section."""
    found = [Command(document, *code) for document in DOCUMENTS for code in read(document)
             if not is_flags(code[1]) and (not code[2] or is_command(code[1]))]
    return list(dict.fromkeys(found))


def flags():
    """All parts of command lines."""
    found = [Command(document, *code) for document in DOCUMENTS for code in read(document) if is_flags(code[1])]
    return list(dict.fromkeys(found))
