//! A block in binary. Numbers are big-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version, 1 |
//! | 1 | the kind: 1 an offer, 2 an answer |
//! | 8 | the offer's id |
//! | 20 | the credentials: 4 of the user name fragment, 16 of the password |
//! | 32 | the fingerprint |
//! | 1 | the mappings: that of IPv4 in the upper half, that of IPv6 in the lower one |
//! | 1 | how many candidates there are |
//! | 7 or 19 each | a candidate: its family (4 or 6, plus 16 for a server reflexive one), its address, its port |
//! | 16 | an offer's commitment, an answer's nonce |
//! | 2 | of an offer: the time to live in seconds |
//! | 1 | of an offer: how many sources there are |
//! | 5 to 257 each | of an offer: a source: `t` or `u`, its port, the length of its host, its host as text |
//! | any | what this version does not know, and ignores |
//! | 4 | the checksum: the first bytes of the SHA-256 of all that is before |
//!
//! In every version, the first byte is the version and the last four are this checksum. So a block of another version
//! can be told from a damaged one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tunnel_model::{Protocol, Source};

use super::{Block, BlockError, BlockKind};
use crate::signaling::manual::{Answer, Offer, OfferId};
use crate::{Candidate, CandidateKind, Credentials, Description, Fingerprint, Mapping};

/// The version that this program writes and reads.
pub(super) const VERSION: u8 = 1;

/// The most candidates of a block.
pub const MAX_CANDIDATES: usize = 32;

/// The most sources of an offer.
pub const MAX_SOURCES: usize = 64;

const CHECKSUM: usize = 4;
const SERVER_REFLEXIVE: u8 = 16;
const MAPPINGS: [Mapping; 6] = [
    Mapping::NotAsked,
    Mapping::NoAnswer,
    Mapping::Unknown,
    Mapping::NoNat,
    Mapping::Independent,
    Mapping::Dependent,
];

fn mapping_number(mapping: Mapping) -> u8 {
    match mapping {
        Mapping::NotAsked => 0,
        Mapping::NoAnswer => 1,
        Mapping::Unknown => 2,
        Mapping::NoNat => 3,
        Mapping::Independent => 4,
        Mapping::Dependent => 5,
    }
}

fn kind_number(kind: BlockKind) -> u8 {
    match kind {
        BlockKind::Offer => 1,
        BlockKind::Answer => 2,
    }
}

/// Why nothing can be sent to an address.
fn unusable(addr: SocketAddr) -> Option<&'static str> {
    let ip = addr.ip();
    if addr.port() == 0 {
        return Some("an address has port 0");
    }
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Some("an address is for everyone on the link"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address is written as an IPv6 one")
        }
        _ if ip.is_unspecified() => Some("an address is that of no machine"),
        _ if ip.is_multicast() => Some("an address is for many machines"),
        _ => None,
    }
}

/// The binary form of an offer.
pub(super) fn offer(offer: &Offer) -> Vec<u8> {
    let mut bytes = head(BlockKind::Offer, offer.id, &offer.description);
    bytes.extend_from_slice(&offer.commitment);
    let ttl = u16::try_from(offer.ttl.as_secs()).unwrap_or(u16::MAX).max(1);
    bytes.extend_from_slice(&ttl.to_be_bytes());
    let sources = &offer.sources[..offer.sources.len().min(MAX_SOURCES)];
    bytes.push(sources.len() as u8);
    for source in sources {
        write_source(&mut bytes, source);
    }
    seal(bytes)
}

/// The binary form of an answer.
pub(super) fn answer(answer: &Answer) -> Vec<u8> {
    let mut bytes = head(BlockKind::Answer, answer.id, &answer.description);
    bytes.extend_from_slice(&answer.nonce);
    seal(bytes)
}

fn head(kind: BlockKind, id: OfferId, description: &Description) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind_number(kind)];
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(&description.credentials.to_bytes());
    bytes.extend_from_slice(&description.fingerprint.0);
    let (v4, v6) = (description.mapping_v4, description.mapping_v6);
    bytes.push(mapping_number(v4) << 4 | mapping_number(v6));
    let count = bytes.len();
    bytes.push(0);
    for (candidate, family) in told(&description.candidates).take(MAX_CANDIDATES) {
        bytes[count] += 1;
        bytes.push(family);
        match candidate.addr.ip() {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
        bytes.extend_from_slice(&candidate.addr.port().to_be_bytes());
    }
    bytes
}

/// The candidates that a description may hold, each with its first byte.
fn told(candidates: &[Candidate]) -> impl Iterator<Item = (&Candidate, u8)> {
    candidates.iter().filter(|c| unusable(c.addr).is_none()).filter_map(|candidate| {
        let family = if candidate.addr.is_ipv4() { 4 } else { 6 };
        match candidate.kind {
            CandidateKind::Host => Some((candidate, family)),
            CandidateKind::ServerReflexive => Some((candidate, family + SERVER_REFLEXIVE)),
            CandidateKind::PeerReflexive => None,
        }
    })
}

fn write_source(bytes: &mut Vec<u8>, source: &Source) {
    bytes.push(match source.protocol {
        Protocol::Tcp => b't',
        Protocol::Udp => b'u',
    });
    bytes.extend_from_slice(&source.port.to_be_bytes());
    let host = source.host.to_string();
    // A host that was parsed is never longer than a name may be.
    let length = u8::try_from(host.len()).unwrap_or(u8::MAX);
    bytes.push(length);
    bytes.extend_from_slice(&host.as_bytes()[..length.into()]);
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum[..CHECKSUM]);
    bytes
}

/// Reads what [`offer`] and [`answer`] write.
///
/// # Errors
///
/// [`BlockError::Damaged`] where the checksum does not fit, [`BlockError::Version`] and [`BlockError::Invalid`] where
/// it does.
pub(super) fn decode(bytes: &[u8]) -> Result<Block, BlockError> {
    let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(BlockError::Damaged)?;
    if Sha256::digest(bytes)[..CHECKSUM] != *sum {
        return Err(BlockError::Damaged);
    }
    let (version, bytes) = bytes.split_first().ok_or(BlockError::Damaged)?;
    if *version != VERSION {
        return Err(BlockError::Version(*version));
    }
    Reader(bytes).block()
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn block(&mut self) -> Result<Block, BlockError> {
        let number = self.byte()?;
        let kind = BlockKind::ALL.into_iter().find(|kind| kind_number(*kind) == number);
        let kind = kind.ok_or(BlockError::Invalid("it is neither an offer nor an answer"))?;
        let id = OfferId(self.array()?);
        let description = self.description()?;
        match kind {
            BlockKind::Offer => {
                let commitment = self.array()?;
                let ttl = Duration::from_secs(self.number()?.into());
                if ttl.is_zero() {
                    return Err(BlockError::Invalid("an offer has no time to live"));
                }
                let sources = self.sources()?;
                Ok(Block::Offer(Offer { id, ttl, commitment, description, sources }))
            }
            BlockKind::Answer => {
                let nonce = self.array()?;
                Ok(Block::Answer(Answer { id, nonce, description }))
            }
        }
    }

    fn description(&mut self) -> Result<Description, BlockError> {
        let credentials = Credentials::from_bytes(&self.array()?);
        let fingerprint = Fingerprint(self.array()?);
        let mappings = self.byte()?;
        let mapping = |number: u8| {
            let mapping = MAPPINGS.into_iter().find(|mapping| mapping_number(*mapping) == number);
            mapping.ok_or(BlockError::Invalid("a NAT maps in a way that is not known"))
        };
        let (mapping_v4, mapping_v6) = (mapping(mappings >> 4)?, mapping(mappings & 15)?);
        let count = usize::from(self.byte()?);
        if count > MAX_CANDIDATES {
            return Err(BlockError::Invalid("there are too many addresses"));
        }
        let candidates = (0..count).map(|_| self.candidate()).collect::<Result<_, _>>()?;
        Ok(Description { credentials, fingerprint, candidates, mapping_v4, mapping_v6 })
    }

    fn candidate(&mut self) -> Result<Candidate, BlockError> {
        let family = self.byte()?;
        let kind = match family & SERVER_REFLEXIVE {
            0 => CandidateKind::Host,
            _ => CandidateKind::ServerReflexive,
        };
        let ip = match family & !SERVER_REFLEXIVE {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(BlockError::Invalid("an address is of no known kind")),
        };
        let addr = SocketAddr::new(ip, self.number()?);
        match unusable(addr) {
            Some(why) => Err(BlockError::Invalid(why)),
            None => Ok(Candidate { kind, addr }),
        }
    }

    fn sources(&mut self) -> Result<Vec<Source>, BlockError> {
        let count = usize::from(self.byte()?);
        match count {
            0 => Err(BlockError::Invalid("an offer asks for no service")),
            1..=MAX_SOURCES => (0..count).map(|_| self.source()).collect(),
            _ => Err(BlockError::Invalid("an offer asks for too many services")),
        }
    }

    fn source(&mut self) -> Result<Source, BlockError> {
        let protocol = match self.byte()? {
            b't' => Protocol::Tcp,
            b'u' => Protocol::Udp,
            _ => return Err(BlockError::Invalid("a service is neither of TCP nor of UDP")),
        };
        let port = self.number()?;
        if port == 0 {
            return Err(BlockError::Invalid("a service has port 0"));
        }
        let length = self.byte()?.into();
        let host = str::from_utf8(self.slice(length)?).ok().and_then(|host| host.parse().ok());
        let host = host.ok_or(BlockError::Invalid("a service is on no possible host"))?;
        Ok(Source { protocol, host, port })
    }

    fn byte(&mut self) -> Result<u8, BlockError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u16, BlockError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlockError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], BlockError> {
        let (slice, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(slice)
    }
}

const SHORT: BlockError = BlockError::Invalid("it ends too early");
