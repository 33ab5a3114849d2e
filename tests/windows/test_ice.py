"""tunnel-rs-ice.exe as a client of a server on Linux."""

import unittest

import stage
from stage import LAN, Program, Services, in_console, on_linux, windows_path

ALLOWED = [f"--allowed-{protocol}=127.0.0.0/8" for protocol in ("tcp", "udp")]


class Client(unittest.TestCase):
    def setUp(self):
        self.services = Services()
        self.addCleanup(self.services.close)
        self.forwards = []
        for protocol, port in (("tcp", self.services.tcp_port), ("udp", self.services.udp_port)):
            self.forwards += ["--source", f"{protocol}://127.0.0.1:{port}", "--target", "127.0.0.1:0"]

    def start(self, command):
        program = Program(command)
        self.addCleanup(program.close)
        return program

    def check(self, client):
        """Traffic both ways, and the end."""
        tcp, udp = client.targets(2)
        client.wait_line("session open")
        self.assertTrue(stage.carries_tcp(tcp))
        stage.exchange_udp(udp, 1200, 50)
        stage.exchange_udp(udp, 20_000, 5)
        client.press_ctrl_c()
        self.assertEqual(client.wait(), 0)
        stage.wait_refused(tcp)

    def test_manual_mode_with_files(self):
        folder = stage.folder()
        offer, answer = folder / "offer.txt", folder / "answer.txt"
        manual = ["manual", "--no-stun"]
        files = ["--offer-file", windows_path(offer), "--answer-file", windows_path(answer)]
        client = self.start(in_console("tunnel-rs-ice", "client", *manual, *files, *self.forwards))
        out = folder / "answer.part"
        server = self.start(on_linux(
            "tunnel-rs-ice", "server", *manual, *ALLOWED, "--offer-file", offer, "--answer-file", out,
        ))
        server.wait_line("give this answer to the client")
        # As Notepad saves it.
        out.write_bytes(b"\xff\xfe" + out.read_text().replace("\n", "\r\n").encode("utf-16-le"))
        out.rename(answer)
        self.assertEqual(client.wait_value("Code: "), server.wait_value("Code: "))
        self.check(client)
        self.assertEqual(server.wait(), 0)

    def test_nostr_mode(self):
        (client_nsec, client_npub), (server_nsec, server_npub) = stage.nostr_keys()
        relay = self.start(on_linux("lab-nostr-relay", "--listen", LAN, "--port", "7777"))
        relay.wait_line("Listening: ")
        nostr = ["nostr", "--no-stun", "--relay", f"ws://{LAN}:7777"]
        server = self.start(on_linux(
            "tunnel-rs-ice", "server", *nostr, *ALLOWED, "--nsec-file", server_nsec, "--peer-npub", client_npub,
        ))
        server.wait_line("Waiting for clients")
        client = self.start(in_console(
            "tunnel-rs-ice", "client", *nostr, "--nsec-file", windows_path(client_nsec), "--peer-npub", server_npub,
            *self.forwards,
        ))
        self.check(client)
        server.wait_line("session closed")
        self.assertEqual(server.terminate(), 0)
