//! The storage root key and sessions salted to it.

use crate::Error;
use crate::error::refused;
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinition,
    SymmetricDefinitionObject,
};

/// A storage root key in the TPM, and its name (TPM 2.0 Part 1, "Names").
pub(crate) struct Srk {
    pub(crate) handle: KeyHandle,
    pub(crate) name: Vec<u8>,
}

fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(
                SymmetricDefinitionObject::AES_128_CFB,
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

pub(crate) fn srk(context: &mut Context) -> Result<Srk, Error> {
    let doing = refused("make its storage root key");
    let public = template().map_err(&doing)?;
    // the owner hierarchy's password is empty on an appliance of ours: the session proves nothing
    let made = context
        .execute_with_nullauth_session(|c| {
            c.create_primary(Hierarchy::Owner, public, None, None, None, None)
        })
        .map_err(&doing)?;
    let name = context
        .tr_get_name(made.key_handle.into())
        .map_err(&doing)?;
    Ok(Srk {
        handle: made.key_handle,
        name: name.value().to_vec(),
    })
}

/// A session whose key only the holder of the storage root key can know, so that parameters
/// cross the wire encrypted, both ways, and answers are authentic.
pub(crate) fn salted(
    context: &mut Context,
    srk: &Srk,
    kind: SessionType,
) -> Result<AuthSession, Error> {
    let doing = refused("open a session");
    let session = context
        .start_auth_session(
            Some(srk.handle),
            None,
            None,
            kind,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
        .map_err(&doing)?
        .ok_or_else(|| {
            doing(tss_esapi::Error::WrapperError(
                tss_esapi::WrapperErrorKind::WrongValueFromTpm,
            ))
        })?;
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(true)
        .with_encrypt(true)
        .with_continue_session(true)
        .build();
    context
        .tr_sess_set_attributes(session, attributes, mask)
        .map_err(&doing)?;
    Ok(session)
}
