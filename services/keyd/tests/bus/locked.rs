//! When there are no keys to have: wrong callers, no TPM, another TPM, other PCRs, altered files.

use crate::rig::{PROGRAM, Rig, configure, proxy, request, taken};
use contract::{Error, KeysProxy};
use runtime::testing::Appliance;
use std::collections::BTreeMap;
use tpm::testing::Swtpm;

/// Every method once, with arguments as good as can be; its error.
async fn ask_everything(keys: &KeysProxy<'_>) -> BTreeMap<&'static str, Option<Error>> {
    let (_, csr) = request();
    let datastore = "00112233445566778899aabbccddeeff";
    let held = || {
        [
            ("custody", "client".into()),
            ("datastore", datastore.into()),
            ("keyset", vec![0u8; 40].into()),
            ("share", vec![0u8; 40].into()),
        ]
        .into()
    };
    BTreeMap::from([
        (
            "PoolKey",
            keys.pool_key("main", [("create", true.into())].into())
                .await
                .err(),
        ),
        ("UplinkKey", keys.uplink_key().await.err()),
        ("UplinkPublicKey", keys.uplink_public_key().await.err()),
        ("IdentityPublicKey", keys.identity_public_key().await.err()),
        (
            "DatastoreKeyset",
            keys.datastore_keyset(datastore).await.err(),
        ),
        ("Sign", keys.sign("session", b"x").await.err()),
        ("Authority", keys.authority("agents").await.err()),
        (
            "ServerCertificate",
            keys.server_certificate("agents", &csr).await.err(),
        ),
        ("SiteIdentity", keys.site_identity().await.err()),
        (
            "IssueAgent",
            keys.issue_agent("a", &csr, "backup").await.err(),
        ),
        ("Agents", keys.agents().await.err()),
        (
            "PrepareEnrolment",
            keys.prepare_enrolment(Default::default()).await.err(),
        ),
        (
            "MakeTenantKey",
            keys.make_tenant_key("acme", "client", Default::default())
                .await
                .err(),
        ),
        (
            "CompleteEnrolment",
            keys.complete_enrolment(&[&csr], &csr).await.err(),
        ),
        ("InitCentre", keys.init_centre("MSP").await.err()),
        ("IssueSite", keys.issue_site("acme", "s1", &csr).await.err()),
        ("HoldCustody", keys.hold_custody("acme", held()).await.err()),
        (
            "ReleaseKeyset",
            keys.release_keyset(datastore, Default::default())
                .await
                .err(),
        ),
        (
            "TryRelease",
            keys.try_release(datastore, Default::default()).await.err(),
        ),
        ("Releases", keys.releases().await.err()),
    ])
}

const OPEN_TO_ALL: [&str; 5] = [
    "UplinkPublicKey",
    "IdentityPublicKey",
    "Authority",
    "Agents",
    "Releases",
];

#[tokio::test]
async fn others_than_the_daemon_named_are_refused() {
    let rig = Rig::new().await;
    let roles = [
        "poold", "engined", "jobd", "uplinkd", "enrold", "portald", "centred",
    ];
    // whoever runs this test is none of them now
    let nobody: String = roles.map(|role| format!("{role} = \"nobody\"\n")).concat();
    rig.appliance.configure("callers", &nobody);
    let asked = ask_everything(&rig.keys).await;
    let (_, xml) = contract::INTERFACES
        .iter()
        .find(|(name, _)| name.ends_with("Keys1"))
        .unwrap();
    assert_eq!(
        asked.len(),
        xml.matches("<method ").count(),
        "a method was not asked"
    );
    for (member, error) in asked {
        match error {
            None => assert!(OPEN_TO_ALL.contains(&member), "{member} is open"),
            Some(Error::NotAuthorised(text)) => {
                assert!(!OPEN_TO_ALL.contains(&member), "{member}");
                assert!(text.starts_with(&format!("{member} is for ")), "{text}");
            }
            Some(other) => panic!("{member}: {other}"),
        }
    }
}

#[tokio::test]
async fn without_a_tpm_it_stays_up_and_says_what_to_do() {
    let mut appliance = Appliance::new();
    configure(&appliance, "device:/nonexistent/tpmrm0");
    appliance.start(PROGRAM, "org.strongroom.Keys1").await;
    let keys = proxy(&appliance).await;
    assert_eq!(keys.state().await.unwrap(), "no-tpm");
    assert_eq!(keys.tpm().await.unwrap(), "");
    let reason = keys.reason().await.unwrap();
    assert_eq!(
        reason,
        "no TPM 2.0 answers at device:/nonexistent/tpmrm0; enable it in the firmware setup \
         (often called PTT or fTPM)"
    );
    for (member, error) in ask_everything(&keys).await {
        match error {
            Some(Error::NoTpm(text)) => assert_eq!(text, reason, "{member}"),
            other => panic!("{member}: {other:?}"),
        }
    }
    assert_eq!(
        std::fs::read_dir(appliance.path("var/lib/strongroom/keyd"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_tpm_that_comes_late_is_found_and_told_to_all() {
    // a port that was free a moment ago
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut appliance = Appliance::new();
    configure(&appliance, &format!("swtpm:host=127.0.0.1,port={port}"));
    appliance.start(PROGRAM, "org.strongroom.Keys1").await;
    let keys = proxy(&appliance).await;
    assert_eq!(keys.state().await.unwrap(), "no-tpm");
    let bus = appliance.connect().await;
    let mut state = runtime::follow::property(&bus, "org.strongroom.Keys1", "State");
    let own = tempfile::tempdir().unwrap();
    let Some(tpm) = Swtpm::start_at(own.path(), port) else {
        eprintln!("skipped: another process took the port {port}");
        return;
    };
    let patience = std::time::Duration::from_secs(30);
    // found unasked, told by a signal; no firmware has measured anything into it yet
    let told = state.wait_for(|state| state.as_deref() == Some("sealed"));
    let told = tokio::time::timeout(patience, told).await.is_ok();
    assert!(told, "the change is not told");
    // what is not for lack of a TPM is tried again when asked
    tpm.extend(7, 1);
    let asked = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(200));
        while keys.uplink_public_key().await.is_err() {
            pace.tick().await;
        }
    };
    tokio::time::timeout(patience, asked)
        .await
        .expect("keyd asks the TPM again");
    assert_eq!(keys.state().await.unwrap(), "ready");
}

#[tokio::test]
async fn a_moved_pcr_is_named_and_moving_back_opens() {
    let mut rig = Rig::new().await;
    let key = taken(rig.keys.uplink_key().await);
    rig.stop();
    rig.tpm.extend(7, 9);
    rig.start().await;
    assert_eq!(rig.keys.state().await.unwrap(), "sealed");
    let reason = rig.keys.reason().await.unwrap();
    assert!(
        reason.starts_with("PCR 7 (Secure Boot: its state and keys) is not what"),
        "{reason}"
    );
    for (member, error) in ask_everything(&rig.keys).await {
        assert!(
            matches!(error, Some(Error::Sealed(_))),
            "{member}: {error:?}"
        );
    }
    rig.stop();
    rig.tpm.power_cycle();
    rig.tpm.extend(7, 1);
    rig.start().await;
    assert_eq!(taken(rig.keys.uplink_key().await), key);
}

#[tokio::test]
async fn a_replaced_tpm_is_told_and_the_store_left_alone() {
    let mut rig = Rig::new().await;
    let key = taken(rig.keys.uplink_key().await);
    let store = std::fs::read(rig.state_dir().join("store")).unwrap();
    rig.stop();
    let mut other = Swtpm::new();
    std::mem::swap(&mut rig.tpm, &mut other);
    rig.start().await;
    assert_eq!(rig.keys.state().await.unwrap(), "sealed");
    let told = rig.keys.uplink_key().await.unwrap_err();
    assert!(
        matches!(&told, Error::Sealed(t) if t.contains("another TPM")),
        "{told}"
    );
    assert_eq!(std::fs::read(rig.state_dir().join("store")).unwrap(), store);
    rig.stop();
    std::mem::swap(&mut rig.tpm, &mut other);
    rig.start().await;
    assert_eq!(taken(rig.keys.uplink_key().await), key);
}

#[tokio::test]
async fn a_clock_or_bit_that_damages_the_newest_file_loses_nothing() {
    let mut rig = Rig::new().await;
    let key = taken(rig.keys.uplink_key().await);
    rig.stop();
    let path = rig.state_dir().join("store");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    rig.start().await;
    assert_eq!(taken(rig.keys.uplink_key().await), key);
    assert!(
        rig.appliance
            .log("strongroom-keyd")
            .contains("went back to generation")
    );
}

#[tokio::test]
async fn an_altered_store_is_noticed_though_its_checksum_was_mended() {
    type Value = serde_json::Value;
    type Alteration = (&'static str, fn(&mut Value));
    let alterations: [Alteration; 3] = [
        ("an entry taken away", |v| {
            v["entries"]
                .as_object_mut()
                .unwrap()
                .remove("pool/main")
                .unwrap();
        }),
        ("two entries exchanged", |v| {
            let (a, b) = (
                v["entries"]["pool/main"].clone(),
                v["entries"]["pool/other"].clone(),
            );
            v["entries"]["pool/main"] = b;
            v["entries"]["pool/other"] = a;
        }),
        ("the check removed", |v| v["check"] = "".into()),
    ];
    for (what, alter) in alterations {
        let mut rig = Rig::new().await;
        for pool in ["main", "other"] {
            taken(
                rig.keys
                    .pool_key(pool, [("create", true.into())].into())
                    .await,
            );
        }
        rig.stop();
        let mut ledger = ledger::Ledger::<Value>::open(rig.state_dir().join("store")).unwrap();
        let mut value = ledger.state.take().unwrap();
        alter(&mut value);
        ledger.ledger.save(&value).unwrap();
        rig.start().await;
        assert_eq!(rig.keys.state().await.unwrap(), "damaged", "{what}");
        let told = rig.keys.uplink_key().await.unwrap_err();
        assert!(
            matches!(&told, Error::Damaged(t) if t.contains("was altered")),
            "{what}: {told}"
        );
    }
}

#[tokio::test]
async fn firmware_that_measured_nothing_gets_no_key_unless_the_settings_say_so() {
    let own = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(own.path());
    let mut appliance = Appliance::new();
    configure(&appliance, &tpm.tcti());
    appliance.start(PROGRAM, "org.strongroom.Keys1").await;
    let keys = proxy(&appliance).await;
    assert_eq!(keys.state().await.unwrap(), "sealed");
    assert!(
        keys.reason()
            .await
            .unwrap()
            .contains("the firmware measured nothing")
    );
    appliance.stop("strongroom-keyd", nix::sys::signal::Signal::SIGTERM);
    let settings = format!("tcti = \"{}\"\nallow_unmeasured = true\n", tpm.tcti());
    appliance.configure("keyd", &settings);
    appliance.start(PROGRAM, "org.strongroom.Keys1").await;
    assert_eq!(proxy(&appliance).await.state().await.unwrap(), "ready");
}
