//! How each session begins: what it is for, and the proof of who we are.

use crate::{Error, Result, Stream};
use protocol::frame::aio;
use protocol::session::{Challenge, Kind, Open, Proof, Verdict, agent_message};
use ring::signature::Ed25519KeyPair;

/// Opens a session that reaches data.
///
/// # Errors
/// The stream fails, or the appliance refuses.
pub async fn open(
    stream: &mut impl Stream,
    kind: Kind,
    agent: &str,
    key: &Ed25519KeyPair,
) -> Result<()> {
    aio::write(stream, &Open::new(kind)).await?;
    let challenge: Challenge = expect(stream).await?;
    let signature = key.sign(&agent_message(&challenge, kind));
    let signature = signature
        .as_ref()
        .try_into()
        .map_err(|_| Error::Fault("a signature of another length than 64 bytes".into()))?;
    aio::write(
        stream,
        &Proof {
            id: agent.to_owned(),
            signature,
        },
    )
    .await?;
    match expect(stream).await? {
        Verdict::Welcome => Ok(()),
        Verdict::Refused(sentence) => Err(Error::Refused(sentence)),
    }
}

/// Reads a message that must come.
///
/// # Errors
/// The stream fails or ends.
pub async fn expect<T: serde::de::DeserializeOwned>(stream: &mut impl Stream) -> Result<T> {
    aio::read(stream)
        .await?
        .ok_or_else(|| protocol::WireError::Ended.into())
}
