//! Enrolment tokens: what an operator types at a new site, docs/protocol.md "Token".

mod base32;
mod endpoint;
#[cfg(test)]
mod tests;

pub use endpoint::{DEFAULT_PORT, Endpoint, EndpointError, Host};

use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Bytes of an authority's fingerprint.
pub const FINGERPRINT: usize = 12;
/// Bytes of a token's secret.
pub const SECRET: usize = 16;
const VERSION: u8 = 1;
const CHECKSUM: usize = 3;

/// The first 12 bytes of BLAKE3 of a certificate's DER: what pins a centre.
pub fn fingerprint(der: &[u8]) -> [u8; FINGERPRINT] {
    let mut first = [0; FINGERPRINT];
    first.copy_from_slice(&blake3::hash(der).as_bytes()[..FINGERPRINT]);
    first
}

/// A token's content. Its text is what `Display` writes and `FromStr` reads.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The centre's portal as sites reach it.
    pub endpoint: Endpoint,
    /// Of the fleet authority.
    pub fingerprint: [u8; FINGERPRINT],
    /// Random; whoever has it may enrol.
    pub secret: Zeroizing<[u8; SECRET]>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A character no token has.
    #[error(
        "the token has {character:?} in its group {group}, which no token has; compare that group with the token as given"
    )]
    Character {
        /// The character.
        character: char,
        /// Its group, from 1.
        group: usize,
    },
    /// The checksum does not fit, and one changed character in this group explains it.
    #[error(
        "the token is mistyped, most likely in its group {0}; compare that group with the token as given"
    )]
    MistypedGroup(usize),
    /// The checksum does not fit.
    #[error(
        "the token is mistyped or incomplete ({groups} groups read); compare it with the token as given, group by group"
    )]
    Mistyped {
        /// Groups of five that were read, the last one perhaps shorter.
        groups: usize,
    },
    /// The checksum fits; a later release wrote it.
    #[error("the token is of a newer kind than this release reads; update this machine first")]
    Version,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbols = base32::symbols(&self.bytes());
        for (at, symbol) in symbols.iter().enumerate() {
            if at > 0 && at % base32::GROUP == 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", base32::letter(*symbol))?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let symbols = base32::read(text)?;
        let mistyped = TokenError::Mistyped {
            groups: symbols.len().div_ceil(base32::GROUP),
        };
        // shorter than the shortest or longer than the longest: no use in looking for one slip
        if symbols.len() < 40 || symbols.len() > 400 {
            return Err(mistyped);
        }
        match unsealed(&symbols) {
            Some(body) => Token::read(&body).ok_or(mistyped)?,
            None => Err(likely_group(&symbols).map_or(mistyped, TokenError::MistypedGroup)),
        }
    }
}

impl Token {
    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        let (form, host) = self.endpoint.packed();
        bytes.push(VERSION << 4 | form);
        bytes.extend_from_slice(&host);
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.secret[..]);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// None for a body that no token has, though its checksum fits.
    fn read(body: &[u8]) -> Option<Result<Token, TokenError>> {
        let (first, rest) = body.split_first()?;
        if first >> 4 != VERSION {
            return Some(Err(TokenError::Version));
        }
        let (endpoint, rest) = Endpoint::unpacked(first & 15, rest)?;
        let (fingerprint, secret) = rest.split_at_checked(FINGERPRINT)?;
        Some(Ok(Token {
            endpoint,
            fingerprint: fingerprint.try_into().ok()?,
            secret: Zeroizing::new(secret.try_into().ok()?),
        }))
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new_derive_key("strongroom token checksum v1");
    let mut sum = [0; CHECKSUM];
    hasher.update(body).finalize_xof().fill(&mut sum);
    sum
}

/// What is before the checksum, when that fits.
fn unsealed(symbols: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = base32::bytes(symbols)?;
    let body = bytes.len().checked_sub(CHECKSUM)?;
    let fits = checksum(&bytes[..body]) == bytes[body..];
    bytes.truncate(body);
    fits.then_some(bytes)
}

/// The group in which one changed character, or two exchanged neighbours, make the checksum fit;
/// None when no group or more than one does. Some 2,500 hashes of 40 bytes: a millisecond.
fn likely_group(symbols: &[u8]) -> Option<usize> {
    let mut symbols = Zeroizing::new(symbols.to_vec());
    let mut found = None;
    for at in 0..symbols.len() {
        let typed = symbols[at];
        let mut fits = (0..32).filter(|s| *s != typed).any(|other| {
            symbols[at] = other;
            unsealed(&symbols).is_some()
        });
        symbols[at] = typed;
        if at + 1 < symbols.len() && symbols[at + 1] != typed {
            symbols.swap(at, at + 1);
            fits |= unsealed(&symbols).is_some();
            symbols.swap(at, at + 1);
        }
        let group = at / base32::GROUP + 1;
        match found {
            _ if !fits => {}
            None => found = Some(group),
            Some(other) if other == group => {}
            Some(_) => return None,
        }
    }
    found
}
