use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::{fmt, io};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use iroh::tls::CaTlsConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What certificate an own relay or discovery server must show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RelayCa {
    /// One that the web's certificate authorities vouch for.
    #[default]
    WebRoots,
    /// One that an authority of one's own vouches for.
    Roots(Vec<CertificateDer<'static>>),
    /// One with one of these public keys, whoever vouches for it.
    Pins(Vec<Pin>),
}

/// The SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469 section 2.4), written `sha256:` and 64 hexadecimal
/// digits. It stays the same when the certificate is made anew from the same key.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin([u8; 32]);

/// Why a `--relay-ca` was not understood.
#[derive(Debug, Error)]
pub enum RelayCaError {
    /// A pin that is none.
    #[error("'{0}' is not a pin: it is 'sha256:' and 64 hexadecimal digits")]
    BadPin(String),
    /// The file cannot be read or holds no certificate.
    #[error("cannot read certificates from {path}: {reason}")]
    BadFile {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// Pins and files together.
    #[error("give either pins or files: a file's authorities vouch for names, a pin for one key")]
    Mixed,
}

const PREFIX: &str = "sha256:";

impl Pin {
    /// The pin of a certificate in DER.
    ///
    /// # Errors
    ///
    /// Where the bytes are no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        Ok(Self(Sha256::digest(parsed.subject_public_key_info()).into()))
    }
}

impl FromStr for Pin {
    type Err = RelayCaError;

    fn from_str(s: &str) -> Result<Self, RelayCaError> {
        s.strip_prefix(PREFIX)
            .and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| RelayCaError::BadPin(s.to_owned()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RelayCa {
    /// Understands the values of `--relay-ca`: pins, or files with certificates in PEM, which `read` reads. None is the
    /// web's authorities.
    ///
    /// # Errors
    ///
    /// Where one is neither, or both kinds are given.
    pub fn read(
        values: &[String],
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, RelayCaError> {
        let (pins, files): (Vec<_>, Vec<_>) = values.iter().partition(|v| v.starts_with(PREFIX));
        if !pins.is_empty() && !files.is_empty() {
            return Err(RelayCaError::Mixed);
        }
        if !pins.is_empty() {
            return pins
                .into_iter()
                .map(|pin| pin.parse())
                .collect::<Result<_, _>>()
                .map(Self::Pins);
        }
        let mut roots = Vec::new();
        for file in files {
            let bad = |reason: String| RelayCaError::BadFile { path: file.clone(), reason };
            let text = read(Path::new(file)).map_err(|error| bad(error.to_string()))?;
            let certificates = CertificateDer::pem_slice_iter(&text);
            let certificates: Vec<_> =
                certificates.collect::<Result<_, _>>().map_err(|error| bad(error.to_string()))?;
            if certificates.is_empty() {
                return Err(bad("it holds none".to_owned()));
            }
            roots.extend(certificates);
        }
        Ok(if roots.is_empty() { Self::WebRoots } else { Self::Roots(roots) })
    }

    pub(crate) fn tls_config(&self) -> CaTlsConfig {
        match self {
            Self::WebRoots => CaTlsConfig::embedded(),
            Self::Roots(roots) => CaTlsConfig::custom_roots(roots.iter().cloned()),
            Self::Pins(pins) => {
                let pins = pins.clone();
                CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
                    Ok(Arc::new(PinVerifier { pins: pins.clone(), provider }))
                }))
            }
        }
    }
}

/// Accepts certain public keys, under any name and with any dates: the pin is what the user trusts.
#[derive(Debug)]
struct PinVerifier {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.contains(&Pin::of(end_entity)?) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the server's certificate does not fit the pin".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_and_printed_alike() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
        for bad in ["sha256:", "sha256:00", "sha1:00", &text[..60]] {
            assert!(bad.parse::<Pin>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let error =
            RelayCa::read(&["/nonexistent.pem".into()], |path| std::fs::read(path)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.pem"));
    }

    #[test]
    fn several_pins_are_taken_and_files_beside_them_are_not() {
        let pin = |digits: &str| format!("sha256:{}", digits.repeat(32));
        let read = |values: &[String]| RelayCa::read(values, |path| std::fs::read(path));
        assert_eq!(read(&[]).unwrap(), RelayCa::WebRoots);
        let two = read(&[pin("0a"), pin("0b")]).unwrap();
        assert!(matches!(two, RelayCa::Pins(pins) if pins.len() == 2));
        assert!(matches!(read(&[pin("0a"), "ca.pem".into()]), Err(RelayCaError::Mixed)));
    }
}
