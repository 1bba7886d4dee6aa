//! What the program says, to the letter, when it cannot do its work: over real TLS, from the
//! process's own mouth.

use agent::identity::{Identity, StateDir};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

const NAME: &str = "site.strongroom";

struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = date_time_ymd(2020, 1, 1);
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let issuer = Issuer::new(params, key);
    Authority { der, issuer }
}

impl Authority {
    /// A certificate and its key: of a server with these years, or of an agent.
    fn leaf(&self, server: Option<(i32, i32)>) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let (from, until) = server.unwrap_or((2020, 4000));
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![match server {
            Some(_) => ExtendedKeyUsagePurpose::ServerAuth,
            None => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.der().to_vec(), key.serialize_der())
    }
}

/// An appliance that ends each connection after the handshake, as portald does when a daemon
/// behind it is not there; its endpoint.
async fn appliance(authority: &Authority, years: (i32, i32)) -> String {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(authority.der.clone()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let (leaf, key) = authority.leaf(Some(years));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from(leaf)],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
        )
        .unwrap();
    config.alpn_protocols = vec![protocol::ALPN_AGENT.to_vec()];
    config.send_tls13_tickets = 0;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    endpoint
}

/// An agent that trusts this appliance's authority and has a certificate of that one.
struct Server(tempfile::TempDir);

impl Server {
    fn new(endpoint: &str, trusts: &Authority, issuer: &Authority) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(endpoint, trusts, issuer);
        StateDir::open(dir.path()).unwrap().save(&identity).unwrap();
        Server(dir)
    }

    /// What a command that must fail says.
    async fn says(&self, arguments: &[&str]) -> String {
        says(self.0.path(), arguments).await
    }
}

fn identity(endpoint: &str, trusts: &Authority, issuer: &Authority) -> Identity {
    let (leaf, key) = issuer.leaf(None);
    Identity {
        agent: "a1".into(),
        endpoint: endpoint.into(),
        server_name: NAME.into(),
        scope: "backup".into(),
        chain: vec![leaf],
        authority: trusts.der.clone(),
        key: Zeroizing::new(key),
    }
}

async fn says(state: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom-agent"));
    command.arg("--state").arg(state).args(arguments);
    let ended = tokio::task::spawn_blocking(move || command.output());
    let output = ended.await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_refuses_the_certificate_is_not_the_one_paired_with() {
    let (ours, other) = (authority(), authority());
    let endpoint = appliance(&ours, (2020, 4000)).await;
    let server = Server::new(&endpoint, &ours, &other);
    // by both ways in which a session begins
    for command in [&["list"][..], &["backup", "/"]] {
        assert_eq!(
            server.says(command).await,
            "the appliance refused the certificate of this server, so this server is not paired \
             with it; run `strongroom pair` there and `strongroom-agent pair HOST` here\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_says_nothing_is_told_from_a_bad_network() {
    let ours = authority();
    let endpoint = appliance(&ours, (2020, 4000)).await;
    let server = Server::new(&endpoint, &ours, &ours);
    for command in [&["list"][..], &["backup", "/"]] {
        assert_eq!(
            server.says(command).await,
            "the appliance ended the connection without a word; see there whether it is ready \
             (`strongroom status`) and has this server on its list (`strongroom agents`), and that \
             it has not too many sessions open\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_a_year_off_is_told_with_both_dates() {
    let ours = authority();
    let now = || {
        let now = jiff::Timestamp::now();
        (now, now.strftime("%Y-%m-%d %H:%M UTC").to_string())
    };
    let year = i32::from(now().0.to_zoned(jiff::tz::TimeZone::UTC).year());
    for (years, valid) in [
        ((year + 1, year + 2), format!("from {}-01-01", year + 1)),
        ((year - 2, year - 1), format!("until {}-01-01", year - 1)),
    ] {
        let endpoint = appliance(&ours, years).await;
        let server = Server::new(&endpoint, &ours, &ours);
        let before = now().1;
        let said = server.says(&["list"]).await;
        let sentence = |now: &str| {
            format!(
                "the clock of this server says {now}, and the certificate of {endpoint} is valid \
                 {valid} 00:00 UTC; set the clock that is wrong, here or at the appliance, and \
                 try again\n"
            )
        };
        assert!(
            said == sentence(&before) || said == sentence(&now().1),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_appliance_at_the_address_is_not_taken_for_ours() {
    let (ours, other) = (authority(), authority());
    let endpoint = appliance(&other, (2020, 4000)).await;
    let server = Server::new(&endpoint, &ours, &ours);
    assert_eq!(
        server.says(&["list"]).await,
        format!(
            "{endpoint} is not the appliance this server is paired with (its certificate is of \
             another authority); check the address, and pair again if the appliance was replaced\n"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_there_is_told_before_anything_is_dialled() {
    let ours = authority();
    // nobody listens there
    let server = Server::new("127.0.0.1:1", &ours, &ours);
    let missing = server.0.path().join("none");
    let missing = missing.to_str().unwrap();
    assert_eq!(
        server.says(&["backup", missing]).await,
        format!("{missing} does not exist; check the path to protect\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_is_told_with_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (state, why) in [
        (file.join("state"), "Not a directory (os error 20)"),
        (file, "File exists (os error 17)"),
    ] {
        assert_eq!(
            says(&state, &["list"]).await,
            format!(
                "{} cannot be written; move away what is in its place, or name another directory \
                 (--state): {why}\n",
                state.display()
            )
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_identity_is_named_with_its_place() {
    let ours = authority();
    let server = Server::new("127.0.0.1:1", &ours, &ours);
    let state = StateDir::open(server.0.path()).unwrap();
    // a key that is none, in a file that is whole
    let mut identity = state.load().unwrap();
    identity.key = Zeroizing::new(vec![1, 2, 3]);
    state.save(&identity).unwrap();
    let path = server.0.path().join("identity.json");
    assert_eq!(
        server.says(&["list"]).await,
        format!("{} is damaged; pair this server again\n", path.display())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_waits_for_a_pairing_and_goes_by_the_newest() {
    let ours = authority();
    let dir = tempfile::tempdir().unwrap();
    let mut serving = tokio::process::Command::new(env!("CARGO_BIN_EXE_strongroom-agent"))
        .arg("--state")
        .arg(dir.path())
        .arg("serve")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(serving.stderr.take().unwrap()).lines();
    let first = told.next_line().await.unwrap().unwrap();
    assert!(first.contains("is not paired with an appliance"), "{first}");
    let state = StateDir::open(dir.path()).unwrap();
    for _ in 0..2 {
        let appliance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = appliance.local_addr().unwrap().to_string();
        state.save(&identity(&endpoint, &ours, &ours)).unwrap();
        let dialled = tokio::time::timeout(Duration::from_secs(30), appliance.accept());
        dialled
            .await
            .expect("it connects to the appliance it was paired with last")
            .unwrap();
    }
}
