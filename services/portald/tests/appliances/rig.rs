//! Appliances of plain processes: keyd with a software TPM, enrold, portald, centred, each on a
//! private bus and a loopback address of its own. uplinkd, engined and jobd are played here, as
//! far as these daemons call them: their kernel and disks are not what is tested.

use contract::{
    CentreProxy, EnrolProxy, Error, Fields, FieldsExt, KeysProxy, Options, PortalProxy, field,
};
use runtime::testing::{Appliance, program};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tpm::testing::Swtpm;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedFd, OwnedObjectPath, Value};

/// What the played daemons were told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) uplink: Mutex<Fields>,
    /// Key and address of each.
    pub(crate) peers: watch::Sender<Vec<(Vec<u8>, String)>>,
    pub(crate) grants: Mutex<Vec<(String, Fields)>>,
    /// Grant is refused while set.
    pub(crate) refuse_grant: Mutex<Option<Error>>,
}

pub(crate) struct Machine {
    pub(crate) appliance: Appliance,
    pub(crate) bus: zbus::Connection,
    pub(crate) told: Arc<Told>,
    /// Of its portal.
    pub(crate) endpoint: String,
    /// Where its replication is, at a centre.
    pub(crate) tunnel: String,
    played: zbus::Connection,
    policed: bool,
    _tpm: Option<Swtpm>,
}

/// A loopback address no other test has: the process, and a count in it.
fn address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}.{count}", 64 + (process >> 8 & 63), process & 255)
}

impl Machine {
    /// With keyd, enrold and portald.
    pub(crate) async fn new() -> Machine {
        Machine::start(Some(Swtpm::new()), "pool = false\n").await
    }

    /// The same on a bus with the policies we ship, each daemon as a user of its own. For root.
    pub(crate) async fn policed() -> Machine {
        let appliance = crate::policy::appliance();
        Machine::on(appliance, true, Some(Swtpm::new()), "pool = false\n").await
    }

    /// The same with another `enrold.toml`, or without a TPM.
    pub(crate) async fn start(tpm: Option<Swtpm>, enrold: &str) -> Machine {
        Machine::on(Appliance::new(), false, tpm, enrold).await
    }

    async fn on(appliance: Appliance, policed: bool, tpm: Option<Swtpm>, enrold: &str) -> Machine {
        let tcti = match &tpm {
            Some(tpm) => tpm.tcti(),
            None => format!("device:{}", appliance.path("dev/tpmrm0").display()),
        };
        appliance.configure("keyd", &format!("tcti = \"{tcti}\"\n"));
        appliance.configure("enrold", enrold);
        let address = address();
        let bus = appliance.connect().await;
        let mut machine = Machine {
            endpoint: format!("{address}:7443"),
            tunnel: format!("{address}:7444"),
            told: Arc::default(),
            played: appliance.connect().await,
            bus,
            appliance,
            policed,
            _tpm: tpm,
        };
        machine.configure_portal(None);
        machine.play().await;
        for (daemon, name) in [
            ("keyd", "Keys1"),
            ("portald", "Portal1"),
            ("enrold", "Enrol1"),
        ] {
            machine.begin(daemon, name).await;
        }
        machine
    }

    /// A centre named `Northwind`, with centred.
    pub(crate) async fn centre() -> Machine {
        Machine::new().await.found().await
    }

    /// Makes this one a centre.
    pub(crate) async fn found(self) -> Machine {
        let mut machine = self;
        machine.begin("centred", "Centre1").await;
        let enrol = machine.enrol().await;
        let job = enrol
            .init_centre("Northwind", &machine.endpoint, Options::new())
            .await
            .unwrap();
        machine.ended(&job).await.unwrap();
        machine
            .listening(&[&machine.endpoint, &machine.tunnel])
            .await;
        machine
    }

    /// A site of `tenant` (made when absent), enrolled at `centre`.
    pub(crate) async fn site(centre: &Machine, tenant: &str, name: &str) -> Machine {
        let token = centre.token(tenant, name).await;
        let machine = Machine::new().await;
        machine.join(&token).await.unwrap();
        machine.listening(&[&machine.endpoint]).await;
        machine
    }

    fn configure_portal(&self, centre: Option<&Machine>) {
        let replicate = centre.map_or(&self.tunnel, |c| &c.tunnel);
        let toml = format!(
            "listen = [\"{}\"]\nreplicate = \"{replicate}\"\n",
            self.endpoint
        );
        self.appliance.configure("portald", &toml);
    }

    /// Has portald dial this centre for replication and control, from its next start.
    pub(crate) async fn tunnel_to(&mut self, centre: &Machine) {
        self.configure_portal(Some(centre));
        self.end("portald", nix::sys::signal::Signal::SIGTERM);
        self.begin("portald", "Portal1").await;
        self.listening(&[&self.endpoint]).await;
    }

    pub(crate) async fn begin(&mut self, daemon: &str, name: &str) {
        let name = format!("org.strongroom.{name}");
        let program = match self.policed {
            true => crate::policy::as_its_user(&self.appliance, daemon),
            false => program(daemon),
        };
        self.appliance.start(program, &name).await;
    }

    pub(crate) fn end(&mut self, daemon: &str, signal: nix::sys::signal::Signal) {
        self.appliance.stop(&format!("strongroom-{daemon}"), signal);
    }

    pub(crate) async fn token(&self, tenant: &str, site: &str) -> String {
        let centre = self.centred().await;
        let exists = centre.tenants().await.unwrap();
        let named = |t: &Fields| t.required::<String>("name").unwrap() == tenant;
        if !exists.iter().any(named) {
            centre.create_tenant(tenant, Options::new()).await.unwrap();
        }
        let (token, _) = centre
            .create_token(tenant, site, Options::new())
            .await
            .unwrap();
        token
    }

    /// Enrols with a token, to the end of the job.
    pub(crate) async fn join(&self, token: &str) -> Result<Fields, Error> {
        let job = self.enrol().await.enrol(token, Options::new()).await?;
        self.ended(&job).await
    }

    pub(crate) async fn ended(&self, job: &OwnedObjectPath) -> Result<Fields, Error> {
        let never = tokio_util::sync::CancellationToken::new();
        let ended = runtime::job::wait(&self.bus, "org.strongroom.Enrol1", job, &never, |_| {});
        let patience = std::time::Duration::from_secs(60);
        match tokio::time::timeout(patience, ended).await {
            Ok(ended) => ended,
            Err(_) => panic!("the job does not end: {}", self.log("enrold")),
        }
    }

    /// Waits until the portal listens on just these.
    pub(crate) async fn listening(&self, wanted: &[&str]) {
        use futures_util::StreamExt;
        let portal = PortalProxy::new(&self.bus).await.unwrap();
        let mut changes = portal.receive_listening_changed().await;
        let wait = async {
            loop {
                let listening = changes.next().await.unwrap().get().await.unwrap();
                let all = wanted.iter().all(|w| listening.iter().any(|l| l == w));
                if all && listening.len() == wanted.len() {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "the portal does not listen on {wanted:?}");
    }

    /// Waits until enrold's State is this.
    pub(crate) async fn becomes(&self, state: &str) {
        let mut states = runtime::follow::property(&self.bus, "org.strongroom.Enrol1", "State");
        let wait = states.wait_for(|now| now.as_deref() == Some(state));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "enrold does not become {state}");
    }

    pub(crate) async fn enrol(&self) -> EnrolProxy<'static> {
        EnrolProxy::builder(&self.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .unwrap()
    }

    pub(crate) async fn portal(&self) -> PortalProxy<'static> {
        PortalProxy::builder(&self.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .unwrap()
    }

    pub(crate) async fn keys(&self) -> KeysProxy<'static> {
        KeysProxy::builder(&self.bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .unwrap()
    }

    pub(crate) async fn centred(&self) -> CentreProxy<'static> {
        CentreProxy::new(&self.bus).await.unwrap()
    }

    pub(crate) fn log(&self, daemon: &str) -> String {
        self.appliance.log(&format!("strongroom-{daemon}"))
    }

    /// Has engined and jobd themselves from now on, not played ones.
    pub(crate) async fn real(&mut self) {
        for name in ["Engine1", "Jobs1"] {
            let name = format!("org.strongroom.{name}");
            self.played.release_name(name).await.unwrap();
        }
        let pool = self.appliance.path("pool");
        std::fs::create_dir(&pool).unwrap();
        if self.policed {
            crate::policy::give("engined", &pool);
        }
        let toml = format!("pool = \"{}\"\n", pool.display());
        self.appliance.configure("engined", &toml);
        self.begin("engined", "Engine1").await;
        self.begin("jobd", "Jobs1").await;
        let mut state = runtime::follow::property(&self.bus, "org.strongroom.Engine1", "State");
        let ready = state.wait_for(|state| state.as_deref() == Some("ready"));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), ready).await;
        assert!(waited.is_ok(), "{}", self.log("engined"));
    }

    async fn play(&self) {
        let server = self.played.object_server();
        let told = self.told.clone();
        let uplink = PlayedUplink(told.clone());
        server.at("/org/strongroom/Uplink1", uplink).await.unwrap();
        let engine = PlayedEngine(told);
        server.at("/org/strongroom/Engine1", engine).await.unwrap();
        server
            .at("/org/strongroom/Jobs1", PlayedJobs)
            .await
            .unwrap();
        for name in ["Uplink1", "Engine1", "Jobs1"] {
            let name = format!("org.strongroom.{name}");
            self.played.request_name(name).await.unwrap();
        }
    }
}

struct PlayedUplink(Arc<Told>);

#[zbus::interface(name = "org.strongroom.Uplink1")]
impl PlayedUplink {
    #[zbus(property)]
    async fn address(&self) -> String {
        let uplink = self.0.uplink.lock().unwrap();
        uplink.optional("address").unwrap().unwrap_or_default()
    }

    async fn configure(
        &self,
        #[zbus(signal_emitter)] emitter: zbus::object_server::SignalEmitter<'_>,
        configuration: Fields,
    ) -> Result<bool, Error> {
        *self.0.uplink.lock().unwrap() = configuration;
        self.address_changed(&emitter).await?;
        Ok(true)
    }

    async fn set_peers(&self, peers: Vec<Fields>) -> bool {
        let peer = |p: &Fields| (p.required("public").unwrap(), text(p, "address"));
        self.0.peers.send_replace(peers.iter().map(peer).collect());
        true
    }

    /// As uplinkd asks, but for setting the clock.
    async fn sync_clock(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        endpoint: String,
        fingerprint: Vec<u8>,
    ) -> Result<i64, Error> {
        let portal = PortalProxy::builder(bus)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let options = Options::from([
            ("endpoint", Value::from(endpoint)),
            ("fingerprint", Value::from(fingerprint)),
        ]);
        let stream = portal.dial("time", options).await?;
        let mut stream = runtime::pipe::adopt_stream(stream)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer: [u8; protocol::time::LEN] = answer.try_into().unwrap();
        let told = protocol::time::decode(&answer).unwrap();
        assert!(told.elapsed().unwrap().as_secs() < 60);
        Ok(0)
    }
}

struct PlayedEngine(Arc<Told>);

#[zbus::interface(name = "org.strongroom.Engine1")]
impl PlayedEngine {
    async fn accept_session(
        &self,
        kind: String,
        stream: OwnedFd,
        options: Fields,
    ) -> Result<(), Error> {
        let peer: String = options.required("peer")?;
        answer(stream, format!("engined {kind} {peer} "))
    }

    async fn grant(&self, datastore: String, options: Fields) -> Result<(), Error> {
        if let Some(error) = self.0.refuse_grant.lock().unwrap().take() {
            return Err(error);
        }
        self.0.grants.lock().unwrap().push((datastore, options));
        Ok(())
    }
}

struct PlayedJobs;

#[zbus::interface(name = "org.strongroom.Jobs1")]
impl PlayedJobs {
    async fn attach_agent(&self, stream: OwnedFd, options: Fields) -> Result<(), Error> {
        let peer: String = options.required("agent")?;
        answer(stream, format!("jobd {peer} "))
    }
}

/// Reads a session to its end, and only then answers: a greeting and what came.
fn answer(stream: OwnedFd, greeting: String) -> Result<(), Error> {
    let mut stream = runtime::pipe::adopt_stream(stream)?;
    tokio::spawn(async move {
        let mut came = Vec::new();
        if stream.read_to_end(&mut came).await.is_ok() {
            let _ = stream.write_all(greeting.as_bytes()).await;
            let _ = stream.write_all(&came).await;
        }
    });
    Ok(())
}

/// A member of what a daemon answered.
pub(crate) fn text(fields: &Fields, name: &str) -> String {
    fields.required(name).unwrap()
}

/// Fields as they would be asked for in an option.
pub(crate) fn share(words: &str) -> Fields {
    Fields::from([("share".to_owned(), field(words))])
}
