//! The kernel's network configuration by netlink (rtnetlink(7)), without waiting for anything but the kernel itself.
//!
//! It is synchronous, as things are undone in `Drop`; a request takes microseconds.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Who made a route or a rule, in the kernel's own field for it. Of the numbers that nobody has in linux/rtnetlink.h; what
/// bears it is this program's.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(116);

/// The routing table of a client's routes; beyond 255, as those are the kernel's and other programs' by habit.
pub(super) const TABLE: u32 = 0x7472;

/// The header of a message in bytes (netlink(7)).
const HEADER: usize = 16;

/// A connection to the kernel, of the network namespace in which it was made.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

/// A route of this machine, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) network: IpNet,
    pub(super) table: u32,
    /// The interface's number; none where the route leads nowhere or to several.
    pub(super) device: Option<u32>,
    pub(super) protocol: RouteProtocol,
}

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for something to be done, and waits until it is.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ())
    }

    /// Asks for all that there is of something.
    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP, |message| found.push(message))?;
        Ok(found)
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = received.as_slice();
            while rest.len() >= HEADER {
                let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                let length = length as usize;
                let Some(one) = rest.get(..length).filter(|one| one.len() >= HEADER) else { break };
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // What this program's library cannot read, it does not need: a kernel knows more kinds of routes.
                let Ok(answer) = NetlinkMessage::deserialize(one) else { continue };
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => take(inner),
                    _ => {}
                }
            }
        }
    }

    /// Gives an interface an address. `prefix_route`: whether the kernel routes the address's network there by itself, in
    /// the main table.
    pub(super) fn add_address(
        &mut self,
        device: u32,
        address: IpNet,
        prefix_route: bool,
    ) -> io::Result<()> {
        let mut message = address_message(device, address);
        // Nobody else is on the link who could have it (RFC 4862 section 5.4).
        let mut flags = AddressFlags::Nodad;
        if !prefix_route {
            flags |= AddressFlags::Noprefixroute;
        }
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(flags));
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn delete_address(&mut self, device: u32, address: IpNet) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(address_message(device, address)), 0)
    }

    /// Routes a network to an interface in [`TABLE`], also where it is there already.
    pub(super) fn replace_route(&mut self, device: u32, network: IpNet) -> io::Result<()> {
        let message = route_message(device, network);
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The reverse of [`Netlink::replace_route`].
    pub(super) fn delete_route(&mut self, device: u32, network: IpNet) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRoute(route_message(device, network)), 0)
    }

    /// All routes of both families that are not for broadcast or multicast.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.dump(RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    routes.extend(read_route(&message));
                }
            }
        }
        Ok(routes)
    }

    /// The name of an interface, if there is one of that number.
    pub(super) fn link_name(&mut self, device: u32) -> Option<String> {
        let mut message = LinkMessage::default();
        message.header.index = device;
        let mut name = None;
        let get = RouteNetlinkMessage::GetLink(message);
        let found = self.exchange(get, NLM_F_REQUEST | NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
            }
        });
        found.ok().and(name)
    }

    pub(super) fn add_rule(&mut self, message: RuleMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn delete_rule(&mut self, message: RuleMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRule(message), 0)
    }

    /// All rules of a family.
    pub(super) fn rules(&mut self, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let found = self.dump(RouteNetlinkMessage::GetRule(message))?;
        let rule = |message| match message {
            RouteNetlinkMessage::NewRule(rule) => Some(rule),
            _ => None,
        };
        Ok(found.into_iter().filter_map(rule).collect())
    }
}

/// The family of an address in netlink.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(device: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = device;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

fn route_message(device: u32, network: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(network.addr());
    message.header.destination_prefix_length = network.prefix_len();
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.header.scope =
        if network.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(TABLE));
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(network.network())));
    message.attributes.push(RouteAttribute::Oif(device));
    message
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let leads_nowhere =
        matches!(header.kind, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit);
    // The machine's own addresses are routes as well, and may be all that it says of a network.
    if !matches!(header.kind, RouteType::Unicast | RouteType::Local) && !leads_nowhere {
        return None;
    }
    let default = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let (mut address, mut table, mut device) = (default, u32::from(header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(found)) => address = (*found).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(found)) => address = (*found).into(),
            RouteAttribute::Table(found) => table = *found,
            RouteAttribute::Oif(found) => device = Some(*found),
            _ => {}
        }
    }
    let network = IpNet::new(address, header.destination_prefix_length).ok()?;
    let device = if leads_nowhere { None } else { device };
    Some(Route { network, table, device, protocol: header.protocol })
}
