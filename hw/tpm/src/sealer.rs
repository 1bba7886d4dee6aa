use crate::error::{kind, refused};
use crate::srk::{salted, srk};
use crate::{Error, SECRET_LEN};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::{PropertyTag, SessionType, response_code::Tss2ResponseCodeKind};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, KeyedHashScheme, PcrSelectionList, PcrSlot, Private, Public, PublicBuilder,
    PublicKeyedHashParameters, SensitiveData,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::{Context, TctiNameConf};
use zeroize::Zeroizing;

/// What must hold for a secret to be unsealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Policy {
    /// PCRs of the SHA-256 bank whose values at sealing are required, ascending.
    pub pcrs: Vec<u8>,
    /// Seal even when all of those are zero: for machines without measuring firmware.
    pub allow_unmeasured: bool,
}

impl Policy {
    /// The values these PCRs have when sealing; refused when they are all zero.
    pub fn literal(pcrs: impl IntoIterator<Item = u8>) -> Policy {
        let mut pcrs: Vec<_> = pcrs.into_iter().collect();
        pcrs.sort_unstable();
        pcrs.dedup();
        Policy {
            pcrs,
            allow_unmeasured: false,
        }
    }
}

/// A sealed secret; worthless without its TPM. Everything is hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// TPMT_PUBLIC of the sealed object.
    public: String,
    /// Content of its TPM2B_PRIVATE.
    private: String,
    /// Name of the storage root key it is sealed to.
    srk: String,
    /// SHA-256 PCR values at sealing, to name the one that moved.
    pcrs: BTreeMap<u8, String>,
}

/// One TPM.
#[derive(Clone, Debug)]
pub struct Sealer {
    tcti: String,
    parsed: TctiNameConf,
}

impl Sealer {
    /// The TPM that the TCTI string names (`device:/dev/tpmrm0`, `swtpm:host=…,port=…`); nothing
    /// is opened yet.
    pub fn new(tcti: &str) -> Result<Sealer, Error> {
        let parsed = TctiNameConf::from_str(tcti).map_err(|_| Error::Tcti(tcti.to_owned()))?;
        Ok(Sealer {
            tcti: tcti.to_owned(),
            parsed,
        })
    }

    /// Manufacturer, model and firmware version, as "IBM SW TPM, firmware 8217.4131".
    pub fn describe(&self) -> Result<String, Error> {
        let mut context = self.open()?;
        let mut property = |tag| {
            context
                .get_tpm_property(tag)
                .map_err(refused("tell its maker"))
                .map(Option::unwrap_or_default)
        };
        let text = |number: u32| {
            let bytes = number.to_be_bytes();
            let shown = bytes.iter().filter(|b| (0x20..0x7f).contains(*b));
            shown.map(|b| char::from(*b)).collect::<String>()
        };
        let maker = text(property(PropertyTag::Manufacturer)?);
        let model = text(property(PropertyTag::VendorString1)?)
            + &text(property(PropertyTag::VendorString2)?)
            + &text(property(PropertyTag::VendorString3)?)
            + &text(property(PropertyTag::VendorString4)?);
        let firmware = property(PropertyTag::FirmwareVersion1)?;
        Ok(format!(
            "{} {}, firmware {}.{}",
            maker.trim(),
            model.trim(),
            firmware >> 16,
            firmware & 0xffff
        ))
    }

    /// Seals `secret` under `policy` and the PCR values of this moment.
    pub fn seal(&self, secret: &[u8; SECRET_LEN], policy: &Policy) -> Result<Sealed, Error> {
        let doing = refused("seal the key");
        let mut context = self.open()?;
        let values = read_pcrs(&mut context, &policy.pcrs)?;
        if !policy.allow_unmeasured && values.values().flatten().all(|byte| *byte == 0) {
            return Err(Error::Unmeasured(policy.pcrs.clone()));
        }
        let srk = srk(&mut context)?;
        let trial = start_policy(&mut context, None, &values)?;
        let policy = context.policy_get_digest(trial).map_err(&doing)?;
        let public = object(policy).map_err(&doing)?;
        let session = salted(&mut context, &srk, SessionType::Hmac)?;
        let sensitive = SensitiveData::try_from(&secret[..]).map_err(&doing)?;
        let made = context
            .execute_with_session(Some(session), |c| {
                c.create(srk.handle, public, None, Some(sensitive), None, None)
            })
            .map_err(&doing)?;
        Ok(Sealed {
            public: HEXLOWER.encode(&made.out_public.marshall().map_err(&doing)?),
            private: HEXLOWER.encode(made.out_private.value()),
            srk: HEXLOWER.encode(&srk.name),
            pcrs: values
                .iter()
                .map(|(pcr, value)| (*pcr, HEXLOWER.encode(value)))
                .collect(),
        })
    }

    /// Unseals. Which error tells what stands against it.
    pub fn unseal(&self, sealed: &Sealed) -> Result<Zeroizing<[u8; SECRET_LEN]>, Error> {
        let doing = refused("unseal the key");
        let mut context = self.open()?;
        let srk = srk(&mut context)?;
        if HEXLOWER.encode(&srk.name) != sealed.srk {
            return Err(Error::OtherTpm);
        }
        let pcrs: Vec<u8> = sealed.pcrs.keys().copied().collect();
        let values = read_pcrs(&mut context, &pcrs)?;
        let moved = |values: &BTreeMap<u8, Vec<u8>>| -> Vec<u8> {
            let now = |pcr: &u8| values.get(pcr).map(|v| HEXLOWER.encode(v));
            let was = sealed.pcrs.iter();
            was.filter(|(pcr, was)| now(pcr).as_ref() != Some(was))
                .map(|(pcr, _)| *pcr)
                .collect()
        };
        let found = moved(&values);
        if !found.is_empty() {
            return Err(Error::PcrMoved(found));
        }
        let session = salted(&mut context, &srk, SessionType::Hmac)?;
        let (public, private) = blob(sealed).map_err(Error::Blob)?;
        let object = context
            .execute_with_session(Some(session), |c| c.load(srk.handle, private, public))
            .map_err(|error| match kind(&error) {
                Some(Tss2ResponseCodeKind::Lockout) => Error::Lockout,
                _ => Error::Blob(error),
            })?;
        let policy = start_policy(&mut context, Some(&srk), &values)?;
        // the policy session is salted too: it carries the encryption, of which there may be one
        let secret = context
            .execute_with_session(Some(AuthSession::PolicySession(policy)), |c| {
                c.unseal(object.into())
            })
            .map_err(|error| match kind(&error) {
                // the PCRs fit, so it is the object's own policy that does not
                Some(Tss2ResponseCodeKind::PolicyFail) => Error::Blob(error),
                Some(Tss2ResponseCodeKind::PcrChanged) => Error::PcrMoved(pcrs.clone()),
                _ => doing(error),
            })?;
        let secret: &[u8; SECRET_LEN] = secret.value().try_into().map_err(|_| {
            Error::Blob(tss_esapi::Error::WrapperError(
                tss_esapi::WrapperErrorKind::WrongParamSize,
            ))
        })?;
        Ok(Zeroizing::new(*secret))
    }

    fn open(&self) -> Result<Context, Error> {
        Context::new(self.parsed.clone()).map_err(|source| Error::Absent {
            tcti: self.tcti.clone(),
            source,
        })
    }
}

fn selection(pcrs: &[u8]) -> Result<PcrSelectionList, Error> {
    let slots = pcrs
        .iter()
        .map(|pcr| {
            let bit = 1u32.checked_shl((*pcr).into()).unwrap_or(0);
            PcrSlot::try_from(bit).map_err(|_| Error::NoPcr(*pcr))
        })
        .collect::<Result<Vec<_>, _>>()?;
    PcrSelectionList::builder()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .map_err(refused("select its PCRs"))
}

fn read_pcrs(context: &mut Context, pcrs: &[u8]) -> Result<BTreeMap<u8, Vec<u8>>, Error> {
    let mut values = BTreeMap::new();
    // one at a time: the TPM may answer fewer than were asked
    for pcr in pcrs {
        let (_, _, digests) = context
            .pcr_read(selection(&[*pcr])?)
            .map_err(refused("read its PCRs"))?;
        let [value] = digests.value() else {
            return Err(Error::NoPcr(*pcr));
        };
        values.insert(*pcr, value.value().to_vec());
    }
    Ok(values)
}

/// A policy session in which the PCRs have been shown to hold `values`; a trial without a key.
fn start_policy(
    context: &mut Context,
    srk: Option<&crate::srk::Srk>,
    values: &BTreeMap<u8, Vec<u8>>,
) -> Result<PolicySession, Error> {
    let doing = refused("state its policy");
    let session = match srk {
        Some(srk) => salted(context, srk, SessionType::Policy)?,
        None => context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Trial,
                tss_esapi::structures::SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(&doing)?
            .ok_or(Error::Refused {
                doing: "state its policy",
                source: tss_esapi::Error::WrapperError(
                    tss_esapi::WrapperErrorKind::WrongValueFromTpm,
                ),
            })?,
    };
    let session = PolicySession::try_from(session).map_err(&doing)?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    values.values().for_each(|value| hash.update(value));
    let digest = Digest::try_from(hash.finish().as_ref()).map_err(&doing)?;
    let pcrs: Vec<u8> = values.keys().copied().collect();
    context
        .policy_pcr(session, digest, selection(&pcrs)?)
        .map_err(|error| match kind(&error) {
            Some(Tss2ResponseCodeKind::Value) => Error::PcrMoved(pcrs.clone()),
            _ => doing(error),
        })?;
    Ok(session)
}

/// The sealed object's public part: data of ours, released by policy alone, subject to the TPM's
/// lock against guessing.
fn object(policy: Digest) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

fn blob(sealed: &Sealed) -> tss_esapi::Result<(Public, Private)> {
    let bytes = |text: &str| {
        HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam))
    };
    Ok((
        Public::unmarshall(&bytes(&sealed.public)?)?,
        Private::try_from(bytes(&sealed.private)?)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        HEXLOWER.encode(bytes)
    }

    /// What stands in the ledger is read before the TPM sees it, by a library in C among others.
    #[test]
    fn no_blob_makes_the_reading_panic() {
        let public = object(Digest::try_from(&[7; 32][..]).unwrap()).unwrap();
        let public = public.marshall().unwrap();
        bolero::check!()
            .with_type::<(Option<u8>, Vec<(u8, u8)>, Vec<u8>, Vec<u8>)>()
            .for_each(|(keep, changes, more, private)| {
                let mut bytes = public.clone();
                bytes.truncate(keep.map_or(public.len(), usize::from));
                for (at, byte) in changes {
                    if let Some(old) = bytes.get_mut(usize::from(*at)) {
                        *old = *byte;
                    }
                }
                let whole = bytes == public;
                bytes.extend_from_slice(more);
                let sealed = Sealed {
                    public: hex(&bytes),
                    private: hex(private),
                    srk: String::new(),
                    pcrs: BTreeMap::new(),
                };
                assert!(!whole || blob(&sealed).is_ok());
                let _ = blob(&sealed);
            });
    }

    #[test]
    fn no_text_makes_the_reading_panic() {
        bolero::check!()
            .with_type::<(String, String, Vec<u8>)>()
            .for_each(|(public, private, pcrs)| {
                let text = format!(
                    r#"{{"public":{public:?},"private":{private:?},"srk":"","pcrs":{{}}}}"#
                );
                if let Ok(sealed) = serde_json::from_str::<Sealed>(&text) {
                    let _ = blob(&sealed);
                }
                let _ = selection(pcrs);
            });
    }
}
