//! Policy routing rules (ip-rule(8)) that are this program's own.

use std::io;

use ipnet::IpNet;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::netlink::{Netlink, PROTOCOL, TABLE};

/// The first of the priorities: of what goes nowhere. Behind those that programs commonly choose for themselves, before the
/// 32766 of the kernel's own rule for the main table.
pub(super) const NOWHERE: u32 = 31_000;

/// The priority of what goes around the VPN.
pub(super) const AROUND: u32 = NOWHERE + 1;

/// The first priority of the rules for routes: two for each length of a prefix.
pub(super) const ROUTES: u32 = AROUND + 1;

/// The priority behind all of them, where what goes around the VPN goes on.
pub(super) const END: u32 = ROUTES + 2 * 129;

/// The main table (linux/rtnetlink.h).
const MAIN: u32 = 254;

/// One rule of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) what: What,
}

/// [`AddressFamily`], of which only two matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a rule matches and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// UDP from a local port to a network is unreachable.
    Unreachable(u16, IpNet),
    /// UDP from a local port goes on at [`END`].
    UdpFrom(u16),
    /// TCP to an address goes on at [`END`].
    TcpTo(IpNet),
    /// All that goes to a network goes on at [`END`].
    To(IpNet),
    /// The main table, as far as its routes' prefixes are longer than this.
    Main { longer_than: u8 },
    /// The VPN's table, as far as its routes' prefixes are this long at least.
    Vpn { at_least: u8 },
    /// Nothing: what others go on at.
    End,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(network: IpNet) -> Self {
        if network.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn netlink(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

impl Rule {
    /// A rule that leads around the VPN.
    pub(super) fn around(family: Family, what: What) -> Self {
        Self { family, priority: AROUND, what }
    }

    /// A rule that keeps what the transport sends out of a network.
    pub(super) fn unreachable(port: u16, network: IpNet) -> Self {
        let what = What::Unreachable(port, network);
        Self { family: Family::of(network), priority: NOWHERE, what }
    }

    /// What the others of a family go on at.
    pub(super) fn end(family: Family) -> Self {
        Self { family, priority: END, what: What::End }
    }

    /// Makes it, also where it is there already.
    pub(super) fn add(self, netlink: &mut Netlink) -> io::Result<()> {
        match netlink.add_rule(self.message()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes it; no matter whether it is there.
    pub(super) fn delete(self, netlink: &mut Netlink) -> io::Result<()> {
        match netlink.delete_rule(self.message()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.netlink();
        let mut attributes =
            vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(PROTOCOL)];
        message.header.action = match self.what {
            What::Unreachable(..) => RuleAction::Unreachable,
            What::UdpFrom(_) | What::TcpTo(_) | What::To(_) => RuleAction::Goto,
            What::Main { .. } | What::Vpn { .. } => RuleAction::ToTable,
            What::End => RuleAction::Nop,
        };
        match self.what {
            What::UdpFrom(port) | What::Unreachable(port, _) => {
                if let What::Unreachable(_, to) = self.what {
                    message.header.dst_len = to.prefix_len();
                    attributes.push(RuleAttribute::Destination(to.network()));
                }
                attributes.push(RuleAttribute::IpProtocol(IpProtocol::Udp));
                let range = RulePortRange { start: port, end: port };
                attributes.push(RuleAttribute::SourcePortRange(range));
            }
            What::TcpTo(to) | What::To(to) => {
                message.header.dst_len = to.prefix_len();
                attributes.push(RuleAttribute::Destination(to.network()));
                if matches!(self.what, What::TcpTo(_)) {
                    attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
                }
            }
            What::Main { longer_than } => {
                attributes.push(RuleAttribute::Table(MAIN));
                attributes.push(RuleAttribute::SuppressPrefixLen(longer_than.into()));
            }
            What::Vpn { at_least } => {
                attributes.push(RuleAttribute::Table(TABLE));
                if let Some(suppressed) = at_least.checked_sub(1) {
                    attributes.push(RuleAttribute::SuppressPrefixLen(suppressed.into()));
                }
            }
            What::End => {}
        }
        if message.header.action == RuleAction::Goto {
            attributes.push(RuleAttribute::Goto(END));
        }
        message.attributes = attributes;
        message
    }
}

/// The rules that make the VPN's routes and the main table one: of two routes to an address the one with the longer prefix
/// counts, and the VPN's where they are equally long.
pub(super) fn for_routes(routes: &[IpNet]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let of_family = routes.iter().filter(|route| Family::of(**route) == family);
        let mut lengths: Vec<u8> = of_family.map(IpNet::prefix_len).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for length in lengths {
            // The position comes from the length alone, so that rules which stay keep their place when others come.
            let priority = ROUTES + 2 * (128 - u32::from(length));
            rules.push(Rule { family, priority, what: What::Main { longer_than: length } });
            let what = What::Vpn { at_least: length };
            rules.push(Rule { family, priority: priority + 1, what });
        }
    }
    rules
}

/// Removes every rule and route that bears this program's mark.
pub(super) fn remove_all(netlink: &mut Netlink) -> io::Result<usize> {
    let mut removed = 0;
    for family in Family::BOTH {
        // Without IPv6 in the kernel there is nothing to list.
        let rules = netlink.rules(family.netlink()).unwrap_or_default();
        for rule in rules.into_iter().filter(is_own) {
            netlink.delete_rule(rule)?;
            removed += 1;
        }
    }
    for route in netlink.routes()? {
        if let Some(device) = route.device
            && route.protocol == PROTOCOL
            && route.table == TABLE
        {
            netlink.delete_route(device, route.network)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether the kernel keeps what marks a rule as this program's. That came with ports in rules (Linux 4.17); before, unknown
/// attributes were taken and forgotten.
pub(super) fn are_understood(netlink: &mut Netlink) -> io::Result<bool> {
    Ok(netlink.rules(AddressFamily::Inet)?.iter().any(is_own))
}

fn is_own(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
        && rule.attributes.iter().any(
            |attribute| matches!(attribute, RuleAttribute::Priority(p) if (NOWHERE..=END).contains(p)),
        )
}
