//! One task between the device, the engine, and the flows that carry packets to the peers. Packets stay in it from where they
//! come in to where they leave, in batches.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tunnel_session::vpn::{Arrivals, Carrier};

use crate::device::{Device, HEADROOM, Reader, Writer};
use crate::engine::{Engine, EngineConfig, Output, Peer, PeerId, TICK};
use crate::wireguard::Tunnel;

/// Packets from peers that are worked off before what has become of them is sent: as many as the device takes in one go,
/// and few enough for the first of them not to wait for long.
const BATCH: usize = 128;

/// A peer and the way to it.
pub struct Member {
    /// Its name, for the log.
    pub name: String,
    /// Our end of its tunnel.
    pub tunnel: Tunnel,
    /// As [`Peer::networks`].
    pub networks: Vec<IpNet>,
    /// As [`Peer::reach`].
    pub reach: Vec<IpNet>,
    /// What takes packets to it.
    pub carrier: Carrier,
}

enum Command {
    Add(PeerId, Box<Member>),
    Remove(PeerId),
    Addresses(Vec<IpNet>),
    Ports(Vec<u16>),
}

/// Tells a [`Join`] what changes; cheap to clone. What is told is done in this order.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    arrivals: Arc<Arrivals>,
}

impl Handle {
    fn tell(&self, command: Command) {
        // With the task the VPN is over, which its owner notices.
        let _ = self.commands.send(command);
    }

    /// Where packets from peers go, with the peer's [`PeerId`].
    pub fn arrivals(&self) -> Arc<Arrivals> {
        self.arrivals.clone()
    }

    /// Adds a peer.
    pub fn add(&self, id: PeerId, member: Member) {
        self.tell(Command::Add(id, Box::new(member)));
    }

    /// Removes a peer.
    pub fn remove(&self, id: PeerId) {
        self.tell(Command::Remove(id));
    }

    /// As [`Engine::set_addresses`].
    pub fn set_addresses(&self, addresses: Vec<IpNet>) {
        self.tell(Command::Addresses(addresses));
    }

    /// As [`Engine::set_transport_ports`].
    pub fn set_transport_ports(&self, ports: Vec<u16>) {
        self.tell(Command::Ports(ports));
    }
}

struct Way {
    name: String,
    carrier: Carrier,
    limit: usize,
}

/// The task, before it runs.
pub struct Join {
    engine: Engine,
    ways: HashMap<PeerId, Way>,
    commands: mpsc::UnboundedReceiver<Command>,
    arrivals: Arc<Arrivals>,
    out: Output,
    /// Those of one peer that are about to be sent.
    batch: Vec<Bytes>,
}

impl Join {
    /// A task without peers.
    pub fn new(config: EngineConfig) -> (Self, Handle) {
        let (send, commands) = mpsc::unbounded_channel();
        let arrivals = Arc::new(Arrivals::default());
        let join = Self {
            engine: Engine::new(config),
            ways: HashMap::new(),
            commands,
            arrivals: arrivals.clone(),
            out: Output::new(HEADROOM),
            batch: Vec::new(),
        };
        (join, Handle { commands: send, arrivals })
    }

    /// Carries packets until the device is gone, and says why, or until there is no [`Handle`] any more.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub async fn run<D: Device>(mut self, device: &D) -> io::Result<()> {
        let (mut reader, mut writer) = device.split();
        let mut arrived = Vec::new();
        let arrivals = self.arrivals.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Ok(()),
                },
                count = reader.recv() => {
                    count?;
                    for packet in reader.packets() {
                        self.engine.from_device(packet, &mut self.out);
                    }
                }
                () = arrivals.ready() => {
                    arrivals.take(&mut arrived);
                    let mut arrived = arrived.drain(..).peekable();
                    while arrived.peek().is_some() {
                        for (peer, packet) in arrived.by_ref().take(BATCH) {
                            self.engine.from_peer(PeerId(peer), &packet, &mut self.out);
                        }
                        self.flush(&mut writer).await?;
                    }
                }
                _ = ticks.tick() => self.tick(),
            }
            self.flush(&mut writer).await?;
            // Under load there is always more to do here, and what was sent would wait for whoever is to carry it.
            tokio::task::yield_now().await;
        }
    }

    /// Sends what the engine has put out.
    async fn flush(&mut self, writer: &mut impl Writer) -> io::Result<()> {
        self.send_to_peers();
        let packets = self.out.device_packets();
        if !packets.is_empty() {
            writer.send(packets).await?;
            self.out.clear_device();
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(id, member) => {
                let Member { name, tunnel, networks, reach, carrier } = *member;
                let (header, limit) = (carrier.header().to_vec(), carrier.limit());
                let peer = Peer { tunnel, networks, reach, header, datagram_limit: limit };
                match self.engine.add_peer(id, peer, &mut self.out) {
                    Ok(()) => {
                        self.ways.insert(id, Way { name, carrier, limit });
                    }
                    Err(error) => tracing::error!("{name} cannot be in the VPN: {error}"),
                }
            }
            Command::Remove(id) => {
                self.engine.remove_peer(id);
                self.ways.remove(&id);
            }
            Command::Addresses(addresses) => self.engine.set_addresses(&addresses),
            Command::Ports(ports) => self.engine.set_transport_ports(&ports),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for (id, way) in &mut self.ways {
            let limit = way.carrier.limit();
            let before = std::mem::replace(&mut way.limit, limit);
            if limit == before {
                continue;
            }
            if limit > 0 {
                self.engine.set_datagram_limit(*id, limit);
            }
            if before == 0 {
                self.engine.carrier_restored(now, *id, &mut self.out);
            }
        }
        self.engine.tick(now, &mut self.out);
        for report in self.engine.take_reports(now) {
            let name = self.ways.get(&report.peer).map_or("a peer that has left", |way| &way.name);
            tracing::warn!(
                "{name}: {} packets from addresses that are not its own were dropped",
                report.packets
            );
        }
    }

    fn send_to_peers(&mut self) {
        let mut to = None;
        for packet in self.out.drain_to_peers() {
            if to != Some(packet.peer) {
                send(&self.ways, to, &mut self.batch);
                to = Some(packet.peer);
            }
            self.batch.push(packet.datagram);
        }
        send(&self.ways, to, &mut self.batch);
    }
}

fn send(ways: &HashMap<PeerId, Way>, to: Option<PeerId>, batch: &mut Vec<Bytes>) {
    if let Some(way) = to.and_then(|id| ways.get(&id)) {
        way.carrier.send(batch);
    }
    batch.clear();
}
