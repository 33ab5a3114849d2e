"""tunnel-rs.exe as a client of a server on Linux."""

import contextlib
import random
import socket
import unittest

import stage
from stage import LAN, Program, Services, in_console, on_linux, on_windows, run, windows_path


class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = stage.folder()
        # PowerShell 5 writes what a program prints in this encoding.
        out, _ = run(on_windows("tunnel-rs", "generate-token"))
        cls.token = cls.folder / "token-of-powershell"
        cls.token.write_bytes(b"\xff\xfe" + f"{out.strip()} # mine\r\n".encode("utf-16-le"))
        tokens = cls.folder / "tokens"
        tokens.write_text(out)
        tokens.chmod(0o600)
        with contextlib.ExitStack() as stack:
            start = lambda *arguments: stack.enter_context(contextlib.closing(Program(on_linux(*arguments))))
            cls.services = stack.enter_context(contextlib.closing(Services()))
            relay = start("tunnel-rs", "relay", "--listen", f"{LAN}:0", "--state-dir", cls.folder / "relay")
            flags = relay.wait_value("Flags: ").split()
            loopback = [f"--allowed-{protocol}=127.0.0.0/8" for protocol in ("tcp", "udp")]
            cls.server = start("tunnel-rs", "server", "--auth-tokens-file", tokens, *loopback, *flags)
            cls.ticket = cls.server.wait_value("Ticket: ")
            cls.addClassCleanup(stack.pop_all().close)

    def client(self, config):
        """A client by a configuration file, with the line ends of Windows."""
        path = stage.folder() / "client.toml"
        token = windows_path(self.token)
        text = f"""
            role = "client"
            [iroh]
            ticket = "{self.ticket}"
            auth_token_file = '{token}'
            {config}
        """
        path.write_bytes(text.replace("\n", "\r\n").encode())
        client = Program(in_console("tunnel-rs", "client", "--config", windows_path(path)))
        self.addCleanup(client.close)
        return client

    def test_it_carries_tcp_and_udp_and_ends_on_ctrl_c(self):
        client = self.client(f"""
            request_source = "tcp://127.0.0.1:{self.services.tcp_port}"
            target = "127.0.0.1:0"
            [[iroh.tunnels]]
            source = "udp://127.0.0.1:{self.services.udp_port}"
            target = "127.0.0.1:0"
        """)
        tcp, udp = client.targets(2)
        client.wait_line("session open")
        with self.subTest("TCP, several connections, both directions"):
            for seed in range(3):
                self.assertTrue(stage.carries_tcp(tcp, seed))
        with self.subTest("UDP of all sizes"):
            for size, count in ((0, 1), (32, 50), (1200, 50), (20_000, 5), (65_507, 2)):
                stage.exchange_udp(udp, size, count)
        with self.subTest("UDP after a peer that is gone"):
            # What comes back for it meets a closed port, whose refusal is on the listener's socket.
            for _ in range(5):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
                    gone.sendto(b"x" * 100, udp)
            stage.exchange_udp(udp, 100)
        with self.subTest("a reset is passed on"):
            with stage.connect(tcp) as reset, self.assertRaises(ConnectionResetError):
                stage.ask(reset, b"reset")
        with self.subTest("a reset after the end of one half is noticed"):
            with stage.connect(tcp) as half:
                half.sendall(b"hold")
                half.shutdown(socket.SHUT_WR)
                self.assertTrue(self.services.held.wait(stage.SOON))
                # A linger time of zero: the close is a reset (socket(7)).
                half.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.wait_line(f"closed: tcp://127.0.0.1:{self.services.tcp_port}, reset", 2)
        with self.subTest("Ctrl-C while a connection is open"), stage.connect(tcp) as left:
            left.sendall(b"half of a request")
            client.wait_line("open: tcp://", 6)
            client.press_ctrl_c()
            self.assertEqual(client.wait(), 0)
            client.wait_line("ending; a second signal ends at once")
            # Not as if the service had said all.
            with self.assertRaises(ConnectionResetError):
                stage.read_all(left)
            self.server.wait_line("session closed")
            stage.wait_refused(tcp)

    def test_curl_gets_a_file_of_a_web_server(self):
        folder = stage.folder()
        data = random.Random(0).randbytes(stage.BULK)
        (folder / "file").write_bytes(data)
        serve = ["python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
        web = Program([*map(str, serve)])
        self.addCleanup(web.close)
        port = web.wait_value("Serving HTTP on 127.0.0.1 port ").split()[0]
        client = self.client(f"""
            request_source = "tcp://127.0.0.1:{port}"
            target = "127.0.0.1:0"
        """)
        [(host, port)] = client.targets(1)
        client.wait_line("session open")
        run(["curl", "--fail", "--silent", "--output", str(folder / "got"), f"http://{host}:{port}/file"])
        self.assertEqual((folder / "got").read_bytes(), data)
        client.press_ctrl_c()
        self.assertEqual(client.wait(), 0)

    def test_every_address_is_those_of_both_families(self):
        client = self.client(f"""
            local_forward = ["[::]:0:127.0.0.1:{self.services.tcp_port}", "[::]:0:127.0.0.1:{self.services.udp_port}/udp"]
        """)
        (_, tcp), (_, udp) = client.targets(2)
        client.wait_line("session open")
        for host in ("127.0.0.1", "::1", LAN):
            with self.subTest(host):
                self.assertTrue(stage.carries_tcp((host, tcp), size=1000))
                stage.exchange_udp((host, udp), 100)
        client.press_ctrl_c()
        self.assertEqual(client.wait(), 0)

    def test_a_taken_port_and_a_wrong_token_are_said(self):
        port = self.services.tcp_port
        forward = ["--source", f"tcp://127.0.0.1:{port}", "--target"]
        token = ["--auth-token-file", windows_path(self.token)]
        command = on_windows("tunnel-rs", "client", "--ticket", self.ticket, *token, *forward, f"127.0.0.1:{port}")
        _, err = run(command, code=1)
        self.assertIn(f"cannot listen on 127.0.0.1:{port}", err)
        wrong = stage.folder() / "token"
        wrong.write_text(run(on_linux("tunnel-rs", "generate-token"))[0])
        token[1] = windows_path(wrong)
        command = on_windows("tunnel-rs", "client", "--ticket", self.ticket, *token, *forward, "127.0.0.1:0")
        _, err = run(command, code=3)
        self.assertIn("refused", err)


class Server(unittest.TestCase):
    def test_a_token_that_is_taken_back_is_cut_at_once(self):
        """tunnel-rs.exe as a server: it reads its rules again when their file changes."""
        folder = stage.folder()
        tokens = folder / "tokens"
        out, _ = run(on_linux("tunnel-rs", "generate-token", "--count", "2"))
        first, second = out.split()
        tokens.write_bytes(f"{first}\r\n{second} # kept\r\n".encode())
        token = folder / "token"
        token.write_text(first)
        token.chmod(0o600)
        services = Services()
        self.addCleanup(services.close)
        loopback = [f"--allowed-{protocol}=127.0.0.0/8" for protocol in ("tcp", "udp")]
        server = Program(in_console(
            "tunnel-rs", "server", "--auth-tokens-file", windows_path(tokens), *loopback,
            # Nobody is there; the ticket has this machine's own addresses.
            "--relay-url", "https://127.0.0.1:9", "--relay-ca", f"sha256:{'0' * 64}",
        ))
        self.addCleanup(server.close)
        ticket = server.wait_value("Ticket: ")
        client = Program(on_linux(
            "tunnel-rs", "client", "--ticket", ticket, "--auth-token-file", token,
            "-L", f"127.0.0.1:0:127.0.0.1:{services.tcp_port}", "-L", f"127.0.0.1:0:127.0.0.1:{services.udp_port}/udp",
        ))
        self.addCleanup(client.close)
        tcp, udp = client.targets(2)
        client.wait_line("session open")
        self.assertTrue(stage.carries_tcp(tcp, size=100_000))
        stage.exchange_udp(udp, 1200, 20)
        with stage.connect(tcp) as open_still:
            open_still.sendall(b"half of a request")
            server.wait_line("open: tcp://", 2)
            tokens.write_bytes(f"{second} # kept\r\n".encode())
            server.wait_line("rules read again: 1 tokens")
            with self.assertRaises(ConnectionResetError):
                stage.read_all(open_still)
        self.assertEqual(client.wait(), 3)
        server.press_ctrl_c()
        self.assertEqual(server.wait(), 0)
