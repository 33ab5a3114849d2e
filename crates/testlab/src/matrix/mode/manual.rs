use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Mode, Opened, Tunnel};
use crate::{
    Result,
    ice::{self, Attempt, ManualConfig, paths},
    matrix::Pair,
    nat::{Outcome, expected},
    net::{NatLab, StunServers},
    tunnel::PathKind,
};

/// `tunnel-rs-ice client manual` and `server manual` with two STUN servers that both reach, and no relay.
///
/// Time begins when the client can have the answer.
#[derive(Clone, Debug)]
pub struct Manual {
    binary: PathBuf,
}

impl Manual {
    /// For the program `tunnel-rs-ice` at this path.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned() }
    }
}

impl Mode for Manual {
    /// What iroh comes to without its relay. ICE rests on the same: each side knows what the other one's NAT
    /// showed to a server that both reach (here by the blocks and not by a relay, and before either has sent a
    /// packet to the other), takes the source of a check that reaches it for another address of the peer (RFC
    /// 8445 section 7.3.1.3), and checks until the other side has the answer too. Neither makes an IPv6 address
    /// out of an IPv4 one of the peer, so a NAT64 leads to no IPv4 host. What is a matter of timing remains one:
    /// the server's checks go out as soon as it has answered, but which of them come first is its own affair.
    fn expected(&self, pair: Pair) -> Outcome {
        expected(pair.client, pair.server).without_relay()
    }

    fn open(&self, lab: &NatLab, port: u16) -> Result<Opened> {
        let stun = lab.start_stun()?;
        let source = format!("tcp://127.0.0.1:{port}");
        let config = ManualConfig::new(&self.binary, Some(&stun))
            .allow("127.0.0.0/8")
            .forward(&source, "127.0.0.1:0");
        let answered = config.offer(Some(&lab.a.host))?.answer(Some(&lab.b.host))?;
        let manual = answered.hand_over()?;
        if let Attempt::NoPath(_) = manual.attempt()? {
            return Ok(Opened::Impossible);
        }
        let entrance = manual.target(&source)?;
        Ok(Opened::Tunnel(Box::new(ManualTunnel { manual, _stun: stun, entrance })))
    }
}

/// Fields are dropped in this order, so that no program is surprised by another one's end.
struct ManualTunnel {
    manual: ice::Manual,
    _stun: StunServers,
    entrance: SocketAddr,
}

impl Tunnel for ManualTunnel {
    fn started(&self) -> Instant {
        self.manual.answered
    }

    fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    fn paths(&self) -> Vec<(PathKind, Instant)> {
        paths(&self.manual.client).into_iter().map(|(_, at)| (PathKind::Direct, at)).collect()
    }

    fn output(&self) -> String {
        self.manual.client.output()
    }
}
