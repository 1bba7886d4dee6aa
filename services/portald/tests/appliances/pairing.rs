use crate::agent::{self, other_than};
use crate::rig::{Machine, text};
use contract::{Error, FieldsExt, Options};
use protocol::pairing::Error as PairingError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio::net::TcpListener;
use zbus::zvariant::Value;

async fn open(machine: &Machine) -> String {
    let (code, expires) = machine
        .portal()
        .await
        .open_pairing(Options::new())
        .await
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let left = expires - now.as_secs() as i64;
    assert!((890..=900).contains(&left), "{left}");
    assert_eq!((code.len(), &code[4..5]), (9, "-"));
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_pairs_one_agent_once() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let code = open(&site).await;
    let agent = agent::pair(&site.endpoint, &code).await.unwrap();
    assert_eq!(agent.paired.scope, "backup");
    assert_eq!(agent.paired.names, ["site.strongroom"]);
    let agents = site.keys().await.agents().await.unwrap();
    assert_eq!(text(&agents[0], "id"), agent.paired.agent);
    assert_eq!(text(&agents[0], "name"), "files");
    // used: nobody is served any more
    assert!(agent::pair(&site.endpoint, &code).await.is_err());
    assert_eq!(site.keys().await.agents().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_codes_end_it_at_both_ends_and_in_the_log() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let code = open(&site).await;
    let wrong = other_than(&code);
    for left in (0..5).rev() {
        match agent::pair(&site.endpoint, &wrong).await {
            Err(PairingError::CodeWrong { left: told }) if left > 0 => assert_eq!(told, left),
            Err(PairingError::Ended) if left == 0 => {}
            other => panic!("{left}: {:?}", other.err()),
        }
    }
    // the right one comes too late
    assert!(agent::pair(&site.endpoint, &code).await.is_err());
    assert!(site.keys().await.agents().await.unwrap().is_empty());
    let log = site.log("portald");
    assert!(
        log.contains("pairing ended: the code was wrong 5 times"),
        "{log}"
    );
    assert!(!log.contains(&code));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_between_and_relays_every_byte_pairs_nobody() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let code = open(&site).await;

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["site.strongroom".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(agent::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    config.alpn_protocols = vec![protocol::pairing::ALPN.to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap().to_string();
    let beyond = site.endpoint.clone();
    let relay = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut near = acceptor.accept(stream).await.unwrap();
        let alpn = Some(protocol::pairing::ALPN);
        let mut far = agent::anyone(&beyond, alpn).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    match agent::pair(&between, &code).await {
        Err(PairingError::CodeWrong { left: 4 }) => {}
        other => panic!("{:?}", other.err()),
    }
    relay.await.unwrap();
    assert!(site.keys().await.agents().await.unwrap().is_empty());
    // and without anyone between, the same code is good
    agent::pair(&site.endpoint, &code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_agent_is_paired_at_a_centre_with_the_grant_or_not_at_all() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let membership = site.enrol().await.membership().await.unwrap();
    let datastore = text(&membership, "datastore");
    let portal = centre.portal().await;
    let without = portal.open_pairing(Options::new()).await;
    assert!(
        matches!(without, Err(Error::InvalidArgument(_))),
        "{without:?}"
    );
    let options = || {
        Options::from([
            ("datastore", Value::from(datastore.as_str())),
            ("share", Value::from("some words")),
            ("hours", Value::from(2u32)),
        ])
    };

    let (code, _) = portal.open_pairing(options()).await.unwrap();
    let agent = agent::pair(&centre.endpoint, &code).await.unwrap();
    assert_eq!(agent.paired.scope, format!("restore:{datastore}"));
    assert_eq!(agent.paired.names, ["centre.strongroom"]);
    {
        let grants = centre.told.grants.lock().unwrap();
        let [(granted, how)] = grants.as_slice() else {
            panic!("{grants:?}")
        };
        assert_eq!(*granted, datastore);
        assert_eq!(text(how, "agent"), agent.paired.agent);
        assert_eq!(text(how, "share"), "some words");
        assert!(text(how, "reason").contains(&agent.paired.agent));
        assert!(how.required::<i64>("until").unwrap() > 0);
    }

    let (code, _) = portal.open_pairing(options()).await.unwrap();
    let refusal = Error::ShareInvalid("the share does not fit".into());
    *centre.told.refuse_grant.lock().unwrap() = Some(refusal);
    match agent::pair(&centre.endpoint, &code).await {
        Err(PairingError::Refused(text)) => assert_eq!(text, "the share does not fit"),
        other => panic!("{:?}", other.err()),
    }
    let at_site = site.portal().await.open_pairing(options()).await;
    assert!(matches!(at_site, Err(Error::WrongRole(_))), "{at_site:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_is_nothing_yet_pairs_nobody() {
    let machine = Machine::new().await;
    let refused = machine.portal().await.open_pairing(Options::new()).await;
    assert!(matches!(refused, Err(Error::NotReady(_))), "{refused:?}");
    assert!(machine.portal().await.listening().await.unwrap().is_empty());
}
