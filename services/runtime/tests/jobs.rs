//! Jobs over a private bus: one completion, late callers, cancel, a panic, a daemon that dies.

use contract::{Error, Fields, FieldsExt, field};
use runtime::testing::Appliance;
use std::sync::Arc;
use tokio::sync::Notify;
use zbus::zvariant::OwnedObjectPath;

struct Bench {
    appliance: Appliance,
    server: zbus::Connection,
    client: zbus::Connection,
    daemon: runtime::Daemon,
}

async fn bench() -> Bench {
    let appliance = Appliance::new();
    let (server, client) = (appliance.connect().await, appliance.connect().await);
    let shutdown = tokio_util::sync::CancellationToken::new();
    let daemon = runtime::Daemon::new("bench", server.clone(), shutdown);
    Bench {
        appliance,
        server,
        client,
        daemon,
    }
}

impl Bench {
    async fn wait(&self, path: &OwnedObjectPath) -> Result<Fields, Error> {
        let service = self.server.unique_name().unwrap().to_string();
        runtime::job::wait(&self.client, &service, path, &Default::default(), |_| {}).await
    }
}

#[tokio::test]
async fn a_job_tells_its_result_to_early_and_late_callers() {
    let b = bench().await;
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let path = b
        .daemon
        .jobs
        .start("test", |progress, _| async move {
            progress.set_total(10);
            gate.notified().await;
            progress.set_done(10);
            Ok(Fields::from([("answer".to_owned(), field(42u32))]))
        })
        .await
        .unwrap();
    let early = b.wait(&path);
    go.notify_one();
    assert_eq!(early.await.unwrap().required::<u32>("answer").unwrap(), 42);
    assert_eq!(
        b.wait(&path)
            .await
            .unwrap()
            .required::<u32>("answer")
            .unwrap(),
        42
    );
    let proxy = contract::JobProxy::new(&b.client, b.server.unique_name().unwrap(), &path)
        .await
        .unwrap();
    assert_eq!(proxy.progress().await.unwrap(), 1.0);
    drop(b.appliance);
}

#[tokio::test]
async fn a_failure_keeps_its_name_for_late_callers_too() {
    let b = bench().await;
    let path = b
        .daemon
        .jobs
        .start("test", |_, _| async {
            Err(Error::PoolFull("the pool is full; add disks".into()))
        })
        .await
        .unwrap();
    for _ in 0..2 {
        match b.wait(&path).await {
            Err(Error::PoolFull(text)) => assert_eq!(text, "the pool is full; add disks"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn cancel_and_panic_are_completions() {
    let b = bench().await;
    let path = b
        .daemon
        .jobs
        .start("test", |_, cancel| async move {
            cancel.cancelled().await;
            Err(Error::Cancelled("stopped on request".into()))
        })
        .await
        .unwrap();
    let proxy = contract::JobProxy::new(&b.client, b.server.unique_name().unwrap(), &path)
        .await
        .unwrap();
    proxy.cancel().await.unwrap();
    assert!(matches!(b.wait(&path).await, Err(Error::Cancelled(_))));
    let path = b
        .daemon
        .jobs
        .start("test", |_, _| async { panic!("a bug") })
        .await
        .unwrap();
    assert!(matches!(b.wait(&path).await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn the_job_object_is_as_the_contract_says() {
    let b = bench().await;
    let path = b
        .daemon
        .jobs
        .start("test", |_, _| async { Ok(Fields::new()) })
        .await
        .unwrap();
    let proxy = zbus::fdo::IntrospectableProxy::builder(&b.client)
        .destination(b.server.unique_name().unwrap().clone())
        .unwrap()
        .path(&path)
        .unwrap()
        .build()
        .await
        .unwrap();
    contract::conformity::check(&proxy.introspect().await.unwrap(), "org.strongroom.Job1").unwrap();
}
