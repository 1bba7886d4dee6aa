use super::*;
use crate::fuzz::message;

fn hello() -> Hello {
    Hello {
        secret: Zeroizing::new([3; 16]),
        csr: vec![1; 200],
        identity: [4; 32],
        uplink: [5; 32],
    }
}

fn offer() -> Offer {
    Offer {
        tenant: "t1".into(),
        tenant_name: "Acme".into(),
        site: "s1".into(),
        site_name: "Main street".into(),
        custody: Custody::Client,
        fleet: vec![9; 400],
    }
}

fn held(key: HeldKey) -> Held {
    Held {
        datastore: "d".repeat(32),
        keyset: vec![7; 300],
        key,
    }
}

fn grant() -> Grant {
    Grant {
        chain: vec![vec![8; 500], vec![9; 400]],
        address: "fd00::2/48".into(),
        centre: "fd00::1".into(),
        peer: [1; 32],
        uplink_port: 51820,
    }
}

/// Feeds one end what the other has to say, in pieces; its event, which comes with the last piece.
fn feed<E, X: std::fmt::Debug>(
    bytes: Vec<u8>,
    piece: usize,
    mut receive: impl FnMut(&[u8]) -> Result<Option<E>, X>,
) -> E {
    let mut event = None;
    for bytes in bytes.chunks(piece) {
        assert!(event.is_none());
        event = receive(bytes).unwrap();
    }
    event.expect("an event")
}

#[test]
fn enrolment_goes_through_whatever_the_pieces() {
    for piece in [1, 13, 9000] {
        let mut site = Site::new(hello());
        let mut centre = Centre::default();
        let event = feed(site.output(), piece, |b| centre.receive(b));
        assert_eq!(event, CentreEvent::Asked(hello()));
        centre.offer(offer());
        let event = feed(centre.output(), piece, |b| site.receive(b));
        assert_eq!(event, SiteEvent::Offered(offer()));
        let share = held(HeldKey::Client(Zeroizing::new(vec![2; 33])));
        site.hold(share.clone());
        let event = feed(site.output(), piece, |b| centre.receive(b));
        assert_eq!(event, CentreEvent::Held(share));
        centre.grant(grant());
        let event = feed(centre.output(), piece, |b| site.receive(b));
        assert_eq!(event, SiteEvent::Granted(grant()));
        site.done();
        let event = feed(site.output(), piece, |b| centre.receive(b));
        assert_eq!(event, CentreEvent::Done);
    }
}

#[test]
fn a_refusal_reaches_the_site_with_its_reason() {
    let mut site = Site::new(hello());
    let mut centre = Centre::default();
    centre.receive(&site.output()).unwrap();
    let refusal = Refusal {
        reason: Reason::Expired,
        sentence: "too late".into(),
    };
    centre.refuse(refusal.clone());
    match site.receive(&centre.output()) {
        Err(Error::Refused(told)) => assert_eq!(told, refusal),
        other => panic!("{other:?}"),
    }
    // what an attacker would send on is not listened to
    assert_eq!(centre.receive(&frame_held()), Err(crate::Malformed));
}

fn frame_held() -> Vec<u8> {
    let message = FromSite::Held(held(HeldKey::Msp(vec![1])));
    crate::inbox::frame(&crate::inbox::encode(&message))
}

#[test]
fn nothing_is_held_before_an_offer_and_nothing_granted_before_it_is_held() {
    assert_eq!(
        Centre::default().receive(&frame_held()),
        Err(crate::Malformed)
    );
    let mut centre = Centre::default();
    centre.receive(&Site::new(hello()).output()).unwrap();
    centre.grant(grant());
    assert!(centre.output().is_empty());
}

#[test]
fn custody_changes() {
    let mut site = custody::Site::default();
    let mut centre = custody::Centre::default();
    let asked = feed(site.output(), 3, |b| centre.receive(b));
    assert_eq!(asked, custody::CentreEvent::Asked);
    centre.challenge([6; 32]);
    let nonce = feed(centre.output(), 3, |b| site.receive(b));
    assert_eq!(nonce, custody::SiteEvent::Challenge([6; 32]));
    let signed = custody::Signed {
        held: held(HeldKey::Msp(vec![5; 80])),
        signature: vec![1; 64],
    };
    site.hold(signed.clone());
    let sent = feed(site.output(), 3, |b| centre.receive(b));
    assert_eq!(sent, custody::CentreEvent::Held(signed));
    centre.kept();
    let kept = feed(centre.output(), 3, |b| site.receive(b));
    assert_eq!(kept, custody::SiteEvent::Kept);
}

#[test]
fn what_is_signed_depends_on_nonce_and_holding() {
    let msp = held(HeldKey::Msp(vec![5; 80]));
    let whole = custody::signed(&[6; 32], &msp);
    assert!(whole.starts_with(b"strongroom custody v1\0"));
    assert!(whole.ends_with(&custody::message(&[6; 32], &msp)));
    assert_ne!(whole, custody::signed(&[7; 32], &msp));
    assert_ne!(
        whole,
        custody::signed(&[6; 32], &held(HeldKey::Msp(vec![4; 80])))
    );
}

#[test]
fn secrets_are_not_in_debug_forms() {
    assert_eq!(format!("{:?}", hello()), "Hello { .. }");
    let share = HeldKey::Client(Zeroizing::new(vec![200; 3]));
    assert!(!format!("{:?}", held(share)).contains("200"));
}

/// Both ends of both exchanges, wherever they stand; every second message behind a right length.
#[test]
fn no_bytes_make_an_end_panic() {
    bolero::check!()
        .with_type::<Vec<(bool, u8, Vec<u8>)>>()
        .for_each(|messages| {
            let (mut site, mut centre) = (Site::new(hello()), Centre::default());
            let (mut keeper, mut holder) = (custody::Site::default(), custody::Centre::default());
            for (framed, kind, bytes) in messages {
                let bytes = match framed {
                    true => crate::inbox::frame(&message(*kind, 3, bytes)),
                    false => bytes.clone(),
                };
                match centre.receive(&bytes) {
                    Ok(Some(CentreEvent::Asked(_))) => centre.offer(offer()),
                    Ok(Some(CentreEvent::Held(_))) => centre.grant(grant()),
                    _ => {}
                }
                if let Ok(Some(SiteEvent::Offered(_))) = site.receive(&bytes) {
                    site.hold(held(HeldKey::Msp(vec![1])));
                }
                let _ = keeper.receive(&bytes);
                if let Ok(Some(custody::CentreEvent::Asked)) = holder.receive(&bytes) {
                    holder.challenge([6; 32]);
                }
            }
        });
}
