//! Certificates as their users use them: in TLS 1.3 handshakes by rustls.

use crate::rig::{Rig, bytes, enrol, request, taken, text};
use contract::Error;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate's chain and its key, PKCS#8.
struct Identity {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

impl Identity {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

fn roots(authority: &[u8]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.to_vec().into()).unwrap();
    Arc::new(roots)
}

/// A handshake to its end; what the server then knows of the client, or why it failed.
fn handshake(
    server: &Identity,
    clients: &[u8],
    client: &Identity,
    servers: &[u8],
    name: &'static str,
) -> Result<Vec<u8>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(clients), provider.clone())
        .build()
        .unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain(), server.key())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(servers))
        .with_client_auth_cert(client.chain(), client.key())
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server
            .process_new_packets()
            .map_err(|e| format!("server: {e}"))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client
            .process_new_packets()
            .map_err(|e| format!("client: {e}"))?;
    }
    Ok(server.peer_certificates().unwrap()[0].to_vec())
}

fn uris(certificate: &[u8]) -> Vec<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter();
    names
        .map(|name| name.to_string().replace("URI(", "").replace(')', ""))
        .collect()
}

async fn server(rig: &Rig, which: &str) -> Identity {
    let (key, csr) = request();
    let chain = rig.keys.server_certificate(which, &csr).await.unwrap();
    assert_eq!(chain[1], rig.keys.authority(which).await.unwrap());
    Identity {
        chain,
        key: key.serialize_der(),
    }
}

#[tokio::test]
async fn an_agent_and_its_site_know_each_other() {
    let rig = Rig::new().await;
    let authority = rig.keys.authority("agents").await.unwrap();
    let (key, csr) = request();
    let (id, chain) = rig
        .keys
        .issue_agent("Büro-PC 3", &csr, "backup")
        .await
        .unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let agent = Identity {
        chain,
        key: key.serialize_der(),
    };
    let server = server(&rig, "agents").await;
    let seen = handshake(&server, &authority, &agent, &authority, "site.strongroom").unwrap();
    assert_eq!(uris(&seen), [format!("strongroom:agent:{id}")]);

    // of what the request asked for, only the key was taken
    let (_, leaf) = X509Certificate::from_der(&agent.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().to_string(), format!("CN=agent {id}"));
    let agents = rig.keys.agents().await.unwrap();
    assert_eq!(bytes(&agents[0], "public"), leaf.public_key().raw);
    assert_eq!(text(&agents[0], "scope"), "backup");

    // neither passes for the other, nor under another name
    let backwards = handshake(&agent, &authority, &server, &authority, "site.strongroom");
    assert!(backwards.is_err());
    let renamed = handshake(&server, &authority, &agent, &authority, "centre.strongroom");
    assert!(renamed.unwrap_err().starts_with("client: "));
}

#[tokio::test]
async fn another_appliances_agent_is_a_stranger() {
    let (ours, other) = (Rig::new().await, Rig::new().await);
    let (key, csr) = request();
    let (_, chain) = other.keys.issue_agent("a", &csr, "backup").await.unwrap();
    let stranger = Identity {
        chain,
        key: key.serialize_der(),
    };
    let authority = ours.keys.authority("agents").await.unwrap();
    let server = server(&ours, "agents").await;
    let told = handshake(
        &server,
        &authority,
        &stranger,
        &authority,
        "site.strongroom",
    );
    assert!(told.unwrap_err().starts_with("server: "));
}

#[tokio::test]
async fn a_site_and_its_centre_know_each_other() {
    let (centre, site) = (Rig::new().await, Rig::new().await);
    let before = site.keys.site_identity().await.unwrap_err();
    assert!(matches!(before, Error::NotReady(_)), "{before}");
    enrol(&centre, &site, "msp").await;
    let (chain, key) = site.keys.site_identity().await.unwrap();
    let identity = Identity {
        chain,
        key: taken(Ok(key)),
    };
    let fleet = site.keys.authority("fleet").await.unwrap();
    assert_eq!(fleet, centre.keys.authority("fleet").await.unwrap());
    let server = server(&centre, "fleet").await;
    let seen = handshake(&server, &fleet, &identity, &fleet, "centre.strongroom").unwrap();
    assert_eq!(uris(&seen), ["strongroom:site:acme:s1"]);

    // who pins the fleet authority pins the wrap key
    let wrap = bytes(
        &centre.keys.init_centre("Example MSP").await.unwrap(),
        "wrap",
    );
    let wrap = data_encoding::HEXLOWER.encode(&wrap);
    assert_eq!(uris(&fleet), [format!("strongroom:wrap:{wrap}")]);

    // the same grant again changes nothing
    let chain: Vec<&[u8]> = identity.chain.iter().map(Vec::as_slice).collect();
    site.keys.complete_enrolment(&chain, &fleet).await.unwrap();
    // and at the centre, agents are met under its own name, for recovery only
    let (_, csr) = request();
    let made = site
        .keys
        .make_tenant_key("acme", "client", Default::default())
        .await
        .unwrap();
    let scope = format!("restore:{}", text(&made, "datastore"));
    let (id, chain) = centre
        .keys
        .issue_agent("rescue", &csr, &scope)
        .await
        .unwrap();
    assert_eq!(uris(&chain[0]), [format!("strongroom:agent:{id}")]);
    let unknown = "restore:00112233445566778899aabbccddeeff";
    let told = centre
        .keys
        .issue_agent("rescue", &csr, unknown)
        .await
        .unwrap_err();
    assert!(matches!(told, Error::NotFound(_)), "{told}");
}

#[tokio::test]
async fn misuse_is_answered_in_words() {
    let rig = Rig::new().await;
    let (_, csr) = request();
    let mut forged = csr.clone();
    *forged.last_mut().unwrap() ^= 1;
    let invalid = [
        rig.keys.issue_agent("a", &forged, "backup").await.err(),
        rig.keys.issue_agent("a", b"", "backup").await.err(),
        rig.keys.issue_agent("a", &csr, "everything").await.err(),
        rig.keys.issue_agent("", &csr, "backup").await.err(),
        rig.keys.issue_agent("a\nb", &csr, "backup").await.err(),
        rig.keys.authority("none").await.err(),
        rig.keys.server_certificate("none", &csr).await.err(),
        rig.keys.server_certificate("agents", &forged).await.err(),
        rig.keys
            .make_tenant_key("a:b", "client", Default::default())
            .await
            .err(),
        rig.keys
            .make_tenant_key("acme", "both", Default::default())
            .await
            .err(),
        rig.keys
            .make_tenant_key("acme", "msp", Default::default())
            .await
            .err(),
        rig.keys.init_centre(&"x".repeat(65)).await.err(),
    ];
    for (i, error) in invalid.into_iter().enumerate() {
        assert!(
            matches!(error, Some(Error::InvalidArgument(_))),
            "{i}: {error:?}"
        );
    }
    let not_ready = [
        rig.keys.authority("fleet").await.err(),
        rig.keys.complete_enrolment(&[&csr], &csr).await.err(),
        rig.keys
            .datastore_keyset("00112233445566778899aabbccddeeff")
            .await
            .err(),
    ];
    for (i, error) in not_ready.into_iter().enumerate() {
        assert!(matches!(error, Some(Error::NotReady(_))), "{i}: {error:?}");
    }
    assert!(rig.keys.agents().await.unwrap().is_empty());
}
