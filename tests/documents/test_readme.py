"""The commands of README.md."""

import re
import shutil
import signal
import socket

from commands import ROOT, shown
from stage import HERE, HOME, NO_STUN, SOON, THERE, DocumentTest, fill, section

README = "README.md"

# What a server may need besides the flags that a section is about, in place of its dots.
SERVER = "--allowed-tcp 127.0.0.1/32 --auth-tokens-file token"
CLIENT = "--auth-token-file token -L 2222:127.0.0.1:22"


class First(DocumentTest):
    @section(README, "Try it")
    def test_the_demo(self, found):
        said = self.here.run(found.take("cargo run"), cwd=ROOT)
        self.assertIn("X25519MLKEM768", said)

    @section(README, "Install")
    def test_from_source(self, found):
        for program in ("tunnel-rs", "tunnel-rs-ice"):
            self.here.run(found.take("cargo install"), cwd=ROOT)
            self.assertIn(program, self.here.run(f"~/.cargo/bin/{program} --version"))


class Iroh(DocumentTest):
    @section(README, "Quick start")
    def test_ssh_to_the_other_machine(self, found):
        self.there.run(found.take("(umask 077; tunnel-rs generate-token"))
        token = self.there.folder / "token"
        self.assertEqual(token.stat().st_mode & 0o777, 0o600)
        shutil.copy(token, self.here.folder)
        # Nobody answers at the public relays, which is said, and is no obstacle here.
        server, ticket = self.start_server(found.take("tunnel-rs server"), variables={})
        server.wait("WARN the public relays do not answer")
        client = self.start_client(fill(found.take("tunnel-rs client"), TICKET=ticket), variables={})
        client.wait("^Forwarding tcp://127.0.0.1:2222 to tcp://127.0.0.1:22$")

        keys = HOME / ".ssh"
        keys.mkdir(mode=0o700)
        for name in ("id_ed25519", "host"):
            self.here.run(f"ssh-keygen -q -t ed25519 -N '' -f {keys}/{name}")
        (keys / "authorized_keys").write_text((keys / "id_ed25519.pub").read_text())
        host = " ".join((keys / "host.pub").read_text().split()[:2])
        (keys / "known_hosts").write_text(f"[127.0.0.1]:2222 {host}\n")
        sshd = self.there.start(
            f"exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey={keys}/host -o StrictModes=no -o PidFile=none "
            "-o ListenAddress=127.0.0.1 -o PermitRootLogin=yes")
        sshd.wait("Server listening on 127.0.0.1 port 22")
        ssh = self.here.start(found.take("ssh "))
        ssh.type("echo in $HOME by $SSH_CONNECTION\nexit\n")
        # From the server's own machine.
        ssh.wait(rf"^in {HOME} by 127\.0\.0\.1 \d+ 127\.0\.0\.1 22$")
        ssh.join()
        for each in (client, server):
            each.end()

    @section(README, "Forwards")
    def test_several_forwards(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        self.there.serve("192.168.1.20", 5432)
        self.there.serve_udp("192.168.1.1", 53)
        _, ticket = self.start_server(
            "tunnel-rs server --allowed-tcp 127.0.0.1/32 --allowed-tcp 192.168.1.0/24 --allowed-udp 192.168.1.0/24 "
            "--auth-tokens-file token")
        self.start_client(fill(found.take("tunnel-rs client"), TICKET=ticket))
        for port in (2222, 5432):
            self.here.ask(port)
        self.here.ask_udp(5300)

    @section(README, "Sleep, roaming, outages")
    def test_an_hour_of_grace(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        _, ticket = self.start_server(fill(found.take("tunnel-rs server"), MORE=SERVER))
        self.start_client(fill(found.take("tunnel-rs client"), MORE=f"{CLIENT} --ticket {ticket}"))
        self.here.ask(2222)

    @section(README, "A lasting identity")
    def test_a_server_that_is_found_by_its_id(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        self.there.run(found.take("mkdir"))
        made = self.there.run(found.take("tunnel-rs generate-server-key"))
        identity = re.search("EndpointId: ([0-9a-f]{64})", made)[1]
        show = fill(found.take("tunnel-rs show-server-id"), FILE="~/.config/tunnel-rs/server.key")
        self.assertIn(identity, self.there.run(show))
        server, _ = self.start_server(fill(found.take("tunnel-rs server"), MORE=SERVER))
        server.wait(f"^EndpointId: {identity}$")
        # By mDNS.
        self.start_client(fill(found.take("tunnel-rs client"), ID=identity, MORE=CLIENT))
        self.here.ask(2222)

    @section(README, "Configuration files")
    def test_the_examples(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        commands = [found.take(start) for start in ("mkdir", "cp server.toml.example", "cp client.toml.example", "chmod")]
        # What the example itself says that it needs.
        needed = re.findall(r"^#   (.*tunnel-rs .*)$", (ROOT / "server.toml.example").read_text(), re.MULTILINE)
        self.assertEqual(len(needed), 2)
        for machine in (self.there, self.here):
            folder = machine.home / ".config/tunnel-rs"
            machine.run(commands[0])
            for command in needed:
                machine.run(command)
            self.assertEqual(len((folder / "tokens").read_text().split()), 1)
            # The token that the page shows, and its comment.
            (folder / "tokens").write_text("\n".join(shown(README, "ikAdvudu")) + "\n")
            (folder / "token").write_text(shown(README, "ikAdvudu")[0])
            for command in commands[1:]:
                machine.run(command, cwd=ROOT)
            self.assertEqual({file.stat().st_mode & 0o777 for file in folder.iterdir()}, {0o600})
        start = found.take("tunnel-rs server")
        server, ticket = self.start_server(start)
        server.wait("1 token")
        # By a variable that names a file.
        secret = self.here.folder / "ticket"
        secret.write_text(ticket)
        name, place = found.take("TUNNEL_RS_TICKET_FILE=").split("=")
        self.assertEqual(place, "/run/secrets/ticket")
        client = self.start_client(start.replace("server", "client"), variables={name: str(secret)})
        client.wait("^Forwarding ")
        server.wait('session open: .* "laptop"')

    @section(README, "Health, metrics, a gentle end")
    def test_health(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        relay = self.there.start(f"tunnel-rs relay --public-url https://{THERE}")
        flags = relay.wait("^Flags: (.*)$")[1]
        server, ticket = self.start_server(fill(found.take("tunnel-rs server"), MORE=f"{SERVER} {flags}"), variables={})
        self.start_client(f"tunnel-rs client {CLIENT} --ticket {ticket}", variables={})
        curl = found.take("curl ")
        self.there.run_until(f"{curl} --silent --write-out %{{http_code}}", r"^ok\s*200$")
        stream = self.here.inside(connect, 2222)
        with stream:
            server.process.send_signal(signal.SIGTERM)
            server.wait("draining for up to 60 s")
            self.there.run_until(curl, "draining")
            stream.sendall(b"the last words")
            self.assertEqual(stream.recv(100), b"the last words")
        server.wait("drained: no flow is open any more")
        server.join()

    @section(README, "Your own relay")
    def test_a_relay(self, found):
        self.make_token()
        self.there.serve("127.0.0.1", 22)
        # No flag at all, on a LAN; a route is what tells which of the machine's addresses counts.
        self.there.run(f"ip route add default via {HERE}")
        self.stack.callback(self.there.run, "ip route del default")
        bare, public = sorted(found.take("tunnel-rs relay") for _ in range(2))
        relay = self.there.start(bare)
        relay.wait(f"^Relay: https://{THERE}$")
        relay.end()

        relay = self.there.start(public)
        relay.wait("^Relay: https://relay.example.org$")
        flags = dict(re.findall(r"(--[\w-]+) (\S+)", relay.wait("^Flags: (.*)$")[1]))
        command = found.take("tunnel-rs server --relay-url … --dns-server … --relay-ca …")
        for flag in re.findall(r"--[\w-]+", command):
            command = command.replace(f"{flag} …", f"{flag} {flags.pop(flag)}")
        self.assertEqual(flags, {})
        server, ticket = self.start_server(f"{command} {SERVER}", variables={})
        server.wait("relay https://relay.example.org/? answers")
        self.start_client(f"tunnel-rs client {CLIENT} --ticket {ticket}", variables={})
        self.here.ask(2222)
        relay.end()

        # The pin of a certificate, as the relay says it.
        self.there.run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=relay.example.org "
                       "-addext subjectAltName=DNS:relay.example.org -keyout key.pem -out cert.pem")
        pin = self.there.run(found.take("openssl x509 -in cert.pem")).split()[-1]
        relay = self.there.start(f"{public} --tls-cert cert.pem --tls-key key.pem")
        relay.wait(f"^Pin: sha256:{pin}$")

    @section(README, "Output and exit codes")
    def test_less_of_a_log(self, found):
        self.make_token()
        server, ticket = self.start_server(f"{found.take('RUST_LOG=warn')} tunnel-rs server {SERVER}")
        client = self.start_client(f"tunnel-rs client {CLIENT} --ticket {ticket}")
        client.end()
        server.end()
        self.assertNotIn(" INFO ", server.all())


class Vpn(DocumentTest):
    @section(README, "A network instead of ports")
    def test_machines_that_ping_each_other(self, found):
        self.make_token()
        server, ticket = self.start_server(found.take("sudo tunnel-rs vpn server"))
        client = self.here.start(fill(found.take("sudo tunnel-rs vpn client"), TICKET=ticket))
        client.wait("VPN up on ")
        ping = self.here.start(found.take("ping "))
        ping.wait("bytes from 10.0.0.1")
        ping.end()
        client.end()
        client = self.here.start(fill(found.take('sudo "$(command -v'),
                                      MORE=f"client --ticket {ticket} --auth-token-file token"))
        client.wait("VPN up on ")
        for each in (client, server):
            each.end()


class Ice(DocumentTest):
    def carry(self, client, server):
        """Carries the blocks by hand; each side shows a path, and both the same code, each with its own part first."""
        for source, target in ((client, server), (server, client)):
            source.wait("^-----END TUNNEL-RS MANUAL")
            lines = source.lines
            begin = next(number for number, line in enumerate(lines) if line.startswith("-----BEGIN TUNNEL-RS MANUAL"))
            end = next(number for number, line in enumerate(lines) if line.startswith("-----END TUNNEL-RS MANUAL"))
            target.type("\n".join(["some words before", *lines[begin:end + 1], "and behind", ""]))
        codes = []
        for side in (client, server):
            path = side.wait("^Path: .*")[0]
            codes.append(side.wait("^Code: .*")[0])
            for line, wanted in zip((path, codes[-1]), shown(README, "Path: ")):
                # Whatever kind the path is of.
                self.assertRegex(re.sub("^Path: [^,]*", "Path: ", line), like(re.sub("^Path: [^,]*", "Path: ", wanted)))
        self.assertEqual(codes[0], codes[1])

    @section(README, "Two machines and a chat window")
    def test_two_blocks_of_text(self, found):
        self.there.serve("127.0.0.1", 22)
        commands = [found.take("tunnel-rs-ice client manual"), found.take("tunnel-rs-ice server manual")]
        by_file = found.take("tunnel-rs-ice server --default-config")
        config = self.there.home / ".config/tunnel-rs/server_ice.toml"
        config.parent.mkdir(parents=True)
        shutil.copy(ROOT / "server_ice.toml.example", config)
        for command in (commands[1], by_file):
            client = self.here.start(commands[0], NO_STUN)
            server = self.there.start(command, NO_STUN)
            begin = shown(README, "Forwarding tcp://")[:2]
            client.wait("^-----END")
            self.assertEqual(client.lines[:2], begin)
            self.carry(client, server)
            self.here.ask(2222)
            client.end()
            server.join()

    @section(README, "Two keys and Nostr relays")
    def test_two_keys(self, found):
        self.there.serve("127.0.0.1", 22)
        variables = self.start_nostr_relay()
        server_key = self.there.run(found.take("tunnel-rs-ice generate-nostr-key --output server.nsec")).split()[-1]
        client_key = self.here.run(found.take("tunnel-rs-ice generate-nostr-key --output client.nsec")).split()[-1]
        show = fill(found.take("tunnel-rs-ice show-npub"), FILE="server.nsec")
        self.assertIn(server_key, self.there.run(show))
        server = self.there.start(fill(found.take("tunnel-rs-ice server nostr"), CLIENT_NPUB=client_key), variables)
        server.wait("^Waiting for clients")
        client = self.here.start(fill(found.take("tunnel-rs-ice client nostr"), SERVER_NPUB=server_key), variables)
        client.wait("^Path: ")
        self.here.ask(2222)
        for each in (client, server):
            each.end()


def connect(port):
    """A connection that has carried something."""
    stream = socket.create_connection(("127.0.0.1", port), SOON)
    stream.sendall(b"?")
    stream.recv(1)
    return stream


def like(line):
    """What fits a line with other numbers in it."""
    return "^" + re.sub(r"\d+", r"\\d+", re.escape(line)) + "$"
