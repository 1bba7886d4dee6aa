//! One way to encrypt a small thing under a 32-byte key: a key of its own by HKDF-SHA256 from
//! purpose and name, AES-256-GCM, a random nonce, purpose and name again as associated data.
//! Bytes: nonce (12), ciphertext, tag (16).
//!
//! Each name has its own key, so random nonces stay safe however often a name is rewritten, and
//! what was wrapped under one name opens under no other.

use contract::Error;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use runtime::random;
use zeroize::Zeroizing;

/// A key that wraps others.
pub(crate) type Key = Zeroizing<[u8; 32]>;
/// Secret bytes of any length.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

const SALT: &[u8] = b"strongroom wrap v1";

/// A fresh identifier: 16 random bytes in hexadecimal digits.
pub(crate) fn random_id() -> Result<String, Error> {
    Ok(data_encoding::HEXLOWER.encode(&random::<16>()?[..]))
}

fn context(purpose: &str, name: &str) -> Vec<u8> {
    [purpose.as_bytes(), b"\0", name.as_bytes()].concat()
}

fn cipher(key: &Key, context: &[u8]) -> LessSafeKey {
    let info = [context];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&key[..]);
    let derived = extracted
        .expand(&info, &AES_256_GCM)
        .expect("one key is not too long for HKDF");
    LessSafeKey::new(UnboundKey::from(derived))
}

/// A MAC key for `purpose`, apart from every wrapping key.
pub(crate) fn mac_key(key: &Key, purpose: &str) -> hmac::Key {
    let context = context(purpose, "");
    let info = [&context[..]];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"strongroom mac v1")
        .extract(&key[..])
        .expand(&info, hmac::HMAC_SHA256)
        .expect("one key is not too long for HKDF")
        .into()
}

/// Encrypts.
pub(crate) fn wrap(key: &Key, purpose: &str, name: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
    let context = context(purpose, name);
    let nonce = random::<NONCE_LEN>()?;
    // encrypted where it ends up, so that no second copy in clear is left behind
    let mut bytes = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    bytes.extend_from_slice(&nonce[..]);
    bytes.extend_from_slice(plain);
    let tag = cipher(key, &context)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&context),
            &mut bytes[NONCE_LEN..],
        )
        .expect("what we wrap is short");
    bytes.extend_from_slice(tag.as_ref());
    Ok(bytes)
}

/// Decrypts; None when the key, purpose or name is another, or the bytes were altered.
pub(crate) fn unwrap(key: &Key, purpose: &str, name: &str, bytes: &[u8]) -> Option<Secret> {
    let context = context(purpose, name);
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    let length = cipher(key, &context)
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&context),
            &mut plain,
        )
        .ok()?
        .len();
    plain.truncate(length);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by version 0.1; HKDF and the counter mode were checked with other programs.
    #[test]
    fn what_was_once_wrapped_still_opens() {
        let bytes = data_encoding::HEXLOWER
            .decode(b"b06d1c927051b3b60a07f9ad74bc1141c7748818c2f3eb405b10025843889dd73e")
            .unwrap();
        let opened = unwrap(&Zeroizing::new([7; 32]), "keyset", "d", &bytes);
        assert_eq!(opened.unwrap()[..], *b"plain");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn only_the_same_key_purpose_and_name_open_unaltered_bytes(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            position in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let key = Zeroizing::new([7; 32]);
            let bytes = wrap(&key, "entry", "pool/main", &plain).unwrap();
            let opened = unwrap(&key, "entry", "pool/main", &bytes).unwrap();
            prop_assert_eq!(&*opened, &plain);
            prop_assert!(unwrap(&key, "entry", "pool/mail", &bytes).is_none());
            prop_assert!(unwrap(&key, "entrypool/", "main", &bytes).is_none());
            prop_assert!(unwrap(&Zeroizing::new([8; 32]), "entry", "pool/main", &bytes).is_none());
            let mut altered = bytes.clone();
            let at = position.index(altered.len());
            altered[at] ^= 1 << bit;
            prop_assert!(unwrap(&key, "entry", "pool/main", &altered).is_none());
            prop_assert!(unwrap(&key, "entry", "pool/main", &bytes[..at]).is_none());
        }
    }
}
