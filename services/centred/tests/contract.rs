//! centred on the bus is what the contract says.

use runtime::testing::Appliance;

#[tokio::test]
async fn introspection_conforms_to_the_xml() {
    let mut appliance = Appliance::new();
    let name = "org.strongroom.Centre1";
    appliance
        .start(env!("CARGO_BIN_EXE_strongroom-centred"), name)
        .await;
    let introspectable = zbus::fdo::IntrospectableProxy::builder(&appliance.connect().await)
        .destination(name)
        .unwrap()
        .path("/org/strongroom/Centre1")
        .unwrap()
        .build()
        .await
        .unwrap();
    let xml = introspectable.introspect().await.unwrap();
    contract::conformity::check(&xml, name).unwrap();
}
