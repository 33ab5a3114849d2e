"""Releases as they lie on the web: archives by the release script, and the server that has them."""

import http.server
import json
import pathlib
import platform
import shutil
import subprocess
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = f"{platform.machine()}-unknown-linux-musl"
PROGRAMS = ("tunnel-rs", "tunnel-rs-ice")

OLD, LATEST, PRE = "v0.1.0", "v0.2.0", "v0.3.0-rc.10"

# As the list of releases has them; the order is that of their making, not of their versions.
LISTED = ("v0.2.0", "v0.3.0-rc.10", "v0.3.0-rc.9", "v0.1.1", "nightly", "v0.3.0-beta.11", "v0.1.0")


def release(*arguments, **options):
    """Runs the release script."""
    command = [ROOT / ".ci/release", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def make(work, binaries):
    """Makes the three releases. Their programs are the real ones, with the tag behind them to tell them apart."""
    for tag in (OLD, LATEST, PRE):
        folder = work / "binaries" / tag
        (folder / TARGET).mkdir(parents=True)
        for program in PROGRAMS:
            marked = folder / TARGET / program
            shutil.copy(binaries / program, marked)
            with marked.open("ab") as file:
                file.write(tag.encode())
        out = work / "releases" / tag
        done = release("package", tag, folder, out, TARGET)
        if done.returncode != 0:
            raise AssertionError(done.stderr)


def tag_of(program):
    """The tag behind an installed program, or nothing where there is no program."""
    if not program.exists():
        return None
    content = program.read_bytes()
    return next(tag for tag in (OLD, LATEST, PRE) if content.endswith(tag.encode()))


class Server:
    """A web server with releases, whose files a test can replace, hide, cut off or hold back."""

    def __init__(self, folder):
        self.files = {}
        self.hidden = set()
        self.cut = set()
        self.held = set()
        self.holding = threading.Event()
        self.let_go = threading.Event()
        self.folder = folder
        listed = [{"url": "u", "tag_name": tag, "body": 'x,"tag_name": "v9.9.9"'} for tag in LISTED]
        self.files["releases.json"] = json.dumps(listed, indent=1).encode()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/releases"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.let_go.set()
        self.http.shutdown()
        self.http.server_close()

    def read(self, path):
        """A file's content, or nothing if there is none."""
        if path in self.hidden:
            return None
        if path in self.files:
            return self.files[path]
        file = self.folder / path.removeprefix("download/")
        return file.read_bytes() if file.is_file() else None

    def _handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.removeprefix("/releases/")
                # As GitHub has it: a fixed address that leads to the latest stable release.
                if path.startswith("latest/download/") and path not in server.hidden:
                    self.send_response(302)
                    self.send_header("Location", self.path.replace("latest/download", f"download/{LATEST}"))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = server.read(path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                half = len(content) // 2 if path in server.cut | server.held else len(content)
                try:
                    self.wfile.write(content[:half])
                    if path in server.held:
                        server.holding.set()
                        server.let_go.wait()
                except OSError:
                    # A client that was ended, as a test wants it.
                    pass

            def log_message(self, *_):
                pass

        return Handler
