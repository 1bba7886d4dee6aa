//! Verifying a centre of which only its authority's fingerprint is known.

use crate::peer;
use protocol::token::{self, FINGERPRINT};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Takes a server whose chain holds the authority of this fingerprint and is signed by it.
/// Certificate dates are not looked at: our clock may be years off, and setting it is one of the
/// two things this is for. What a stolen server key of an earlier start could do with that is
/// told in docs/protocol.md, "Enrolment".
#[derive(Debug)]
pub(crate) struct Pinned {
    fingerprint: [u8; FINGERPRINT],
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(crate) fn new(fingerprint: [u8; FINGERPRINT]) -> Arc<Pinned> {
        Arc::new(Pinned {
            fingerprint,
            provider: crate::identity::provider(),
        })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|der| token::fingerprint(der) == self.fingerprint)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        // a moment at which both were valid: when the younger of them began
        let began = [end_entity, authority]
            .into_iter()
            .filter_map(|der| peer::validity(der))
            .map(|(began, _)| began.max(0) as u64)
            .max()
            .unwrap_or_default();
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(began)),
            self.provider.signature_verification_algorithms.all,
        )?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    struct Centre {
        authority: Vec<u8>,
        leaf: Vec<u8>,
    }

    fn centre(name: &str, usage: ExtendedKeyUsagePurpose) -> Centre {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_before = date_time_ymd(2020, 1, 1);
        let authority = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // long over, by any clock that is right
        params.not_before = date_time_ymd(2021, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 31);
        params.extended_key_usages = vec![usage];
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap();
        let leaf = leaf.der().to_vec();
        Centre { authority, leaf }
    }

    fn verify(leaf: &[u8], chain: &[&[u8]], pin: &[u8]) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
        Pinned::new(token::fingerprint(pin)).verify_server_cert(
            &CertificateDer::from(leaf),
            &chain,
            &ServerName::try_from("centre.strongroom").unwrap(),
            &[],
            UnixTime::now(),
        )
    }

    #[test]
    fn the_pinned_authoritys_server_passes_whatever_the_clock_says() {
        let centre = centre("centre.strongroom", ExtendedKeyUsagePurpose::ServerAuth);
        verify(&centre.leaf, &[&centre.authority], &centre.authority).unwrap();
    }

    #[test]
    fn no_other_certificate_passes() {
        let server = || centre("centre.strongroom", ExtendedKeyUsagePurpose::ServerAuth);
        let (ours, theirs) = (server(), server());
        // another centre, and one that shows our authority beside its own
        assert!(verify(&theirs.leaf, &[&theirs.authority], &ours.authority).is_err());
        let both: [&[u8]; 2] = [&ours.authority, &theirs.authority];
        assert!(verify(&theirs.leaf, &both, &ours.authority).is_err());
        assert!(verify(&ours.leaf, &[], &ours.authority).is_err());
        // a site's certificate, and a server of another kind, of our own authority
        let site = centre("centre.strongroom", ExtendedKeyUsagePurpose::ClientAuth);
        assert!(verify(&site.leaf, &[&site.authority], &site.authority).is_err());
        let other = centre("site.strongroom", ExtendedKeyUsagePurpose::ServerAuth);
        assert!(verify(&other.leaf, &[&other.authority], &other.authority).is_err());
    }
}
