//! All daemons but uplinkd and poold, and the agent itself, over their real ways: backup at a site,
//! copy to the centre, restore from either, custody.

use crate::rig::{Machine, text};
use contract::{EngineProxy, Error, FieldsExt, Options};
use runtime::testing::program;
use std::path::{Path, PathBuf};
use std::process::Output;
use zbus::zvariant::Value;

/// A protected server's agent.
struct Agent {
    state: PathBuf,
    directory: PathBuf,
}

impl Agent {
    fn new(machine: &Machine, name: &str) -> Agent {
        let directory = machine.appliance.path(name);
        std::fs::create_dir(&directory).unwrap();
        Agent {
            state: directory.join("state"),
            directory,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        std::process::Command::new(program("agent"))
            .arg("--state")
            .arg(&self.state)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Must succeed; answers what it printed.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (&output.stdout, &output.stderr);
        let err = String::from_utf8_lossy(err);
        assert!(output.status.success(), "{arguments:?}: {err}");
        String::from_utf8(out.clone()).unwrap()
    }
}

/// A few files; `more` makes a second state of them.
fn write_files(directory: &Path, more: bool) {
    std::fs::create_dir_all(directory.join("sub")).unwrap();
    let noise: Vec<u8> = (0..2_000_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    std::fs::write(directory.join("large"), noise).unwrap();
    std::fs::write(directory.join("sub/small"), b"words").unwrap();
    if more {
        std::fs::write(directory.join("sub/new"), b"later words").unwrap();
    }
}

fn compare(restored: &Path, source: &Path, more: bool) {
    for file in ["large", "sub/small"] {
        let (back, was) = (restored.join(file), source.join(file));
        assert!(
            std::fs::read(back).unwrap() == std::fs::read(was).unwrap(),
            "{file}"
        );
    }
    assert_eq!(restored.join("sub/new").exists(), more);
}

async fn engine(machine: &Machine) -> EngineProxy<'static> {
    EngineProxy::builder(&machine.bus)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .unwrap()
}

async fn recover(centre: &Machine, datastore: &str, share: Option<&str>) -> (Agent, Output) {
    let mut options = Options::from([("datastore", Value::from(datastore))]);
    if let Some(share) = share {
        options.insert("share", Value::from(share));
    }
    let (code, _) = centre.portal().await.open_pairing(options).await.unwrap();
    let agent = Agent::new(centre, &format!("recovery-{code}"));
    let output = agent.run(&["pair", &centre.endpoint, "--code", &code]);
    (agent, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_backed_up_copied_and_restored_from_either_end() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    live(centre, site).await;
}

/// All that a centre and a site enrolled there are for.
pub(crate) async fn live(mut centre: Machine, mut site: Machine) -> (Machine, Machine) {
    centre.real().await;
    site.tunnel_to(&centre).await;
    site.real().await;

    let (code, _) = site
        .portal()
        .await
        .open_pairing(Options::new())
        .await
        .unwrap();
    let agent = Agent::new(&site, "server");
    agent.done(&["pair", &site.endpoint, "--code", &code]);
    let source = agent.directory.join("source");
    let source_path = source.to_str().unwrap();
    write_files(&source, false);
    agent.done(&["backup", source_path]);
    write_files(&source, true);
    agent.done(&["backup", source_path]);

    let local = agent.directory.join("restored");
    agent.done(&["restore", "latest", local.to_str().unwrap()]);
    compare(&local, &source, true);

    // each run's second stage has copied offsite: nothing is left to copy
    let membership = site.enrol().await.membership().await.unwrap();
    let datastore = text(&membership, "datastore");
    let offsite = engine(&centre)
        .await
        .snapshots(Options::new())
        .await
        .unwrap();
    assert_eq!(offsite.len(), 2);
    let copied = copy(&site, &datastore).await;
    assert_eq!(copied.required::<u64>("frames").unwrap(), 0);

    // the site is gone
    let (server, paired) = recover(&centre, &datastore, None).await;
    let told = String::from_utf8_lossy(&paired.stderr);
    assert!(paired.status.success(), "{told}");
    for (snapshot, more) in snapshots(&server) {
        let target = server.directory.join(&snapshot);
        server.done(&["restore", &snapshot, target.to_str().unwrap()]);
        compare(&target, &source, more);
    }

    // under client custody the centre cannot, without the client's share
    let job = site
        .enrol()
        .await
        .set_custody("client", Options::new())
        .await
        .unwrap();
    let words = text(&site.ended(&job).await.unwrap(), "client_share");
    let options = Options::from([("datastore", Value::from(datastore.as_str()))]);
    let refused = centre.portal().await.open_pairing(options).await;
    assert!(
        matches!(refused, Err(Error::CustodyShareRequired(_))),
        "{refused:?}"
    );
    let (server, paired) = recover(&centre, &datastore, Some(&words)).await;
    let told = String::from_utf8_lossy(&paired.stderr);
    assert!(paired.status.success(), "{told}");
    let target = server.directory.join("restored");
    server.done(&["restore", "latest", target.to_str().unwrap()]);
    compare(&target, &source, true);
    (centre, site)
}

/// Ids, and whether each is the later one: the list begins with the newest.
fn snapshots(agent: &Agent) -> Vec<(String, bool)> {
    let list: serde_json::Value = serde_json::from_str(&agent.done(&["list", "--json"])).unwrap();
    let ids = list.as_array().unwrap().iter();
    let ids: Vec<_> = ids.map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    vec![(ids[0].clone(), true), (ids[1].clone(), false)]
}

async fn copy(site: &Machine, datastore: &str) -> contract::Fields {
    let job = engine(site)
        .await
        .replicate(datastore, Options::new())
        .await
        .unwrap();
    let never = tokio_util::sync::CancellationToken::new();
    let ended = runtime::job::wait(&site.bus, "org.strongroom.Engine1", &job, &never, |_| {}).await;
    ended.map_err(|e: Error| e.text()).unwrap()
}
