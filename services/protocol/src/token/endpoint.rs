//! Where a centre is reached: `host:port`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The portal's port.
pub const DEFAULT_PORT: u16 = 7443;
/// Longest name, of RFC 1035 without the trailing dot.
const MAX_NAME: usize = 253;
/// What names are made of; the place is the value in base 40, 0 fills up.
const NAME: &[u8] = b"\0abcdefghijklmnopqrstuvwxyz0123456789-._";

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name, lower case, without a trailing dot.
    Name(String),
}

/// `host:port`; the port may be left out for [`DEFAULT_PORT`], IPv6 stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// Not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not host:port; write a DNS name, an IPv4 address or an IPv6 address in brackets, with a port"
)]
pub struct EndpointError(pub String);

impl FromStr for Host {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Host, EndpointError> {
        if let Ok(address) = text.parse() {
            return Ok(Host::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b != b'.' && NAME[1..].contains(&b))
        };
        // a last label of digits would be an address that failed to parse
        let last = name.rsplit('.').next().unwrap_or_default();
        let digits = last.bytes().all(|b| b.is_ascii_digit());
        if name.len() <= MAX_NAME && name.split('.').all(label) && !digits {
            Ok(Host::Name(name))
        } else {
            Err(EndpointError(text.to_owned()))
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let wrong = || EndpointError(text.to_owned());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            let host = Host::Address(IpAddr::V6(host.parse().map_err(|_| wrong())?));
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(wrong)?),
            };
            (host, port)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host.parse().map_err(|_| wrong())?, Some(port)),
                None => (text.parse().map_err(|_| wrong())?, None),
            }
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if port == 0 {
            return Err(wrong());
        }
        Ok(Endpoint { host, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl TryFrom<String> for Host {
    type Error = EndpointError;
    fn try_from(text: String) -> Result<Host, EndpointError> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;
    fn try_from(text: String) -> Result<Endpoint, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

impl Endpoint {
    /// The form (a nibble) and the bytes after it, as a token carries them: bit 0 of the form
    /// says that a port follows, the rest IPv4, IPv6 or a name.
    pub(super) fn packed(&self) -> (u8, Vec<u8>) {
        let (form, mut bytes) = match &self.host {
            Host::Address(IpAddr::V4(address)) => (0, address.octets().to_vec()),
            Host::Address(IpAddr::V6(address)) => (2, address.octets().to_vec()),
            Host::Name(name) => {
                let units = pack_name(name);
                let mut bytes = vec![(units.len() / 2) as u8];
                bytes.extend(units);
                (4, bytes)
            }
        };
        if self.port == DEFAULT_PORT {
            return (form, bytes);
        }
        bytes.extend(self.port.to_be_bytes());
        (form | 1, bytes)
    }

    /// The endpoint and what is left; None unless [`Endpoint::packed`] writes just this.
    pub(super) fn unpacked(form: u8, bytes: &[u8]) -> Option<(Endpoint, &[u8])> {
        let (host, rest) = match form >> 1 {
            0 => {
                let (address, rest) = bytes.split_first_chunk::<4>()?;
                (Host::Address(Ipv4Addr::from(*address).into()), rest)
            }
            1 => {
                let (address, rest) = bytes.split_first_chunk::<16>()?;
                (Host::Address(Ipv6Addr::from(*address).into()), rest)
            }
            2 => {
                let (units, rest) = bytes.split_first()?;
                let (units, rest) = rest.split_at_checked(usize::from(*units) * 2)?;
                let name = unpack_name(units)?;
                match name.parse().ok()? {
                    Host::Name(same) if same == name => (Host::Name(same), rest),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let (port, rest) = if form & 1 == 0 {
            (DEFAULT_PORT, rest)
        } else {
            let (port, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*port), rest)
        };
        if port == 0 || (form & 1 == 1 && port == DEFAULT_PORT) {
            return None;
        }
        Some((Endpoint { host, port }, rest))
    }
}

/// Three characters in two bytes, big endian, in base 40.
fn pack_name(name: &str) -> Vec<u8> {
    let value = |byte: &u8| NAME.iter().position(|n| n == byte).unwrap_or_default() as u16;
    name.as_bytes()
        .chunks(3)
        .flat_map(|three| {
            let digit = |at| three.get(at).map_or(0, value);
            (digit(0) * 1600 + digit(1) * 40 + digit(2)).to_be_bytes()
        })
        .collect()
}

fn unpack_name(units: &[u8]) -> Option<String> {
    let mut name = String::new();
    for unit in units.as_chunks::<2>().0 {
        let unit = u16::from_be_bytes(*unit);
        for digit in [unit / 1600, unit / 40 % 40, unit % 40] {
            name.push(char::from(*NAME.get(usize::from(digit))?));
        }
    }
    let name = name.trim_end_matches('\0');
    // exactly what packing this name gives, so that no name has two spellings
    (!name.contains('\0') && pack_name(name) == units).then(|| name.to_owned())
}
