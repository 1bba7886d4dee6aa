//! An agent's end, as thin as can be: any certificate in pairing, then the paired identity.

use protocol::pairing::{Agent, Code, EXPORTER, EXPORTER_LABEL, Error, Paired, Request};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
}

/// A TLS session with whoever answers; `alpn` None offers none.
pub(crate) async fn anyone(
    place: &str,
    alpn: Option<&[u8]>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
    let stream = TcpStream::connect(place).await?;
    let name = ServerName::try_from("site.strongroom").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// An agent's key, and what it became by pairing.
pub(crate) struct Identity {
    pub(crate) key: KeyPair,
    pub(crate) paired: Paired,
}

impl Identity {
    /// A session of this agent, with the server verified as pairing said.
    pub(crate) async fn dial(&self, place: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from(self.paired.authority.clone());
        roots.add(authority).unwrap();
        let chain = self.paired.chain.iter().cloned().map(CertificateDer::from);
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let mut config = builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.collect(), PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = vec![protocol::ALPN_AGENT.to_vec()];
        let stream = TcpStream::connect(place).await?;
        let name = ServerName::try_from(self.paired.names[0].clone()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// Pairs over TLS with whoever answers at `place`.
pub(crate) async fn pair(place: &str, code: &str) -> Result<Identity, Error> {
    let mut tls = anyone(place, Some(protocol::pairing::ALPN)).await?;
    let exporter = tls
        .get_ref()
        .1
        .export_keying_material([0; EXPORTER], EXPORTER_LABEL, None)
        .unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let request = Request {
        name: "files".into(),
        csr: csr.der().to_vec(),
    };
    let code: Code = code.parse().unwrap();
    let mut agent = Agent::new(&code, &exporter, request);
    let mut buffer = [0; 4096];
    loop {
        tls.write_all(&agent.output()).await?;
        let count = tls.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return Err(agent.closed());
        }
        if let Some(paired) = agent.receive(&buffer[..count])? {
            return Ok(Identity { key, paired });
        }
    }
}

/// Another code than this.
pub(crate) fn other_than(code: &str) -> String {
    let last = code.chars().last().unwrap().to_digit(10).unwrap();
    format!("{}{}", &code[..code.len() - 1], (last + 1) % 10)
}
