//! Certificate authorities and what they sign (docs/protocol.md, "Certificates").
//!
//! Authorities, agents and sites are never judged by date: who is still welcome is decided by
//! keyd's list of agents and centred's list of sites, and an appliance's clock may be years off.
//! Only server certificates, which have no list, are short-lived.

use crate::signer::{Kind, Signer, generate};
use crate::store::{Changes, Store, damaged};
use contract::Error;
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

const DAY: Duration = Duration::from_secs(86_400);
/// How long a server certificate is good.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Longest PKCS#10 request or certificate looked at, bytes.
const MAX_DER: usize = 16 << 10;

/// Certificates in DER, leaf first.
pub(crate) type Chain = Vec<Vec<u8>>;

/// An authority of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// For protected servers, on any appliance.
    Agents,
    /// For sites, on a centre.
    Fleet,
}

impl Which {
    pub(crate) fn parse(text: &str) -> Result<Which, Error> {
        match text {
            "agents" => Ok(Which::Agents),
            "fleet" => Ok(Which::Fleet),
            _ => Err(Error::InvalidArgument(format!(
                "there is no authority \"{text}\"; ask for \"agents\" or \"fleet\""
            ))),
        }
    }

    fn key_entry(self) -> &'static str {
        match self {
            Which::Agents => "authority/agents/key",
            Which::Fleet => "authority/fleet/key",
        }
    }

    /// On a site "fleet" has only this one, pinned at enrolment.
    pub(crate) fn certificate_entry(self) -> &'static str {
        match self {
            Which::Agents => "authority/agents/certificate",
            Which::Fleet => "authority/fleet/certificate",
        }
    }
}

/// What a certificate is for.
pub(crate) enum Leaf<'a> {
    /// `strongroom:agent:<id>`.
    Agent { id: &'a str },
    /// `strongroom:site:<tenant>:<site>`.
    Site { tenant: &'a str, site: &'a str },
    /// A listener, by the name that clients ask for.
    Server { name: &'a str },
}

/// Certificate of an authority; None when it has none yet.
pub(crate) fn certificate(store: &Store, which: Which) -> Result<Option<Vec<u8>>, Error> {
    Ok(store.get(which.certificate_entry())?.map(|c| c.to_vec()))
}

/// The authority's certificate, DER; made at the first call. `name` goes into its subject.
pub(crate) fn make(store: &mut Store, which: Which, name: &str) -> Result<Vec<u8>, Error> {
    make_with(store, which, name, Vec::new())
}

/// The fleet authority's. It names the centre's public wrap key: who pins the one pins the other,
/// and nobody in between can have a tenant key sealed to himself.
pub(crate) fn make_fleet(store: &mut Store, name: &str, wrap: &[u8]) -> Result<Vec<u8>, Error> {
    let wrap = uri(format!("strongroom:wrap:{}", HEXLOWER.encode(wrap)))?;
    make_with(store, Which::Fleet, name, vec![wrap])
}

fn make_with(
    store: &mut Store,
    which: Which,
    name: &str,
    names: Vec<SanType>,
) -> Result<Vec<u8>, Error> {
    if let Some(certificate) = certificate(store, which)? {
        return Ok(certificate);
    }
    let pkcs8 = generate(Kind::P256)?;
    let signer = Signer::new(Kind::P256, &pkcs8)?;
    let mut params = params(name)?;
    params.serial_number = Some(serial()?);
    params.subject_alt_names = names;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let der = params
        .self_signed(&signer)
        .map_err(unsigned)?
        .der()
        .to_vec();
    store.apply(
        Changes::default()
            .put(which.key_entry(), &pkcs8)
            .put(which.certificate_entry(), &der),
    )?;
    Ok(der)
}

/// A certificate by an authority of ours for the key of a PKCS#10 request: leaf, then authority.
/// Of the request only the key is taken. Also answers that key as SubjectPublicKeyInfo DER.
pub(crate) fn issue(
    store: &Store,
    which: Which,
    csr: &[u8],
    leaf: &Leaf<'_>,
) -> Result<(Chain, Vec<u8>), Error> {
    let (Some(certificate), Some(pkcs8)) =
        (certificate(store, which)?, store.get(which.key_entry())?)
    else {
        return Err(Error::NotReady(
            "this appliance signs no such certificates yet; make it a site with strongroom enrol, \
             or a centre with strongroom centre init"
                .into(),
        ));
    };
    let public = requested_key(csr)?;
    let signer = Signer::new(Kind::P256, &pkcs8)?;
    let issuer = Issuer::from_ca_cert_der(&certificate.as_slice().into(), signer)
        .map_err(|_| damaged(which.certificate_entry()))?;
    let (subject, san, usage) = match leaf {
        Leaf::Agent { id } => (
            format!("agent {id}"),
            uri(format!("strongroom:agent:{id}"))?,
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
        Leaf::Site { tenant, site } => (
            format!("site {site}"),
            uri(site_uri(tenant, site))?,
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
        Leaf::Server { name } => (
            (*name).to_owned(),
            SanType::DnsName((*name).try_into().map_err(unsigned)?),
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
    };
    let mut params = params(&subject)?;
    params.serial_number = Some(serial()?);
    params.subject_alt_names = vec![san];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    if matches!(leaf, Leaf::Server { .. }) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(DAY);
        let epoch = date_time_ymd(1970, 1, 1);
        // a clock that is a little behind shall not refuse it
        params.not_before = epoch + now.saturating_sub(DAY);
        params.not_after = epoch + now + SERVER_LIFE;
    }
    let signed = params.signed_by(&public, &issuer).map_err(unsigned)?;
    let spki = rcgen::PublicKeyData::subject_public_key_info(&public);
    Ok((vec![signed.der().to_vec(), certificate], spki))
}

/// The name of a site in its certificate.
pub(crate) fn site_uri(tenant: &str, site: &str) -> String {
    format!("strongroom:site:{tenant}:{site}")
}

/// A PKCS#10 request for our own key; it asks for nothing but a certificate.
pub(crate) fn request(signer: &Signer) -> Result<Vec<u8>, Error> {
    let csr = params("strongroom")?
        .serialize_request(signer)
        .map_err(unsigned)?;
    Ok(csr.der().to_vec())
}

/// What a grant must fulfil: the leaf is for our key and that tenant, and signed by `fleet`.
pub(crate) fn check_grant(
    chain: &[Vec<u8>],
    fleet: &[u8],
    public: &[u8],
    tenant: &str,
) -> Result<(), Error> {
    let refuse =
        |why: &str| Error::InvalidArgument(format!("the centre's grant {why}; enrol anew"));
    if fleet.len() > MAX_DER || chain.len() > 4 || chain.iter().any(|der| der.len() > MAX_DER) {
        return Err(refuse("is too long"));
    }
    let leaf = chain
        .first()
        .ok_or_else(|| refuse("holds no certificate"))?;
    let (Some(leaf), Some(fleet)) = (parse(leaf), parse(fleet)) else {
        return Err(refuse("holds what is no certificate"));
    };
    if !fleet.is_ca() || fleet.verify_signature(None).is_err() {
        return Err(refuse("names an authority that is none"));
    }
    if leaf.verify_signature(Some(fleet.public_key())).is_err() || leaf.issuer() != fleet.subject()
    {
        return Err(refuse("is not signed by the authority it names"));
    }
    if leaf.public_key().subject_public_key.as_ref() != public {
        return Err(refuse("is for another machine's key"));
    }
    let names = leaf.subject_alternative_name().ok().flatten();
    let prefix = site_uri(tenant, "");
    let ours = names.is_some_and(|names| {
        names.value.general_names.iter().any(|name| {
            matches!(name, x509_parser::extensions::GeneralName::URI(uri)
                if uri.strip_prefix(&prefix).is_some_and(crate::is_id))
        })
    });
    if !ours {
        return Err(refuse("is for another tenant"));
    }
    Ok(())
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// The key a PKCS#10 request asks a certificate for, when the request is signed by it.
fn requested_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    let refuse = |why: &str| {
        Error::InvalidArgument(format!(
            "the certificate request {why}; try again with the newest release at both ends"
        ))
    };
    if csr.len() > MAX_DER {
        return Err(refuse("is too long"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|_| refuse("is not PKCS#10 in DER"))?;
    if !rest.is_empty() {
        return Err(refuse("has something after its end"));
    }
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| refuse("is for a key of a kind we do not know"))?;
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    if ![&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256].contains(&algorithm) {
        return Err(refuse("is for a key that is neither Ed25519 nor P-256"));
    }
    request
        .verify_signature()
        .map_err(|_| refuse("is not signed by the key it is for"))?;
    Ok(key)
}

/// Random, positive and always 16 bytes long (RFC 5280, 4.1.2.2).
fn serial() -> Result<SerialNumber, Error> {
    let mut serial = *runtime::random::<16>()?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn params(name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    // RFC 5280, 4.1.2.5: "no well-defined expiration date"
    params.not_after = date_time_ymd(9999, 12, 31) + (DAY - Duration::from_secs(1));
    Ok(params)
}

fn uri(text: String) -> Result<SanType, Error> {
    text.try_into().map(SanType::URI).map_err(unsigned)
}

fn unsigned(error: rcgen::Error) -> Error {
    Error::Failed(format!("a certificate could not be made: {error}"))
}

#[cfg(test)]
mod tests;
