use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const HOUR: i64 = 3600;

fn book() -> Book {
    let mut book = Book::default();
    book.create_tenant("t1".into(), "Acme", Custody::Msp)
        .unwrap();
    book
}

fn token(book: &mut Book, hash: &str, site: &str) {
    let id = format!("id-{hash}");
    let when = (0, HOUR);
    book.create_token(hash.into(), "Acme", id, site, when)
        .unwrap();
}

#[test]
fn a_tenants_name_is_unique_and_making_it_again_changes_nothing() {
    let mut book = book();
    let before = book.clone();
    assert_eq!(
        book.create_tenant("t2".into(), "Acme", Custody::Msp)
            .unwrap(),
        "t1"
    );
    assert!(matches!(
        book.create_tenant("t2".into(), "Acme", Custody::Client),
        Err(Error::AlreadyExists(_))
    ));
    for name in ["", " a", "a\n", &"x".repeat(65)] {
        assert!(book.create_tenant("t2".into(), name, Custody::Msp).is_err());
    }
    assert_eq!(book, before);
}

/// Names come from the bus, and go to terminals, certificates and logs.
#[test]
fn only_what_can_be_shown_becomes_a_name() {
    bolero::check!()
        .with_type::<(String, String)>()
        .for_each(|(tenant, site)| {
            let fits = |name: &str| {
                (1..=64).contains(&name.chars().count())
                    && !name.contains(char::is_control)
                    && name.trim() == name
            };
            let mut book = Book::default();
            let made = book.create_tenant("t1".into(), tenant, Custody::Msp);
            assert_eq!(made.is_ok(), fits(tenant));
            let made = book.create_token("h".into(), "t1", "i".into(), site, (0, HOUR));
            assert_eq!(made.is_ok(), fits(tenant) && fits(site));
        });
}

#[test]
fn a_token_is_bound_to_who_came_first_and_goes_on_after_it_expired() {
    let mut book = book();
    token(&mut book, "h", "Main street");
    let first = book.present("h", [1; 32], 10).unwrap();
    assert_eq!(book.present("h", [1; 32], HOUR + 1).unwrap(), first);
    assert_eq!(
        book.present("h", [2; 32], 11).unwrap_err().reason,
        Reason::Used
    );
    book.enrol(&first, "d", Custody::Msp, [9; 32], 12).unwrap();
    assert_eq!(book.present("h", [1; 32], 13).unwrap(), first);
    book.spend("h");
    assert_eq!(
        book.present("h", [1; 32], 14).unwrap_err().reason,
        Reason::Used
    );
    assert_eq!(book.sites["id-h"].number, crate::address::FIRST);
}

#[test]
fn unknown_and_expired_are_told_apart() {
    let mut book = book();
    token(&mut book, "h", "a");
    assert_eq!(
        book.present("x", [1; 32], 0).unwrap_err().reason,
        Reason::Unknown
    );
    assert_eq!(
        book.present("h", [1; 32], HOUR).unwrap_err().reason,
        Reason::Expired
    );
}

#[test]
fn a_new_token_for_the_same_site_ends_the_old_one() {
    let mut book = book();
    token(&mut book, "old", "a");
    token(&mut book, "other", "b");
    token(&mut book, "new", "a");
    assert_eq!(
        book.present("old", [1; 32], 0).unwrap_err().reason,
        Reason::Unknown
    );
    assert!(book.present("other", [1; 32], 0).is_ok());
    assert!(book.present("new", [2; 32], 0).is_ok());
}

#[test]
fn a_sites_name_and_datastore_are_its_own() {
    let mut book = book();
    token(&mut book, "h", "a");
    let bound = book.present("h", [1; 32], 0).unwrap();
    book.enrol(&bound, "d", Custody::Msp, [9; 32], 1).unwrap();
    let when = (0, HOUR);
    let again = book.create_token("i".into(), "t1", "s9".into(), "a", when);
    assert!(matches!(again, Err(Error::AlreadyExists(_))));
    token(&mut book, "i", "b");
    let bound = book.present("i", [2; 32], 0).unwrap();
    let stolen = book.enrol(&bound, "d", Custody::Msp, [9; 32], 1);
    assert!(matches!(stolen, Err(Error::NotAuthorised(_))));
    assert!(
        book.create_token("j".into(), "nobody", "s".into(), "c", when)
            .is_err()
    );
}

#[test]
fn a_machine_is_one_site() {
    let mut book = book();
    token(&mut book, "h", "a");
    let bound = book.present("h", [1; 32], 0).unwrap();
    book.enrol(&bound, "d", Custody::Msp, [9; 32], 1).unwrap();
    token(&mut book, "i", "b");
    assert_eq!(
        book.present("i", [1; 32], 2).unwrap_err().reason,
        Reason::Other
    );
}

#[test]
fn old_tokens_are_forgotten_in_the_end() {
    let mut book = book();
    token(&mut book, "h", "a");
    let when = (HOUR + REMEMBERED, 2 * REMEMBERED);
    book.create_token("i".into(), "t1", "s".into(), "b", when)
        .unwrap();
    assert_eq!(book.tokens.len(), 1);
}

proptest! {
    /// Whatever order machines present tokens in: a token enrols one machine, and no address is
    /// given out twice.
    #[test]
    fn one_token_one_machine_one_address(
        steps in proptest::collection::vec((0u8..5, 0u8..6, 0i64..2 * HOUR, any::<bool>()), 0..60)
    ) {
        let mut book = book();
        for t in 0..5 {
            token(&mut book, &t.to_string(), &format!("site {t}"));
        }
        let mut users: BTreeMap<u8, u8> = BTreeMap::new();
        for (t, machine, now, finish) in steps {
            let hash = t.to_string();
            if let Ok(bound) = book.present(&hash, [machine; 32], now) {
                prop_assert_eq!(*users.entry(t).or_insert(machine), machine);
                let datastore = format!("d{machine}");
                if book.enrol(&bound, &datastore, Custody::Msp, [0; 32], now).is_ok() && finish {
                    book.spend(&hash);
                }
            }
        }
        let numbers: BTreeSet<_> = book.sites.values().map(|s| s.number).collect();
        prop_assert_eq!(numbers.len(), book.sites.len());
        prop_assert!(numbers.iter().all(|n| *n >= crate::address::FIRST));
    }
}
