//! Key pairs as rcgen wants them, straight from their PKCS#8, without a further copy of it.

use crate::store::damaged;
use crate::wrap::Secret;
use contract::Error;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// A key pair that signs.
pub(crate) struct Signer(Pair);

/// Which key pair to make.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Ed25519,
    P256,
}

/// PKCS#8 DER of a new key pair.
pub(crate) fn generate(kind: Kind) -> Result<Secret, Error> {
    let random = SystemRandom::new();
    let document = match kind {
        Kind::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        Kind::P256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
    };
    document
        .map(|d| Zeroizing::new(d.as_ref().to_vec()))
        .map_err(|_| Error::Failed("a key pair could not be made; restart the machine".into()))
}

impl Signer {
    pub(crate) fn new(kind: Kind, pkcs8: &[u8]) -> Result<Signer, Error> {
        let pair = match kind {
            Kind::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).map(Pair::Ed25519),
            Kind::P256 => EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                pkcs8,
                &SystemRandom::new(),
            )
            .map(Pair::P256),
        };
        pair.map(Signer).map_err(|_| damaged("of a key pair"))
    }

    /// Ed25519: 64 bytes; P-256: DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match &self.0 {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|s| s.as_ref().to_vec())
                .map_err(|_| Error::Failed("nothing could be signed; restart the machine".into())),
        }
    }

    /// Ed25519: 32 bytes; P-256: the uncompressed point.
    pub(crate) fn public(&self) -> &[u8] {
        match &self.0 {
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::P256(pair) => pair.public_key().as_ref(),
        }
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.public()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0 {
            Pair::Ed25519(_) => &PKCS_ED25519,
            Pair::P256(_) => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Signer::sign(self, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
