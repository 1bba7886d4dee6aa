//! Two-of-three shares of a tenant key as bytes and as text to print and type
//! (docs/protocol.md, "Shares").
//!
//! 40 bytes: version 1, set (2), number, 32 bytes of the share, check (4, the first of BLAKE3 over
//! what precedes). As text: whose share it is, a colon, and the bytes in Crockford's base32, 16
//! groups of four.

use crate::wrap::Key;
use blahaj::{Share as Point, Sharks};
use contract::Error;
use data_encoding::{Encoding, Specification};
use std::sync::LazyLock;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const LEN: usize = 40;
const CHECKED: usize = LEN - 4;
/// Whose the shares are, by their number from 1.
const HOLDERS: [&str; 3] = ["centre", "client", "envelope"];

/// Crockford's alphabet; small letters, the look-alikes I, L and O, hyphens and white space read.
static TEXT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    spec.translate.from.push_str("abcdefghjkmnpqrstvwxyzOoIiLl");
    spec.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    spec.ignore.push_str("- \t\r\n");
    spec.encoding().expect("a fixed, valid alphabet")
});

/// One of three shares. Wiped when dropped.
#[derive(Clone)]
pub(crate) struct Share(Zeroizing<[u8; LEN]>);

/// Splits a key anew: shares of an earlier split do not go with these.
pub(crate) fn split(key: &Key) -> Result<[Share; 3], Error> {
    let set = runtime::random::<2>()?;
    let mut points = Sharks(2).dealer(&key[..]);
    let mut next = || {
        let point = points.next().expect("255 of them");
        let mut bytes = Zeroizing::new([0; LEN]);
        bytes[0] = VERSION;
        bytes[1..3].copy_from_slice(&set[..]);
        bytes[3..CHECKED].copy_from_slice(&Zeroizing::new(Vec::from(&point)));
        let check = check(&bytes);
        bytes[CHECKED..].copy_from_slice(&check);
        Share(bytes)
    };
    Ok([next(), next(), next()])
}

/// The key two shares give. They must be of one split, and not the same.
pub(crate) fn combine(one: &Share, other: &Share) -> Result<Key, Error> {
    let refuse = |why: String| Err(Error::ShareInvalid(why));
    if one.number() == other.number() {
        return refuse(format!(
            "this is the {} share, which is here already; type the client's or the envelope's",
            other.holder()
        ));
    }
    if one.set() != other.set() {
        return refuse(
            "this share belongs to another tenant, or was replaced by a newer one since; \
             look for the envelope printed last"
                .into(),
        );
    }
    let points = [one.point(), other.point()];
    let key = Sharks(2)
        .recover(&points)
        .ok()
        .map(Zeroizing::new)
        .and_then(|key| Some(Zeroizing::new(<[u8; 32]>::try_from(&key[..]).ok()?)));
    key.map_or_else(|| refuse("the two shares give no key".into()), Ok)
}

impl Share {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Share, Error> {
        let refuse = |why: &str| Err(Error::ShareInvalid(format!("{why}; type the share again")));
        let Ok(bytes) = <[u8; LEN]>::try_from(bytes).map(Zeroizing::new) else {
            return refuse("the share is not whole: it has 64 letters and digits");
        };
        if bytes[CHECKED..] != check(&bytes) {
            return refuse("a letter or digit of the share is wrong");
        }
        if bytes[0] != VERSION || !(1..=3).contains(&bytes[3]) {
            return refuse("this share is of a kind that a newer Strongroom prints");
        }
        Ok(Share(bytes))
    }

    /// Reads what [`Share::to_text`] wrote and a person typed, with or without the words before it.
    pub(crate) fn from_text(text: &str) -> Result<Share, Error> {
        let letters = text.rsplit(':').next().unwrap_or_default();
        if letters.len() > 1000 {
            return Share::from_bytes(&[]);
        }
        match TEXT.decode(letters.as_bytes()).map(Zeroizing::new) {
            Ok(bytes) => Share::from_bytes(&bytes),
            Err(error) if error.kind == data_encoding::DecodeKind::Symbol => {
                let found = letters
                    .as_bytes()
                    .get(error.position)
                    .copied()
                    .unwrap_or(b'?');
                Err(Error::ShareInvalid(format!(
                    "\"{}\" is no letter or digit of a share; type the share again",
                    char::from(found).escape_default()
                )))
            }
            Err(_) => Share::from_bytes(&[]),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// To print once: "client share: 04QY-…".
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let letters = Zeroizing::new(TEXT.encode(self.bytes()));
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(self.holder());
        text.push_str(" share: ");
        for (i, letter) in letters.chars().enumerate() {
            if i > 0 && i % 4 == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }

    fn number(&self) -> u8 {
        self.0[3]
    }

    fn set(&self) -> &[u8] {
        &self.0[1..3]
    }

    fn holder(&self) -> &'static str {
        HOLDERS[usize::from(self.number()) - 1]
    }

    fn point(&self) -> Point {
        Point::try_from(&self.0[3..CHECKED]).expect("33 bytes are enough")
    }
}

fn check(bytes: &[u8; LEN]) -> [u8; 4] {
    let hash = blake3::hash(&bytes[..CHECKED]);
    *hash.as_bytes().first_chunk().expect("32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(error: Error) -> String {
        error.text()
    }

    #[test]
    fn any_two_of_three_give_the_key_and_one_does_not() {
        let key = runtime::random().unwrap();
        let shares = split(&key).unwrap();
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            assert_eq!(combine(&shares[a], &shares[b]).unwrap(), key);
        }
        let told = text_of(combine(&shares[0], &shares[0]).unwrap_err());
        assert!(
            told.contains("the centre share, which is here already"),
            "{told}"
        );
        for share in &shares {
            assert!(!share.bytes().windows(32).any(|w| w == &key[..]));
        }
    }

    #[test]
    fn a_share_of_another_split_is_told() {
        let key = runtime::random().unwrap();
        let (old, new) = (split(&key).unwrap(), split(&key).unwrap());
        let told = text_of(combine(&new[0], &old[1]).unwrap_err());
        assert!(told.contains("replaced by a newer one"), "{told}");
    }

    /// Shares 1 to 3 of the key 00 01 … 1f by the polynomial with coefficients 3, 10, 17 …,
    /// computed by an implementation of its own: printed shares must read for ever.
    #[test]
    fn shares_once_printed_still_give_the_key() {
        let parts = [
            "030b131b1b232b33334b435b5b536b63636b939b9b838bb3b3aba3dbdbd3cbc3",
            "061520333a495c6f7e8d98aba2b1c4d7f6e50d1e17243142536075868f9ca9ba",
            "051f312b256f715b45cfd1fbf5efa1bb859f8c9698b2ace6f8d2cc4648527c66",
        ];
        let shares = [0, 1, 2].map(|i| {
            let mut bytes = [0; LEN];
            bytes[..4].copy_from_slice(&[1, 0xab, 0xcd, i as u8 + 1]);
            let part = data_encoding::HEXLOWER.decode(parts[i].as_bytes()).unwrap();
            bytes[4..CHECKED].copy_from_slice(&part);
            let check = check(&bytes);
            bytes[CHECKED..].copy_from_slice(&check);
            Share::from_bytes(&bytes).unwrap()
        });
        let key: Vec<u8> = (0..32).collect();
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            assert_eq!(combine(&shares[a], &shares[b]).unwrap()[..], key);
        }
    }

    #[test]
    fn text_is_as_it_is_printed() {
        let share = Share::from_bytes(&{
            let mut bytes = [0u8; LEN];
            bytes[..4].copy_from_slice(&[1, 0xab, 0xcd, 2]);
            let check = check(&bytes);
            bytes[CHECKED..].copy_from_slice(&check);
            bytes
        })
        .unwrap();
        let text = share.to_text();
        assert!(
            text.starts_with("client share: 06NW-T0G0-0000-"),
            "{}",
            *text
        );
        assert_eq!(text.len(), "client share: ".len() + 16 * 5 - 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn text_survives_careless_typing(key in any::<[u8; 32]>(), spaces in any::<bool>()) {
            let share = &split(&Zeroizing::new(key)).unwrap()[1];
            let mut text = share.to_text().to_lowercase().replace('0', "o").replace('1', "l");
            if spaces { text = text.replace('-', " "); }
            let letters = text.split(": ").nth(1).unwrap();
            for typed in [text.as_str(), letters, &format!(" {letters}\n")] {
                let read = Share::from_text(typed).unwrap();
                prop_assert_eq!(read.bytes(), share.bytes());
            }
        }

        #[test]
        fn one_wrong_letter_is_told(position in 0usize..64, by in 1usize..32) {
            let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
            let share = &split(&Zeroizing::new([5; 32])).unwrap()[2];
            let mut letters: Vec<u8> =
                share.to_text().split(": ").nth(1).unwrap().bytes().filter(|b| *b != b'-').collect();
            let old = alphabet.iter().position(|a| *a == letters[position]).unwrap();
            letters[position] = alphabet[(old + by) % 32];
            let typed = String::from_utf8(letters).unwrap();
            prop_assert!(Share::from_text(&typed).is_err());
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = Share::from_text(&text);
        }
    }
}
