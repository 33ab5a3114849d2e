"""What a running service may do, as the kernel has it; and that all of its work is possible there."""

import contextlib
import re
import subprocess

from machine import SOON, WORK
from stage import CLIENT, FOLDER, SERVER, Echo, ServiceTest

# linux/netlink.h, as /proc/net/netlink has it; linux/rtnetlink.h
NETLINK_ROUTE = "0"
RTMGRP_IPV4_IFADDR = 0x10


class Sandbox(ServiceTest):
    def test_a_server_and_a_client(self):
        server, client, address = self.pair()
        self.carries(client, address)
        for machine, unit in ((server, SERVER), (client, CLIENT)):
            self.check(machine, unit)
            process = machine.show(unit, "MainPID")
            devices = self.as_it_is_there(machine, process, "ls /dev").stdout.split()
            self.assertIn("null", devices)
            self.assertEqual({"net", "console", "kmsg"} & set(devices), set())
        # What it reads is for nobody else.
        self.assertIn("-rw------- tunnel-rs", re.sub(r" \d+ ", " ", server.run("ls", "-l", f"{FOLDER}/tokens")))

    def test_it_is_found_on_the_link(self):
        """By mDNS alone: there is no ticket and no other discovery."""
        machine = self.machine()
        _, tokens = self.start_server(machine)
        identity = machine.wait("EndpointId: (.*)")[1]
        echo = self.stack.enter_context(contextlib.closing(Echo(machine)))
        folder = WORK / "outside"
        folder.mkdir()
        self.stack.callback(subprocess.run, ["rm", "-r", folder], check=True)
        (folder / "token").write_text(tokens[0])
        (folder / "token").chmod(0o600)
        client = subprocess.Popen(
            [WORK / "programs/usr/local/bin/tunnel-rs", "client", "-n", identity, "--auth-token-file", folder / "token",
             "-L", f"2222:127.0.0.1:{echo.tcp_port}"],
            env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with self.connect_here(("127.0.0.1", 2222)) as tcp:
                self.ask(tcp)
        finally:
            client.terminate()
            client.wait(SOON)

    def test_addresses_that_come(self):
        """Netlink tells the service of them; with its only address taken and another one given, it goes on."""
        server, client, address = self.pair('bind = "0.0.0.0:4433"\n')
        tcp = self.connect(client, address)
        self.assertTrue(self.is_told_of_addresses(client, client.show(CLIENT, "MainPID")))
        client.run("sh", "-euc", "ip address del 10.99.2.2/24 dev eth0; ip address add 10.99.2.77/24 dev eth0; "
                   "ip route replace default via 10.99.2.1")
        self.ask(tcp)
        server.wait(r"10\.99\.2\.77")

    def is_told_of_addresses(self, machine, process):
        """Whether a process has a socket to which the kernel sends changes of IPv4 addresses."""
        # What is closed while they are listed makes ls fail.
        mine = re.findall(r"socket:\[(\d+)\]", machine.try_run("ls", "-l", f"/proc/{process}/fd").stdout)
        sockets = [line.split() for line in machine.run("cat", "/proc/net/netlink").splitlines()[1:]]
        groups = [int(socket[3], 16) for socket in sockets if socket[1] == NETLINK_ROUTE and socket[-1] in mine]
        return any(group & RTMGRP_IPV4_IFADDR for group in groups)
