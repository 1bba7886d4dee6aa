use crate::rig::{Machine, text};
use contract::{Error, FieldsExt, Options};
use nix::sys::signal::Signal;
use protocol::token::Token;
use std::time::Duration;
use tpm::testing::Swtpm;

#[tokio::test(flavor = "multi_thread")]
async fn a_site_joins_and_both_ends_know_it() {
    let centre = Machine::centre().await;
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::new().await;
    assert_eq!(site.enrol().await.state().await.unwrap(), "unenrolled");
    let result = site.join(&token).await.unwrap();
    assert_eq!(text(&result, "tenant_name"), "Acme");
    assert_eq!(text(&result, "site_name"), "Main street");
    assert_eq!(text(&result, "custody"), "msp");
    site.becomes("site").await;

    let membership = site.enrol().await.membership().await.unwrap();
    let sites = centre.centred().await.sites().await.unwrap();
    let [known] = sites.as_slice() else {
        panic!("{sites:?}")
    };
    for name in ["tenant", "tenant_name", "datastore", "custody"] {
        assert_eq!(text(&membership, name), text(known, name), "{name}");
    }
    assert_eq!(text(&membership, "site"), text(known, "id"));
    assert_eq!(text(&membership, "endpoint"), centre.endpoint);

    // the tunnel: each end has the other's key, and the addresses fit
    let uplink = site.told.uplink.lock().unwrap().clone_fields();
    assert_eq!(text(&uplink, "role"), "site");
    let address = text(&uplink, "address");
    assert_eq!(address, format!("{}/48", text(known, "address")));
    assert!(text(&uplink, "endpoint").ends_with(":51820"));
    assert_eq!(text(&uplink, "time"), centre.endpoint);
    let centres = centre.keys().await.uplink_public_key().await.unwrap();
    assert_eq!(uplink.required::<Vec<u8>>("peer").unwrap(), centres);
    let ours = text(&centre.told.uplink.lock().unwrap(), "address");
    assert_eq!(format!("{}/48", text(&uplink, "centre")), ours);
    let sites_key = site.keys().await.uplink_public_key().await.unwrap();
    peers(&centre, &sites_key, &text(known, "address")).await;

    // asked again, it is what it is
    let again = site.join(&token).await.unwrap();
    assert_eq!(text(&again, "datastore"), text(&result, "datastore"));
    let tenants = centre.centred().await.tenants().await.unwrap();
    assert_eq!(tenants[0].required::<u32>("sites").unwrap(), 1);
}

/// Waits until the tunnel at the centre has just this peer: it is told after the grant.
async fn peers(centre: &Machine, key: &[u8], address: &str) {
    let wanted = vec![(key.to_vec(), address.to_owned())];
    let mut told = centre.told.peers.subscribe();
    let wait = told.wait_for(|peers| *peers == wanted);
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "{:?}", centre.told.peers.borrow());
}

trait CloneFields {
    fn clone_fields(&self) -> contract::Fields;
}

impl CloneFields for contract::Fields {
    fn clone_fields(&self) -> contract::Fields {
        let copy =
            |(k, v): (&String, &zbus::zvariant::OwnedValue)| (k.clone(), v.try_clone().unwrap());
        self.iter().map(copy).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_mistyped_unknown_used_or_expired_says_so() {
    let mut centre = Machine::centre().await;
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::new().await;

    let wrong = if token[6..].starts_with('3') {
        '4'
    } else {
        '3'
    };
    let mistyped = format!("{}{wrong}{}", &token[..6], &token[7..]);
    match site.join(&mistyped).await {
        Err(Error::TokenInvalid(text)) => assert!(text.contains("group 2"), "{text}"),
        other => panic!("{other:?}"),
    }

    let mut unknown: Token = token.parse().unwrap();
    unknown.secret[0] ^= 1;
    match site.join(&unknown.to_string()).await {
        Err(Error::TokenInvalid(text)) => assert!(text.contains("does not know"), "{text}"),
        other => panic!("{other:?}"),
    }

    let mut elsewhere: Token = token.parse().unwrap();
    elsewhere.fingerprint[0] ^= 1;
    match site.join(&elsewhere.to_string()).await {
        Err(Error::NotAuthorised(text)) => assert!(text.contains("not the centre"), "{text}"),
        other => panic!("{other:?}"),
    }

    let mut nowhere: Token = token.parse().unwrap();
    nowhere.endpoint.port = 1;
    match site.join(&nowhere.to_string()).await {
        Err(Error::CentreUnreachable(text)) => assert!(text.contains("refused"), "{text}"),
        other => panic!("{other:?}"),
    }

    // after all that, nothing is half done
    site.becomes("unenrolled").await;
    site.join(&token).await.unwrap();
    let second = Machine::new().await;
    match second.join(&token).await {
        Err(Error::TokenUsed(text)) => assert!(text.contains("new token"), "{text}"),
        other => panic!("{other:?}"),
    }

    let late = centre.token("Acme", "Side street").await;
    centre.end("centred", Signal::SIGTERM);
    let ledger = centre.appliance.path("var/lib/strongroom/centred/centre");
    let mut opened = ledger::Ledger::<serde_json::Value>::open(ledger).unwrap();
    let mut state = opened.state.unwrap();
    for token in state["tokens"].as_object_mut().unwrap().values_mut() {
        token["expires"] = 1.into();
    }
    opened.ledger.save(&state).unwrap();
    centre.begin("centred", "Centre1").await;
    match second.join(&late).await {
        Err(Error::TokenExpired(text)) => assert!(text.contains("expired"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tpm_is_told_before_anything_is_begun() {
    let centre = Machine::centre().await;
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::start(None, "pool = false\n").await;
    match site.join(&token).await {
        Err(Error::NoTpm(text)) => assert!(!text.is_empty()),
        other => panic!("{other:?}"),
    }
    assert!(!centre.log("centred").contains("enrol"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_after_the_grant_is_gone_on_from_by_a_restart_alone() {
    let centre = Machine::centre().await;
    let token = centre.token("Acme", "Main street").await;
    // no poold runs here
    let mut site = Machine::start(Some(Swtpm::new()), "pool = true\n").await;
    match site.join(&token).await {
        Err(Error::NotReady(text)) => assert!(text.contains("poold is not running"), "{text}"),
        other => panic!("{other:?}"),
    }
    site.becomes("enrolling").await;
    site.end("enrold", Signal::SIGKILL);
    site.appliance.configure("enrold", "pool = false\n");
    site.begin("enrold", "Enrol1").await;
    site.becomes("site").await;
    let result = site.join(&token).await.unwrap();
    assert_eq!(text(&result, "site_name"), "Main street");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_centre_keeps_what_it_is_and_whom_it_knows_over_restarts() {
    let mut centre = Machine::centre().await;
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::new().await;
    site.join(&token).await.unwrap();
    for (daemon, name) in [("centred", "Centre1"), ("enrold", "Enrol1")] {
        centre.end(daemon, Signal::SIGKILL);
        centre.told.peers.send_replace(Vec::new());
        centre.begin(daemon, name).await;
    }
    let key = site.keys().await.uplink_public_key().await.unwrap();
    let sites = centre.centred().await.sites().await.unwrap();
    peers(&centre, &key, &text(&sites[0], "address")).await;
    let enrol = centre.enrol().await;
    let again = enrol.init_centre("Northwind", &centre.endpoint, Options::new());
    let job = again.await.unwrap();
    centre.ended(&job).await.unwrap();
    let other = enrol.init_centre("Southwind", &centre.endpoint, Options::new());
    assert!(matches!(other.await, Err(Error::AlreadyExists(_))));
    assert!(matches!(
        centre.join(&token).await,
        Err(Error::WrongRole(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_no_centre() {
    let centre = Machine::centre().await;
    let mut site = Machine::site(&centre, "Acme", "Main street").await;
    site.begin("centred", "Centre1").await;
    let centred = site.centred().await;
    let refused = centred.create_tenant("Other", Options::new()).await;
    assert!(matches!(refused, Err(Error::WrongRole(_))), "{refused:?}");
    let found = site
        .enrol()
        .await
        .init_centre("N", "n.example", Options::new())
        .await;
    assert!(matches!(found, Err(Error::WrongRole(_))), "{found:?}");
}
