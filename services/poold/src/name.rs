//! A pool's name on its disks: the md array is `strongroom:ID`, the LUKS label `strongroom:ID`
//! once the pool is finished and `strongroom-new:ID` while it is being made.

use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// A pool's id: 16 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(String);

impl PoolId {
    /// A fresh one.
    pub fn random() -> Result<PoolId, ring::error::Unspecified> {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(PoolId(format!("{:016x}", u64::from_be_bytes(bytes))))
    }

    /// The id with these digits.
    pub fn parse(text: &str) -> Option<PoolId> {
        let fits = text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        fits.then(|| PoolId(text.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The LUKS label of a pool that is finished, or not yet.
    pub fn label(&self, finished: bool) -> String {
        let host = if finished { FINISHED } else { UNFINISHED };
        format!("{host}{}", self.0)
    }

    /// The pool an md array or a finished volume is named after.
    pub fn of_name(name: &str) -> Option<PoolId> {
        name.strip_prefix(FINISHED).and_then(PoolId::parse)
    }

    /// The pool a LUKS label names, and whether it is finished.
    pub fn of_label(label: &str) -> Option<(PoolId, bool)> {
        let unfinished = || label.strip_prefix(UNFINISHED).and_then(PoolId::parse);
        PoolId::of_name(label)
            .map(|id| (id, true))
            .or_else(|| unfinished().map(|id| (id, false)))
    }
}

const FINISHED: &str = "strongroom:";
const UNFINISHED: &str = "strongroom-new:";

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_pool_and_whether_it_is_finished() {
        let id = PoolId::random().unwrap();
        assert_eq!(PoolId::of_label(&id.label(true)), Some((id.clone(), true)));
        assert_eq!(
            PoolId::of_label(&id.label(false)),
            Some((id.clone(), false))
        );
        assert_eq!(PoolId::of_name(&id.label(false)), None);
        assert_ne!(PoolId::random().unwrap(), id);
        // md names hold 32 bytes
        assert!(id.label(true).len() <= 32);
        for other in [
            "strongroom:",
            "strongroom:0123456789abcdeF",
            "x:0123456789abcdef",
        ] {
            assert_eq!(PoolId::of_label(other), None, "{other}");
        }
    }
}
