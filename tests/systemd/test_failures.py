"""What is refused, what has failed, and what is left behind: nothing."""

from stage import CLIENT, FOLDER, SERVER, ServiceTest

UNIT = f"/etc/systemd/system/{SERVER}.service"


class Failures(ServiceTest):
    def files(self, machine):
        """All that was ever written on the machine, but for logs, what useradd does, and the configuration."""
        skipped = ("var/lib/systemd", "var/cache", "etc/tunnel-rs", "etc/.pwd.lock", "usr/local/bin")
        users = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
        found = set()
        for path in (machine.folder / "changed").rglob("*"):
            name = str(path.relative_to(machine.folder / "changed"))
            if not name.startswith(skipped) and name.rstrip("-") not in [f"etc/{user}" for user in users]:
                found.add(name)
        return found

    def units(self, machine):
        loaded = machine.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "tunnel-rs*")
        # Its code is 1 where there is none.
        return loaded + machine.try_run("systemctl", "list-unit-files", "--no-legend", "tunnel-rs*").stdout

    def test_a_wrong_configuration(self):
        machine = self.machine()
        install = ["tunnel-rs", "service", "install", "server", "--config", f"{FOLDER}/server.toml"]
        before = self.files(machine)
        self.write_server(machine, 'drain_timeout = "never"\n')
        self.assertIn("nothing was installed", machine.run(*install, code=2))
        self.write_server(machine)
        self.assertIn("there is no user tunnel-rs", machine.run(*install, code=1))
        self.make_user(machine)
        machine.run("chown", "root", f"{FOLDER}/tokens")
        self.assertIn("chown tunnel-rs FILE", machine.run(*install, code=1))
        machine.run("useradd", "--create-home", "somebody")
        machine.run("cp", "-r", FOLDER, "/home/somebody/configuration")
        hidden = [*install[:-1], "/home/somebody/configuration/server.toml"]
        self.assertIn("sees no home directories", machine.run(*hidden, code=1))
        self.assertEqual((self.files(machine), self.units(machine)), (before, ""))

    def test_one_that_has_become_wrong_is_not_started_again(self):
        machine = self.machine()
        self.start_server(machine)
        self.write_server(machine, "max_sessions = -1\n")
        machine.run("chown", "tunnel-rs", f"{FOLDER}/server.toml", f"{FOLDER}/tokens")
        machine.try_run("systemctl", "restart", SERVER)
        machine.wait(rf"{SERVER}.service: Failed with result 'exit-code'")
        self.assert_active(machine, SERVER, "failed")
        self.assertIn("Ended with code 2 (exit-code)", machine.run("tunnel-rs", "service", "status", "server", code=1))
        self.assertEqual(machine.show(SERVER, "NRestarts"), "0")
        # What has failed is not listed on.
        machine.run("tunnel-rs", "service", "uninstall", "server")
        self.assertEqual(self.units(machine), "")

    def test_a_client_that_asks_for_too_much(self):
        server, client = self.machine(), self.machine()
        ticket, tokens = self.start_server(server)
        self.write_client(client, f'ticket = "{ticket}"', tokens[0], [("tcp://10.99.1.2:22", "127.0.0.1:2222")])
        self.install(client, "client")
        client.wait(rf"{CLIENT}.service: Main process exited, code=exited, status=4")
        client.wait(rf"{CLIENT}.service: Failed with result 'exit-code'")
        self.assert_active(client, CLIENT, "failed")

    def test_nothing_is_left(self):
        machine = self.machine()
        before = self.files(machine)
        # As the document's second one, and twice: it is only written anew.
        self.start_server(machine)
        self.install(machine)
        self.write_server(machine, name="office")
        self.install(machine, "server", "--name", "office", config=f"{FOLDER}/office.toml")
        said = machine.run("tunnel-rs", "service", "status", "server", "--name", "office")
        self.assertIn(f"{SERVER}-office is active (running)", said)
        for more in ([], ["--name", "office"]):
            machine.run("tunnel-rs", "service", "uninstall", "server", *more)
            unit = "-".join([SERVER, *more[1:]])
            machine.wait(rf"{unit}.service: Deactivated successfully")
        self.assertEqual(self.files(machine), before)
        self.assertEqual(self.units(machine), "")
        self.assertTrue(machine.path(f"{FOLDER}/server.key").exists())

    def test_what_others_have_set_up_is_kept(self):
        machine = self.machine()
        self.write_server(machine)
        self.make_user(machine)
        install = ["tunnel-rs", "service", "install", "server", "--config", f"{FOLDER}/server.toml"]
        other = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
        for place in (UNIT, f"/usr/lib/systemd/system/{SERVER}.service"):
            machine.write(place, other)
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "start", SERVER)
            self.assertIn("not by 'service install'", machine.run(*install, code=1))
            self.assertIn("is active (running)", machine.run("tunnel-rs", "service", "status", "server"))
            self.assertIn("kept" if place == UNIT else "no service",
                          machine.run("tunnel-rs", "service", "uninstall", "server", code=1))
            self.assert_active(machine, SERVER, "active")
            self.assertEqual(machine.path(place).read_text(), other)
            machine.run("systemctl", "stop", SERVER)
            if place == UNIT:
                machine.path(place).unlink()
        # Masked, by the administrator.
        machine.run("systemctl", "mask", SERVER)
        machine.run(*install, code=1)
        machine.run("systemctl", "unmask", SERVER)
        machine.run(*install, "--force")
        machine.wait("EndpointId")
        machine.run("tunnel-rs", "service", "uninstall", "server")
        # And the one below is in force again.
        self.assertIn("/lib/systemd/system/", machine.show(SERVER, "FragmentPath"))
