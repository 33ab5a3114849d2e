use std::net::{SocketAddr, TcpListener};

use tunnel_testlab::{
    Error, Result,
    enter::listen_tcp,
    figures,
    ice::{Answered, Manual, ManualConfig, Offered},
    net::{NatLab, PairLab, StunServers},
    netns::Namespace,
    process::Proc,
    stream::{FLOW_LIMIT, Stream},
};

use crate::support::TUNNEL_RS_ICE;

/// A lab with a host for the client and one for the server.
pub(crate) trait Hosts {
    /// The client's.
    fn client(&self) -> &Namespace;

    /// The server's.
    fn server(&self) -> &Namespace;
}

impl Hosts for PairLab {
    fn client(&self) -> &Namespace {
        &self.a
    }

    fn server(&self) -> &Namespace {
        &self.b
    }
}

impl Hosts for NatLab {
    fn client(&self) -> &Namespace {
        &self.a.host
    }

    fn server(&self) -> &Namespace {
        &self.b.host
    }
}

/// A lab in which a TCP service of the server's host, a socket of the test, waits to be connected to.
///
/// Fields are dropped in this order.
pub(crate) struct Stage<L> {
    config: ManualConfig,
    source: String,
    service: TcpListener,
    stun: Option<StunServers>,
    pub(crate) lab: L,
}

/// A client and a server that are connected in a lab.
pub(crate) struct Scene<L> {
    pub(crate) tunnel: Tunnel,
    pub(crate) stage: Stage<L>,
}

/// A client and a server. What they printed is shown with a test that fails.
pub(crate) struct Tunnel(pub(crate) Manual);

impl<L: Hosts> Stage<L> {
    /// With STUN servers that both sides ask, or without any (`--no-stun`).
    pub(crate) fn new(lab: L, stun: Option<StunServers>) -> Result<Self> {
        let service = listen_tcp(lab.server(), SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = service.local_addr().map_err(|source| Error::Io {
            action: "read the service's address".to_owned(),
            source,
        })?;
        let source = format!("tcp://{address}");
        let config = ManualConfig::new(TUNNEL_RS_ICE, stun.as_ref())
            .allow("127.0.0.0/8")
            .forward(&source, "127.0.0.1:0");
        Ok(Self { config, source, service, stun, lab })
    }

    /// The STUN servers, where there are any.
    pub(crate) fn stun(&self) -> Option<&StunServers> {
        self.stun.as_ref()
    }

    /// Starts the client and waits for its offer.
    pub(crate) fn offer(&self) -> Result<Offered> {
        self.config.offer(Some(self.lab.client()))
    }

    /// Starts the server and waits for its answer.
    pub(crate) fn answer(&self, offered: Offered) -> Result<Answered> {
        offered.answer(Some(self.lab.server()))
    }

    /// Gives the client the answer, and waits until the session is open.
    pub(crate) fn hand_over(self, answered: Answered) -> Result<Scene<L>> {
        let scene = Scene { tunnel: Tunnel(answered.hand_over()?), stage: self };
        scene.tunnel.0.wait_connected()?;
        Ok(scene)
    }

    /// All of these.
    pub(crate) fn connect(self) -> Result<Scene<L>> {
        let answered = self.answer(self.offer()?)?;
        self.hand_over(answered)
    }
}

impl<L: Hosts> Scene<L> {
    /// Opens a connection through the tunnel.
    pub(crate) fn stream(&self) -> Result<Stream> {
        let entrance = self.tunnel.0.target(&self.stage.source)?;
        Stream::open(self.stage.lab.client(), entrance, &self.stage.service, FLOW_LIMIT)
    }
}

impl Tunnel {
    /// Both programs, with what to call them.
    pub(crate) fn sides(&self) -> [(&'static str, &Proc); 2] {
        [("the client", &self.0.client), ("the server", &self.0.server)]
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for (name, process) in self.sides() {
            figures::show(name, &process.output());
        }
    }
}
