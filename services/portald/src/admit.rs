//! Verifying clients by our authority, and naming in the journal those that are refused.

use crate::peer::{self, Peer};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::sync::Arc;

/// Why a certificate was refused, and whom it names; nothing proves that name.
#[derive(Debug, thiserror::Error)]
#[error(
    "it says it is {named}, and its certificate {why}; if it belongs here, pair or enrol it again"
)]
pub(crate) struct Refused {
    named: String,
    why: String,
}

/// The sentence of a refusal in a handshake's error.
pub(crate) fn refused(error: &std::io::Error) -> Option<&Refused> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    }
}

/// A verifier that names whom it refuses: the handshake's error would not.
#[derive(Debug)]
pub(crate) struct Naming(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Naming {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        verified.map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                let named = match peer::read(end_entity) {
                    Some(Peer::Agent { id, .. }) => format!("agent {id:?}"),
                    Some(Peer::Site { tenant, site }) => format!("site {site:?} of {tenant:?}"),
                    None => "neither agent nor site".into(),
                };
                use CertificateError::{BadSignature, UnknownIssuer};
                let why = match why {
                    // authorities may have the same name
                    UnknownIssuer | BadSignature => "is not of an authority of ours".into(),
                    why => format!("cannot be accepted ({why})"),
                };
                let refused = Arc::new(Refused { named, why });
                CertificateError::Other(OtherError(refused)).into()
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
