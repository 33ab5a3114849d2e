"""Both programs as services of Wine's service control manager."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time
import unittest

import stage
from stage import LAN, Program, Services, on_linux, on_windows, run, windows_path

LOGS = pathlib.Path(os.environ["WINEPREFIX"]) / "drive_c/windows/system32/LogFiles/tunnel-rs"


def service(program, *arguments, code=0):
    return run(on_windows(program, "service", *arguments), code)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.services = Services()
        cls.addClassCleanup(cls.services.close)
        cls.token = run(on_linux("tunnel-rs", "generate-token"))[0]

    def start(self, command):
        program = Program(command)
        self.addCleanup(program.close)
        return program

    def config(self, text):
        path = stage.folder() / "a config.toml"
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        return path

    def log(self, name):
        """The lines of a service's log, as they come."""
        return self.start(["tail", "-F", "-n", "+1", LOGS / name / f"{name}.log"])

    def install(self, program, *arguments):
        """Sets a service up, for the time of the test."""

        def undo():
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                service(program, "uninstall", *(arguments[:1] + arguments[3:]))

        self.addCleanup(undo)
        return service(program, "install", *arguments)[0]

    def query(self, name, code=0):
        return run(["wine", "sc", "query", name], code)[0]

    def wait_stopped(self, name):
        """The manager learns of a service's end a moment later than the log."""
        end = time.monotonic() + stage.SOON
        while not re.search(r"STATE *: 1 +STOPPED", said := self.query(name)):
            self.assertLess(time.monotonic(), end, said)

    def wait_removed(self, name):
        """One that is removed is there until its process has ended."""
        end = time.monotonic() + stage.SOON
        while True:
            with contextlib.suppress(AssertionError):
                return self.query(name, code=1)
            self.assertLess(time.monotonic(), end, name)

    def server(self, more=""):
        """A server's configuration, and what it is by then."""
        tokens = stage.folder() / "tokens"
        tokens.write_text(self.token)
        return self.config(f"""
            role = "server"
            [iroh]
            auth_tokens_file = '{windows_path(tokens)}'
            allowed_tcp = ["127.0.0.0/8"]
            # Nobody is there; the ticket has this machine's own addresses.
            relay_urls = ["https://127.0.0.1:9"]
            relay_ca = "sha256:{"0" * 64}"
            {more}
        """)

    def client(self, ticket):
        token = stage.folder() / "token"
        token.write_text(self.token)
        token.chmod(0o600)
        client = self.start(on_linux(
            "tunnel-rs", "client", "--ticket", ticket, "--auth-token-file", token,
            "-L", f"127.0.0.1:0:127.0.0.1:{self.services.tcp_port}",
        ))
        client.wait_line("session open")
        return client, client.targets(1)[0]


class Server(Case):
    def test_it_is_set_up_serves_drains_and_is_removed(self):
        config = self.server("drain_timeout = 600")
        out = self.install("tunnel-rs", "server", "--config", windows_path(config))
        self.assertIn("Installed and started tunnel-rs-server: ", out)
        self.assertIn(r"as user NT SERVICE\tunnel-rs-server", out)
        log = self.log("tunnel-rs-server")
        process = log.wait_line("service tunnel-rs-server begins, process ").split()[-1]
        ticket = log.wait_value("Ticket: ")
        with self.subTest("a client of Linux reaches what it serves"):
            client, target = self.client(ticket)
            self.assertTrue(stage.carries_tcp(target, size=100_000))
        with self.subTest("status"):
            out, _ = service("tunnel-rs", "status", "server")
            self.assertRegex(out, rf"^tunnel-rs-server is running since \S+Z, process {process}\b")
            self.assertIn("Started at boot: yes", out)
            self.assertIn(r"Account: NT SERVICE\tunnel-rs-server", out)
            self.assertIn("  EndpointId: ", out)
            self.assertRegex(self.query("tunnel-rs-server"), r"STATE *: 4 +RUNNING")
        with self.subTest("a wrong configuration changes nothing"):
            wrong = windows_path(self.config('role = "server"\n[iroh]\nsurprise = 1\n'))
            _, err = service("tunnel-rs", "install", "server", "--config", wrong, code=2)
            self.assertIn("line 3: unknown field `surprise`", err)
            self.assertIn("nothing was installed", err)
            self.assertIn(f"process {process}", service("tunnel-rs", "status", "server")[0])
        with self.subTest("it drains when it is stopped"), stage.connect(target) as left:
            left.sendall(b"half of a request")
            log.wait_line("open: tcp://", 2)
            run(["wine", "sc", "stop", "tunnel-rs-server"])
            log.wait_line("draining for up to 600 s")
            self.assertRegex(self.query("tunnel-rs-server"), r"STATE *: 3 +STOP")
            _, err = service("tunnel-rs", "status", "server", code=1)
            self.assertIn("does not run", err)
            left.shutdown(1)
            stage.read_all(left)
        log.wait_line("service tunnel-rs-server has ended with code 0")
        client.wait_line("session closed")
        self.wait_stopped("tunnel-rs-server")
        out, _ = service("tunnel-rs", "status", "server", code=1)
        self.assertRegex(out, "^tunnel-rs-server is stopped: it has ended in order")
        with self.subTest("the same again, by another configuration"):
            self.install("tunnel-rs", "server", "--config", windows_path(self.server()))
            log.wait_line("service tunnel-rs-server begins", 2)
            log.wait_line("Ticket: ", 2)
        with self.subTest("removed"):
            out, _ = service("tunnel-rs", "uninstall", "server")
            self.assertIn("Stopped tunnel-rs-server, and removed the service tunnel-rs-server", out)
            log.wait_line("service tunnel-rs-server has ended with code 0", 2)
            self.wait_removed("tunnel-rs-server")
            _, err = service("tunnel-rs", "status", "server", code=1)
            self.assertIn("there is no service tunnel-rs-server", err)
            self.assertTrue((LOGS / "tunnel-rs-server/tunnel-rs-server.log").exists())

    def test_what_cannot_be_is_refused_and_leaves_nothing(self):
        name = "tunnel-rs-server-refused"
        config = windows_path(self.server())
        wrong = windows_path(self.config('role = "server"\n[iroh]\n'))
        install = ["install", "server", "--name", "refused", "--config"]
        for arguments, code, said in [
            ([*install, wrong], 2, "nothing was installed"),
            ([*install, config, "--user"], 2, "Windows has no services of one user"),
            ([*install, config, "--run-as", "me"], 2, "would need a password"),
            (["uninstall", "server", "--name", "refused"], 1, "there is no service"),
            (["run", "server", "--config", config, "--log", "C:\\x.log"], 2, "is what Windows starts a service by"),
        ]:
            with self.subTest(" ".join(arguments)):
                _, err = service("tunnel-rs", *arguments, code=code)
                self.assertIn(said, err)
                self.query(name, code=1)
                self.assertFalse((LOGS / name).exists())

    def test_somebody_elses_is_kept(self):
        name = "tunnel-rs-server-taken"
        run(["wine", "sc", "create", name, "binpath=", r"C:\windows\system32\notepad.exe"])
        which = ["server", "--name", "taken"]
        config = ["--config", windows_path(self.server())]
        self.addCleanup(run, ["wine", "sc", "delete", name])
        _, err = service("tunnel-rs", "install", *which, *config, code=1)
        self.assertIn(f"the service {name} is there already", err)
        _, err = service("tunnel-rs", "uninstall", *which, code=1)
        self.assertIn("is kept", err)
        self.assertIn("notepad.exe", service("tunnel-rs", "status", *which, code=1)[0])


class Client(Case):
    def serve(self):
        tokens = stage.folder() / "tokens"
        tokens.write_text(self.token)
        tokens.chmod(0o600)
        relay = self.start(on_linux("tunnel-rs", "relay", "--listen", f"{LAN}:0", "--state-dir", stage.folder()))
        flags = relay.wait_value("Flags: ").split()
        server = self.start(on_linux(
            "tunnel-rs", "server", "--auth-tokens-file", tokens, "--allowed-tcp=127.0.0.0/8", *flags,
        ))
        return server, server.wait_value("Ticket: ")

    def config_of(self, ticket, token, target="127.0.0.1:0"):
        path = stage.folder() / "token"
        path.write_text(token)
        return windows_path(self.config(f"""
            role = "client"
            [iroh]
            ticket = "{ticket}"
            auth_token_file = '{windows_path(path)}'
            request_source = "tcp://127.0.0.1:{self.services.tcp_port}"
            target = "{target}"
        """))

    def test_it_carries_and_what_lasts_is_told_from_what_passes(self):
        server, ticket = self.serve()
        with self.subTest("it carries"):
            self.install("tunnel-rs", "client", "--config", self.config_of(ticket, self.token))
            log = self.log("tunnel-rs-client")
            target = log.targets(1)[0]
            log.wait_line("session open")
            self.assertTrue(stage.carries_tcp(target, size=100_000))
            service("tunnel-rs", "uninstall", "client")
            log.wait_line("service tunnel-rs-client has ended with code 0")
            stage.wait_refused(target)
        with self.subTest("a refused token lasts"):
            wrong = run(on_linux("tunnel-rs", "generate-token"))[0]
            name = ["--name", "refused"]
            # One that has ended before the installation looks has not come to run.
            server.process.send_signal(signal.SIGSTOP)
            self.install("tunnel-rs", "client", "--config", self.config_of(ticket, wrong), *name)
            server.process.send_signal(signal.SIGCONT)
            self.log("tunnel-rs-client-refused").wait_line("has ended with code 3")
            self.wait_stopped("tunnel-rs-client-refused")
            out, _ = service("tunnel-rs", "status", "client", *name, code=1)
            self.assertRegex(out, "^tunnel-rs-client-refused is stopped: it has ended with code 3")
        with self.subTest("a taken port may be free later"):
            name = ["--name", "taken"]
            taken = f"127.0.0.1:{self.services.tcp_port}"
            # It may be over before the manager has heard that it runs.
            with contextlib.suppress(AssertionError):
                self.install("tunnel-rs", "client", "--config", self.config_of(ticket, self.token, taken), *name)
            log = self.log("tunnel-rs-client-taken")
            log.wait_line(f"cannot listen on {taken}")
            # Windows takes an end without this word for a crash.
            self.assertFalse([line for line in log.lines if "has ended with" in line])


class Ice(Case):
    def test_nostr_mode(self):
        (server_nsec, server_npub), (client_nsec, client_npub) = stage.nostr_keys()
        relay = self.start(on_linux("lab-nostr-relay", "--listen", LAN, "--port", "7778"))
        relay.wait_line("Listening: ")
        manual = windows_path(self.config('role = "server"\nmode = "manual"\n'))
        _, err = service("tunnel-rs-ice", "install", "server", "--config", manual, code=2)
        self.assertIn('a service needs mode = "nostr"', err)
        config = self.config(f"""
            role = "server"
            mode = "nostr"
            [nostr]
            # Nobody is there.
            stun_servers = ["127.0.0.1:9"]
            relays = ["ws://{LAN}:7778"]
            nsec_file = '{windows_path(server_nsec)}'
            peer_npub = "{client_npub}"
            allowed_tcp = ["127.0.0.0/8"]
        """)
        self.install("tunnel-rs-ice", "server", "--config", windows_path(config))
        log = self.log("tunnel-rs-ice-server")
        log.wait_line("Waiting for clients")
        client = self.start(on_linux(
            "tunnel-rs-ice", "client", "nostr", "--no-stun", "--relay", f"ws://{LAN}:7778", "--nsec-file", client_nsec,
            "--peer-npub", server_npub, "--source", f"tcp://127.0.0.1:{self.services.tcp_port}", "--target", "127.0.0.1:0",
        ))
        client.wait_line("session open")
        self.assertTrue(stage.carries_tcp(client.targets(1)[0], size=100_000))
        self.assertIn("is running since", service("tunnel-rs-ice", "status", "server")[0])
        service("tunnel-rs-ice", "uninstall", "server")
        log.wait_line("service tunnel-rs-ice-server has ended with code 0")
