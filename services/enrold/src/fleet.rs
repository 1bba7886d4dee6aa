//! The fleet authority's certificate: the one a token pins, and what it says of the centre.

use contract::Error;
use protocol::token::{FINGERPRINT, fingerprint};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The centre's HPKE public key, by the authority that this fingerprint pins. A portal that was
/// taken over, here or there, can show us another authority, but none that passes this.
pub(crate) fn wrap_key(authority: &[u8], pinned: &[u8; FINGERPRINT]) -> Result<[u8; 32], Error> {
    if fingerprint(authority) != *pinned {
        return Err(Error::NotAuthorised(
            "what answers is not the centre the token was made at; look for who stands in between, \
             and tell the centre"
                .into(),
        ));
    }
    named(authority).ok_or_else(|| {
        Error::Failed(
            "the centre's authority names no wrap key; compare the releases of both".into(),
        )
    })
}

/// The one name of the form `strongroom:wrap:HEX`.
fn named(authority: &[u8]) -> Option<[u8; 32]> {
    let (rest, certificate) = X509Certificate::from_der(authority).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return None;
    };
    let digits = uri.strip_prefix("strongroom:wrap:")?;
    let key = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?;
    rest.is_empty().then(|| key.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn authority(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let uri = |n: &&str| SanType::URI((*n).try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_pinned_authority_names_the_key() {
        let name = format!("strongroom:wrap:{}", "0a".repeat(32));
        let der = authority(&[&name]);
        assert_eq!(wrap_key(&der, &fingerprint(&der)).unwrap(), [10; 32]);
        let other = authority(&[&name]);
        assert!(matches!(
            wrap_key(&other, &fingerprint(&der)),
            Err(Error::NotAuthorised(_))
        ));
        let name = name.as_str();
        for names in [&[][..], &[name, name], &["strongroom:wrap:0a"], &["x"]] {
            let der = authority(names);
            assert!(wrap_key(&der, &fingerprint(&der)).is_err(), "{names:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(wrap_key(&bytes, &fingerprint(&bytes)).is_err());
        }
    }
}
