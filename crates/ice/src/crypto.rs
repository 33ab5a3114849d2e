//! TLS for one session: certificates that are made for it, and pinned on both sides by what was signaled.

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tunnel_model::protocol::ALPN;
use zeroize::Zeroizing;

use crate::Fingerprint;

/// What the certificates call their holder, and the client calls the server. Nobody checks it: the fingerprint does.
const NAME: &str = "tunnel-rs";

/// The provider of every session: X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) and no other key exchange, so that there is
/// nothing to fall back to.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
            Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
        })
        .clone()
}

/// Sets the process's default provider, for libraries that ask for one. Call it first in `main` and in tests; any number
/// of calls is one.
///
/// Classical groups stand behind the post-quantum one there, because other servers may know no other; sessions take
/// [`provider`] and never the default.
pub fn install() {
    let mut default = aws_lc_rs::default_provider();
    default.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    // An error says that there is a default already.
    let _ = CryptoProvider::install_default(default);
}

/// Why a session has no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No certificate.
    #[error("cannot make the session's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The library refuses the settings.
    #[error("cannot set TLS up: {0}")]
    Settings(#[from] Error),
    /// The library lacks a cipher that QUIC begins with.
    #[error("cannot set TLS up: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// A certificate of one session, and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

impl Identity {
    /// A fresh one: ECDSA over P-256, self-signed.
    pub(crate) fn generate() -> Result<Self, TlsError> {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let key = Zeroizing::new(signing_key.serialize_der());
        Ok(Self { certificate: cert.der().clone(), key })
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// For a side that dials the peer whose certificate has this fingerprint.
    pub(crate) fn client(&self, peer: Fingerprint) -> Result<QuicClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin(peer)))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        // Every connection shows its certificate.
        config.resumption = Resumption::disabled();
        Ok(config.try_into()?)
    }

    /// For a side that the peer whose certificate has this fingerprint dials, and nobody else.
    pub(crate) fn server(&self, peer: Fingerprint) -> Result<QuicServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Pin(peer)))
            .with_single_cert(vec![self.certificate.clone()], self.key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config.try_into()?)
    }
}

/// The name to dial with; see [`NAME`].
pub(crate) fn server_name() -> &'static str {
    NAME
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pin(Fingerprint);

impl Pin {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let same: bool = fingerprint(certificate).0.ct_eq(&self.0.0).into();
        if same && others.is_empty() {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn signature(
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }
}

/// QUIC has no TLS 1.2 (RFC 9001 section 4.2).
fn tls12() -> Error {
    PeerIncompatible::Tls13RequiredForQuic.into()
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_certificate_is_accepted() {
        let (own, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let pin = Pin(own.fingerprint());
        assert!(pin.check(&own.certificate, &[]).is_ok());
        assert!(pin.check(&other.certificate, &[]).is_err());
        assert!(pin.check(&own.certificate, &[other.certificate]).is_err());
    }

    #[test]
    fn there_is_no_classical_key_exchange() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768]);
    }

    #[test]
    fn a_key_is_never_shown() {
        let identity = Identity::generate().unwrap();
        assert!(!format!("{identity:?}").contains("key:"));
    }
}
