//! What leaves a site so that its data can be read elsewhere (docs/protocol.md, "Custody"): the
//! keyset under the tenant key, and the tenant key to the centre (HPKE) or in shares.

use crate::store::damaged;
use crate::wrap::{self, Key, Secret};
use contract::Error;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

const VERSION: u8 = 1;
const INFO: &[u8] = b"strongroom tenant key v1";
/// Version, encapsulated key, tenant key and its tag.
const SEALED_LEN: usize = 1 + 32 + 32 + 16;

/// X25519 public key of a private one; also WireGuard's.
pub(crate) fn x25519_public(private: &Key) -> Result<[u8; 32], Error> {
    let bytes = X25519HkdfSha256::sk_to_pk(&read_private(private)?).to_bytes();
    Ok(bytes.into())
}

fn read_private(private: &Key) -> Result<Private, Error> {
    Private::from_bytes(&private[..]).map_err(|_| damaged("of an X25519 key"))
}

/// Seals a tenant key to the centre's wrap key.
pub(crate) fn seal(key: &Key, tenant: &str, centre: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = || {
        Error::InvalidArgument(
            "the centre's wrap key is no X25519 key; enrol with a new token".into(),
        )
    };
    let public = Public::from_bytes(centre).map_err(|_| refuse())?;
    let (encapped, sealed) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        INFO,
        &key[..],
        tenant.as_bytes(),
    )
    .map_err(|_| refuse())?;
    Ok([&[VERSION][..], &encapped.to_bytes(), &sealed].concat())
}

/// Opens what [`seal`] sealed to us; None when it is not for this wrap key and tenant.
pub(crate) fn open(sealed: &[u8], tenant: &str, wrap: &Key) -> Option<Key> {
    if sealed.len() != SEALED_LEN || sealed[0] != VERSION {
        return None;
    }
    let encapped = Encapped::from_bytes(&sealed[1..33]).ok()?;
    let key = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &read_private(wrap).ok()?,
        &encapped,
        INFO,
        &sealed[33..],
        tenant.as_bytes(),
    )
    .map(Zeroizing::new)
    .ok()?;
    <[u8; 32]>::try_from(&key[..]).ok().map(Zeroizing::new)
}

/// Wraps a datastore's keyset under its tenant key.
pub(crate) fn wrap_keyset(key: &Key, keyset: &format::Keyset) -> Result<Vec<u8>, Error> {
    let datastore = keyset.datastore_id.to_string();
    let wrapped = wrap::wrap(key, "keyset", &datastore, &keyset.encode())?;
    Ok([&[VERSION][..], &wrapped].concat())
}

/// Unwraps what [`wrap_keyset`] wrapped: the keyset's encoding. None when the key is another's.
pub(crate) fn unwrap_keyset(key: &Key, datastore: &str, wrapped: &[u8]) -> Option<Secret> {
    let (version, wrapped) = wrapped.split_first()?;
    (*version == VERSION).then_some(())?;
    let bytes = wrap::unwrap(key, "keyset", datastore, wrapped)?;
    // what a pipe hands out is always a keyset of that datastore
    let keyset = format::Keyset::decode(&bytes).ok()?;
    (keyset.datastore_id.to_string() == datastore).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tenant_key_opens_with_the_centres_wrap_key_alone() {
        let (key, wrap, other) = (
            runtime::random().unwrap(),
            runtime::random().unwrap(),
            runtime::random().unwrap(),
        );
        let sealed = seal(&key, "acme", &x25519_public(&wrap).unwrap()).unwrap();
        assert_eq!(sealed.len(), SEALED_LEN);
        assert_eq!(open(&sealed, "acme", &wrap), Some(key));
        assert_eq!(open(&sealed, "acma", &wrap), None);
        assert_eq!(open(&sealed, "acme", &other), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 0x40;
            assert_eq!(open(&altered, "acme", &wrap), None, "byte {at}");
        }
    }

    /// Written by version 0.1.
    #[test]
    fn a_tenant_key_once_sealed_still_opens() {
        let sealed = data_encoding::HEXLOWER
            .decode(
                b"0113450e7a04a6c395dc55bd39b46e2bda2b5f0a29261f45c223d84234ab481a3f\
                  47a873749b02bd8e23a472be52675efacb28bc0221408bbf1d7938f3f1f044ac\
                  23ba5d0d260388c3a8731da6c4cb739f",
            )
            .unwrap();
        let opened = open(&sealed, "acme", &Zeroizing::new([3; 32]));
        assert_eq!(opened, Some(Zeroizing::new([9; 32])));
    }

    /// Value by an independent implementation of RFC 7748's ladder.
    #[test]
    fn public_halves_are_x25519() {
        let public = x25519_public(&Zeroizing::new([1; 32])).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&public),
            "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let key = Zeroizing::new([9; 32]);
            prop_assert!(open(&bytes, "acme", &key).is_none());
            prop_assert!(unwrap_keyset(&key, "acme", &bytes).is_none());
        }
    }
}
