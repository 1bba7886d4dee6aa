//! poold on a private bus, above the simulated machine, beside a keyd of few words.

mod simulation;

use contract::{Error, PoolProxy};
use disks::simulated::{Media, Simulated};
use futures_util::StreamExt;
use poold::{Parts, Settings};
use runtime::testing::Appliance;
use simulation::Disks;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zbus::zvariant::{OwnedFd, OwnedValue, Value};

const PLACE: &str = "/srv/strongroom/pool";

/// What keyd keeps; shared, so that it can be taken away.
#[derive(Clone, Default)]
struct Keyd(Arc<Mutex<HashMap<String, [u8; 64]>>>);

#[zbus::interface(name = "org.strongroom.Keys1")]
impl Keyd {
    #[zbus(property)]
    fn state(&self) -> String {
        "ready".into()
    }

    fn pool_key(&self, pool: &str, options: HashMap<String, OwnedValue>) -> Result<OwnedFd, Error> {
        let mut keys = self.0.lock().unwrap();
        let create = options
            .get("create")
            .is_some_and(|v| **v == Value::from(true));
        if create {
            let next = keys.len() as u8 + 1;
            keys.entry(pool.to_owned()).or_insert([next; 64]);
        }
        match keys.get(pool) {
            Some(key) => Ok(runtime::pipe::give_key(key)?.into()),
            None => Err(Error::NotFound("no such key".into())),
        }
    }
}

struct House {
    appliance: Appliance,
    machine: Simulated,
    keyd: Keyd,
    keyd_bus: Option<zbus::Connection>,
    poold_bus: Option<zbus::Connection>,
    changes: Option<mpsc::Sender<()>>,
    stop: CancellationToken,
    poold: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    bus: zbus::Connection,
}

impl House {
    async fn new(machine: Simulated) -> House {
        machine.add_unit("srv-strongroom-pool.mount", PLACE);
        let appliance = Appliance::new();
        let bus = appliance.connect().await;
        let mut house = House {
            appliance,
            machine,
            keyd: Keyd::default(),
            keyd_bus: None,
            poold_bus: None,
            changes: None,
            stop: CancellationToken::new(),
            poold: None,
            bus,
        };
        house.start_keyd().await;
        house.start_poold().await;
        house
    }

    async fn start_keyd(&mut self) {
        let bus = self.appliance.connect().await;
        let server = bus.object_server();
        server
            .at("/org/strongroom/Keys1", self.keyd.clone())
            .await
            .unwrap();
        bus.request_name("org.strongroom.Keys1").await.unwrap();
        self.keyd_bus = Some(bus);
    }

    async fn stop_keyd(&mut self) {
        self.keyd_bus.take().unwrap().close().await.unwrap();
    }

    async fn start_poold(&mut self) {
        let (changes, heard) = mpsc::channel(1);
        let parts = Parts {
            machine: Arc::new(self.machine.clone()),
            source: Arc::new(Disks(self.machine.clone())),
            changes: heard,
            settings: Settings {
                patience: 1,
                ..Settings::default()
            },
            state: self.appliance.path("var/lib/strongroom"),
        };
        let bus = self.appliance.connect().await;
        self.stop = CancellationToken::new();
        let daemon = runtime::Daemon::new("poold", bus.clone(), self.stop.clone());
        self.poold_bus = Some(bus);
        self.poold = Some(tokio::spawn(poold::run(daemon, parts)));
        self.changes = Some(changes);
        let names = zbus::fdo::DBusProxy::new(&self.bus).await.unwrap();
        let mut owners = names
            .receive_name_owner_changed_with_args(&[(0, "org.strongroom.Pool1")])
            .await
            .unwrap();
        if !names
            .name_has_owner("org.strongroom.Pool1".try_into().unwrap())
            .await
            .unwrap()
        {
            while owners
                .next()
                .await
                .unwrap()
                .args()
                .unwrap()
                .new_owner()
                .is_none()
            {}
        }
    }

    async fn reboot(&mut self) {
        self.stop.cancel();
        self.poold.take().unwrap().await.unwrap().unwrap();
        self.poold_bus.take().unwrap().close().await.unwrap();
        self.machine.reboot();
        self.start_poold().await;
    }

    async fn pool(&self) -> PoolProxy<'_> {
        let builder = PoolProxy::builder(&self.bus);
        let proxy = builder.cache_properties(zbus::proxy::CacheProperties::No);
        proxy.build().await.unwrap()
    }

    async fn changed(&self) {
        self.changes.as_ref().unwrap().send(()).await.unwrap();
    }

    async fn until(&self, state: &str) {
        let pool = PoolProxy::new(&self.bus).await.unwrap();
        let mut states = pool.receive_state_changed().await;
        let reached = async {
            while let Some(change) = states.next().await {
                if change.get().await.unwrap() == state {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .is_err()
        {
            let (now, reason) = (pool.state().await.unwrap(), pool.reason().await.unwrap());
            panic!(
                "{now} ({reason}) and not {state}: {:?}",
                self.machine.commands()
            );
        }
    }

    async fn create(&self, serials: &[&str]) -> Result<contract::Fields, Error> {
        let job = self.pool().await.create(serials, HashMap::new()).await?;
        let ended = runtime::job::wait(&self.bus, "org.strongroom.Pool1", &job, &self.stop, |_| {});
        tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .unwrap()
    }
}

fn two_disks() -> Simulated {
    Simulated::with_disks(&[("vda", "DISK1"), ("vdb", "DISK2")])
}

#[tokio::test]
async fn the_interface_is_the_contracts() {
    let house = House::new(Simulated::default()).await;
    runtime::testing::conforms(&house.bus, "org.strongroom.Pool1").await;
}

#[tokio::test]
async fn a_pool_is_made_found_again_and_answered_twice() {
    let mut house = House::new(two_disks()).await;
    let pool = house.pool().await;
    assert_eq!(pool.state().await.unwrap(), "none");
    let made = house.create(&[]).await.unwrap();
    assert_eq!(
        String::try_from(made["level"].try_clone().unwrap()).unwrap(),
        "raid1"
    );
    assert_eq!(pool.state().await.unwrap(), "mounted");
    assert_eq!(pool.reason().await.unwrap(), "");
    assert_eq!(pool.mount_point().await.unwrap(), PLACE);
    assert_eq!(pool.level().await.unwrap(), "raid1");
    assert_eq!(
        (pool.size().await.unwrap(), pool.free().await.unwrap()),
        (1 << 30, 1 << 29)
    );
    let owners = house.machine.folders();
    assert_eq!(owners[&format!("{PLACE}/datastores")], "strongroom-engined");
    let again = house.create(&["DISK2", "DISK1"]).await.unwrap();
    assert_eq!(again["pool"], made["pool"]);
    let id = pool.pool().await.unwrap();
    house.reboot().await;
    house.until("mounted").await;
    assert_eq!(house.pool().await.pool().await.unwrap(), id);
    let formats = house
        .machine
        .commands()
        .into_iter()
        .filter(|c| c.contains("luksFormat"));
    assert_eq!(formats.count(), 1);
}

#[tokio::test]
async fn what_is_on_each_disk_is_told_and_data_is_not_overwritten() {
    let machine = Simulated::default();
    machine.plug("sys", "SYSTEM", Media::Blank);
    machine.plug(
        "vda",
        "PHOTOS",
        Media::Foreign("xfs".into(), "photos".into()),
    );
    let house = House::new(machine).await;
    let disks = house.pool().await.disks().await.unwrap();
    let uses: Vec<_> = disks
        .iter()
        .map(|d| String::try_from(d["use"].try_clone().unwrap()).unwrap())
        .collect();
    assert_eq!(uses, ["system", "foreign: xfs \"photos\""]);
    let error = house.create(&["PHOTOS"]).await.unwrap_err();
    assert!(matches!(error, Error::DiskInUse(_)), "{error}");
    assert_eq!(
        error.text(),
        "the disk PHOTOS is not blank (xfs \"photos\"); plug in another, or wipe this one if its data may go"
    );
    assert!(matches!(
        house.create(&["SYSTEM"]).await.unwrap_err(),
        Error::DiskInUse(_)
    ));
    assert!(matches!(
        house.create(&["OTHER"]).await.unwrap_err(),
        Error::NotFound(_)
    ));
    assert!(matches!(
        house.create(&[]).await.unwrap_err(),
        Error::NotFound(_)
    ));
    assert!(house.machine.commands().is_empty());
}

#[tokio::test]
async fn it_waits_for_its_key() {
    let mut house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.stop_keyd().await;
    house.reboot().await;
    house.until("locked").await;
    let reason = house.pool().await.reason().await.unwrap();
    assert!(reason.starts_with("keyd does not answer"), "{reason}");
    house.start_keyd().await;
    house.until("mounted").await;
}

#[tokio::test]
async fn disks_of_another_appliance_stay_locked() {
    let mut house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.keyd.0.lock().unwrap().clear();
    house.reboot().await;
    house.until("locked").await;
    let reason = house.pool().await.reason().await.unwrap();
    assert!(reason.contains("of another appliance"), "{reason}");
}

#[tokio::test]
async fn a_pulled_disk_degrades_and_its_return_heals() {
    let house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.machine.set_present("vdb", false);
    house.changed().await;
    house.until("degraded").await;
    assert_eq!(
        house.pool().await.reason().await.unwrap(),
        "the pool runs without the disk DISK2; plug it in again (this release takes no other disk in its place)"
    );
    house.machine.set_present("vdb", true);
    house.changed().await;
    house.until("mounted").await;
}

#[tokio::test]
async fn a_boot_without_a_disk_waits_and_goes_on_without() {
    let mut house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.machine.set_present("vda", false);
    house.reboot().await;
    house.until("degraded").await;
}

#[tokio::test]
async fn a_making_that_failed_goes_on_when_asked_again() {
    let mut house = House::new(two_disks()).await;
    house.machine.fail("mkfs.xfs", 1);
    let error = house.create(&[]).await.unwrap_err();
    assert_eq!(
        error.text(),
        "making a file system on /dev/mapper/strongroom-pool failed: mkfs.xfs: simulated failure"
    );
    house.reboot().await;
    house.until("failed").await;
    let reason = house.pool().await.reason().await.unwrap();
    assert!(
        reason.starts_with("making the pool was interrupted"),
        "{reason}"
    );
    house.create(&[]).await.unwrap();
    house.until("mounted").await;
}

#[tokio::test]
async fn a_step_that_fails_is_told_and_tried_again() {
    let mut house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.machine.fail("systemctl", 2);
    house.reboot().await;
    house.until("failed").await;
    let reason = house.pool().await.reason().await.unwrap();
    assert!(reason.contains("cannot be mounted"), "{reason}");
    house.until("mounted").await;
}

#[tokio::test]
async fn a_step_without_effect_is_not_repeated_at_once() {
    let house = House::new(two_disks()).await;
    house.create(&[]).await.unwrap();
    house.machine.stick();
    house.machine.set_present("vdb", false);
    house.changed().await;
    house.until("degraded").await;
    // a second Create is answered by the worker, so it does not spin
    house.create(&[]).await.unwrap();
    let commands = house.machine.commands().into_iter();
    let drops = commands.filter(|c| c.contains("--fail detached")).count();
    assert!((1..4).contains(&drops), "{drops}");
}
