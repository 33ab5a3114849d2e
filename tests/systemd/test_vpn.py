"""The units of the VPN, which are copied by hand: what they change on a machine, and that all of it is undone."""

import contextlib
import re
import socket

from machine import ROOT, SOON, call
from stage import FOLDER, NET_ADMIN, ServiceTest, documented

VPN_SERVER = "tunnel-rs-vpn-server"
VPN_CLIENT = "tunnel-rs-vpn-client"

# Behind the server, as clients of the VPN may reach it.
BEHIND = "10.50.0.9"


class Vpn(ServiceTest):
    def network(self, machine):
        """All that a VPN changes."""
        looks = ["ip -oneline address", "ip -4 route show table all", "ip -6 route show table all", "ip -4 rule", "ip -6 rule",
                 "nft list ruleset", "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra"]
        # What is left of a lifetime, and the order of what the kernel lists.
        texts = [re.sub(r"expires \d+sec|\\.*", "", machine.run(*look.split())) for look in looks]
        # What the cable has by itself comes when it comes.
        return [sorted(line for line in text.splitlines() if not re.search("fe80:|ff00:", line)) for text in texts]

    def start(self, machine, unit, variables):
        """As the document has it."""
        for file in (ROOT / "systemd").glob("*.service"):
            machine.write(f"/root/checkout/systemd/{file.name}", file.read_text())
        text = "".join(f"TUNNEL_RS_{name}={value}\n" for name, value in variables.items())
        machine.write(f"{FOLDER}/{unit.removeprefix('tunnel-rs-')}.env", text, 0o600)
        self.make_user(machine)
        before = self.network(machine)
        lines = documented("docs/INSTALL.md", f"systemctl enable --now {VPN_SERVER}")
        self.assertEqual(len(lines), 3)
        for line in lines:
            machine.shell("cd /root/checkout; " + line.replace(VPN_SERVER, unit))
        return before

    def ping(self, machine, *addresses):
        """ping itself waits for so many answers."""
        for address in addresses:
            machine.run("ping", "-c", "3", "-i", "0.2", "-w", str(SOON - 5), address)

    def test_both_sides(self):
        server, client = self.machine(), self.machine()
        token = self.write_server(server)[0]
        before = self.start(server, VPN_SERVER, {
            "AUTH_TOKENS_FILE": f"{FOLDER}/tokens", "SECRET_FILE": f"{FOLDER}/server.key", "BIND": "0.0.0.0:4433",
            "NETWORK": "10.9.0.0/24,fd12:3456::/64", "ALLOW_ROUTE": "10.50.0.0/24", "MASQUERADE": "true",
        })
        ticket = server.wait(r"Ticket: (\S+)")[1]
        client.write(f"{FOLDER}/token", token, 0o600)
        client_before = self.start(client, VPN_CLIENT, {
            "TICKET": ticket, "AUTH_TOKEN_FILE": f"{FOLDER}/token", "ROUTE": "10.50.0.0/24",
        })
        address = client.wait(r"VPN up on tun\d+: address (10\.9\.0\.\d+)")[1]
        self.ping(client, "10.9.0.1", "fd12:3456::1")
        self.ping(server, address)

        for machine, unit in ((server, VPN_SERVER), (client, VPN_CLIENT)):
            self.check(machine, unit, NET_ADMIN, alone=False)
        # Through the server, which forwards it, and with its address.
        call("ip", "address", "add", f"{BEHIND}/32", "dev", "lo")
        self.stack.callback(call, "ip", "address", "del", f"{BEHIND}/32", "dev", "lo")
        with socket.create_server((BEHIND, 0)) as service:
            tcp = client.inside(socket.create_connection, service.getsockname(), SOON)
            with tcp, contextlib.closing(service.accept()[0]) as other:
                self.assertEqual(other.getpeername()[0], server.address)

        # Killed, it comes back and so does the VPN.
        mark = server.mark()
        server.run("systemctl", "kill", "--signal=SIGKILL", VPN_SERVER)
        server.wait(rf"{VPN_SERVER}.service: Scheduled restart job", mark)
        server.wait("Waiting for clients", mark)
        self.ping(client, "10.9.0.1")

        for machine, unit, was in ((client, VPN_CLIENT, client_before), (server, VPN_SERVER, before)):
            machine.run("systemctl", "stop", unit)
            machine.wait(rf"{unit}.service: Deactivated successfully")
            self.assertEqual(self.network(machine), was)
