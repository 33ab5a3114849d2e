"""The commands of docs/TROUBLESHOOTING.md: they show what the page says that they show."""

from stage import ALONE, HERE, THERE, DocumentTest, fill, section

TROUBLESHOOTING = "docs/TROUBLESHOOTING.md"
SERVER = "--allowed-tcp 127.0.0.1/32 --auth-tokens-file token"
CLIENT = "tunnel-rs client --auth-token-file token -L 2222:127.0.0.1:22 --ticket"


class Logs(DocumentTest):
    @section(TROUBLESHOOTING, "Troubleshooting")
    def test_more_detail(self, found):
        server_log, client_log = found.take("RUST_LOG=error,iroh=off"), found.take("RUST_LOG=error,tunnel=info,iroh=debug")
        self.make_token()
        server, ticket = self.start_server(f"{server_log} tunnel-rs server {SERVER}")
        # What comes to nothing: a client with another token.
        (self.here.folder / "token").write_text(self.here.run("tunnel-rs generate-token"))
        client = self.here.start(f"{client_log} {CLIENT} {ticket}", ALONE)
        client.wait(" DEBUG endpoint")
        client.join(3)
        server.wait("the token is not accepted")
        # Where there is always something to be said at that level.
        self.nostr(server_log, server_log)

    @section(TROUBLESHOOTING, "tunnel-rs-ice")
    @section(TROUBLESHOOTING, "Nostr mode: the relays")
    @section(TROUBLESHOOTING, "The command line")
    def test_more_detail_of_the_other_program(self, log, log_of_relays, keys):
        make = keys.take("tunnel-rs-ice generate-nostr-key")
        self.nostr(log.take("RUST_LOG="), log_of_relays.take("RUST_LOG="), make)

    def nostr(self, server_log, client_log, make="tunnel-rs-ice generate-nostr-key --output FILE"):
        """A session in nostr mode, where both sides say more than usual: all that they say to each other."""
        variables = self.start_nostr_relay()
        server_key, client_key = (
            machine.run(fill(make, FILE="key")).split()[-1] for machine in (self.there, self.here))
        server = self.there.start(f"{server_log} tunnel-rs-ice server nostr --nsec-file key --peer-npub {client_key} "
                                  "--allowed-tcp 127.0.0.1/32", variables)
        server.wait("^Waiting for clients")
        client = self.here.start(f"{client_log} tunnel-rs-ice client nostr --nsec-file key --peer-npub {server_key} "
                                 "-L 2222:127.0.0.1:22", variables)
        for each in (client, server):
            each.wait(" DEBUG ")
            each.wait("session open")


class Questions(DocumentTest):
    @section(TROUBLESHOOTING, "What do you see?")
    def test_what_answers_most_questions(self, found):
        code = found.take("echo")
        said = self.there.run(f"set +e; tunnel-rs server; {code}")
        self.assertEqual(said.splitlines()[0], "2", said)

        self.make_token()
        self.there.run("tunnel-rs generate-server-key --output key")
        identity = self.there.run(fill(found.take("tunnel-rs show-server-id"), FILE="key"))
        health = "--health-addr 127.0.0.1:9090"
        server, ticket = self.start_server(f"tunnel-rs server {SERVER} --secret-file key {health}")
        self.assertIn(server.wait("^EndpointId: (.*)$")[1], identity)
        client = self.start_client(f"{CLIENT} {ticket} {health}")
        ask = found.take("curl http://127.0.0.1:9090/readyz")
        self.here.run_until(f"{ask} --silent", "^ok\n")
        # It has no relay, and was not told to have one.
        self.assertRegex(self.there.run(f"{ask} --silent"), "^(ok|no relay)")
        server.end()
        client.wait("session lost|session suspended|connection lost|session closed")
        self.here.run_until(ask, "no session with the server")

    @section(TROUBLESHOOTING, "The client runs and does not connect")
    def test_the_hard_limit(self, found):
        self.assertRegex(self.here.run(found.take("ulimit")), r"^(\d+|unlimited)\n$")

    @section(TROUBLESHOOTING, "The server")
    def test_a_secret_that_others_can_read(self, found):
        self.make_token()
        token = self.there.folder / "token"
        token.chmod(0o644)
        server, _ = self.start_server(f"tunnel-rs server {SERVER}")
        server.wait("token holds a secret and others can read it")
        server.end()
        self.there.run(fill(found.take("chmod"), FILE=token))
        server, _ = self.start_server(f"tunnel-rs server {SERVER}")
        server.end()
        self.assertNotIn("others can read it", server.all())

    @section(TROUBLESHOOTING, "The relay")
    def test_a_relay_that_is_within_reach(self, found):
        relay = self.there.start("tunnel-rs relay --public-url https://relay.example.org")
        relay.wait("^Waiting for clients")
        self.here.run(f"{fill(found.take('curl -k'), NAME='relay.example.org')} --fail")

    @section(TROUBLESHOOTING, "It stays on the relay")
    def test_the_families(self, found):
        look = found.take("ip address")
        for machine, address in ((self.here, HERE), (self.there, THERE)):
            self.assertIn(f"inet {address}/24", machine.run(look))


class Firewall(DocumentTest):
    @section(TROUBLESHOOTING, "Firewalls and blocked UDP")
    def test_a_port_is_opened(self, found):
        self.make_token()
        # As Debian's example has it.
        self.there.run("nft -f -", said="""
            table inet filter {
                chain input {
                    type filter hook input priority filter; policy drop;
                    iif lo accept
                    ct state established,related accept
                }
            }""")
        self.stack.callback(self.there.run, "nft delete table inet filter")
        server, ticket = self.start_server(fill(found.take("tunnel-rs server"), MORE=SERVER))
        look = self.there.start(found.take("sudo tcpdump"))
        look.wait("listening on any")
        client = self.here.start(f"{CLIENT} {ticket}", ALONE)
        # They come to the machine, and no further.
        look.wait(rf"In +IP {HERE}\.\d+ > {THERE}\.4433: UDP")
        client.wait("no session: ")
        self.assertNotIn("session open", server.all())
        self.there.run(found.take("sudo nft"))
        client.wait("INFO session open")
        self.assertIn("0.0.0.0:4433", self.there.run(found.take("ss ")))

    @section(TROUBLESHOOTING, "Packets of full size do not pass (MTU)")
    def test_what_is_too_large(self, found):
        full, small, service = (found.take(start) for start in ("ping -M do -s 1200", "ping -s 100", "ping -M do -s 1400"))
        full, small, service = fill(full, ADDRESS=THERE), fill(small, ADDRESS=THERE), fill(service, SERVICE=HERE)
        for machine, command in ((self.here, full), (self.there, service)):
            self.reaches(machine, command)
        self.stack.callback(self.here.run, "ip link set lan mtu 1500")
        self.here.run("ip link set lan mtu 1200")
        ping = self.here.start(full)
        ping.wait("message too long, mtu=1200")
        ping.end(code=1)
        self.reaches(self.here, small)

    def reaches(self, machine, command):
        ping = machine.start(command)
        ping.wait("bytes from")
        ping.end()
