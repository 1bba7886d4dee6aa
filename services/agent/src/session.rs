//! How each session begins: what it is for, and the proof of who we are.

use crate::{Error, Result, Stream};
use protocol::WireError;
use protocol::frame::{self, aio};
use protocol::session::{Challenge, Kind, Open, Proof, Verdict, agent_message};
use ring::signature::Ed25519KeyPair;
use tokio::io::AsyncWriteExt;

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
    begin(stream, &frame::encode(&Open::new(kind))?).await?;
    let challenge: Challenge = match expect(stream).await {
        Err(Error::Wire(WireError::Ended)) => return Err(Error::Silent),
        challenge => challenge?,
    };
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
        .ok_or_else(|| WireError::Ended.into())
}

/// Writes the first messages of a connection. An appliance that refuses us may be gone before they
/// are written; why is then still to be read.
pub(crate) async fn begin(stream: &mut impl Stream, messages: &[u8]) -> Result<()> {
    let written = match stream.write_all(messages).await {
        Ok(()) => stream.flush().await,
        failed => failed,
    };
    let Err(error) = written else { return Ok(()) };
    match expect::<Verdict>(stream).await {
        Err(Error::NotAccepted) => Err(Error::NotAccepted),
        Err(Error::Wire(WireError::Ended)) => Err(Error::Silent),
        _ => Err(error.into()),
    }
}
