use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What a session gives to the WireGuard tunnels inside it: keying material of its first connection, the same on both
/// ends and never sent.
///
/// The connection's key exchange is post-quantum, so a tunnel with a pre-shared key made of it is as well.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VpnSecret([u8; 32]);

impl std::fmt::Debug for VpnSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VpnSecret(..)")
    }
}

impl VpnSecret {
    /// The exporter's label (RFC 8446 section 7.5).
    pub const LABEL: &'static [u8] = b"EXPORTER-tunnel-rs vpn";

    /// From 32 bytes exported under [`VpnSecret::LABEL`] with an empty context.
    pub fn new(keying_material: [u8; 32]) -> Self {
        Self(keying_material)
    }

    /// The pre-shared key (WireGuard whitepaper, section 5.2) of the tunnel between these two public keys.
    pub fn preshared_key(&self, client: &[u8; 32], server: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC refuses no key length"));
        mac.update(client);
        mac.update(server);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_has_a_key_of_its_own() {
        let key = |secret: u8, client: u8, server: u8| {
            *VpnSecret::new([secret; 32]).preshared_key(&[client; 32], &[server; 32])
        };
        let one = key(1, 2, 3);
        assert_eq!(one, key(1, 2, 3));
        for other in [key(2, 2, 3), key(1, 3, 3), key(1, 2, 2), key(1, 3, 2)] {
            assert_ne!(one, other);
        }
        assert!(!format!("{:?}", VpnSecret::new([7; 32])).contains('7'));
    }
}
