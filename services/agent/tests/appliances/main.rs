//! Site, centre and protected server of plain processes: keyd with a software TPM, enrold,
//! portald, centred, jobd, engined and the agent, all real; only uplinkd and poold are played,
//! whose kernel and disks are not here.

mod operator;
mod rig;
mod traces;

use contract::{Error, FieldsExt, Options};
use rig::{Machine, Server, text};
use std::fs;
use std::path::Path;
use traces::{Traces, secrets};
use zbus::zvariant::Value;

fn tree(dir: &Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    filetree::specimen::create(&tree, 3, Default::default()).unwrap();
    tree
}

fn assert_same(a: &Path, b: &Path) {
    let comparison = filetree::compare::compare(a, b).unwrap();
    assert!(comparison.is_same(), "{:#?}", comparison.differences);
    assert!(comparison.entries > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_from_pairing_to_a_restore_without_the_site() {
    let centre = Machine::centre("msp").await;
    let mut site = Machine::site(&centre).await;
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let code = site.pairing_code(Options::new()).await;
    let server = Server::pair(dir.path().join("agent"), &site.endpoint, &code);

    // by the definition, over the lasting session
    let serving = server.serve();
    site.define("nightly", &tree).await;
    site.attached("nightly").await;
    let run = site.run("nightly").await.unwrap();
    assert_eq!(text(&run, "state"), "succeeded", "{run:?}");
    let first = text(&run, "snapshot");
    drop(serving);

    // by hand, at the server: only what is new travels, to the site and offsite
    fs::write(tree.join("since then"), vec![7; 50_000]).unwrap();
    filetree::specimen::mutate(&tree, 4).unwrap();
    let out = server.agent(&["backup"]).unwrap();
    assert!(out.contains("snapshot "), "{out}");
    let listed = server.agent(&["list", "--json"]).unwrap();
    assert_eq!(listed.matches("\"id\"").count(), 2, "{listed}");
    let snapshots = site.engine().await.snapshots(Options::new()).await.unwrap();
    assert_eq!(snapshots.len(), 2);
    assert!(
        snapshots
            .iter()
            .all(|s| s.required::<bool>("offsite").unwrap()),
        "{snapshots:?}"
    );
    assert_eq!(text(&snapshots[1], "id"), first);
    let name = text(&snapshots[1], "name");
    let filters = [("id", &*first, 1), ("name", &name, 2), ("name", "x", 0)];
    for (filter, wanted, found) in filters {
        let filter = Options::from([(filter, wanted.into())]);
        let snapshots = site.engine().await.snapshots(filter).await.unwrap();
        assert_eq!(snapshots.len(), found, "{snapshots:?}");
    }
    let unique: u64 = snapshots[0].required("unique").unwrap();
    let logical: u64 = snapshots[0].required("logical").unwrap();
    assert!(unique < logical / 4, "{unique} of {logical}");

    let restored = dir.path().join("from the site");
    server
        .agent(&["restore", "latest", restored.to_str().unwrap()])
        .unwrap();
    assert_same(&tree, &restored);

    let mut secrets = secrets(&site, &code).await;
    let mut traces = Traces::of(&site).await;
    traces.add(&dir.path().join("agent"));
    traces.hold_none_of(&site, &secrets);

    // the site is gone
    site.end_all();
    let datastore = site.datastore.clone();
    let options = || Options::from([("datastore", Value::from(datastore.clone()))]);
    // not in place of the pairing by which it is backed up
    let code = centre.pairing_code(options()).await;
    let kept = server
        .agent(&["pair", &centre.endpoint, "--code", &code])
        .unwrap_err();
    assert!(
        kept.contains("a pairing for a restore would end that"),
        "{kept}"
    );
    let code = centre.pairing_code(options()).await;
    let recovery = Server::pair(dir.path().join("recovery"), &centre.endpoint, &code);
    let restored = dir.path().join("from the centre");
    recovery
        .agent(&["restore", "latest", restored.to_str().unwrap()])
        .unwrap();
    assert_same(&tree, &restored);
    let refused = recovery
        .agent(&["backup", tree.to_str().unwrap()])
        .unwrap_err();
    assert!(!refused.is_empty());
    secrets.push(("the recovery's code", code.into_bytes()));
    let mut traces = Traces::of(&centre).await;
    traces.add(&dir.path().join("recovery"));
    traces.hold_none_of(&centre, &secrets);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_client_custody_the_centre_reads_only_with_the_share() {
    let centre = Machine::centre("client").await;
    let site = Machine::site(&centre).await;
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let code = site.pairing_code(Options::new()).await;
    let server = Server::pair(dir.path().join("agent"), &site.endpoint, &code);
    server.agent(&["backup", tree.to_str().unwrap()]).unwrap();
    let copies = centre
        .engine()
        .await
        .snapshots(Options::new())
        .await
        .unwrap();
    assert_eq!(copies.len(), 1);
    assert!(
        !copies[0].contains_key("host"),
        "no name without the key: {copies:?}"
    );
    let id = text(&copies[0], "id");
    let open = async |share: Option<&str>| {
        let mut options = Options::from([("reason", Value::from("a test"))]);
        if let Some(share) = share {
            options.insert("share", share.into());
        }
        centre.engine().await.open_restore(&id, options).await
    };
    assert!(matches!(
        open(None).await,
        Err(Error::CustodyShareRequired(_))
    ));
    let wrong = site.share.replace(|c: char| c.is_ascii_digit(), "7");
    assert!(matches!(
        open(Some(&wrong)).await,
        Err(Error::ShareInvalid(_))
    ));
    let stream = open(Some(&site.share)).await.unwrap();
    assert_eq!(rig::entries_of(stream).await, fs_entries(&tree));
    // it is locked again when the restore has ended
    let copies = centre
        .engine()
        .await
        .snapshots(Options::new())
        .await
        .unwrap();
    assert!(!copies[0].contains_key("host"), "{copies:?}");
    let verified = centre.verify(&site.datastore).await.unwrap();
    assert_eq!(verified.required::<u64>("damaged").unwrap(), 0);
    assert!(verified.required::<u64>("frames").unwrap() > 100);
    let secrets = secrets(&site, &code).await;
    for machine in [&site, &centre] {
        Traces::of(machine).await.hold_none_of(machine, &secrets);
    }
}

fn fs_entries(tree: &Path) -> u64 {
    filetree::walk::Walk::new(&[tree.into()], Default::default())
        .unwrap()
        .filter(|found| found.is_ok())
        .count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn engined_waits_in_words_serves_the_contract_and_ends_in_order() {
    let centre = Machine::centre("msp").await;
    let mut site = Machine::new().await;
    let engine = site.engine().await;
    assert_eq!(engine.state().await.unwrap(), "waiting");
    // first it may say that it has not heard of it yet
    site.becomes("org.strongroom.Engine1", "Reason", "not enrolled")
        .await;
    let refused = engine.replicate("", Options::new()).await;
    assert!(matches!(refused, Err(Error::NotReady(_))), "{refused:?}");
    site.join(&centre).await;
    let engine = site.engine().await;
    assert_eq!(engine.state().await.unwrap(), "ready");
    let datastores = engine.datastores().await.unwrap();
    assert_eq!(text(&datastores[0], "role"), "own");
    assert_eq!(text(&datastores[0], "id"), site.datastore);
    let unknown = engine.open_restore(&"00".repeat(16), Options::new()).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    let missing = engine.verify(&"11".repeat(16), Options::new()).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
    // it says that it stops
    site.end("engined");
    let log = site.log("engined");
    assert!(log.contains("engined stops"), "{log}");
}
