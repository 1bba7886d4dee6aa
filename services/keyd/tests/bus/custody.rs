//! Whose keys the centre holds, and when it lets them go.

use crate::rig::{Rig, bytes, enrol, hold, taken, text};
use contract::{Error, FieldsExt};

#[tokio::test]
async fn under_msp_custody_the_centre_releases_what_the_site_has_and_logs_it() {
    let (centre, site) = (Rig::new().await, Rig::new().await);
    let made = enrol(&centre, &site, "msp").await;
    let datastore = text(&made, "datastore");
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    let decoded = format::Keyset::decode(&keyset).unwrap();
    assert_eq!(decoded.datastore_id.to_string(), datastore);

    let options = || [("reason", "ticket 4711".into())].into();
    let released = taken(centre.keys.release_keyset(&datastore, options()).await);
    assert_eq!(released, keyset);
    let log = centre.keys.releases().await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(text(&log[0], "datastore"), datastore);
    assert_eq!(text(&log[0], "tenant"), "acme");
    assert_eq!(text(&log[0], "custody"), "msp");
    assert_eq!(text(&log[0], "reason"), "ticket 4711");
    assert!(log[0].required::<bool>("released").unwrap());
    let time: i64 = log[0].required("time").unwrap();
    assert!(time > 1_700_000_000);

    let direct = centre.keys.datastore_keyset(&datastore).await.unwrap_err();
    assert!(matches!(direct, Error::WrongRole(_)), "{direct}");
    let unknown = "00112233445566778899aabbccddeeff";
    let unknown = centre
        .keys
        .release_keyset(unknown, options())
        .await
        .unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown}");
    assert_eq!(centre.keys.releases().await.unwrap().len(), 1);
}

#[tokio::test]
async fn under_client_custody_it_takes_a_share_of_theirs() {
    let (centre, site) = (Rig::new().await, Rig::new().await);
    let made = enrol(&centre, &site, "client").await;
    let datastore = text(&made, "datastore");
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    assert!(!made.contains_key("wrapped"));
    let release = async |share: Option<&str>| {
        let options = share.map(|s| ("share", s.into())).into_iter().collect();
        centre.keys.release_keyset(&datastore, options).await
    };

    let tried = async |share: Option<&str>| {
        let options = share.map(|s| ("share", s.into())).into_iter().collect();
        centre.keys.try_release(&datastore, options).await
    };

    let none = release(None).await.unwrap_err();
    assert!(matches!(none, Error::CustodyShareRequired(_)), "{none}");
    // a trial refuses the same, which is logged, and lets nothing out, which is not
    assert_eq!(tried(None).await.unwrap_err().text(), none.text());
    let (client, envelope) = (text(&made, "client_share"), text(&made, "envelope_share"));
    assert!(client.starts_with("client share: ") && envelope.starts_with("envelope share: "));
    tried(Some(&client)).await.unwrap();
    for share in [&client, &envelope, &client.to_lowercase().replace('-', " ")] {
        assert_eq!(taken(release(Some(share)).await), keyset);
    }

    let mut mistyped = client.clone();
    let last = if mistyped.pop() == Some('0') {
        '1'
    } else {
        '0'
    };
    mistyped.push(last);
    for wrong in [mistyped.as_str(), "", "client share: 1234", "ünïcödé"] {
        let told = release(Some(wrong)).await.unwrap_err();
        assert!(matches!(told, Error::ShareInvalid(_)), "{wrong}: {told}");
    }
    let released: Vec<bool> = centre
        .keys
        .releases()
        .await
        .unwrap()
        .iter()
        .map(|r| r.required("released").unwrap())
        .collect();
    assert_eq!(
        released,
        [false, false, true, true, true, false, false, false, false]
    );
}

#[tokio::test]
async fn making_the_tenant_key_again_keeps_the_datastore_and_new_custody_makes_old_shares_useless()
{
    let (centre, site) = (Rig::new().await, Rig::new().await);
    let made = enrol(&centre, &site, "client").await;
    let datastore = text(&made, "datastore");
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    let old = text(&made, "client_share");

    // an enrolment that was interrupted asks again: same key, new shares that go together
    let again = site
        .keys
        .make_tenant_key("acme", "client", Default::default())
        .await
        .unwrap();
    assert_eq!(text(&again, "datastore"), datastore);
    hold(&centre, "client", &again).await.unwrap();
    let release = async |share: &str| {
        let options = [("share", share.into())].into();
        centre.keys.release_keyset(&datastore, options).await
    };
    assert_eq!(taken(release(&text(&again, "client_share")).await), keyset);
    let told = release(&old).await.unwrap_err();
    assert!(matches!(told, Error::ShareInvalid(_)), "{told}");

    // to the MSP, and what the client had then opens nothing
    let wrap = bytes(
        &centre.keys.init_centre("Example MSP").await.unwrap(),
        "wrap",
    );
    let options = [("wrap", wrap.into())].into();
    let moved = site
        .keys
        .make_tenant_key("acme", "msp", options)
        .await
        .unwrap();
    assert_eq!(text(&moved, "datastore"), datastore);
    hold(&centre, "msp", &moved).await.unwrap();
    let released = centre
        .keys
        .release_keyset(&datastore, Default::default())
        .await;
    assert_eq!(taken(released), keyset);
    assert_eq!(taken(site.keys.datastore_keyset(&datastore).await), keyset);
    // what was replaced is in no file any more
    let kept: Vec<u8> = bytes(&again, "centre_share");
    let stored = String::from_utf8(centre.written()).unwrap();
    assert!(!stored.contains(&data_encoding::BASE64.encode(&kept)));

    // renew: another tenant key under the same custody
    let wrap = bytes(
        &centre.keys.init_centre("Example MSP").await.unwrap(),
        "wrap",
    );
    let options = [("wrap", wrap.into()), ("renew", true.into())].into();
    let renewed = site
        .keys
        .make_tenant_key("acme", "msp", options)
        .await
        .unwrap();
    let mixed = [
        ("keyset", bytes(&renewed, "keyset")),
        ("wrapped", bytes(&moved, "wrapped")),
    ];
    let mut held: contract::Options<'_> = [
        ("custody", "msp".into()),
        ("datastore", datastore.as_str().into()),
    ]
    .into();
    held.extend(mixed.map(|(name, value)| (name, value.into())));
    let told = centre.keys.hold_custody("acme", held).await.unwrap_err();
    assert!(matches!(told, Error::InvalidArgument(_)), "{told}");
    let released = centre
        .keys
        .release_keyset(&datastore, Default::default())
        .await;
    assert_eq!(
        taken(released),
        keyset,
        "a refused holding must not replace a good one"
    );
}

#[tokio::test]
async fn a_site_serves_one_tenant_and_one_centre() {
    let (centre, site, stranger) = (Rig::new().await, Rig::new().await, Rig::new().await);
    // an enrolment begun and given up leaves nothing in the way
    let given_up = site
        .keys
        .make_tenant_key("other", "client", Default::default())
        .await
        .unwrap();
    let made = enrol(&centre, &site, "msp").await;
    assert_ne!(text(&made, "datastore"), text(&given_up, "datastore"));

    let told = site
        .keys
        .make_tenant_key("other", "client", Default::default())
        .await
        .unwrap_err();
    assert!(matches!(told, Error::AlreadyExists(_)), "{told}");
    let theirs = stranger.keys.init_centre("Stranger").await.unwrap();
    let csr = bytes(
        &site
            .keys
            .prepare_enrolment(Default::default())
            .await
            .unwrap(),
        "csr",
    );
    let chain = stranger.keys.issue_site("acme", "s1", &csr).await.unwrap();
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let told = site
        .keys
        .complete_enrolment(&chain, &bytes(&theirs, "fleet"))
        .await
        .unwrap_err();
    assert!(matches!(told, Error::AlreadyExists(_)), "{told}");

    // another tenant does not take the datastore over
    let held = [
        ("custody", "msp".into()),
        ("datastore", text(&made, "datastore").into()),
        ("keyset", bytes(&made, "keyset").into()),
        ("wrapped", bytes(&made, "wrapped").into()),
    ];
    let told = centre
        .keys
        .hold_custody("rival", held.into())
        .await
        .unwrap_err();
    assert!(
        matches!(told, Error::InvalidArgument(_) | Error::NotAuthorised(_)),
        "{told}"
    );
}

#[tokio::test]
async fn each_role_refuses_the_others_work() {
    let (centre, site) = (Rig::new().await, Rig::new().await);
    enrol(&centre, &site, "msp").await;
    let (_, csr) = crate::rig::request();
    let id = "00112233445566778899aabbccddeeff";
    let refusals = [
        site.keys.init_centre("x").await.err(),
        site.keys.issue_site("acme", "s2", &csr).await.err(),
        site.keys.release_keyset(id, Default::default()).await.err(),
        site.keys.server_certificate("fleet", &csr).await.err(),
        site.keys
            .issue_agent("a", &csr, &format!("restore:{id}"))
            .await
            .err(),
        centre
            .keys
            .prepare_enrolment(Default::default())
            .await
            .err(),
        centre
            .keys
            .make_tenant_key("acme", "client", Default::default())
            .await
            .err(),
        centre.keys.site_identity().await.err(),
        centre.keys.issue_agent("a", &csr, "backup").await.err(),
    ];
    for (i, error) in refusals.into_iter().enumerate() {
        assert!(matches!(error, Some(Error::WrongRole(_))), "{i}: {error:?}");
    }
}
