//! The settings of `vpn server` and `vpn client`: flags and the environment, no file.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use ipnet::IpNet;
use tunnel_cli::{Failure, Outcome};
use tunnel_model::protocol::MAX_ROUTES;
use tunnel_model::{Allowlist, Cidr, Policy};

use super::client::{PeerArgs, PeerConfig, PeerFile};
use super::server::{HostArgs, HostConfig, HostFile, TokenArgs};

/// The network where none is given.
const NETWORK: &str = "10.0.0.0/24";

/// In bytes: below 1,280 a link carries no IPv6 (RFC 8200 section 5); jumbo frames have 9,000 mostly.
const MTU: std::ops::RangeInclusive<i64> = 1280..=9000;

/// How large packets inside may be.
#[derive(Args, Debug)]
struct MtuArgs {
    /// The largest packet inside, in bytes; the lesser one of both sides counts
    #[arg(
        long,
        value_name = "N",
        env = "TUNNEL_RS_MTU",
        default_value = "1420",
        value_parser = clap::value_parser!(u16).range(MTU)
    )]
    mtu: u16,
}

#[derive(Args, Debug)]
pub(crate) struct VpnServerArgs {
    /// The VPN's network, from which clients get addresses: one of IPv4, one of IPv6, or both; repeatable
    #[arg(
        short,
        long,
        value_name = "CIDR",
        env = "TUNNEL_RS_NETWORK",
        value_delimiter = ',',
        default_value = NETWORK
    )]
    network: Vec<Cidr>,
    /// The server's own address in the network; repeatable [default: the network's first]
    #[arg(long, value_name = "IP", env = "TUNNEL_RS_SERVER_IP", value_delimiter = ',')]
    server_ip: Vec<IpAddr>,
    #[command(flatten)]
    mtu: MtuArgs,
    /// A network beyond the VPN's that clients may ask to reach through it; 0.0.0.0/0 for all; repeatable. Turns forwarding on
    #[arg(long, value_name = "CIDR", env = "TUNNEL_RS_ALLOW_ROUTE", value_delimiter = ',')]
    allow_route: Vec<Cidr>,
    /// Give packets to those networks this machine's address, so that these need no route back; needs nft
    #[arg(long, env = "TUNNEL_RS_MASQUERADE", requires = "allow_route")]
    masquerade: bool,
    /// Clients do not reach each other
    #[arg(long, env = "TUNNEL_RS_NO_CLIENT_TO_CLIENT")]
    no_client_to_client: bool,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// Everything that a VPN server runs by.
pub(crate) struct VpnServerConfig {
    pub(crate) host: HostConfig,
    pub(crate) rules: VpnRules,
    pub(crate) networks: Vec<IpNet>,
    pub(crate) server_ips: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) masquerade: bool,
    pub(crate) client_to_client: bool,
}

/// Where the rules come from, so that they can be read again.
#[derive(Clone, Debug)]
pub(crate) struct VpnRules {
    tokens: TokenArgs,
    routes: Vec<Cidr>,
}

impl VpnServerArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.tokens.prefer_command_line(matches);
        self.host.prefer_command_line(matches);
    }

    pub(crate) fn resolve(self) -> Outcome<VpnServerConfig> {
        Ok(VpnServerConfig {
            host: self.host.resolve(HostFile::default())?,
            rules: VpnRules { tokens: self.tokens, routes: self.allow_route },
            networks: networks(&self.network),
            server_ips: self.server_ip,
            mtu: self.mtu.mtu,
            masquerade: self.masquerade,
            client_to_client: !self.no_client_to_client,
        })
    }
}

impl VpnRules {
    /// The files that they come from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.tokens.file().into_iter().collect()
    }

    /// Reads the rules as they stand.
    pub(crate) fn load(&self) -> Outcome<Policy> {
        let tokens = self.tokens.load((Vec::new(), None))?;
        Ok(Policy::new(tokens, Allowlist::default()).with_vpn(self.routes.clone()))
    }

    /// Whether clients may reach anything beyond the VPN.
    pub(crate) fn allow_routes(&self) -> bool {
        !self.routes.is_empty()
    }
}

#[derive(Args, Debug)]
pub(crate) struct VpnClientArgs {
    /// A network beyond the VPN's to reach through it, which the server must allow; 0.0.0.0/0 for all; repeatable
    #[arg(long, value_name = "CIDR", env = "TUNNEL_RS_ROUTE", value_delimiter = ',')]
    route: Vec<Cidr>,
    /// Take networks over that this machine reaches otherwise
    #[arg(long, env = "TUNNEL_RS_FORCE_ROUTES")]
    force_routes: bool,
    #[command(flatten)]
    mtu: MtuArgs,
    /// Send something after so many seconds of silence; 0 for never
    #[arg(long, value_name = "SECS", env = "TUNNEL_RS_KEEPALIVE_SECS", default_value = "25")]
    keepalive_secs: u16,
    #[command(flatten)]
    peer: PeerArgs,
}

/// Everything that a VPN client runs by.
pub(crate) struct VpnClientConfig {
    pub(crate) peer: PeerConfig,
    pub(crate) routes: Vec<IpNet>,
    pub(crate) force_routes: bool,
    pub(crate) mtu: u16,
    /// In seconds; 0 for none.
    pub(crate) keepalive: u16,
}

impl VpnClientArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.peer.prefer_command_line(matches);
    }

    pub(crate) fn resolve(mut self) -> Outcome<VpnClientConfig> {
        let mut file = PeerFile::default();
        let server = self.peer.server(&mut file)?;
        let peer = self.peer.resolve(server, file)?;
        let routes = networks(&self.route);
        if routes.len() > MAX_ROUTES {
            let text = format!("{} --route: at most {MAX_ROUTES} are possible", routes.len());
            return Err(Failure::Usage(text));
        }
        if peer.endpoint.tor.is_some() && routes.iter().any(|route| route.prefix_len() == 0) {
            let text = "a default --route would take Tor's own packets, which carry the VPN, into the VPN: \
                        leave --socks5-proxy or that route out";
            return Err(Failure::Usage(text.to_owned()));
        }
        Ok(VpnClientConfig {
            peer,
            routes,
            force_routes: self.force_routes,
            mtu: self.mtu.mtu,
            keepalive: self.keepalive_secs,
        })
    }
}

/// Each network once.
fn networks(given: &[Cidr]) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = Vec::new();
    for network in given.iter().map(Cidr::network) {
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct ServerLine {
        #[command(flatten)]
        args: VpnServerArgs,
    }

    #[derive(Parser)]
    struct ClientLine {
        #[command(flatten)]
        args: VpnClientArgs,
    }

    const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";

    fn server(flags: &[&str]) -> Result<VpnServerConfig, String> {
        let line = ["server", "--auth-tokens", TOKEN].iter().chain(flags);
        let line = ServerLine::try_parse_from(line).map_err(|error| error.to_string())?;
        line.args.resolve().map_err(|error| error.to_string())
    }

    fn client(flags: &[&str]) -> Result<VpnClientConfig, String> {
        let id = tunnel_iroh::SecretKey::generate().id().to_string();
        let line = ["client", "-n", &id, "--auth-token", TOKEN];
        let line = line.iter().chain(flags);
        let line = ClientLine::try_parse_from(line).map_err(|error| error.to_string())?;
        line.args.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = server(&[]).unwrap();
        assert_eq!(config.networks, ["10.0.0.0/24".parse().unwrap()]);
        assert_eq!((config.mtu, config.client_to_client, config.masquerade), (1420, true, false));
        assert!(!config.rules.allow_routes());
        let config = client(&[]).unwrap();
        assert_eq!((config.mtu, config.keepalive, config.force_routes), (1420, 25, false));
        assert!(config.routes.is_empty());
    }

    #[test]
    fn the_rules_hold_the_allowed_routes() {
        let config =
            server(&["--allow-route", "10.1.0.0/16", "--allow-route", "fd00::/8"]).unwrap();
        let policy = config.rules.load().unwrap();
        assert_eq!(policy.token_count(), 1);
        let identity = |policy: &Policy| {
            let transcript = tunnel_model::Transcript {
                keying_material: &[0; 32],
                client: b"",
                server: b"",
                hello: b"",
            };
            let proof = transcript.prove(Some(&TOKEN.parse().unwrap()), tunnel_model::ROLE_CLIENT);
            policy.authenticate(&transcript, &proof, "peer", false).unwrap().0
        };
        let ask = |route: &str| {
            let request = tunnel_model::Request::VpnRoute(route.parse().unwrap());
            policy.decide(&identity(&policy), &request).is_ok()
        };
        assert!(ask("10.1.2.0/24") && ask("fd00:1::/32") && !ask("10.2.0.0/16"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(server(&["--masquerade"]).err().unwrap().contains("--allow-route"));
        assert!(server(&["--mtu", "1200"]).err().unwrap().contains("1280"));
        assert!(server(&["--network", "10.0.0.1/24"]).err().unwrap().contains("host bits"));
        let tor = ["--socks5-proxy", "socks5h://127.0.0.1:9050", "--route", "0.0.0.0/0"];
        let onion = format!("http://{}.onion", "a".repeat(56));
        let error = client(&[&tor[..], &["--relay-url", &onion]].concat()).err().unwrap();
        assert!(error.contains("Tor") || error.contains("onion"), "{error}");
    }
}
