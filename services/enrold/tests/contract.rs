//! enrold on the bus is what the contract says, whoever asks at the same time.

use contract::{EnrolProxy, Options};
use runtime::testing::{Appliance, conforms};
use std::time::Duration;
use zbus::proxy::CacheProperties;

#[tokio::test]
async fn introspection_conforms_to_the_xml() {
    let mut appliance = Appliance::new();
    let name = "org.strongroom.Enrol1";
    appliance
        .start(env!("CARGO_BIN_EXE_strongroom-enrold"), name)
        .await;
    conforms(&appliance.connect().await, name).await;
}

/// zbus reads properties under the lock of all objects, and a job is a new object.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_while_a_job_begins_ends_neither() {
    let mut appliance = Appliance::new();
    appliance
        .start(
            env!("CARGO_BIN_EXE_strongroom-enrold"),
            "org.strongroom.Enrol1",
        )
        .await;
    let bus = appliance.connect().await;
    let enrol = async || {
        let builder = EnrolProxy::builder(&bus).cache_properties(CacheProperties::No);
        builder.build().await.unwrap()
    };
    for _ in 0..6 {
        let looking = enrol().await;
        tokio::spawn(async move { while looking.state().await.is_ok() {} });
    }
    let enrol = enrol().await;
    let begin = async {
        for _ in 0..200 {
            // there is no keyd: each job fails at once, and the next is begun or it is still there
            let _ = enrol
                .init_centre("Northwind", "127.0.0.1:7443", Options::new())
                .await;
        }
    };
    let begun = tokio::time::timeout(Duration::from_secs(60), begin).await;
    begun.expect("enrold answers");
}
