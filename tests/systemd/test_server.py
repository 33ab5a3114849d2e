"""A server and a client as services, from the commands of INSTALL.md to their end."""

import contextlib
import socket

from stage import CLIENT, FOLDER, SERVER, Echo, ServiceTest, documented, named

UNIT = f"/etc/systemd/system/{SERVER}.service"


class Documents(ServiceTest):
    def test_the_commands_of_install_do_what_they_say(self):
        machine = self.machine()
        tokens = self.write_server(machine)
        lines = documented("docs/INSTALL.md", "useradd")
        self.assertEqual(lines[-1], f"sudo tunnel-rs service install server --config {FOLDER}/server.toml")
        for line in lines:
            said = machine.shell(line)
        for text in (f"Installed and started {SERVER}", f"File: {UNIT}\n", f"Log: journalctl -u {SERVER}\n"):
            self.assertIn(text, said)
        identity = machine.wait("EndpointId: ([0-9a-f]{64})")[1]
        self.assertIn(identity, machine.run("tunnel-rs", "show-server-id", "--secret-file", f"{FOLDER}/server.key"))
        ticket = machine.wait(r"Ticket: (\S+)")[1]

        machine.wait("Waiting for clients")
        status, reload, uninstall = documented("docs/INSTALL.md", "systemctl reload")
        said = machine.shell(status)
        self.assertIn(f"{SERVER} is active (running) since ", said)
        self.assertIn(f"Process: {machine.show(SERVER, 'MainPID')}\n", said)
        self.assertIn("Started at boot: yes\n", said)
        self.assertIn(f"Unit: {UNIT}\n", said)
        self.assertRegex(said, r"Last lines:\n(  .*\n)*  \S+ \S+ tunnel-rs\[\d+\]: Waiting for clients")

        client = self.machine()
        echo = self.stack.enter_context(contextlib.closing(Echo(machine)))
        address = self.start_client(client, f'ticket = "{ticket}"', tokens[0], echo)
        self.carries(client, address)

        # Whoever may not read the log sees how it is.
        said = machine.run(*status.split(), user=65534)
        self.assertIn(f"{SERVER} is active (running) since ", said)
        self.assertIn("The log cannot be read: ", said)
        machine.shell(reload)
        machine.wait("rules read again: 1 tokens")
        self.assertIn("rules read again: 1 tokens", machine.shell(named("docs/INSTALL.md", "journalctl")))
        machine.shell(uninstall)
        self.assertEqual(machine.try_run(*status.split()).returncode, 1)
        self.assertIn(f"there is no service {SERVER}", machine.run(*status.split(), code=1))


class Life(ServiceTest):
    def test_a_token_that_is_taken_back(self):
        server, client, address = self.pair(tokens=2)
        tcp = self.connect(client, address)
        tokens = server.path(f"{FOLDER}/tokens")
        process = server.show(SERVER, "MainPID")
        tokens.write_text(tokens.read_text().splitlines()[1] + "\n")
        server.run("systemctl", "reload", SERVER)
        self.assert_cut(tcp)
        # A token that is refused will not be accepted by itself.
        client.wait(rf"{CLIENT}.service: Main process exited, code=exited, status=3")
        client.wait(rf"{CLIENT}.service: Failed with result 'exit-code'")
        self.assert_active(client, CLIENT, "failed")
        said = client.run("tunnel-rs", "service", "status", "client", code=1)
        self.assertIn(f"{CLIENT} is failed (failed) since", said)
        self.assertIn("Ended with code 3 (exit-code)", said)
        self.assertIn(f"{CLIENT} does not run", said)
        self.assertEqual(server.show(SERVER, "MainPID"), process)

    def test_a_stop_drains(self):
        server, client, address = self.pair("drain_timeout = 600\n")
        tcp = self.connect(client, address)
        server.run("systemctl", "stop", "--no-block", SERVER)
        server.wait("draining for up to")
        self.ask(tcp)
        self.assert_active(server, SERVER, "deactivating")
        tcp.shutdown(socket.SHUT_WR)
        self.assertEqual(tcp.recv(1), b"")
        server.wait("drained: no flow is open any more")
        server.wait(rf"{SERVER}.service: Deactivated successfully")
        self.assert_active(server, SERVER, "inactive")
        self.assertEqual(server.show(SERVER, "NRestarts"), "0")
        self.assertIn("is inactive (dead) since", server.run("tunnel-rs", "service", "status", "server", code=1))

    def test_a_killed_one_comes_back(self):
        # Nothing but its address tells the client here where it is.
        server, client, address = self.pair('bind = "0.0.0.0:4433"\n')
        self.carries(client, address)
        both = [(server, SERVER, server.mark()), (client, CLIENT, client.mark())]
        for machine, unit, _ in both:
            machine.run("systemctl", "kill", "--signal=SIGKILL", unit)
        for machine, unit, mark in both:
            machine.wait(rf"{unit}.service: Main process exited, code=killed, status=9/KILL", mark)
            machine.wait(rf"{unit}.service: Scheduled restart job, restart counter is at 1\.", mark)
        self.carries(client, address)
        self.assertIn("Restarts: 1\n", server.run("tunnel-rs", "service", "status", "server"))

    def test_it_starts_at_boot(self):
        machine = self.machine()
        self.start_server(machine)
        identity = machine.wait("EndpointId: (.*)")[1]
        machine.reboot()
        self.assertEqual(machine.wait("EndpointId: (.*)")[1], identity)
        self.assert_active(machine, SERVER, "active")
        machine.run("tunnel-rs", "service", "uninstall", "server")
        machine.reboot()
        machine.mark()
        self.assertNotIn("EndpointId", machine.all())
