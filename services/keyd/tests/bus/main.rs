//! org.strongroom.Keys1 whole, over a real bus, against real software TPMs.

mod certificates;
mod custody;
mod locked;
mod memory;
mod rig;

use rig::{Rig, bytes, enrol, taken, text};

#[tokio::test]
async fn the_interface_is_as_the_contract_says() {
    let rig = Rig::new().await;
    runtime::testing::conforms(rig.keys.inner().connection(), "org.strongroom.Keys1").await;
}

#[tokio::test]
async fn a_first_start_is_ready_and_says_which_tpm() {
    let rig = Rig::new().await;
    assert_eq!(rig.keys.state().await.unwrap(), "ready");
    assert_eq!(rig.keys.reason().await.unwrap(), "");
    assert!(rig.keys.tpm().await.unwrap().contains("firmware"));
}

#[tokio::test]
async fn pool_keys_are_made_once_and_only_when_asked() {
    let rig = Rig::new().await;
    let missing = rig
        .keys
        .pool_key("main", Default::default())
        .await
        .unwrap_err();
    assert!(matches!(missing, contract::Error::NotFound(_)), "{missing}");
    let made = taken(
        rig.keys
            .pool_key("main", [("create", true.into())].into())
            .await,
    );
    assert_eq!(made.len(), 64);
    assert_eq!(
        taken(rig.keys.pool_key("main", Default::default()).await),
        made
    );
    assert_eq!(
        taken(
            rig.keys
                .pool_key("main", [("create", true.into())].into())
                .await
        ),
        made
    );
    let other = taken(
        rig.keys
            .pool_key("other", [("create", true.into())].into())
            .await,
    );
    assert_ne!(other, made);
    let bad = rig
        .keys
        .pool_key("../main", [("create", true.into())].into())
        .await
        .unwrap_err();
    assert!(matches!(bad, contract::Error::InvalidArgument(_)), "{bad}");
}

#[tokio::test]
async fn the_uplinks_public_key_is_of_its_private_one() {
    let rig = Rig::new().await;
    let public = rig.keys.uplink_public_key().await.unwrap();
    let private = taken(rig.keys.uplink_key().await);
    assert_eq!((private.len(), public.len()), (32, 32));
    // openssl as the oracle, from PKCS#8 (RFC 8410) and to SubjectPublicKeyInfo
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20".to_vec();
    der.extend(&private);
    let file = rig.appliance.path("key.der");
    std::fs::write(&file, der).unwrap();
    let output = std::process::Command::new("openssl")
        .args([
            "pkey", "-inform", "DER", "-pubout", "-outform", "DER", "-in",
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout.ends_with(&public));
}

#[tokio::test]
async fn signatures_are_of_the_identity_and_say_what_for() {
    let rig = Rig::new().await;
    let signature = rig.keys.sign("manifest", b"snapshot").await.unwrap();
    let wanted = rig
        .keys
        .prepare_enrolment(Default::default())
        .await
        .unwrap();
    let identity = rig.keys.identity_public_key().await.unwrap();
    assert_eq!(identity, bytes(&wanted, "identity"));
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, identity);
    public
        .verify(b"strongroom manifest v1\0snapshot", &signature)
        .unwrap();
    let other = rig.keys.sign("session", b"snapshot").await.unwrap();
    assert_ne!(other, signature);
    let refused = rig.keys.sign("certificate", b"x").await.unwrap_err();
    assert!(
        matches!(refused, contract::Error::InvalidArgument(_)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let (centre, mut site) = (Rig::new().await, Rig::new().await);
    let made = enrol(&centre, &site, "msp").await;
    let datastore = text(&made, "datastore");
    let pool = taken(
        site.keys
            .pool_key("main", [("create", true.into())].into())
            .await,
    );
    let uplink = taken(site.keys.uplink_key().await);
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    let (_, csr) = rig::request();
    let (agent, _) = site
        .keys
        .issue_agent("mail server", &csr, "backup")
        .await
        .unwrap();
    let authority = site.keys.authority("agents").await.unwrap();
    let (chain, key) = site.keys.site_identity().await.unwrap();
    let key = taken(Ok(key));

    site.stop();
    site.tpm.power_cycle();
    site.tpm.extend(7, 1);
    site.start().await;

    assert_eq!(site.keys.state().await.unwrap(), "ready");
    assert_eq!(
        taken(site.keys.pool_key("main", Default::default()).await),
        pool
    );
    assert_eq!(taken(site.keys.uplink_key().await), uplink);
    assert_eq!(taken(site.keys.datastore_keyset(&datastore).await), keyset);
    assert_eq!(site.keys.authority("agents").await.unwrap(), authority);
    let agents = site.keys.agents().await.unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!(
        (text(&agents[0], "id"), text(&agents[0], "name")),
        (agent, "mail server".into())
    );
    let (chain_now, key_now) = site.keys.site_identity().await.unwrap();
    assert_eq!((chain_now, taken(Ok(key_now))), (chain, key));
}

#[tokio::test]
async fn no_key_is_in_a_file_or_a_log() {
    let (centre, site) = (Rig::new().await, Rig::new().await);
    let made = enrol(&centre, &site, "client").await;
    let datastore = text(&made, "datastore");
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    let decoded = format::Keyset::decode(&keyset).unwrap();
    let mut secrets = vec![
        taken(
            site.keys
                .pool_key("main", [("create", true.into())].into())
                .await,
        ),
        taken(site.keys.uplink_key().await),
        decoded.dedup.to_vec(),
        decoded.newest().unwrap().1.to_vec(),
        // the private part of the identity's PKCS#8
        taken(site.keys.site_identity().await.map(|(_, key)| key))[16..48].to_vec(),
        text(&made, "client_share").into_bytes(),
        text(&made, "envelope_share").into_bytes(),
        site.root().to_vec(),
        centre.root().to_vec(),
        site.entry("tenant/acme"),
    ];
    let share = text(&made, "client_share");
    let options = || [("share", share.as_str().into())].into();
    assert_eq!(
        taken(centre.keys.release_keyset(&datastore, options()).await),
        keyset
    );
    for rig in [&site, &centre] {
        let mut written = rig.written();
        assert!(written.len() > 1000);
        let process = memory::pid(rig).await;
        if nix::unistd::geteuid().is_root() {
            for file in ["environ", "cmdline"] {
                let told = std::fs::read(format!("/proc/{process}/{file}")).unwrap();
                assert!(!told.is_empty(), "{file}");
                written.extend(told);
            }
        } else {
            eprintln!("only root may read the environment of a process that cannot be dumped");
        }
        for secret in &mut secrets {
            let forms = [
                secret.clone(),
                data_encoding::HEXLOWER.encode(secret).into_bytes(),
                // base64 of any of three alignments holds the middle of one of these
                middle(data_encoding::BASE64.encode(secret)),
                middle(data_encoding::BASE64.encode(&secret[1..])),
                middle(data_encoding::BASE64.encode(&secret[2..])),
                serde_json::to_vec(secret)
                    .unwrap()
                    .trim_ascii_end()
                    .to_vec(),
            ];
            for form in forms {
                assert!(
                    !written.windows(form.len()).any(|w| w == form),
                    "a key was written"
                );
            }
        }
    }
}

fn middle(text: String) -> Vec<u8> {
    text.as_bytes()[4..text.len() - 4].to_vec()
}
