//! Machines of plain processes, and an agent beside them.

use contract::{
    CentreProxy, EngineProxy, EnrolProxy, Error, Fields, FieldsExt, JobsProxy, Options, PortalProxy,
};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use protocol::restore::{Event, Item, Receiver};
use runtime::testing::{Appliance, program};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tpm::testing::Swtpm;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{Array, OwnedFd, OwnedObjectPath, Value};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    pub(crate) appliance: Appliance,
    pub(crate) bus: zbus::Connection,
    /// Of its portal.
    pub(crate) endpoint: String,
    tunnel: String,
    custody: String,
    /// Of a site.
    pub(crate) datastore: String,
    /// The client's, under client custody.
    pub(crate) share: String,
    /// By which it enrolled.
    pub(crate) token: String,
    running: Vec<String>,
    _played: zbus::Connection,
    _tpm: Swtpm,
}

/// A loopback address no other test has: the process, and a count in it.
fn address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "127.{}.{}.{count}",
        192 + (process >> 8 & 31),
        process & 255
    )
}

/// A member of what a daemon answered.
pub(crate) fn text(fields: &Fields, name: &str) -> String {
    fields.required(name).unwrap()
}

impl Machine {
    /// With all daemons but centred, not enrolled.
    pub(crate) async fn new() -> Machine {
        let appliance = Appliance::new();
        let tpm = Swtpm::new();
        appliance.configure("keyd", &format!("tcti = \"{}\"\n", tpm.tcti()));
        appliance.configure("enrold", "pool = false\n");
        let pool = appliance.path("pool");
        std::fs::create_dir(&pool).unwrap();
        appliance.configure("engined", &format!("pool = \"{}\"\n", pool.display()));
        let address = address();
        let mut machine = Machine {
            endpoint: format!("{address}:7443"),
            tunnel: format!("{address}:7444"),
            bus: appliance.connect().await,
            _played: play(&appliance).await,
            appliance,
            custody: String::new(),
            datastore: String::new(),
            share: String::new(),
            token: String::new(),
            running: Vec::new(),
            _tpm: tpm,
        };
        machine.configure_portal(&machine.tunnel);
        for (daemon, name) in [
            ("keyd", "Keys1"),
            ("portald", "Portal1"),
            ("enrold", "Enrol1"),
            ("engined", "Engine1"),
            ("jobd", "Jobs1"),
        ] {
            machine.begin(daemon, name).await;
        }
        machine
    }

    /// A centre whose one tenant has this custody.
    pub(crate) async fn centre(custody: &str) -> Machine {
        let mut machine = Machine::new().await;
        machine.begin("centred", "Centre1").await;
        let enrol = machine.enrol().await;
        let endpoint = machine.endpoint.clone();
        let job = enrol
            .init_centre("Northwind", &endpoint, Options::new())
            .await
            .unwrap();
        machine.ended("Enrol1", &job).await.unwrap();
        machine
            .listening(&[&machine.endpoint, &machine.tunnel])
            .await;
        let options = Options::from([("custody", Value::from(custody))]);
        machine
            .centred()
            .await
            .create_tenant("Acme", options)
            .await
            .unwrap();
        machine.custody = custody.into();
        machine.ready().await;
        machine
    }

    /// A site of that centre's tenant.
    pub(crate) async fn site(centre: &Machine) -> Machine {
        let mut machine = Machine::new().await;
        machine.join(centre).await;
        machine
    }

    /// Enrols at the centre.
    pub(crate) async fn join(&mut self, centre: &Machine) {
        let (token, _) = centre
            .centred()
            .await
            .create_token("Acme", "Main", Options::new())
            .await
            .unwrap();
        let job = self
            .enrol()
            .await
            .enrol(&token, Options::new())
            .await
            .unwrap();
        let result = self.ended("Enrol1", &job).await.unwrap();
        self.token = token;
        self.datastore = text(&result, "datastore");
        if centre.custody == "client" {
            self.share = text(&result, "client_share");
        }
        self.joined(centre).await;
    }

    /// What follows an enrolment here, where no tunnel is.
    pub(crate) async fn joined(&mut self, centre: &Machine) {
        // the played uplink has no route, so portald is told where the tunnel would end
        self.configure_portal(&centre.tunnel);
        self.end("portald");
        self.begin("portald", "Portal1").await;
        self.listening(&[&self.endpoint]).await;
        self.ready().await;
    }

    fn configure_portal(&self, replicate: &str) {
        let toml = format!(
            "listen = [\"{}\"]\nreplicate = \"{replicate}\"\n",
            self.endpoint
        );
        self.appliance.configure("portald", &toml);
    }

    async fn begin(&mut self, daemon: &str, name: &str) {
        let name = format!("org.strongroom.{name}");
        self.appliance.start(program(daemon), &name).await;
        self.running.push(daemon.to_owned());
    }

    pub(crate) fn end(&mut self, daemon: &str) {
        self.running.retain(|d| d != daemon);
        self.appliance
            .stop(&format!("strongroom-{daemon}"), Signal::SIGTERM);
    }

    /// Powers it off, so to speak.
    pub(crate) fn end_all(&mut self) {
        for daemon in self.running.clone() {
            self.end(&daemon);
        }
    }

    pub(crate) fn log(&self, daemon: &str) -> String {
        self.appliance.log(&format!("strongroom-{daemon}"))
    }

    async fn ended(&self, service: &str, job: &OwnedObjectPath) -> Result<Fields, Error> {
        let never = tokio_util::sync::CancellationToken::new();
        runtime::job::wait(
            &self.bus,
            &format!("org.strongroom.{service}"),
            job,
            &never,
            |_| {},
        )
        .await
    }

    /// Waits until the property `name` has `value` somewhere in it.
    pub(crate) async fn becomes(&self, service: &'static str, name: &'static str, value: &str) {
        let mut states = runtime::follow::property(&self.bus, service, name);
        let wait = states.wait_for(|now| now.as_ref().is_some_and(|now| now.contains(value)));
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{service} does not become {value}");
    }

    async fn ready(&self) {
        self.becomes("org.strongroom.Engine1", "State", "ready")
            .await;
    }

    async fn listening(&self, wanted: &[&str]) {
        let portal = PortalProxy::new(&self.bus).await.unwrap();
        let mut changes = portal.receive_listening_changed().await;
        let wait = async {
            loop {
                let listening = changes.next().await.unwrap().get().await.unwrap();
                if wanted.iter().all(|w| listening.iter().any(|l| l == w)) {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "the portal does not listen on {wanted:?}");
    }

    async fn enrol(&self) -> EnrolProxy<'static> {
        let builder = EnrolProxy::builder(&self.bus).cache_properties(CacheProperties::No);
        builder.build().await.unwrap()
    }

    async fn centred(&self) -> CentreProxy<'static> {
        CentreProxy::new(&self.bus).await.unwrap()
    }

    pub(crate) async fn engine(&self) -> EngineProxy<'static> {
        let builder = EngineProxy::builder(&self.bus).cache_properties(CacheProperties::No);
        builder.build().await.unwrap()
    }

    async fn jobs(&self) -> JobsProxy<'static> {
        JobsProxy::new(&self.bus).await.unwrap()
    }

    pub(crate) async fn pairing_code(&self, options: Options<'_>) -> String {
        let portal = PortalProxy::new(&self.bus).await.unwrap();
        portal.open_pairing(options).await.unwrap().0
    }

    /// A definition with both stages for the only agent.
    pub(crate) async fn define(&self, name: &str, path: &Path) {
        let keys = contract::KeysProxy::new(&self.bus).await.unwrap();
        let agent = text(&keys.agents().await.unwrap()[0], "id");
        use std::os::unix::ffi::OsStrExt;
        let path = path.as_os_str().as_bytes().to_vec();
        let paths = Array::from(vec![path]);
        let definition = Options::from([
            ("agent", Value::from(agent)),
            ("paths", Value::from(paths)),
            ("offsite", Value::from(true)),
        ]);
        assert!(self.jobs().await.define(name, definition).await.unwrap());
    }

    /// Waits until the definition's agent is connected.
    pub(crate) async fn attached(&self, name: &str) {
        let jobs = self.jobs().await;
        let all = jobs.definitions().await.unwrap();
        let agent = text(
            all.iter().find(|d| text(d, "name") == name).unwrap(),
            "agent",
        );
        let mut changes = jobs.receive_connected_changed().await;
        let connected = async {
            while let Some(change) = changes.next().await {
                if change.get().await.unwrap().contains(&agent) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, connected)
            .await
            .expect("the agent does not connect");
    }

    pub(crate) async fn run(&self, name: &str) -> Result<Fields, Error> {
        let job = self.jobs().await.run(name, Options::new()).await?;
        self.ended("Jobs1", &job).await
    }

    pub(crate) async fn verify(&self, datastore: &str) -> Result<Fields, Error> {
        let job = self
            .engine()
            .await
            .verify(datastore, Options::new())
            .await?;
        self.ended("Engine1", &job).await
    }
}

/// The entries of a restore's stream, to its end.
pub(crate) async fn entries_of(stream: OwnedFd) -> u64 {
    let mut stream = runtime::pipe::adopt_stream(stream).unwrap();
    let mut receiver = Receiver::default();
    loop {
        let item: Item = protocol::frame::aio::read(&mut stream)
            .await
            .unwrap()
            .unwrap();
        match receiver.receive(item).unwrap() {
            Event::End { entries, .. } => return entries,
            Event::Failed(sentence) => panic!("{sentence}"),
            _ => {}
        }
    }
}

/// A protected server: the agent's program and a state directory.
pub(crate) struct Server {
    state: PathBuf,
}

/// An agent that runs until it is dropped.
pub(crate) struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Server {
    pub(crate) fn pair(state: PathBuf, endpoint: &str, code: &str) -> Server {
        let server = Server { state };
        let pair = server.command(&["pair", endpoint, "--name", "server"]);
        answering(pair, code).unwrap();
        server
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom-agent"));
        command.arg("--state").arg(&self.state).args(arguments);
        command
    }

    /// Runs a command; its output, or what it said when it failed.
    pub(crate) fn agent(&self, arguments: &[&str]) -> Result<String, String> {
        answering(self.command(arguments), "")
    }

    pub(crate) fn serve(&self) -> Serving {
        Serving(self.command(&["serve"]).spawn().unwrap())
    }
}

/// Runs a command that is given `input`; its output, or what it said when it failed.
pub(crate) fn answering(mut command: Command, input: &str) -> Result<String, String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // one that does not want it may have closed its end
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(out),
        code => Err(format!("{command:?} ended with {code:?}: {err}{out}")),
    }
}

/// uplinkd, as far as it is asked: an address, and the centre's clock.
async fn play(appliance: &Appliance) -> zbus::Connection {
    let bus = appliance.connect().await;
    let uplink = PlayedUplink(Arc::default());
    bus.object_server()
        .at("/org/strongroom/Uplink1", uplink)
        .await
        .unwrap();
    bus.request_name("org.strongroom.Uplink1").await.unwrap();
    bus
}

struct PlayedUplink(Arc<Mutex<Fields>>);

#[zbus::interface(name = "org.strongroom.Uplink1")]
impl PlayedUplink {
    #[zbus(property)]
    async fn address(&self) -> String {
        let uplink = self.0.lock().unwrap();
        uplink.optional("address").unwrap().unwrap_or_default()
    }

    async fn configure(
        &self,
        #[zbus(signal_emitter)] emitter: zbus::object_server::SignalEmitter<'_>,
        configuration: Fields,
    ) -> Result<bool, Error> {
        *self.0.lock().unwrap() = configuration;
        self.address_changed(&emitter).await?;
        Ok(true)
    }

    async fn set_peers(&self, _peers: Vec<Fields>) -> bool {
        true
    }

    async fn sync_clock(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        endpoint: String,
        fingerprint: Vec<u8>,
    ) -> Result<i64, Error> {
        let builder = PortalProxy::builder(bus).cache_properties(CacheProperties::No);
        let options = Options::from([
            ("endpoint", Value::from(endpoint)),
            ("fingerprint", Value::from(fingerprint)),
        ]);
        let stream = builder.build().await?.dial("time", options).await?;
        let mut answer = Vec::new();
        let mut stream = runtime::pipe::adopt_stream(stream)?;
        stream
            .read_to_end(&mut answer)
            .await
            .map_err(|e| Error::Failed(e.to_string()))?;
        Ok(0)
    }
}
