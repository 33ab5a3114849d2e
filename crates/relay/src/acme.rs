//! Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls_acme::acme::LETS_ENCRYPT_PRODUCTION_DIRECTORY;
use tokio_rustls_acme::caches::DirCache;
use tokio_rustls_acme::{AcmeAcceptor, AcmeConfig, EventOk};

use crate::certificate::{Authority, CertificateError, provider};

/// What an authority is asked for, and which.
#[derive(Clone, Debug)]
pub struct AcmeOptions {
    /// The names in the certificate, which must lead here from outside, at TCP port 443.
    pub names: Vec<String>,
    /// An e-mail address that the authority may write to.
    pub contact: Option<String>,
    /// The authority's directory; Let's Encrypt's where not given.
    pub directory: Option<String>,
    /// What vouches for the authority itself; the web's authorities where empty.
    pub roots: Vec<Authority>,
    /// The folder for account and certificate.
    pub folder: PathBuf,
}

/// Gets a certificate and renews it, for as long as it is polled.
pub(crate) struct Acme {
    pub(crate) resolver: Arc<dyn ResolvesServerCert>,
    pub(crate) acceptor: AcmeAcceptor,
    state: tokio_rustls_acme::AcmeState<std::io::Error>,
    names: String,
}

impl Acme {
    pub(crate) fn new(options: AcmeOptions) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if !options.roots.is_empty() {
            roots = RootCertStore::empty();
            roots.add_parsable_certificates(options.roots);
        }
        let client = ClientConfig::builder_with_provider(provider()?)
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Mismatch)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let directory = options.directory;
        let state = AcmeConfig::new_with_client_tls_config(&options.names, Arc::new(client))
            .contact(options.contact.map(|address| format!("mailto:{address}")))
            .directory(directory.as_deref().unwrap_or(LETS_ENCRYPT_PRODUCTION_DIRECTORY))
            .cache(DirCache::new(options.folder))
            .state();
        let (resolver, acceptor) = (state.resolver(), state.acceptor());
        Ok(Self { resolver, acceptor, state, names: options.names.join(", ") })
    }

    /// Does the work. What fails is tried again, with growing pauses.
    pub(crate) async fn run(mut self) {
        let names = self.names;
        while let Some(event) = self.state.next().await {
            match event {
                Ok(EventOk::DeployedCachedCert) => {
                    tracing::info!("the certificate for {names} is in use");
                }
                Ok(EventOk::DeployedNewCert) => {
                    tracing::info!("a new certificate for {names} is in use");
                }
                Ok(event) => tracing::debug!("ACME: {event:?}"),
                Err(error) => tracing::warn!("no certificate for {names} yet: {error}"),
            }
        }
    }
}
