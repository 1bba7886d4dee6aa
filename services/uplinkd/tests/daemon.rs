//! uplinkd on a private bus, above a simulated kernel and clock, beside a keyd, a portald and a
//! resolver of few words.

use contract::{Error, UplinkProxy, field};
use futures_util::StreamExt;
use runtime::testing::Appliance;
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use uplinkd::clock::Clock;
use uplinkd::{Parts, Settings};
use wireguard::simulated::Simulated;
use zbus::zvariant::{OwnedFd, OwnedValue, Value};

const KEY: [u8; 32] = [0x42; 32];
const CENTRE: [u8; 32] = [0xce; 32];
const NOW: i64 = 1_800_000_000;
const YEAR: i64 = 365 * 86_400;

/// A clock that runs, and can be wrong.
struct SimulatedClock {
    start: Instant,
    offset: Mutex<i64>,
    stuck: bool,
}

impl Clock for SimulatedClock {
    fn steady(&self) -> Duration {
        self.start.elapsed()
    }
    fn wall(&self) -> (i64, u32) {
        let now = self.start.elapsed().as_secs() as i64;
        (NOW + now + *self.offset.lock().unwrap(), 0)
    }
    fn set(&self, seconds: i64, _: u32) -> std::io::Result<()> {
        if self.stuck {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        let now = self.start.elapsed().as_secs() as i64;
        *self.offset.lock().unwrap() = seconds - NOW - now;
        Ok(())
    }
}

struct Keyd;

#[zbus::interface(name = "org.strongroom.Keys1")]
impl Keyd {
    fn uplink_key(&self) -> Result<OwnedFd, Error> {
        Ok(runtime::pipe::give_key(&KEY)?.into())
    }
}

#[derive(Clone, Default)]
struct Portald {
    away: Arc<Mutex<bool>>,
    dialled: Arc<Mutex<Vec<String>>>,
}

#[zbus::interface(name = "org.strongroom.Portal1")]
impl Portald {
    fn dial(&self, purpose: &str, options: HashMap<String, OwnedValue>) -> Result<OwnedFd, Error> {
        assert_eq!(purpose, "time");
        let fingerprint = Vec::<u8>::try_from(options["fingerprint"].try_clone().unwrap()).unwrap();
        assert_eq!(fingerprint, [7; 12]);
        let endpoint = String::try_from(options["endpoint"].try_clone().unwrap()).unwrap();
        self.dialled.lock().unwrap().push(endpoint);
        if *self.away.lock().unwrap() {
            return Err(Error::CentreUnreachable(
                "the centre does not answer".into(),
            ));
        }
        let answer = [&NOW.to_le_bytes()[..], &5u32.to_le_bytes()].concat();
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.write_all(&answer).unwrap();
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }
}

struct Resolver;

#[zbus::interface(name = "org.freedesktop.resolve1.Manager")]
impl Resolver {
    #[allow(clippy::type_complexity)]
    fn resolve_hostname(
        &self,
        _interface: i32,
        name: &str,
        _family: i32,
        _flags: u64,
    ) -> zbus::fdo::Result<(Vec<(i32, i32, Vec<u8>)>, String, u64)> {
        match name {
            "centre.example" => Ok((vec![(2, 2, vec![192, 0, 2, 9])], name.into(), 1)),
            _ => Err(zbus::fdo::Error::Failed("No such name".into())),
        }
    }
}

struct House {
    _appliance: Appliance,
    kernel: Simulated,
    clock: Arc<SimulatedClock>,
    portald: Portald,
    others: zbus::Connection,
    bus: zbus::Connection,
    uplink_bus: zbus::Connection,
    stop: CancellationToken,
    uplinkd: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl House {
    async fn new(offset: i64) -> House {
        House::with(Simulated::default(), offset, false).await
    }

    async fn with(kernel: Simulated, offset: i64, stuck: bool) -> House {
        let appliance = Appliance::new();
        let (others, bus) = (appliance.connect().await, appliance.connect().await);
        let portald = Portald::default();
        let server = others.object_server();
        server.at("/org/strongroom/Keys1", Keyd).await.unwrap();
        server
            .at("/org/strongroom/Portal1", portald.clone())
            .await
            .unwrap();
        server
            .at("/org/freedesktop/resolve1", Resolver)
            .await
            .unwrap();
        for name in [
            "org.strongroom.Keys1",
            "org.strongroom.Portal1",
            "org.freedesktop.resolve1",
        ] {
            others.request_name(name).await.unwrap();
        }
        let clock = Arc::new(SimulatedClock {
            start: Instant::now(),
            offset: Mutex::new(offset),
            stuck,
        });
        let uplink_bus = appliance.connect().await;
        let mut house = House {
            _appliance: appliance,
            kernel,
            clock,
            portald,
            others,
            bus,
            uplink_bus,
            stop: CancellationToken::new(),
            uplinkd: None,
        };
        house.start().await;
        house
    }

    async fn start(&mut self) {
        let parts = Parts {
            ports: Box::new(self.kernel.clone()),
            clock: self.clock.clone(),
            settings: Settings::default(),
            state: self._appliance.path("var/lib/strongroom"),
        };
        self.stop = CancellationToken::new();
        let daemon = runtime::Daemon::new("uplinkd", self.uplink_bus.clone(), self.stop.clone());
        self.uplinkd = Some(tokio::spawn(uplinkd::run(daemon, parts)));
        let names = zbus::fdo::DBusProxy::new(&self.bus).await.unwrap();
        let mut owners = names
            .receive_name_owner_changed_with_args(&[(0, "org.strongroom.Uplink1")])
            .await
            .unwrap();
        let name = "org.strongroom.Uplink1".try_into().unwrap();
        if !names.name_has_owner(name).await.unwrap() {
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

    async fn restart(&mut self) {
        self.stop.cancel();
        self.uplinkd.take().unwrap().await.unwrap().unwrap();
        let bus = self._appliance.connect().await;
        std::mem::replace(&mut self.uplink_bus, bus)
            .close()
            .await
            .unwrap();
        self.start().await;
    }

    async fn uplink(&self) -> UplinkProxy<'_> {
        let builder = UplinkProxy::builder(&self.bus);
        let proxy = builder.cache_properties(zbus::proxy::CacheProperties::No);
        proxy.build().await.unwrap()
    }

    async fn until(&self, state: &str) {
        let uplink = UplinkProxy::new(&self.bus).await.unwrap();
        let mut states = uplink.receive_state_changed().await;
        let reached = async {
            while let Some(change) = states.next().await {
                if change.get().await.unwrap() == state {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(25), reached)
            .await
            .is_err()
        {
            let uplink = self.uplink().await;
            panic!(
                "{} ({}) and not {state}",
                uplink.state().await.unwrap(),
                uplink.reason().await.unwrap()
            );
        }
    }

    /// Waits until the kernel's device is as wished.
    async fn until_device(&self, fits: impl Fn(&wireguard::simulated::Device) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        // the simulated kernel tells nobody of its changes
        while !self.kernel.device("sr0").is_some_and(|d| fits(&d)) {
            assert!(Instant::now() < end, "{:?}", self.kernel.device("sr0"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn site() -> contract::Options<'static> {
    [
        ("role", Value::from("site")),
        ("address", Value::from("fd00:1:2::2/64")),
        ("peer", Value::from(&CENTRE[..])),
        ("endpoint", Value::from("centre.example:51820")),
        ("centre", Value::from("fd00:1:2::1")),
        ("time", Value::from("centre.example:7443")),
        ("fingerprint", Value::from(&[7u8; 12][..])),
    ]
    .into()
}

fn centre() -> contract::Options<'static> {
    [
        ("role", Value::from("centre")),
        ("address", Value::from("fd00:1:2::1/64")),
        ("port", Value::from(51820u16)),
    ]
    .into()
}

fn peer(n: u8) -> contract::Options<'static> {
    [
        ("public", Value::from(vec![n; 32])),
        ("address", Value::from(format!("fd00:1:2::{n:x}"))),
    ]
    .into()
}

#[tokio::test]
async fn the_interface_is_the_contracts() {
    let house = House::new(0).await;
    runtime::testing::conforms(&house.bus, "org.strongroom.Uplink1").await;
    assert_eq!(house.uplink().await.state().await.unwrap(), "unconfigured");
    assert!(house.kernel.device("sr0").is_none());
}

#[tokio::test]
async fn a_site_sets_its_clock_and_then_raises_the_tunnel() {
    let mut house = House::new(-YEAR).await;
    let uplink = house.uplink().await;
    assert!(uplink.configure(site()).await.unwrap());
    assert!(!uplink.configure(site()).await.unwrap());
    house.until_device(|d| !d.peers.is_empty()).await;
    // the tunnel stands with a right clock
    assert!((house.clock.wall().0 - NOW).abs() < 30);
    let device = house.kernel.device("sr0").unwrap();
    assert_eq!(device.key, Some(KEY));
    assert!(device.up);
    assert_eq!(device.addresses, [("fd00:1:2::2".parse().unwrap(), 64)]);
    let peer = &device.peers[0].peer;
    assert_eq!(peer.endpoint, Some(([192, 0, 2, 9], 51820).into()));
    assert_eq!(peer.allowed, [("fd00:1:2::1".parse().unwrap(), 128)]);
    assert_eq!(peer.keepalive, 25);
    assert_eq!(uplink.state().await.unwrap(), "connecting");
    assert_eq!(uplink.address().await.unwrap(), "fd00:1:2::2");
    assert_eq!(uplink.centre().await.unwrap(), "fd00:1:2::1");
    house.kernel.handshake("sr0", &CENTRE, house.clock.wall().0);
    house.until("up").await;
    assert_eq!(uplink.reason().await.unwrap(), "");
    let peers = uplink.peers().await.unwrap();
    assert_eq!(peers[0]["address"], field("fd00:1:2::1"));
    assert_eq!(peers[0]["received"], field(92u64));
    drop(uplink);
    house.restart().await;
    house.until("up").await;
}

#[tokio::test]
async fn a_clock_that_goes_back_is_set_and_the_uplink_recovers() {
    let house = House::new(0).await;
    house.uplink().await.configure(site()).await.unwrap();
    house.until_device(|d| !d.peers.is_empty()).await;
    house.kernel.handshake("sr0", &CENTRE, house.clock.wall().0);
    house.until("up").await;
    *house.clock.offset.lock().unwrap() = -YEAR;
    house.until("connecting").await;
    let end = Instant::now() + Duration::from_secs(20);
    // the simulated clock tells nobody that it was set
    while (house.clock.wall().0 - NOW).abs() > 60 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.kernel.handshake("sr0", &CENTRE, house.clock.wall().0);
    house.until("up").await;
}

#[tokio::test]
async fn without_the_centres_time_the_tunnel_is_tried_all_the_same() {
    let house = House::new(0).await;
    *house.portald.away.lock().unwrap() = true;
    house.uplink().await.configure(site()).await.unwrap();
    house.until_device(|d| !d.peers.is_empty()).await;
    assert_eq!(
        house.portald.dialled.lock().unwrap()[0],
        "centre.example:7443"
    );
    let uplink = house.uplink().await;
    assert_eq!(uplink.reason().await.unwrap(), "the centre does not answer");
}

#[tokio::test]
async fn enrold_has_the_clock_set() {
    let house = House::new(YEAR).await;
    let uplink = house.uplink().await;
    let moved = uplink.sync_clock("192.0.2.9:7443", &[7; 12]).await.unwrap();
    assert!((moved + YEAR).abs() < 30, "{moved}");
    let again = uplink.sync_clock("192.0.2.9:7443", &[7; 12]).await.unwrap();
    assert!(again.abs() < 30, "{again}");
    *house.portald.away.lock().unwrap() = true;
    let error = uplink
        .sync_clock("192.0.2.9:7443", &[7; 12])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::CentreUnreachable(_)), "{error}");
    let error = uplink.sync_clock("192.0.2.9", &[7; 12]).await.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
}

#[tokio::test]
async fn a_clock_that_cannot_be_set_is_told() {
    let house = House::with(Simulated::default(), -YEAR, true).await;
    let error = house
        .uplink()
        .await
        .sync_clock("192.0.2.9:7443", &[7; 12])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::ClockWrong(text) if text.contains("CAP_SYS_TIME")),
        "{error}"
    );
}

#[tokio::test]
async fn a_centre_stands_and_has_the_peers_it_is_told() {
    let mut house = House::new(0).await;
    let uplink = house.uplink().await;
    assert!(matches!(
        uplink.set_peers(&[peer(2)]).await,
        Err(Error::NotReady(_))
    ));
    assert!(uplink.configure(centre()).await.unwrap());
    house.until("up").await;
    assert!(uplink.set_peers(&[peer(2), peer(3)]).await.unwrap());
    assert!(!uplink.set_peers(&[peer(3), peer(2)]).await.unwrap());
    house.until_device(|d| d.peers.len() == 2).await;
    let device = house.kernel.device("sr0").unwrap();
    assert_eq!((device.port, device.peers[0].peer.keepalive), (51820, 0));
    assert!(uplink.set_peers(&[peer(3)]).await.unwrap());
    house.until_device(|d| d.peers.len() == 1).await;
    for wrong in [vec![peer(1)], vec![peer(4), peer(4)]] {
        assert!(matches!(
            uplink.set_peers(&wrong).await,
            Err(Error::InvalidArgument(_))
        ));
    }
    house.kernel.remove("sr0");
    house.until_device(|d| d.peers.len() == 1).await;
    drop(uplink);
    house.restart().await;
    house.until("up").await;
    assert_eq!(house.uplink().await.peers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_site_takes_no_peers_and_no_half_configuration() {
    let house = House::new(0).await;
    let uplink = house.uplink().await;
    for missing in [
        "role",
        "address",
        "peer",
        "endpoint",
        "centre",
        "time",
        "fingerprint",
    ] {
        let mut half = site();
        half.remove(missing);
        let refused = uplink.configure(half).await;
        assert!(
            matches!(refused, Err(Error::InvalidArgument(_))),
            "{missing}"
        );
    }
    let mut more = site();
    more.insert("speed", Value::from(1u32));
    assert!(matches!(
        uplink.configure(more).await,
        Err(Error::InvalidArgument(_))
    ));
    assert_eq!(uplink.state().await.unwrap(), "unconfigured");
    uplink.configure(site()).await.unwrap();
    assert!(matches!(
        uplink.set_peers(&[peer(3)]).await,
        Err(Error::WrongRole(_))
    ));
}

#[tokio::test]
async fn a_kernel_without_wireguard_is_told() {
    let house = House::with(Simulated::without_wireguard(), 0, false).await;
    house.uplink().await.configure(centre()).await.unwrap();
    house.until("failed").await;
    assert_eq!(
        house.uplink().await.reason().await.unwrap(),
        "this kernel has no WireGuard; boot one with the wireguard module"
    );
}

#[tokio::test]
async fn without_keyd_it_waits() {
    let house = House::new(0).await;
    house
        .others
        .release_name("org.strongroom.Keys1")
        .await
        .unwrap();
    house.uplink().await.configure(centre()).await.unwrap();
    house.until("failed").await;
    let reason = house.uplink().await.reason().await.unwrap();
    assert!(reason.starts_with("keyd does not answer"), "{reason}");
    house
        .others
        .request_name("org.strongroom.Keys1")
        .await
        .unwrap();
    house.until("up").await;
}
