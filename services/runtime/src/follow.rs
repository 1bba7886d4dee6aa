//! Other daemons' properties, level-triggered: what they are now, whoever restarts.

use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::watch;
use zbus::names::InterfaceName;

/// A change is told by a signal; this is only for one that is lost.
const AT_LEAST: Duration = Duration::from_secs(60);

/// The property `name` of `service` (interface of the same name, path as ours are), now and
/// whenever it changes; None while the service cannot be asked.
pub fn property(
    bus: &zbus::Connection,
    service: &'static str,
    name: &'static str,
) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(None);
    let bus = bus.clone();
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(error) = follow(&bus, service, name, &sender).await {
                tracing::warn!("{service} cannot be watched: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    receiver
}

async fn follow(
    bus: &zbus::Connection,
    service: &'static str,
    name: &'static str,
    sender: &watch::Sender<Option<String>>,
) -> zbus::Result<()> {
    let path = format!("/{}", service.replace('.', "/"));
    let properties = zbus::fdo::PropertiesProxy::builder(bus)
        .destination(service)?
        .path(path)?
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let mut changes = properties.receive_properties_changed().await?;
    let daemon = zbus::fdo::DBusProxy::new(bus).await?;
    let mut owners = daemon
        .receive_name_owner_changed_with_args(&[(0, service)])
        .await?;
    let interface = InterfaceName::try_from(service)?;
    loop {
        let value = properties.get(interface.clone(), name).await;
        let value = value.ok().and_then(|v| String::try_from(v).ok());
        sender.send_if_modified(|old| {
            let changed = *old != value;
            *old = value;
            changed
        });
        // cancel-safe: streams keep what was not taken
        tokio::select! {
            change = changes.next() => if change.is_none() { return Ok(()) },
            change = owners.next() => if change.is_none() { return Ok(()) },
            () = tokio::time::sleep(AT_LEAST) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}
