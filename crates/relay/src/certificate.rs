use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use data_encoding::HEXLOWER;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A chain of certificates and the key of its first one.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

/// Why a certificate is of no use. Keys are never part of the message.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// No chain of certificates in PEM.
    #[error("it holds no certificate in PEM: {0}")]
    Chain(String),
    /// No private key in PEM.
    #[error("it holds no private key in PEM")]
    Key,
    /// The key is of a kind that TLS does not know here, or is another certificate's.
    #[error("the key does not go with the certificate: {0}")]
    Mismatch(rustls::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Making(String),
    /// The process has not been given its cryptography.
    #[error("no cryptographic provider is installed")]
    NoProvider,
}

pub(crate) fn provider() -> Result<Arc<CryptoProvider>, CertificateError> {
    CryptoProvider::get_default().cloned().ok_or(CertificateError::NoProvider)
}

impl Certificate {
    /// Reads a chain and its key in PEM.
    ///
    /// # Errors
    ///
    /// Where one of them is not there or the two do not go together.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let chain = authorities(chain)?;
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::Key)?;
        Self::new(chain, key)
    }

    /// Makes a key for [`self_signed`](Self::self_signed), in PEM.
    ///
    /// # Errors
    ///
    /// Where the system has no random numbers to give.
    pub fn make_key() -> Result<String, CertificateError> {
        let key = rcgen::KeyPair::generate();
        key.map(|key| key.serialize_pem()).map_err(|e| CertificateError::Making(e.to_string()))
    }

    /// Makes a certificate that nobody vouches for, from a key in PEM. One from the same key has the same pin.
    ///
    /// # Errors
    ///
    /// Where the key or a name is of no use.
    pub fn self_signed(names: &[String], key: &str) -> Result<Self, CertificateError> {
        let making = |error: rcgen::Error| CertificateError::Making(error.to_string());
        let key = rcgen::KeyPair::from_pem(key).map_err(|_| CertificateError::Key)?;
        let parameters = rcgen::CertificateParams::new(names).map_err(making)?;
        let made = parameters.self_signed(&key).map_err(making)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self::new(vec![made.der().clone()], key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        CertifiedKey::from_der(chain, key, provider()?.as_ref())
            .map(|key| Self(Arc::new(key)))
            .map_err(CertificateError::Mismatch)
    }

    /// The pin of its public key: `sha256:` and 64 hexadecimal digits (RFC 7469 section 2.4).
    pub fn pin(&self) -> String {
        let key = self.0.cert.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
        let key = key.map(|cert| cert.subject_public_key_info().to_vec()).unwrap_or_default();
        format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(key)))
    }

    /// Why the web's authorities do not vouch for it under this name at the moment; `None` where they do.
    pub fn distrust(&self, name: &str) -> Option<String> {
        self.verify(name).err()
    }

    fn verify(&self, name: &str) -> Result<(), String> {
        let (first, others) = self.0.cert.split_first().ok_or("there is no certificate")?;
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = provider().map_err(|error| error.to_string())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        verifier
            .verify_server_cert(first, others, &name, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// A certificate that vouches for others, in DER.
pub type Authority = CertificateDer<'static>;

/// Reads authorities in PEM; at least one.
///
/// # Errors
///
/// Where there is none.
pub fn authorities(text: &str) -> Result<Vec<Authority>, CertificateError> {
    let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::Chain(error.to_string()))?;
    if read.is_empty() {
        return Err(CertificateError::Chain("there is none".to_owned()));
    }
    Ok(read)
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.pin())
    }
}

/// The certificate that is shown; it can be replaced while it is in use. Connections that stand keep theirs.
#[derive(Debug)]
pub struct Certificates(RwLock<Certificate>);

impl Certificates {
    pub(crate) fn new(certificate: Certificate) -> Arc<Self> {
        Arc::new(Self(RwLock::new(certificate)))
    }

    /// The present one.
    pub fn get(&self) -> Certificate {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows this one from now on.
    pub fn replace(&self, certificate: Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().0)
    }
}

/// TLS with whatever certificate `resolver` names.
pub(crate) fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let builder = ServerConfig::builder_with_provider(provider()?)
        .with_safe_default_protocol_versions()
        .map_err(CertificateError::Mismatch)?;
    Ok(Arc::new(builder.with_no_client_auth().with_cert_resolver(resolver)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }

    fn made(key: &str) -> Certificate {
        Certificate::self_signed(&["relay.example".to_owned(), "192.0.2.1".to_owned()], key)
            .expect("a certificate")
    }

    #[test]
    fn the_pin_is_the_key_s_and_outlasts_the_certificate() {
        install();
        let (key, other) = (Certificate::make_key().unwrap(), Certificate::make_key().unwrap());
        let (first, second) = (made(&key), made(&key));
        assert_ne!(first.0.cert, second.0.cert, "made anew");
        assert_eq!(first.pin(), second.pin());
        assert_ne!(first.pin(), made(&other).pin());
        assert_eq!(first.pin().len(), "sha256:".len() + 64);
    }

    #[test]
    fn a_key_of_another_certificate_is_noticed() {
        install();
        let pair = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let chain = pair.cert.pem();
        assert!(Certificate::from_pem(&chain, &pair.signing_key.serialize_pem()).is_ok());
        let other = Certificate::make_key().unwrap();
        let error = Certificate::from_pem(&chain, &other).unwrap_err();
        assert!(matches!(error, CertificateError::Mismatch(_)), "{error}");
        assert!(matches!(Certificate::from_pem(&chain, "").unwrap_err(), CertificateError::Key));
        let error = Certificate::from_pem("", &other).unwrap_err();
        assert!(matches!(error, CertificateError::Chain(_)), "{error}");
    }

    #[test]
    fn nobody_vouches_for_a_certificate_of_one_s_own() {
        install();
        let certificate = made(&Certificate::make_key().unwrap());
        assert!(certificate.distrust("relay.example").is_some());
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
    }
}
