//! Pairing an agent by a one-time code: docs/protocol.md "Pairing".
//!
//! Runs inside TLS (`strongroom-pair/1`) in whose handshake **neither end is authenticated: the
//! agent takes any certificate**, since before pairing there is nothing it could hold one against.
//! What authenticates both ends is SPAKE2 over the code, whose key is mixed with the TLS session's
//! exporter value: someone between the two ends has two TLS sessions with two exporter values, so
//! the confirmations do not fit even when they relay every byte. Each connection is one guess,
//! online; the site ends the code at the fifth wrong one.

mod agent;
mod keys;
mod site;
#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use site::{Event, Site};

use crate::inbox::Malformed;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The ALPN protocol it runs under.
pub const ALPN: &[u8] = b"strongroom-pair/1";
/// Label of the TLS exporter (RFC 8446, 7.5) both ends bind the exchange to, without a context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-strongroom-pair";
/// Bytes to export.
pub const EXPORTER: usize = 32;
/// Wrong codes that end a pairing.
pub const TRIES: u8 = 5;

/// A one-time code: eight digits, shown as `1234-5678`.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(u32);

/// Not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code is eight digits, as in 1234-5678; type it as the appliance shows it")]
pub struct CodeError;

impl Code {
    /// The code these random bytes stand for.
    pub fn from_random(random: [u8; 16]) -> Code {
        // of 2^128, so that no code is likelier than another by what anyone could measure
        Code((u128::from_le_bytes(random) % 100_000_000) as u32)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:04}", self.0 / 10_000, self.0 % 10_000)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Code, CodeError> {
        let mut digits = 0;
        let mut code = 0;
        for character in text.chars() {
            match character.to_digit(10) {
                Some(digit) if digits < 8 => {
                    digits += 1;
                    code = code * 10 + digit;
                }
                None if character == '-' || character.is_whitespace() => {}
                _ => return Err(CodeError),
            }
        }
        if digits == 8 {
            Ok(Code(code))
        } else {
            Err(CodeError)
        }
    }
}

/// What an agent asks for once the code fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The agent's host name, as the appliance will show it.
    pub name: String,
    /// PKCS#10 DER over the key the agent made.
    pub csr: Vec<u8>,
}

/// What an agent has when it is paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Its id.
    pub agent: String,
    /// Its certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The authority it is to hold the appliance's certificate against from now on, DER.
    pub authority: Vec<u8>,
    /// DNS names of that certificate; the first is the one to verify, whatever address is dialled.
    pub names: Vec<String>,
    /// "backup", or "restore:DATASTORE" for a recovery agent.
    pub scope: String,
}

/// How pairing ends otherwise. Texts are the agent's operator's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No code is open at the appliance, or it was used, ended or expired.
    #[error(
        "no pairing is open at the appliance: the code was used, has expired, or ended after {TRIES} wrong tries; ask for a new one there (strongroom pair)"
    )]
    Closed,
    /// The code does not fit.
    #[error(
        "the pairing code is wrong, or someone stands between this machine and the appliance; compare it with the one shown there ({left} tries are left)"
    )]
    CodeWrong {
        /// Tries left; 0 when this one ended it.
        left: u8,
    },
    /// The fifth wrong code.
    #[error(
        "the pairing code was wrong {TRIES} times and is no longer valid; ask for a new one at the appliance (strongroom pair)"
    )]
    Ended,
    /// The appliance did not prove that it knows the code.
    #[error(
        "the other end does not know the pairing code, so it is not the appliance that showed it; check the address"
    )]
    Impostor,
    /// The code fits, and the appliance could not finish; its sentence.
    #[error("the appliance could not finish the pairing: {0}")]
    Refused(String),
    /// The connection ended in the middle.
    #[error(
        "the appliance closed the connection before the pairing was done; ask for a new code and try again"
    )]
    Interrupted,
    /// The connection failed.
    #[error(
        "the connection to the appliance failed during pairing; check the network and try again with a new code"
    )]
    Io(#[from] std::io::Error),
    /// Not of this protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The site's messages before both ends are authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    /// SPAKE2 element, 33 bytes.
    Element(Vec<u8>),
    /// The site's confirmation.
    Confirmed([u8; 32]),
    /// The agent's confirmation did not fit; tries left.
    Wrong(u8),
    /// No code is open.
    Closed,
}

/// The site's last message, under a MAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Paired(Paired),
    Refused(String),
}
