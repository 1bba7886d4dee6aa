use super::*;
use crate::world::Joined;
use proptest::prelude::*;
use protocol::enrol::{Grant, Offer};
use protocol::token::{Host, SECRET};
use std::path::Path;
use zeroize::Zeroizing;

/// What outlives a crash of enrold: the other daemons, the centre, the ledger's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Around {
    custody: Option<Custody>,
    /// How many times shares were made; the last ones are those the centre's share fits.
    splits: u32,
    held: Option<(Custody, u32)>,
    bound: bool,
    completed: bool,
    uplink: Option<Uplink>,
    pool: bool,
    founded: bool,
}

/// Dies at the `fuse`th step, before or after it has taken effect.
struct Fake {
    around: std::sync::Mutex<Around>,
    fuse: std::sync::atomic::AtomicU32,
    after: bool,
    offered: Custody,
}

fn crash() -> Error {
    Error::Failed("crash".into())
}

impl Fake {
    fn step<T>(&self, effect: impl FnOnce(&mut Around) -> T) -> Result<T, Error> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.fuse.load(SeqCst);
        self.fuse.store(left.saturating_sub(1), SeqCst);
        if left == 1 && !self.after {
            return Err(crash());
        }
        let done = effect(&mut self.around.lock().unwrap());
        if left == 1 { Err(crash()) } else { Ok(done) }
    }

    fn shares(custody: Custody, split: u32) -> Option<Shares> {
        (custody == Custody::Client).then(|| Shares {
            client: Zeroizing::new(format!("client words {split}")),
            envelope: Zeroizing::new(format!("envelope words {split}")),
        })
    }
}

impl World for Fake {
    type Waiting = ();

    async fn check_keys(&self) -> Result<(), Error> {
        self.step(|_| ())
    }
    async fn sync_clock(&self, _token: &Token) -> Result<(), Error> {
        self.step(|_| ())
    }
    async fn join(&self, _token: &Token) -> Result<(Joined, ()), Error> {
        self.step(|a| a.bound = true)?;
        let split = self.step(|a| {
            a.custody = Some(self.offered);
            a.splits += 1;
            a.splits
        })?;
        self.step(|a| a.held = Some((self.offered, split)))?;
        let joined = Joined {
            offer: Offer {
                tenant: "t".into(),
                tenant_name: "Acme".into(),
                site: "s".into(),
                site_name: "Main street".into(),
                custody: self.offered,
                fleet: vec![2],
            },
            datastore: "d".into(),
            grant: Grant {
                chain: vec![vec![1], vec![2]],
                address: "fd00::2/48".into(),
                centre: "fd00::1".into(),
                peer: [3; 32],
                uplink_port: 51820,
            },
            shares: Fake::shares(self.offered, split),
        };
        Ok((joined, ()))
    }
    async fn confirm(&self, (): ()) {}
    async fn complete(&self, _grant: &Grant, _fleet: &[u8]) -> Result<(), Error> {
        self.step(|a| a.completed = true)
    }
    async fn uplink(&self, uplink: &Uplink) -> Result<(), Error> {
        self.step(|a| a.uplink = Some(uplink.clone()))
    }
    async fn pool(&self) -> Result<(), Error> {
        self.step(|a| a.pool = true)
    }
    async fn found(&self, _name: &str) -> Result<Vec<u8>, Error> {
        self.step(|a| a.founded = true)?;
        Ok(vec![9; 100])
    }
    async fn change_custody(
        &self,
        _tenant: &str,
        custody: Custody,
        _fingerprint: &[u8; 12],
    ) -> Result<Option<Shares>, Error> {
        let split = self.step(|a| {
            a.custody = Some(custody);
            a.splits += 1;
            a.splits
        })?;
        self.step(|a| a.held = Some((custody, split)))?;
        Ok(Fake::shares(custody, split))
    }
    fn tell(&self, _what: &str) {}
}

fn fake(offered: Custody) -> Fake {
    Fake {
        around: std::sync::Mutex::default(),
        fuse: 0.into(),
        after: false,
        offered,
    }
}

fn token() -> Token {
    Token {
        endpoint: Endpoint {
            host: Host::Name("centre.example".into()),
            port: 7443,
        },
        fingerprint: [7; 12],
        secret: Zeroizing::new([1; SECRET]),
    }
}

fn founding(address: &str) -> Founding {
    Founding {
        name: "Northwind".into(),
        endpoint: "centre.example:7443".into(),
        address: address.into(),
        uplink_port: 51820,
    }
}

fn open(folder: &Path) -> Mutex<Keeper> {
    Mutex::new(Keeper::open(folder).unwrap())
}

/// Runs `attempt` with a crash at each of `fuses` in turn, the ledger read anew each time as after
/// a restart, and then once without.
fn through_crashes<T>(
    fake: &mut Fake,
    folder: &Path,
    crashes: &[(u32, bool)],
    attempt: impl AsyncFn(&Mutex<Keeper>, &Fake) -> Result<T, Error>,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for (fuse, after) in crashes {
        fake.fuse = (*fuse).into();
        fake.after = *after;
        let keeper = open(folder);
        if let Err(error) = runtime.block_on(attempt(&keeper, fake)) {
            assert_eq!(error.text(), "crash");
        }
    }
    fake.fuse = 0.into();
    runtime.block_on(attempt(&open(folder), fake)).unwrap()
}

fn crashes() -> impl Strategy<Value = Vec<(u32, bool)>> {
    proptest::collection::vec((1u32..11, any::<bool>()), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_enrolment_ends_the_same_wherever_it_crashed(
        crashes in crashes(), client in any::<bool>()
    ) {
        let custody = if client { Custody::Client } else { Custody::Msp };
        let mut fake = fake(custody);
        let folder = tempfile::tempdir().unwrap();
        // the operator who saw shares has them; only an attempt that succeeds shows any
        let shown = std::sync::Mutex::new(None);
        let outcome = through_crashes(&mut fake, folder.path(), &crashes, async |keeper, world| {
            let outcome = enrol(keeper, world, &token()).await?;
            if outcome.shares.is_some() {
                *shown.lock().unwrap() = outcome.shares.clone();
            }
            Ok(outcome)
        });
        let around = fake.around.lock().unwrap().clone();
        prop_assert!(around.bound && around.completed && around.pool);
        let uplink_is_ours = matches!(
            &around.uplink,
            Some(Uplink::Site { endpoint, time, .. })
                if endpoint == "centre.example:51820" && time == "centre.example:7443"
        );
        prop_assert!(uplink_is_ours);
        let (held, split) = around.held.unwrap();
        prop_assert_eq!(held, custody);
        prop_assert_eq!(outcome.site.due, None);
        prop_assert_eq!(outcome.site.custody, custody);
        // what the operator holds is what fits the centre's share
        prop_assert_eq!(shown.into_inner().unwrap(), Fake::shares(custody, split));
        let kept = open(folder.path()).into_inner();
        prop_assert_eq!(kept.state(), &State::Site(outcome.site));
    }

    #[test]
    fn a_centre_ends_the_same_wherever_it_crashed(crashes in crashes()) {
        let mut fake = fake(Custody::Msp);
        let folder = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicU32::new(0);
        let centre = through_crashes(&mut fake, folder.path(), &crashes, async |keeper, world| {
            // each call of InitCentre comes with another random network
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            found(keeper, world, founding(&format!("fd00:{n:x}::1/48"))).await
        });
        let around = fake.around.lock().unwrap().clone();
        prop_assert!(around.founded && around.pool);
        let told = Uplink::Centre { address: centre.founding.address.clone(), port: 51820 };
        prop_assert_eq!(around.uplink, Some(told));
        prop_assert_eq!(&centre.fingerprint, &fingerprint(&[9; 100]));
        let kept = open(folder.path()).into_inner();
        prop_assert_eq!(kept.state(), &State::Centre(centre));
    }

    #[test]
    fn a_change_of_custody_ends_the_same_wherever_it_crashed(crashes in crashes()) {
        let mut fake = fake(Custody::Msp);
        let folder = tempfile::tempdir().unwrap();
        through_crashes(&mut fake, folder.path(), &[], async |keeper, world| {
            enrol(keeper, world, &token()).await
        });
        let outcome = through_crashes(&mut fake, folder.path(), &crashes, async |keeper, world| {
            set_custody(keeper, world, Custody::Client).await
        });
        let around = fake.around.lock().unwrap().clone();
        let (held, split) = around.held.unwrap();
        prop_assert_eq!(held, Custody::Client);
        prop_assert_eq!(outcome.shares, Fake::shares(Custody::Client, split));
        prop_assert_eq!(outcome.site.custody, Custody::Client);
        prop_assert_eq!(outcome.site.due, None);
    }
}

#[test]
fn a_failure_before_the_grant_leaves_nothing_behind() {
    let mut fake = fake(Custody::Msp);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    fake.fuse = 2.into();
    let keeper = open(folder.path());
    assert!(runtime.block_on(enrol(&keeper, &fake, &token())).is_err());
    assert_eq!(open(folder.path()).into_inner().state(), &State::Unenrolled);
    // so another token may be used
    let mut other = token();
    other.secret = Zeroizing::new([2; SECRET]);
    assert!(runtime.block_on(enrol(&keeper, &fake, &other)).is_ok());
}

#[test]
fn who_is_one_thing_becomes_no_other() {
    let mut site = fake(Custody::Msp);
    let folder = tempfile::tempdir().unwrap();
    through_crashes(&mut site, folder.path(), &[], async |keeper, world| {
        enrol(keeper, world, &token()).await
    });
    let state = open(folder.path()).into_inner().state().clone();
    assert!(may_enrol(&state, &token()).is_ok());
    let mut other = token();
    other.secret = Zeroizing::new([2; SECRET]);
    assert!(matches!(
        may_enrol(&state, &other),
        Err(Error::AlreadyExists(_))
    ));
    assert!(matches!(
        may_found(&state, founding("fd00::1/48")),
        Err(Error::WrongRole(_))
    ));

    let mut centre = fake(Custody::Msp);
    let folder = tempfile::tempdir().unwrap();
    through_crashes(&mut centre, folder.path(), &[], async |keeper, world| {
        found(keeper, world, founding("fd00::1/48")).await
    });
    let state = open(folder.path()).into_inner().state().clone();
    assert!(matches!(
        may_enrol(&state, &token()),
        Err(Error::WrongRole(_))
    ));
    assert!(matches!(require_site(&state), Err(Error::WrongRole(_))));
    let mut elsewhere = founding("fd00::1/48");
    elsewhere.endpoint = "other.example:7443".into();
    assert!(matches!(
        may_found(&state, elsewhere),
        Err(Error::AlreadyExists(_))
    ));
}
