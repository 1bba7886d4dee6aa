//! portald on the bus is what the contract says.

use runtime::testing::{Appliance, conforms};

#[tokio::test]
async fn introspection_conforms_to_the_xml() {
    let mut appliance = Appliance::new();
    let name = "org.strongroom.Portal1";
    appliance
        .start(env!("CARGO_BIN_EXE_strongroom-portald"), name)
        .await;
    conforms(&appliance.connect().await, name).await;
}
