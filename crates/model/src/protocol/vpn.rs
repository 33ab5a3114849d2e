//! The messages of a VPN flow.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Message;

/// The most networks that one [`VpnRequest`] names: 18 bytes each, so that they fit a frame four times.
pub const MAX_ROUTES: usize = 256;

/// The most addresses that one [`VpnOpened`] assigns: one of each family.
pub const MAX_ADDRESSES: usize = 2;

message! { 0x26,
    /// Begins a stream that lives as long as a VPN flow. A [`VpnRequest`] follows; the flow's packets travel as datagrams.
    OpenVpn {
        /// Unique in the session, at most [`crate::datagram::MAX_FLOW`]; its numbers grow.
        flow: u64,
    }
}

message! { 0x27,
    /// What a client asks of the VPN.
    VpnRequest {
        /// The client's fresh WireGuard key (Curve25519).
        public_key: [u8; 32],
        /// Networks beyond the VPN's own that are to be reached through it, at most [`MAX_ROUTES`].
        routes: Vec<IpNet>,
    }
}

message! { 0x28,
    /// What a client is given; follows an [`super::Opened`] without a refusal.
    VpnOpened {
        /// The server's fresh WireGuard key (Curve25519).
        public_key: [u8; 32],
        /// The client's addresses, each with the prefix of the network that it lies in; one of each family at most.
        addresses: Vec<IpNet>,
        /// The server's own addresses.
        server: Vec<IpAddr>,
        /// The MTU of the server's device, in bytes.
        mtu: u16,
    }
}

message! { 0x29,
    /// Begins a stream on which a VPN flow goes on that began on an earlier connection. A flow that the server has never
    /// seen is opened by it. Answered by [`super::Reattached`].
    ReattachVpn {
        /// The flow.
        flow: u64,
        /// Where the client stands in what the server sends.
        position: u64,
        /// Whether the server is to send nothing of it for now, as after a [`super::Pause`].
        paused: bool,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{MAX_FRAME, decode, encode};

    #[test]
    fn a_request_with_the_most_routes_fits_a_frame() {
        let route: IpNet = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
        let request = VpnRequest { public_key: [0xff; 32], routes: vec![route; MAX_ROUTES] };
        assert!(encode(&request).unwrap().len() < MAX_FRAME / 4);
    }

    #[test]
    fn addresses_keep_their_host_bits_and_their_prefix() {
        let opened = VpnOpened {
            public_key: [1; 32],
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            server: vec!["10.0.0.1".parse().unwrap()],
            mtu: 1420,
        };
        let frame = encode(&opened).unwrap();
        // The examples of docs/PROTOCOL.md.
        assert_eq!(frame[2], 0x28);
        assert_eq!(frame[35..42], [2, 0, 10, 0, 0, 2, 24]);
        assert_eq!(frame[frame.len() - 8..], [1, 0, 10, 0, 0, 1, 0x8c, 0x0b]);
        let back: VpnOpened = decode(&frame[2..]).unwrap();
        assert_eq!((back.addresses, back.server), (opened.addresses, opened.server));
    }

    #[test]
    fn a_prefix_that_cannot_be_is_no_network() {
        let route = "10.0.0.0/8".parse().unwrap();
        let mut frame = encode(&VpnRequest { public_key: [0; 32], routes: vec![route] }).unwrap();
        if let Some(prefix) = frame.last_mut() {
            *prefix = 33;
        }
        assert!(decode::<VpnRequest>(&frame[2..]).is_err());
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<OpenVpn>(&frame);
            let _ = decode::<VpnRequest>(&frame);
            let _ = decode::<VpnOpened>(&frame);
            let _ = decode::<ReattachVpn>(&frame);
        }
    }
}
