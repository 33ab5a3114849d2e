//! The one cryptographic provider of a process, with the post-quantum key exchange in front.

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{NamedGroup, SupportedProtocolVersion};

/// The key exchange that every session must have: X25519 with ML-KEM-768 (draft-ietf-tls-ecdhe-mlkem).
pub const POST_QUANTUM: NamedGroup = NamedGroup::X25519MLKEM768;

/// QUIC runs over nothing else (RFC 9001 section 4.2).
pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The provider for everything that this process does with TLS.
///
/// Classical groups stand behind the post-quantum one because relays and discovery servers speak HTTPS through the same
/// provider, and may know no other; a session whose handshake chose one of them is closed.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let mut provider = aws_lc_rs::default_provider();
            provider.kx_groups = vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ];
            Arc::new(provider)
        })
        .clone()
}

/// Makes [`provider`] the process's default, for libraries that ask for one. Call it first in `main` and in tests; any
/// number of calls is one.
pub fn install() {
    // An error says that there is a default already: this one, installed by an earlier call.
    let _ = CryptoProvider::install_default(provider().as_ref().clone());
}
