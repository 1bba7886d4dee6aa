//! jobd as a process on a private bus, with an agent's end of the protocol and the two neighbours it
//! asks (keyd's list of agents, engined's copy) played by the test.

use contract::{Error, Fields, FieldsExt, JobsProxy, Options, field, fields};
use futures_util::StreamExt;
use protocol::control::{Agent, AgentEvent, FromSite, Path, Progress, Stats};
use protocol::frame::aio;
use protocol::session::{Kind, Open};
use runtime::testing::Appliance;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::UnixStream;
use zbus::zvariant::{self, OwnedObjectPath};

const NAME: &str = "org.strongroom.Jobs1";

struct Keys;

#[zbus::interface(name = "org.strongroom.Keys1")]
impl Keys {
    fn agents(&self) -> Vec<Fields> {
        vec![fields([("id", field("a1")), ("name", field("server"))])]
    }
}

/// Has a snapshot `ef…` of the agent before a run, `ab…` and another agent's `cd…` after it; answers
/// a copy of 3 frames, or that the uplink is down.
struct Engine {
    jobs: Arc<runtime::job::Jobs>,
    up: bool,
}

fn snapshot(id: &str, name: &str) -> Fields {
    fields([
        ("id", field(id)),
        ("name", field(name)),
        ("entries", field(5u64)),
        ("logical", field(100u64)),
        ("unique", field(60u64)),
        ("stored", field(40u64)),
    ])
}

#[zbus::interface(name = "org.strongroom.Engine1")]
impl Engine {
    fn datastores(&self) -> Vec<Fields> {
        vec![fields([("id", field("d1")), ("role", field("own"))])]
    }
    fn snapshots(&self, filter: Fields) -> Vec<Fields> {
        if let Some(name) = filter.optional::<String>("name").unwrap() {
            assert_eq!(name, "a1");
            return vec![snapshot(&"ef".repeat(16), "a1")];
        }
        let id = filter.required::<String>("id").unwrap();
        let names = [("ab", "a1"), ("cd", "a2"), ("ef", "a1")];
        let made = names.into_iter().find(|(byte, _)| id == byte.repeat(16));
        made.map(|(_, name)| snapshot(&id, name))
            .into_iter()
            .collect()
    }
    async fn replicate(&self, datastore: &str, options: Fields) -> Result<OwnedObjectPath, Error> {
        assert_eq!((datastore, options.len()), ("d1", 0));
        let up = self.up;
        let work = async move {
            if !up {
                return Err(Error::UplinkDown(
                    "the uplink is down; it is tried again".into(),
                ));
            }
            Ok(fields([
                ("snapshots", field(1u32)),
                ("frames", field(3u64)),
                ("wire", field(99u64)),
                ("present", field(7u64)),
            ]))
        };
        self.jobs.start("offsite-copy", |_, _| work).await
    }
}

struct Bench {
    appliance: Appliance,
    bus: zbus::Connection,
    jobs: JobsProxy<'static>,
    _neighbours: [zbus::Connection; 2],
}

async fn bench(up: bool) -> Bench {
    let mut appliance = Appliance::new();
    let keys = appliance.connect().await;
    keys.object_server()
        .at("/org/strongroom/Keys1", Keys)
        .await
        .unwrap();
    keys.request_name("org.strongroom.Keys1").await.unwrap();
    let engine = appliance.connect().await;
    let daemon = runtime::Daemon::new("engined", engine.clone(), Default::default());
    engine
        .object_server()
        .at(
            "/org/strongroom/Engine1",
            Engine {
                jobs: daemon.jobs,
                up,
            },
        )
        .await
        .unwrap();
    engine.request_name("org.strongroom.Engine1").await.unwrap();
    appliance
        .start(env!("CARGO_BIN_EXE_strongroom-jobd"), NAME)
        .await;
    let bus = appliance.connect().await;
    let jobs = JobsProxy::new(&bus).await.unwrap();
    Bench {
        appliance,
        bus,
        jobs,
        _neighbours: [keys, engine],
    }
}

impl Bench {
    async fn define(&self) -> bool {
        let definition = Options::from([
            ("agent", "server".into()),
            ("paths", vec![b"/srv".to_vec()].into()),
        ]);
        self.jobs.define("nightly", definition).await.unwrap()
    }

    /// An agent's session: its end of the socket and of the protocol.
    async fn attach(&self, serves: bool) -> (UnixStream, Agent) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(ours).unwrap();
        let options = Options::from([("agent", "a1".into())]);
        let descriptor = zvariant::Fd::from(OwnedFd::from(theirs));
        self.jobs.attach_agent(descriptor, options).await.unwrap();
        aio::write(&mut stream, &Open::new(Kind::Control))
            .await
            .unwrap();
        let (agent, hello) = Agent::begin("host", "test", serves);
        aio::write(&mut stream, &hello).await.unwrap();
        (stream, agent)
    }

    async fn connected(&self) {
        self.connected_are(&["a1"]).await;
        let definition = &self.jobs.definitions().await.unwrap()[0];
        assert!(definition.required::<bool>("connected").unwrap());
    }

    /// Waits until these agents take orders.
    async fn connected_are(&self, ids: &[&str]) {
        let mut changes = self.jobs.receive_connected_changed().await;
        while changes.next().await.unwrap().get().await.unwrap() != ids {}
    }

    async fn wait(&self, job: &OwnedObjectPath) -> Result<Fields, Error> {
        runtime::job::wait(&self.bus, NAME, job, &Default::default(), |_| {}).await
    }
}

async fn next(stream: &mut UnixStream, agent: &mut Agent) -> AgentEvent {
    let message: FromSite = aio::read(stream).await.unwrap().expect("jobd speaks");
    agent.receive(message).unwrap()
}

fn stats() -> Stats {
    Stats {
        snapshot: [0xab; 16],
        entries: 5,
        logical: 100,
        unique: 60,
        stored: 40,
        wire: 70,
        ..Stats::default()
    }
}

#[tokio::test]
async fn a_definition_runs_both_its_stages() {
    let b = bench(true).await;
    assert!(b.define().await);
    assert!(!b.define().await, "the same again changes nothing");
    let (mut stream, mut agent) = b.attach(true).await;
    b.connected().await;
    let job = b.jobs.run("nightly", Options::new()).await.unwrap();
    let AgentEvent::Start(backup) = next(&mut stream, &mut agent).await else {
        panic!("an order first")
    };
    assert_eq!(
        (backup.definition.as_str(), &backup.paths[..]),
        ("nightly", &[Path(b"/srv".to_vec())][..])
    );
    assert_eq!(
        b.jobs.run("nightly", Options::new()).await.unwrap(),
        job,
        "one job while it runs"
    );
    let progress = Progress {
        done: 50,
        total: 100,
        ..Progress::default()
    };
    aio::write(&mut stream, &agent.progress(progress).unwrap())
        .await
        .unwrap();
    // what the engine has is shown, not what the agent says of it
    let told = Stats {
        unique: 1 << 60,
        ..stats()
    };
    aio::write(&mut stream, &agent.finished(Ok(told)).unwrap())
        .await
        .unwrap();
    let run = b.wait(&job).await.unwrap();
    assert_eq!(run.required::<String>("snapshot").unwrap(), "ab".repeat(16));
    assert_eq!(run.required::<String>("state").unwrap(), "succeeded");
    let stages: Vec<Fields> = run.required("stages").unwrap();
    assert_eq!(stages[0].required::<u64>("unique").unwrap(), 60);
    assert_eq!(stages[1].required::<u64>("wire").unwrap(), 99);
    loop {
        match next(&mut stream, &mut agent).await {
            AgentEvent::Update { .. } => {}
            AgentEvent::Ended { succeeded, .. } => break assert!(succeeded),
            other => panic!("{other:?}"),
        }
    }
    let history = b.jobs.history(10).await.unwrap();
    assert_eq!(history.len(), 1);
}

/// One never made, one of another agent, and one from before the run.
#[tokio::test]
async fn a_snapshot_that_the_engine_has_not_of_this_run_is_no_success() {
    let b = bench(true).await;
    b.define().await;
    let (mut stream, mut agent) = b.attach(true).await;
    b.connected().await;
    for claimed in [0x11, 0xcd, 0xef] {
        let job = b.jobs.run("nightly", Options::new()).await.unwrap();
        next(&mut stream, &mut agent).await;
        let stats = Stats {
            snapshot: [claimed; 16],
            ..stats()
        };
        aio::write(&mut stream, &agent.finished(Ok(stats)).unwrap())
            .await
            .unwrap();
        match b.wait(&job).await {
            Err(Error::Failed(text)) => assert!(text.contains("no such snapshot"), "{text}"),
            other => panic!("{other:?}"),
        }
        let run = &b.jobs.history(1).await.unwrap()[0];
        assert_eq!(run.required::<String>("state").unwrap(), "failed");
        assert_eq!(run.required::<String>("snapshot").unwrap(), "");
        let ended = next(&mut stream, &mut agent).await;
        assert!(matches!(ended, AgentEvent::Ended { succeeded, .. } if !succeeded));
    }
}

#[tokio::test]
async fn a_failed_copy_keeps_the_snapshot_and_says_why() {
    let b = bench(false).await;
    b.define().await;
    let (mut stream, mut agent) = b.attach(true).await;
    b.connected().await;
    let job = b.jobs.run("nightly", Options::new()).await.unwrap();
    next(&mut stream, &mut agent).await;
    aio::write(&mut stream, &agent.finished(Ok(stats())).unwrap())
        .await
        .unwrap();
    match b.wait(&job).await {
        Err(Error::UplinkDown(text)) => assert_eq!(text, "the uplink is down; it is tried again"),
        other => panic!("{other:?}"),
    }
    let run = &b.jobs.history(1).await.unwrap()[0];
    assert_eq!(run.required::<String>("state").unwrap(), "failed");
    assert_eq!(run.required::<String>("snapshot").unwrap(), "ab".repeat(16));
}

#[tokio::test]
async fn a_command_at_the_server_asks_for_its_own_run() {
    let b = bench(true).await;
    let (mut stream, mut agent) = b.attach(false).await;
    aio::write(&mut stream, &agent.request("", vec![], vec![]))
        .await
        .unwrap();
    let refused = next(&mut stream, &mut agent).await;
    assert!(matches!(refused, AgentEvent::Refused(why) if why.contains("no backup definition")));
    aio::write(
        &mut stream,
        &agent.request("", vec![Path(b"/home".to_vec())], vec![]),
    )
    .await
    .unwrap();
    let AgentEvent::Start(backup) = next(&mut stream, &mut agent).await else {
        panic!("an order")
    };
    assert_eq!(backup.paths, [Path(b"/home".to_vec())]);
    aio::write(
        &mut stream,
        &agent
            .finished(Err("PATH /home does not exist; check it".into()))
            .unwrap(),
    )
    .await
    .unwrap();
    match next(&mut stream, &mut agent).await {
        AgentEvent::Ended {
            succeeded: false,
            message,
        } => assert!(message.contains("/home does not exist"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_its_agent_a_run_is_refused_and_a_lost_agent_ends_it() {
    let b = bench(true).await;
    b.define().await;
    assert!(matches!(
        b.jobs.run("nightly", Options::new()).await,
        Err(Error::AgentAway(_))
    ));
    assert!(matches!(
        b.jobs.run("weekly", Options::new()).await,
        Err(Error::NotFound(_))
    ));
    let (mut stream, mut agent) = b.attach(true).await;
    b.connected().await;
    let job = b.jobs.run("nightly", Options::new()).await.unwrap();
    next(&mut stream, &mut agent).await;
    drop(stream);
    assert!(matches!(b.wait(&job).await, Err(Error::AgentAway(_))));
    b.connected_are(&[]).await;
}

#[tokio::test]
async fn cancelling_the_job_stops_the_agent() {
    let b = bench(true).await;
    b.define().await;
    let (mut stream, mut agent) = b.attach(true).await;
    b.connected().await;
    let job = b.jobs.run("nightly", Options::new()).await.unwrap();
    next(&mut stream, &mut agent).await;
    let proxy = contract::JobProxy::new(&b.bus, NAME, job.clone())
        .await
        .unwrap();
    proxy.cancel().await.unwrap();
    assert_eq!(next(&mut stream, &mut agent).await, AgentEvent::Cancel);
    aio::write(&mut stream, &agent.finished(Err("stopped".into())).unwrap())
        .await
        .unwrap();
    assert!(matches!(b.wait(&job).await, Err(Error::Cancelled(_))));
}

#[tokio::test]
async fn the_interface_is_as_the_contract_says() {
    let b = bench(true).await;
    runtime::testing::conforms(&b.bus, NAME).await;
    drop(b.appliance);
}
