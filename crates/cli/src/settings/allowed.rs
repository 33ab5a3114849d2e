use clap::Args;
use serde::Deserialize;
use tunnel_model::{Allowlist, Cidr};

use super::{OneOrMany, key};
use crate::Outcome;

/// What clients may reach, by flags.
#[derive(Args, Debug, Default, Clone)]
pub struct AllowArgs {
    /// A network that clients may reach over TCP; repeatable
    #[arg(long, value_name = "CIDR", env = "TUNNEL_RS_ALLOWED_TCP", value_delimiter = ',')]
    allowed_tcp: Vec<Cidr>,
    /// A network that clients may reach over UDP; repeatable
    #[arg(long, value_name = "CIDR", env = "TUNNEL_RS_ALLOWED_UDP", value_delimiter = ',')]
    allowed_udp: Vec<Cidr>,
}

/// The keys of a file that say the same; what is in several places is added up.
#[derive(Debug, Default)]
pub struct AllowFile {
    /// The section of that name.
    pub allowed_sources: AllowedSources,
    /// Networks over TCP.
    pub allowed_tcp: OneOrMany<String>,
    /// Networks over UDP.
    pub allowed_udp: OneOrMany<String>,
}

/// The section `allowed_sources`.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct AllowedSources {
    tcp: OneOrMany<String>,
    udp: OneOrMany<String>,
}

impl AllowArgs {
    /// The networks that may be reached: for each protocol those of the flags, or else those of the file.
    ///
    /// # Errors
    ///
    /// Where a word of the file is no network.
    pub fn resolve(&self, file: AllowFile) -> Outcome<Allowlist> {
        let AllowFile { allowed_sources: sources, allowed_tcp, allowed_udp } = file;
        Ok(Allowlist {
            tcp: networks(&self.allowed_tcp, [sources.tcp, allowed_tcp])?,
            udp: networks(&self.allowed_udp, [sources.udp, allowed_udp])?,
        })
    }
}

fn networks(flags: &[Cidr], file: [OneOrMany<String>; 2]) -> Outcome<Vec<Cidr>> {
    if !flags.is_empty() {
        return Ok(flags.to_vec());
    }
    file.into_iter().flat_map(Vec::from).map(|text| key("allowed_sources", &text)).collect()
}
