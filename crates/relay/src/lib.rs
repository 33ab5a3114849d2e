//! A relay server of tunnel-rs: iroh-relay with a certificate of its own making.
//!
//! It speaks TLS with a self-signed certificate that clients know by its pin, so that address discovery over QUIC,
//! which needs TLS, works without a public name.

use std::net::{IpAddr, SocketAddr};

use data_encoding::HEXLOWER;
use iroh_relay::server::{
    CertConfig, QuicConfig, RelayConfig, Server, ServerConfig, SpawnError, TlsConfig,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Where a relay listens.
#[derive(Clone, Copy, Debug)]
pub struct RelayOptions {
    /// The address of every socket.
    pub ip: IpAddr,
    /// TCP port for HTTPS; 0 is any free one.
    pub https_port: u16,
    /// UDP port for address discovery; 0 is any free one.
    pub quic_port: u16,
}

/// Why a relay did not start.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The certificate could not be made.
    #[error("cannot make the relay's certificate: {0}")]
    Certificate(String),
    /// The server could not be started.
    #[error("cannot start the relay on {0}: {1:#}")]
    Start(IpAddr, SpawnError),
    /// The server started without one of its sockets.
    #[error("the relay on {0} has no {1} socket")]
    NoSocket(IpAddr, &'static str),
}

/// A running relay; it stops when dropped.
#[derive(Debug)]
pub struct Relay {
    _server: Server,
    https: SocketAddr,
    quic: SocketAddr,
    pin: String,
}

impl Relay {
    /// Starts a relay. Everyone who can reach it may use it.
    ///
    /// # Errors
    ///
    /// Where its certificate or its sockets cannot be had.
    pub async fn start(options: RelayOptions) -> Result<Self, RelayError> {
        let (tls, pin) = self_signed(options.ip)?;
        let any = SocketAddr::new(options.ip, 0);
        let mut relay = RelayConfig::new(any);
        let https = SocketAddr::new(options.ip, options.https_port);
        relay.tls = Some(TlsConfig::new(https, CertConfig::Manual { server_config: tls }));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(QuicConfig::new(SocketAddr::new(options.ip, options.quic_port)));
        let server =
            Server::spawn(config).await.map_err(|error| RelayError::Start(options.ip, error))?;
        let missing = |what| RelayError::NoSocket(options.ip, what);
        let https = server.https_addr().ok_or_else(|| missing("HTTPS"))?;
        let quic = server.quic_addr().ok_or_else(|| missing("QUIC"))?;
        Ok(Self { _server: server, https, quic, pin })
    }

    /// The URL that clients are given.
    pub fn url(&self) -> String {
        format!("https://{}", self.https)
    }

    /// The UDP port for address discovery.
    pub fn quic_port(&self) -> u16 {
        self.quic.port()
    }

    /// The pin of its certificate's public key: `sha256:` and 64 hexadecimal digits.
    pub fn pin(&self) -> &str {
        &self.pin
    }
}

fn self_signed(ip: IpAddr) -> Result<(rustls::ServerConfig, String), RelayError> {
    let failed = |error: &dyn ToString| RelayError::Certificate(error.to_string());
    let names = vec!["localhost".to_owned(), ip.to_string()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| failed(&e))?;
    let pin = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&made.signing_key));
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = rustls::crypto::CryptoProvider::get_default()
        .ok_or_else(|| failed(&"no cryptographic provider is installed"))?;
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(|e| failed(&e))?;
    Ok((tls, format!("sha256:{}", HEXLOWER.encode(&pin))))
}
