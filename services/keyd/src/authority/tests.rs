use super::*;
use proptest::prelude::*;

fn signer(kind: Kind) -> Signer {
    Signer::new(kind, &generate(kind).unwrap()).unwrap()
}

/// A fleet authority and a site's grant by it.
fn grant(site_key: &Signer, tenant: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let authority = signer(Kind::P256);
    let mut ca = params("fleet").unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let fleet = ca.self_signed(&authority).unwrap().der().to_vec();
    let issuer = Issuer::from_ca_cert_der(&fleet.as_slice().into(), authority).unwrap();
    let mut leaf = params("site s1").unwrap();
    leaf.subject_alt_names = vec![uri(site_uri(tenant, "s1")).unwrap()];
    let leaf = leaf.signed_by(site_key, &issuer).unwrap().der().to_vec();
    (vec![leaf, fleet.clone()], fleet)
}

fn told(result: Result<(), Error>) -> String {
    result.unwrap_err().text()
}

#[test]
fn a_grant_is_for_our_key_and_tenant_by_the_authority_it_names() {
    let ours = signer(Kind::Ed25519);
    let (chain, fleet) = grant(&ours, "acme");
    check_grant(&chain, &fleet, ours.public(), "acme").unwrap();
    assert!(told(check_grant(&chain, &fleet, ours.public(), "acm")).contains("another tenant"));
    assert!(told(check_grant(&[], &fleet, ours.public(), "acme")).contains("no certificate"));
    let long = [&chain[..], &vec![fleet.clone(); 4]].concat();
    assert!(told(check_grant(&long, &fleet, ours.public(), "acme")).contains("too long"));
    let other = signer(Kind::Ed25519);
    assert!(
        told(check_grant(&chain, &fleet, other.public(), "acme")).contains("another machine's key")
    );
    let (_, stranger) = grant(&ours, "acme");
    assert!(told(check_grant(&chain, &stranger, ours.public(), "acme")).contains("not signed by"));
    // the leaf as its own authority
    assert!(
        told(check_grant(&chain, &chain[0], ours.public(), "acme"))
            .contains("authority that is none")
    );
}

#[test]
fn a_request_is_signed_by_the_key_it_is_for() {
    for kind in [Kind::Ed25519, Kind::P256] {
        let key = signer(kind);
        let csr = request(&key).unwrap();
        let found = requested_key(&csr).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public());
        let mut tail = csr.clone();
        tail.push(0);
        assert!(requested_key(&tail).is_err());
        let mut forged = csr.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(requested_key(&forged).is_err());
    }
}

#[test]
fn only_ed25519_and_p256_keys_are_certified() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = params("x").unwrap().serialize_request(&key).unwrap();
    let error = requested_key(csr.der()).unwrap_err().text();
    assert!(error.contains("neither Ed25519 nor P-256"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    /// Requests come from the network through portald: damage is refused, or is outside what the
    /// key signed and changes nothing, and never a panic.
    #[test]
    fn damaged_requests_are_refused(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let key = signer(Kind::Ed25519);
        let mut csr = request(&key).unwrap();
        let at = position.index(csr.len());
        csr[at] ^= 1 << bit;
        if let Ok(found) = requested_key(&csr) {
            prop_assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public());
        }
        prop_assert!(requested_key(&csr[..at]).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(requested_key(&bytes).is_err());
        prop_assert!(check_grant(std::slice::from_ref(&bytes), &bytes, &bytes, "t").is_err());
    }
}
