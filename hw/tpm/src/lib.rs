//! Sealer: seals and unseals a 32-byte secret under PCR values, over a TCTI string.
//!
//! The storage root key is the P-256 primary of the TCG's template (TPM 2.0 Provisioning Guidance,
//! "SRK template"), made anew for each call, so nothing persists in the TPM. The secret crosses
//! the wire to the chip only encrypted: each session is salted to the storage root key, and its
//! name is held against the one recorded at sealing, so that a chip in between cannot offer its own.

mod error;
mod sealer;
mod srk;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::Error;
pub use sealer::{Policy, Sealed, Sealer};

/// Length of what is sealed, bytes.
pub const SECRET_LEN: usize = 32;
