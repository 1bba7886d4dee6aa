//! Who a peer is, by its certificate. The TLS handshake has verified that one before.

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The names our authorities give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Agent {
        id: String,
        /// SubjectPublicKeyInfo, DER.
        public: Vec<u8>,
    },
    Site {
        tenant: String,
        site: String,
    },
}

/// None for a certificate that is none of ours, or has another number of names than one.
pub(crate) fn read(der: &[u8]) -> Option<Peer> {
    let certificate = parse(der)?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return None;
    };
    let parts: Vec<_> = uri.split(':').collect();
    match parts.as_slice() {
        ["strongroom", "agent", id] => Some(Peer::Agent {
            id: (*id).to_owned(),
            public: certificate.public_key().raw.to_vec(),
        }),
        ["strongroom", "site", tenant, site] => Some(Peer::Site {
            tenant: (*tenant).to_owned(),
            site: (*site).to_owned(),
        }),
        _ => None,
    }
}

/// The DNS names of a certificate.
pub(crate) fn dns_names(der: &[u8]) -> Vec<String> {
    let Some(certificate) = parse(der) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// From when to when it says it is valid, seconds since 1970.
pub(crate) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Some((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: &[SanType]) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        (der, rcgen::PublicKeyData::subject_public_key_info(&key))
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_peer_is_read_from_its_one_name() {
        let (der, public) = certificate(&[uri("strongroom:agent:a1")]);
        let agent = Peer::Agent {
            id: "a1".into(),
            public,
        };
        assert_eq!(read(&der), Some(agent));
        let (der, _) = certificate(&[uri("strongroom:site:t1:s1")]);
        let site = Peer::Site {
            tenant: "t1".into(),
            site: "s1".into(),
        };
        assert_eq!(read(&der), Some(site));
        for names in [
            vec![],
            vec![uri("strongroom:agent:a1"), uri("strongroom:agent:a2")],
            vec![uri("strongroom:site:t1")],
            vec![uri("other:agent:a1")],
            vec![SanType::DnsName("a1".try_into().unwrap())],
        ] {
            assert_eq!(read(&certificate(&names).0), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            read(&bytes);
            let (mut der, _) = certificate(&[uri("strongroom:agent:a1")]);
            let at = at.index(der.len());
            der[at] ^= 1 << bit;
            read(&der);
            dns_names(&der);
            validity(&der);
        }
    }
}
