"""What is no server or client of the system: a relay, services of users, the other program."""

import contextlib

from machine import WORK, Lines
from stage import FOLDER, NET_BIND_SERVICE, SERVER, Echo, ServiceTest, documented, named

RELAY = "tunnel-rs-relay"
PROGRAMS = WORK / "programs/usr/local/bin"


class Relay(ServiceTest):
    def test_a_relay_and_all_that_needs_it(self):
        relay, server, client = self.machine(), self.machine(), self.machine()
        relay.write(f"{FOLDER}/relay.toml", 'role = "relay"\n[relay]\n')
        self.make_user(relay)
        line = next(line for line in documented("docs/SELF-HOSTING.md", "service install relay") if "install" in line)
        self.assertIn(f"Installed and started {RELAY}", relay.shell(line))
        self.assertEqual(relay.wait(r"Relay: (\S+)")[1], f"https://{relay.address}")
        pin = relay.wait(r"Pin: (\S+)")[1]
        relay.wait("Waiting for clients")
        self.check(relay, RELAY, NET_BIND_SERVICE, alone=False)
        self.assertEqual(relay.run("stat", "--format=%U %a", "/var/lib/tunnel-rs-relay").strip(), "tunnel-rs 700")
        # An id is all that the client has, and the server is on no link of its.
        own = f'relay_urls = ["https://{relay.address}"]\ndns_server = "https://{relay.address}/pkarr"\nrelay_ca = "{pin}"\n'
        _, tokens = self.start_server(server, own)
        echo = self.stack.enter_context(contextlib.closing(Echo(server)))
        identity = server.wait("EndpointId: (.*)")[1]
        address = self.start_client(client, f'server_node_id = "{identity}"', tokens[0], echo, own)
        self.carries(client, address)

        mark = relay.mark()
        relay.run("systemctl", "reload", RELAY)
        relay.run("systemctl", "restart", RELAY)
        self.assertEqual(relay.wait(r"Pin: (\S+)", mark)[1], pin)
        relay.run("tunnel-rs", "service", "uninstall", "relay")
        self.assertTrue(relay.path("/var/lib/tunnel-rs-relay/relay.key").exists())

    def test_a_network_that_is_late(self):
        relay = self.machine()
        for family in ("-4", "-6"):
            relay.run("ip", family, "route", "del", "default")
        relay.write(f"{FOLDER}/relay.toml", "[relay]\n")
        self.make_user(relay)
        self.install(relay, "relay")
        relay.wait("this machine has no address to give to others")
        relay.run("ip", "route", "add", "default", "via", "10.99.1.1")
        relay.wait(f"Relay: https://{relay.address}")
        self.assert_active(relay, RELAY, "active")


class OfAUser(ServiceTest):
    def test_it_comes_and_goes(self):
        machine = self.machine()
        machine.run("useradd", "--create-home", "--uid", "2001", "--user-group", "somebody")
        variables = ["HOME=/home/somebody", "XDG_RUNTIME_DIR=/run/user/2001"]
        mine = {"user": 2001, "variables": variables}
        machine.run("install", "-d", "-o", "somebody", "/home/somebody/tunnel")
        config = "/home/somebody/tunnel/server.toml"
        tokens = "/home/somebody/tunnel/tokens"
        machine.write(tokens, machine.run("tunnel-rs", "generate-token"), 0o600)
        machine.write(config, f'[iroh]\nauth_tokens_file = "{tokens}"\n', 0o600)
        machine.run("chown", "-R", "somebody", "/home/somebody")
        install = ["tunnel-rs", "service", "install", "server", "--user", "--config", config]
        # Nobody has logged in.
        said = machine.run(*install, code=1, **mine)
        self.assertIn("log in by ssh", said)
        self.assertFalse(machine.path("/home/somebody/.config/systemd/user/tunnel-rs-server.service").exists())
        # Without a name it is for who asks, which takes a session; root names the user.
        machine.run(*named("docs/INSTALL.md", "loginctl").split(), "somebody")
        machine.wait(r"Started user@2001\.service")
        self.assertIn(f"Installed and started {SERVER}", machine.run(*install, **mine))
        machine.wait("Waiting for clients")
        status = ["tunnel-rs", "service", "status", "server", "--user"]
        said = machine.run(*status, **mine)
        self.assertIn(f"{SERVER} is active (running)", said)
        # A log of the user's own.
        machine.mark()
        self.assertIn("Waiting for clients", machine.run(*status, **mine))
        # From boot on.
        machine.reboot()
        machine.wait("EndpointId")
        machine.run("tunnel-rs", "service", "uninstall", "server", "--user", **mine)
        machine.run(*status, code=1, **mine)
        left = machine.run("find", "/home/somebody/.config", "-type", "f")
        self.assertEqual(left, "")


class Ice(ServiceTest):
    def key(self, machine):
        machine.path(FOLDER).mkdir(exist_ok=True)
        return machine.run("tunnel-rs-ice", "generate-nostr-key", "--output", f"{FOLDER}/key.nsec").strip().splitlines()[-1]

    def test_both_sides_in_nostr_mode(self):
        server, client = self.machine(), self.machine()
        relay = Lines([PROGRAMS / "lab-nostr-relay", "--listen", "10.99.1.1", "--port", "7777"])
        self.stack.callback(relay.close)
        relay.wait("Listening: ")
        server_key, client_key = self.key(server), self.key(client)
        # No STUN server answers there.
        head = (f'mode = "nostr"\n[nostr]\nnsec_file = "{FOLDER}/key.nsec"\nrelays = ["ws://10.99.1.1:7777"]\n'
                'stun_servers = ["10.99.1.1:3478"]\n')
        echo = self.stack.enter_context(contextlib.closing(Echo(server)))
        server.write(f"{FOLDER}/server.toml", f'{head}peer_npub = ["{client_key}"]\nallowed_tcp = ["127.0.0.1/32"]\n'
                     'allowed_udp = ["127.0.0.1/32"]\n', 0o600)
        forwards = [f"2222:127.0.0.1:{echo.tcp_port}", f"2222:127.0.0.1:{echo.udp_port}/udp"]
        client.write(f"{FOLDER}/client.toml", f'{head}peer_npub = "{server_key}"\nlocal_forward = {forwards}\n', 0o600)
        for machine, role in ((server, "server"), (client, "client")):
            self.install(machine, role, program="tunnel-rs-ice")
        self.carries(client, ("127.0.0.1", 2222))
        for machine, role in ((server, "server"), (client, "client")):
            self.check(machine, f"tunnel-rs-ice-{role}")
            self.assertIn("is active (running)", machine.run("tunnel-rs-ice", "service", "status", role))
            machine.run("tunnel-rs-ice", "service", "uninstall", role)
            machine.run("tunnel-rs-ice", "service", "status", role, code=1)
