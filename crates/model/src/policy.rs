use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    Allowlist, Cidr, Proof, Protocol, ROLE_CLIENT, Token, TokenEntry, TokenId, Transcript,
};

/// Who a client has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token it proved to know; none where the handshake alone has proved who it is.
    pub token: Option<TokenId>,
    /// What the server's owner calls that token.
    pub label: Option<String>,
    /// Its identity in the transport, as shown to people.
    pub peer: String,
}

impl Identity {
    /// That of a peer whose certificate was known beforehand.
    pub fn pinned(peer: String) -> Self {
        Self { token: None, label: None, peer }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.peer.chars().take(10).collect();
        f.write_str(&short)?;
        if let Some(token) = self.token {
            write!(f, " token {token}")?;
        }
        // Debug form: a label comes from a file and must stay on its line.
        self.label.as_ref().map_or(Ok(()), |label| write!(f, " {label:?}"))
    }
}

/// What a client asks for, with names resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// A TCP connection to this address.
    Tcp(SocketAddr),
    /// Packets to and from this address.
    Udp(SocketAddr),
    /// An address of the VPN.
    VpnAddress,
    /// Packets to and from this network, beyond the VPN's own, through the VPN.
    VpnRoute(IpNet),
}

impl Request {
    /// A request for `addr` over `protocol`.
    pub fn new(protocol: Protocol, addr: SocketAddr) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp(addr),
            Protocol::Udp => Self::Udp(addr),
        }
    }

    /// The address to connect to, where it is one that is asked for.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) | Self::Udp(addr) => Some(*addr),
            Self::VpnAddress | Self::VpnRoute(_) => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{}://{addr}", Protocol::Tcp),
            Self::Udp(addr) => write!(f, "{}://{addr}", Protocol::Udp),
            Self::VpnAddress => f.write_str("an address of the VPN"),
            Self::VpnRoute(network) => write!(f, "the route {network}"),
        }
    }
}

/// Why a request was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// The token is no longer accepted.
    #[error("the token is no longer accepted")]
    UnknownIdentity,
    /// No listed network holds the address.
    #[error("no --allowed-{0} network holds the address")]
    NotAllowed(Protocol),
    /// The server has no VPN.
    #[error("this server has no VPN")]
    NoVpn,
    /// No listed network holds all of the route.
    #[error("no --allow-route network of the server holds {0}")]
    Route(IpNet),
}

/// A request that the policy has allowed. Only [`Policy::decide`] makes one, and forwarding takes nothing else.
#[derive(Debug)]
pub struct Permit(Request);

impl Permit {
    /// What was allowed: the very address to connect to, canonical.
    pub fn request(&self) -> Request {
        self.0
    }
}

/// Who may come in.
#[derive(Clone, Debug)]
enum Admission {
    /// Whoever knows one of these.
    Tokens(Vec<(TokenId, TokenEntry)>),
    /// Whoever's certificate was known beforehand.
    Pinned,
}

/// The server's rules: who may come in, and what they may reach.
#[derive(Clone, Debug)]
pub struct Policy {
    admission: Admission,
    allowed: Allowlist,
    vpn: Option<Vec<Cidr>>,
}

impl Policy {
    /// Rules from the accepted tokens and the networks that every one of them may reach.
    pub fn new(tokens: Vec<TokenEntry>, allowed: Allowlist) -> Self {
        let tokens = tokens.into_iter().map(|e| (e.token.id(), e)).collect();
        Self { admission: Admission::Tokens(tokens), allowed, vpn: None }
    }

    /// Rules without tokens, for a transport that lets nobody through but peers whose certificate was known beforehand.
    /// Nobody comes in over any other.
    pub fn pinned(allowed: Allowlist) -> Self {
        Self { admission: Admission::Pinned, allowed, vpn: None }
    }

    /// The same rules, and a VPN through which these networks may be reached besides its own.
    pub fn with_vpn(self, routes: Vec<Cidr>) -> Self {
        Self { vpn: Some(routes), ..self }
    }

    fn tokens(&self) -> &[(TokenId, TokenEntry)] {
        match &self.admission {
            Admission::Tokens(tokens) => tokens,
            Admission::Pinned => &[],
        }
    }

    /// How many different tokens are accepted.
    pub fn token_count(&self) -> usize {
        self.tokens().iter().map(|(id, _)| id).collect::<HashSet<_>>().len()
    }

    /// The networks that may be reached.
    pub fn allowed(&self) -> &Allowlist {
        &self.allowed
    }

    /// Finds the token that a client's proof was made with, if tokens are asked for. Every token is tried, so that the
    /// time taken does not tell which. `pinned` says that the transport has proved who the peer is.
    pub fn authenticate(
        &self,
        transcript: &Transcript<'_>,
        proof: &Proof,
        peer: &str,
        pinned: bool,
    ) -> Option<(Identity, Option<&Token>)> {
        let peer = peer.to_owned();
        let tokens = match &self.admission {
            Admission::Tokens(tokens) => tokens,
            Admission::Pinned => {
                return (pinned && transcript.verify(None, ROLE_CLIENT, proof))
                    .then(|| (Identity::pinned(peer), None));
            }
        };
        let mut found = None;
        for (id, entry) in tokens {
            if transcript.verify(Some(&entry.token), ROLE_CLIENT, proof) {
                found = Some((id, entry));
            }
        }
        let (id, entry) = found?;
        let identity = Identity { token: Some(*id), label: entry.label.clone(), peer };
        Some((identity, Some(&entry.token)))
    }

    /// Whether the identity's token is still accepted, or none is asked for.
    pub fn admits(&self, identity: &Identity) -> bool {
        match &self.admission {
            Admission::Tokens(tokens) => tokens.iter().any(|(id, _)| Some(*id) == identity.token),
            Admission::Pinned => identity.token.is_none(),
        }
    }

    /// Whether anything at all can be reached over `protocol`; where not, no name needs resolving.
    pub fn allows_any(&self, protocol: Protocol) -> bool {
        !self.allowed.networks(protocol).is_empty()
    }

    /// Decides on a request.
    ///
    /// # Errors
    ///
    /// [`Denied`] says why not.
    pub fn decide(&self, identity: &Identity, request: &Request) -> Result<Permit, Denied> {
        if !self.admits(identity) {
            return Err(Denied::UnknownIdentity);
        }
        let (protocol, addr) = match *request {
            Request::Tcp(addr) => (Protocol::Tcp, addr),
            Request::Udp(addr) => (Protocol::Udp, addr),
            Request::VpnAddress => {
                return self.vpn.as_ref().map(|_| Permit(*request)).ok_or(Denied::NoVpn);
            }
            Request::VpnRoute(network) => return self.decide_route(network),
        };
        if !self.allowed.allows(protocol, addr.ip()) {
            return Err(Denied::NotAllowed(protocol));
        }
        let canonical = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        Ok(Permit(Request::new(protocol, canonical)))
    }

    fn decide_route(&self, network: IpNet) -> Result<Permit, Denied> {
        let routes = self.vpn.as_ref().ok_or(Denied::NoVpn)?;
        let network = network.trunc();
        if !routes.iter().any(|allowed| allowed.network().contains(&network)) {
            return Err(Denied::Route(network));
        }
        Ok(Permit(Request::VpnRoute(network)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenList;

    fn policy(tokens: &str, tcp: &str) -> Policy {
        let tokens: TokenList = tokens.parse().unwrap();
        let allowed = Allowlist { tcp: vec![tcp.parse().unwrap()], udp: Vec::new() };
        Policy::new(tokens.0, allowed)
    }

    fn identity(policy: &Policy, token: &str) -> Option<Identity> {
        let transcript =
            Transcript { keying_material: &[1; 32], client: b"c", server: b"s", hello: b"h" };
        let proof = transcript.prove(Some(&token.parse().unwrap()), ROLE_CLIENT);
        policy.authenticate(&transcript, &proof, "peer", false).map(|(identity, _)| identity)
    }

    #[test]
    fn without_tokens_only_peers_known_beforehand_are_let_in() {
        let transcript =
            Transcript { keying_material: &[1; 32], client: b"c", server: b"s", hello: b"h" };
        let proof = transcript.prove(None, ROLE_CLIENT);
        let pinned = Policy::pinned(Allowlist::default());
        assert!(pinned.authenticate(&transcript, &proof, "peer", false).is_none());
        let (who, _) = pinned.authenticate(&transcript, &proof, "peer", true).unwrap();
        assert!(pinned.admits(&who));

        let tokens = policy("ikAdvudu_ZxNXhNLCD", "10.0.0.0/8");
        assert!(tokens.authenticate(&transcript, &proof, "peer", true).is_none());
        assert!(!tokens.admits(&who));
        let with_token =
            transcript.prove(Some(&"ikAdvudu_ZxNXhNLCD".parse().unwrap()), ROLE_CLIENT);
        assert!(pinned.authenticate(&transcript, &with_token, "peer", true).is_none());
    }

    #[test]
    fn only_listed_tokens_are_let_in_and_keep_their_label() {
        let policy = policy("ikAdvudu_ZxNXhNLCD # laptop", "10.0.0.0/8");
        let who = identity(&policy, "ikAdvudu_ZxNXhNLCD").unwrap();
        assert_eq!(who.label.as_deref(), Some("laptop"));
        assert!(identity(&policy, "iw3nLKic3oV7zmFJ8v").is_none());
    }

    #[test]
    fn requests_outside_the_networks_are_denied() {
        let policy = policy("ikAdvudu_ZxNXhNLCD", "10.0.0.0/8");
        let who = identity(&policy, "ikAdvudu_ZxNXhNLCD").unwrap();
        let ask = |addr: &str| policy.decide(&who, &Request::Tcp(addr.parse().unwrap()));
        assert!(ask("10.1.2.3:80").is_ok());
        assert_eq!(ask("11.1.2.3:80").unwrap_err(), Denied::NotAllowed(Protocol::Tcp));
        let udp = Request::Udp("10.1.2.3:80".parse().unwrap());
        assert_eq!(policy.decide(&who, &udp).unwrap_err(), Denied::NotAllowed(Protocol::Udp));
    }

    #[test]
    fn a_permit_holds_the_canonical_address() {
        let policy = policy("ikAdvudu_ZxNXhNLCD", "10.0.0.0/8");
        let who = identity(&policy, "ikAdvudu_ZxNXhNLCD").unwrap();
        let mapped = Request::Tcp("[::ffff:10.0.0.1]:80".parse().unwrap());
        let permit = policy.decide(&who, &mapped).unwrap();
        assert_eq!(permit.request(), Request::Tcp("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_route_is_allowed_only_inside_a_listed_network() {
        let without = policy("ikAdvudu_ZxNXhNLCD", "0.0.0.0/0");
        let who = identity(&without, "ikAdvudu_ZxNXhNLCD").unwrap();
        let ask = |policy: &Policy, route: &str| {
            policy.decide(&who, &Request::VpnRoute(route.parse().unwrap())).map(|_| ())
        };
        assert_eq!(without.decide(&who, &Request::VpnAddress).unwrap_err(), Denied::NoVpn);
        assert_eq!(ask(&without, "10.1.0.0/16"), Err(Denied::NoVpn));
        let with = without.with_vpn(vec!["10.1.0.0/16".parse().unwrap()]);
        assert!(with.decide(&who, &Request::VpnAddress).is_ok());
        assert!(ask(&with, "10.1.0.0/16").is_ok() && ask(&with, "10.1.2.0/24").is_ok());
        for wider in ["10.0.0.0/8", "0.0.0.0/0", "10.2.0.0/16", "::/0"] {
            assert!(matches!(ask(&with, wider), Err(Denied::Route(_))), "{wider} was allowed");
        }
    }

    #[test]
    fn a_token_taken_back_denies_everything() {
        let before = policy("ikAdvudu_ZxNXhNLCD", "10.0.0.0/8");
        let who = identity(&before, "ikAdvudu_ZxNXhNLCD").unwrap();
        let after = policy("iw3nLKic3oV7zmFJ8v", "10.0.0.0/8");
        assert!(!after.admits(&who));
        let request = Request::Tcp("10.0.0.1:80".parse().unwrap());
        assert_eq!(after.decide(&who, &request).unwrap_err(), Denied::UnknownIdentity);
    }
}
