//! The agent's service, told to stop.

use agent::control::{Here, News, Wish, run};
use agent::identity::StateDir;
use agent::{Error, Result};
use protocol::control::{Backup, FromAgent, Path, Site, SiteEvent};
use protocol::frame::aio;
use protocol::session::read_first;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;

/// Later stages of a run are jobd's: a service whose backup has ended does not wait for them.
#[tokio::test]
async fn a_service_ends_at_once_while_the_copy_offsite_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new());
    let here = Here {
        agent: "0123456789abcdef0123456789abcdef".into(),
        key: Arc::new(
            ring::signature::Ed25519KeyPair::from_pkcs8(pkcs8.unwrap().as_ref()).unwrap(),
        ),
        state: StateDir::open(dir.path()).unwrap(),
        host: "server".into(),
    };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    // the first dial is the control session; a backup's fails, which ends it
    let session = Arc::new(Mutex::new(Some(ours)));
    let dial = move || {
        let stream = session.lock().unwrap().take();
        async move { stream.ok_or(Error::Silent) as Result<DuplexStream> }
    };
    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let cancel = cancel.clone();
        async move { run(&here, Wish::Serve, dial, |_: News| {}, cancel).await }
    });

    let mut jobd = theirs;
    read_first(&mut jobd).await.unwrap();
    let mut site = Site::default();
    let paths = vec![Path(dir.path().as_os_str().as_encoded_bytes().to_vec())];
    let order = Backup {
        run: "1".into(),
        definition: "nightly".into(),
        paths,
        excludes: vec![],
    };
    let mut order = Some(order);
    loop {
        let message: FromAgent = aio::read(&mut jobd).await.unwrap().unwrap();
        match site.receive(message).unwrap() {
            SiteEvent::Attached { .. } => {
                let start = site.start(order.take().unwrap()).unwrap();
                aio::write(&mut jobd, &start).await.unwrap();
            }
            SiteEvent::Finished(_) => break,
            _ => {}
        }
    }
    let update = site.update("offsite", "copies", 1, 2).unwrap();
    aio::write(&mut jobd, &update).await.unwrap();
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    let ended = ended.expect("the service ends").unwrap();
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    // and the rest of the run is not cancelled with it
    while let Ok(Some(message)) = aio::read::<FromAgent, _>(&mut jobd).await {
        assert!(!matches!(message, FromAgent::Cancel { .. }), "{message:?}");
    }
}
