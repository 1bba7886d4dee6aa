use crate::rig::{Machine, share, text};
use contract::{Error, FieldsExt, Options};
use protocol::enrol::custody::{self, Signed, Site, SiteEvent};
use protocol::enrol::{Held, HeldKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zbus::zvariant::Value;

async fn set(site: &Machine, custody: &str) -> Result<contract::Fields, Error> {
    let job = site
        .enrol()
        .await
        .set_custody(custody, Options::new())
        .await?;
    site.ended(&job).await
}

/// What keyd at the centre releases: whether the keyset came, with this share.
async fn released(centre: &Machine, datastore: &str, words: Option<&str>) -> Result<(), Error> {
    let fields = words.map(share).unwrap_or_default();
    let words: Option<String> = fields.optional("share").unwrap();
    let mut options = Options::new();
    if let Some(words) = &words {
        options.insert("share", Value::from(words.as_str()));
    }
    let keys = centre.keys().await;
    let pipe = keys.release_keyset(datastore, options).await?;
    assert!(!runtime::pipe::take_key(pipe).unwrap().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_centre_reads_only_what_custody_lets_it() {
    let centre = Machine::centre().await;
    let mut site = Machine::site(&centre, "Acme", "Main street").await;
    site.tunnel_to(&centre).await;
    let membership = site.enrol().await.membership().await.unwrap();
    let datastore = text(&membership, "datastore");
    released(&centre, &datastore, None).await.unwrap();

    let result = set(&site, "client").await.unwrap();
    let (client, envelope) = (
        text(&result, "client_share"),
        text(&result, "envelope_share"),
    );
    let refused = released(&centre, &datastore, None).await;
    assert!(
        matches!(refused, Err(Error::CustodyShareRequired(_))),
        "{refused:?}"
    );
    // who opens a recovery pairing is refused there and then
    let pairing = async |words: Option<&str>| {
        let mut options = Options::from([("datastore", Value::from(datastore.as_str()))]);
        options.extend(words.map(|words| ("share", Value::from(words))));
        centre.portal().await.open_pairing(options).await
    };
    let told = pairing(None).await;
    assert!(
        matches!(told, Err(Error::CustodyShareRequired(_))),
        "{told:?}"
    );
    let told = pairing(Some("client share: 1234")).await;
    assert!(matches!(told, Err(Error::ShareInvalid(_))), "{told:?}");
    pairing(Some(&client)).await.unwrap();
    released(&centre, &datastore, Some(&client)).await.unwrap();
    released(&centre, &datastore, Some(&envelope))
        .await
        .unwrap();
    let sites = centre.centred().await.sites().await.unwrap();
    assert_eq!(text(&sites[0], "custody"), "client");
    let membership = site.enrol().await.membership().await.unwrap();
    assert_eq!(text(&membership, "custody"), "client");

    // new shares make the old ones worthless
    let renewed = set(&site, "client").await.unwrap();
    assert!(released(&centre, &datastore, Some(&client)).await.is_err());
    let client = text(&renewed, "client_share");
    released(&centre, &datastore, Some(&client)).await.unwrap();

    let back = set(&site, "msp").await.unwrap();
    assert!(!back.contains_key("client_share"));
    released(&centre, &datastore, None).await.unwrap();
    let odd = site
        .enrol()
        .await
        .set_custody("nobody", Options::new())
        .await;
    assert!(matches!(odd, Err(Error::InvalidArgument(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_under_client_custody_gets_its_shares_at_enrolment() {
    let centre = Machine::centre().await;
    let options = Options::from([("custody", Value::from("client"))]);
    let centred = centre.centred().await;
    centred.create_tenant("Acme", options).await.unwrap();
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::new().await;
    let result = site.join(&token).await.unwrap();
    let datastore = text(&result, "datastore");
    let refused = released(&centre, &datastore, None).await;
    assert!(
        matches!(refused, Err(Error::CustodyShareRequired(_))),
        "{refused:?}"
    );
    let words = text(&result, "client_share");
    released(&centre, &datastore, Some(&words)).await.unwrap();
    for daemon in ["enrold", "portald", "keyd"] {
        assert!(
            !site.log(daemon).contains(&words),
            "{daemon} logged a share"
        );
    }
    // shown once
    let again = site.join(&token).await.unwrap();
    assert!(!again.contains_key("client_share"));
}

/// Has `machine` ask its centre to hold `held`, signed by its identity over `signing` when that is
/// given, and answers the centre's refusal.
async fn refusal(machine: &Machine, held: Held, signing: Option<[u8; 32]>) -> String {
    let dialled = machine.portal().await.dial("control", Options::new()).await;
    let mut stream = runtime::pipe::adopt_stream(dialled.unwrap()).unwrap();
    let mut site = Site::default();
    let mut buffer = [0; 4096];
    stream.write_all(&site.output()).await.unwrap();
    let count = stream.read(&mut buffer).await.unwrap();
    let Ok(Some(SiteEvent::Challenge(nonce))) = site.receive(&buffer[..count]) else {
        panic!("no challenge");
    };
    let message = custody::message(&signing.unwrap_or(nonce), &held);
    let keys = machine.keys().await;
    let signature = keys.sign("custody", &message).await.unwrap();
    site.hold(Signed { held, signature });
    stream.write_all(&site.output()).await.unwrap();
    let count = stream.read(&mut buffer).await.unwrap();
    site.receive(&buffer[..count]).unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_what_is_held_for_a_site_but_itself() {
    let centre = Machine::centre().await;
    let mut victim = Machine::site(&centre, "Acme", "Main street").await;
    let mut other = Machine::site(&centre, "Bolt", "Side street").await;
    other.tunnel_to(&centre).await;
    victim.tunnel_to(&centre).await;
    let membership = victim.enrol().await.membership().await.unwrap();
    let datastore = text(&membership, "datastore");
    let held = || Held {
        datastore: datastore.clone(),
        keyset: vec![1; 100],
        key: HeldKey::Client(zeroize::Zeroizing::new(vec![1; 40])),
    };
    let told = refusal(&other, held(), None).await;
    assert!(told.contains("not this site's"), "{told}");
    // the site's own signature, of another session
    let told = refusal(&victim, held(), Some([9; 32])).await;
    assert!(told.contains("signature does not fit"), "{told}");

    // a portal that was taken over names a peer it is not
    let (ours, theirs) = runtime::pipe::stream_pair().unwrap();
    let peer = text(&membership, "site");
    let options = Options::from([("peer", Value::from(peer))]);
    let centred = centre.centred().await;
    centred
        .accept_control(theirs.into(), options)
        .await
        .unwrap();
    let told = forged(ours, held()).await;
    assert!(told.contains("signature does not fit"), "{told}");
    released(&centre, &datastore, None).await.unwrap();
}

/// What the centre says to a holding without the site's signature.
async fn forged(mut stream: tokio::net::UnixStream, held: Held) -> String {
    let mut site = Site::default();
    let mut buffer = [0; 4096];
    stream.write_all(&site.output()).await.unwrap();
    let count = stream.read(&mut buffer).await.unwrap();
    site.receive(&buffer[..count]).unwrap();
    let signature = vec![7; 64];
    site.hold(Signed { held, signature });
    stream.write_all(&site.output()).await.unwrap();
    let count = stream.read(&mut buffer).await.unwrap();
    site.receive(&buffer[..count]).unwrap_err().to_string()
}
