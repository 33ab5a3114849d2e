//! The relay and discovery server of tunnel-rs: iroh-relay and iroh-dns-server behind one listener of its own.
//!
//! The listener ends TLS, counts connections, and hands each request to the relay or to the discovery server. So both
//! have one port, one certificate and one set of rules, and a certificate can be replaced while it runs.

mod access;
mod acme;
mod certificate;
mod discovery;
mod front;
mod metrics;
mod places;
mod relay;
mod status;

pub use access::Rules;
pub use acme::AcmeOptions;
pub use certificate::{Authority, Certificate, CertificateError, Certificates, authorities};
pub use discovery::{DiscoveryError, DiscoveryOptions};
pub use iroh_base::EndpointId;
pub use relay::{Relay, RelayError, RelayOptions, Tls};
