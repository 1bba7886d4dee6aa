//! Pairing with an appliance by its one-time code.

use crate::connect::dial_tcp;
use crate::identity::Identity;
use crate::{Error, Result};
use protocol::pairing::{self, ALPN, Agent, Code, EXPORTER, EXPORTER_LABEL, Request};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(60);

/// Pairs with the appliance at `endpoint` (`host:port`) under `name`. A new key is made here; it
/// never leaves this machine.
///
/// # Errors
/// No connection, or the pairing ends otherwise.
pub async fn pair(endpoint: &str, name: &str, code: &Code) -> Result<Identity> {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| Error::Fault("the system gave no random numbers".into()))?;
    let key = Zeroizing::new(key.as_ref().to_vec());
    let request = Request {
        name: name.to_owned(),
        csr: csr(&key, name)?,
    };
    let paired = timeout(PATIENCE, exchange(endpoint, code, request))
        .await
        .map_err(|_| pairing::Error::Interrupted)??;
    Ok(Identity {
        agent: paired.agent,
        endpoint: endpoint.to_owned(),
        server_name: paired
            .names
            .into_iter()
            .next()
            .ok_or(pairing::Error::Interrupted)?,
        scope: paired.scope,
        chain: paired.chain,
        authority: paired.authority,
        key,
    })
}

async fn exchange(endpoint: &str, code: &Code, request: Request) -> Result<pairing::Paired> {
    let stream = dial_tcp(endpoint).await?;
    let refused = |reason: String| Error::Connect {
        endpoint: endpoint.to_owned(),
        reason,
    };
    // whom we talk to is proved by the code, not by a certificate: see protocol::pairing
    let name = ServerName::try_from("pairing.strongroom").map_err(|e| refused(e.to_string()))?;
    let mut stream = match TlsConnector::from(config()?).connect(name, stream).await {
        Ok(stream) => stream,
        // without an open pairing the appliance does not speak this protocol at all
        Err(error) if error.to_string().contains("NoApplicationProtocol") => {
            return Err(pairing::Error::Closed.into());
        }
        Err(error) => return Err(refused(error.to_string())),
    };
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; EXPORTER], EXPORTER_LABEL, None)
        .map_err(|e| refused(e.to_string()))?;
    let mut agent = Agent::new(code, &exporter, request);
    let mut buffer = [0; 4096];
    loop {
        stream
            .write_all(&agent.output())
            .await
            .map_err(pairing::Error::Io)?;
        stream.flush().await.map_err(pairing::Error::Io)?;
        let count = match stream.read(&mut buffer).await {
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => 0, // no close_notify
            Err(e) => return Err(pairing::Error::Io(e).into()),
        };
        if count == 0 {
            return Err(agent.closed().into());
        }
        if let Some(paired) = agent.receive(&buffer[..count])? {
            return Ok(paired);
        }
    }
}

fn csr(key: &[u8], name: &str) -> Result<Vec<u8>> {
    let fault = |e: rcgen::Error| Error::Fault(e.to_string());
    let pair =
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &rcgen::PKCS_ED25519);
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let request = params
        .serialize_request(&pair.map_err(fault)?)
        .map_err(fault)?;
    Ok(request.der().to_vec())
}

fn config() -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::Fault(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes any certificate, but only from the holder of its key, so that the exporter value is this
/// session's.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
