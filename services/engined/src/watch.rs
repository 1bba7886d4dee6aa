//! Opens and closes the house as pool, enrolment and keys come and go. Level-triggered: whatever
//! changes, everything is looked at anew.

use crate::Settings;
use crate::house::{House, Part, Status};
use contract::{Error, FieldsExt, KeysProxy};
use format::{DatastoreId, Keyset};
use futures_util::{StreamExt, stream};
use runtime::Daemon;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zbus::proxy::CacheProperties;

/// Between two looks when nothing has told of a change.
const LOOK: Duration = Duration::from_secs(15);
/// The same while not ready.
const LOOK_WAITING: Duration = Duration::from_secs(2);

/// Runs until shutdown.
pub(crate) async fn run(daemon: Daemon, house: Arc<House>, settings: Settings) {
    let mut changes = match changes(&daemon.bus).await {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!("changes on the bus are not seen at once: {error}");
            stream::pending().boxed()
        }
    };
    loop {
        let looked = look(&daemon, &house, &settings).await;
        match looked {
            Ok(()) => {}
            Err(Look::Wait(reason)) => close(&house, Status::Waiting(reason)).await,
            Err(Look::Fail(reason)) => close(&house, Status::Failed(reason)).await,
        }
        let grant = house.grants.expire();
        let ready = *house.status().borrow() == Status::Ready;
        let next = if ready { LOOK } else { LOOK_WAITING };
        // all are cancel-safe: a stream, a timer, a token
        tokio::select! {
            _ = changes.next() => {}
            () = tokio::time::sleep(grant.map_or(next, |g| g.min(next))) => {}
            () = daemon.shutdown.cancelled() => return,
        }
    }
}

/// Why the house is not open.
enum Look {
    Wait(String),
    Fail(String),
}

async fn close(house: &Arc<House>, status: Status) {
    let closing = house.clone();
    // a datastore that closes writes out what it holds
    let _ = tokio::task::spawn_blocking(move || closing.close(status)).await;
}

/// What may change what we do: properties of poold, enrold and keyd, and their coming and going.
async fn changes(bus: &zbus::Connection) -> zbus::Result<stream::BoxStream<'static, ()>> {
    let mut all = stream::SelectAll::new();
    for name in ["Pool1", "Enrol1", "Keys1"] {
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.freedesktop.DBus.Properties")?
            .member("PropertiesChanged")?
            .path(format!("/org/strongroom/{name}"))?
            .build();
        let stream = zbus::MessageStream::for_match_rule(rule, bus, Some(8)).await?;
        all.push(stream.map(|_| ()).boxed());
        let owners = zbus::fdo::DBusProxy::new(bus)
            .await?
            .receive_name_owner_changed_with_args(&[(0, &format!("org.strongroom.{name}"))])
            .await?;
        all.push(owners.map(|_| ()).boxed());
    }
    Ok(all.boxed())
}

async fn look(daemon: &Daemon, house: &Arc<House>, settings: &Settings) -> Result<(), Look> {
    let pool = match &settings.pool {
        Some(pool) => pool.clone(),
        None => pool(daemon).await?,
    };
    let part = part(daemon).await?;
    if house.is_open(&pool, &part) {
        return Ok(());
    }
    let keyset = match &part {
        Part::Site(id) => Some(keyset(daemon, *id).await?),
        Part::Centre => None,
    };
    let opening = house.clone();
    tokio::task::spawn_blocking(move || opening.open(pool, part, keyset))
        .await
        .map_err(|e| Look::Fail(format!("a fault of ours: {e}; see engined's journal")))?
        .map_err(|e| Look::Fail(e.text()))
}

fn away(daemon: &'static str) -> impl Fn(zbus::Error) -> Look {
    move |error| {
        Look::Wait(format!(
            "{daemon} does not answer ({error}); see its journal"
        ))
    }
}

async fn pool(daemon: &Daemon) -> Result<PathBuf, Look> {
    let away = away("poold");
    let proxy = contract::PoolProxy::builder(&daemon.bus).cache_properties(CacheProperties::No);
    let proxy = proxy.build().await.map_err(&away)?;
    let state = proxy.state().await.map_err(&away)?;
    let place = proxy.mount_point().await.map_err(&away)?;
    match state.as_str() {
        "mounted" | "degraded" if !place.is_empty() => Ok(place.into()),
        "none" => Err(Look::Wait(
            "there is no disk pool yet; it is made at enrolment, or by strongroom centre init"
                .into(),
        )),
        _ => {
            let reason = proxy.reason().await.map_err(&away)?;
            Err(Look::Wait(format!("the disk pool is {state}: {reason}")))
        }
    }
}

async fn part(daemon: &Daemon) -> Result<Part, Look> {
    let away = away("enrold");
    let proxy = contract::EnrolProxy::builder(&daemon.bus).cache_properties(CacheProperties::No);
    let proxy = proxy.build().await.map_err(&away)?;
    match proxy.state().await.map_err(&away)?.as_str() {
        "centre" => Ok(Part::Centre),
        "site" => {
            let membership = proxy.membership().await.map_err(&away)?;
            let id: String = membership
                .required("datastore")
                .map_err(|e| Look::Fail(e.text()))?;
            id.parse()
                .map(Part::Site)
                .map_err(|e| Look::Fail(format!("{e}")))
        }
        "enrolling" => Err(Look::Wait("the enrolment is going on".into())),
        _ => Err(Look::Wait(
            "this appliance is not enrolled; use strongroom enrol, or strongroom centre init"
                .into(),
        )),
    }
}

async fn keyset(daemon: &Daemon, id: DatastoreId) -> Result<Keyset, Look> {
    let wait = |e: Error| Look::Wait(format!("keyd gives no key: {}", e.text()));
    let keys = KeysProxy::new(&daemon.bus).await.map_err(away("keyd"))?;
    let pipe = keys.datastore_keyset(&id.to_string()).await.map_err(wait)?;
    take_keyset(pipe, id).await.map_err(wait)
}

/// Reads a key set of this datastore from the pipe it came by.
pub(crate) async fn take_keyset(
    pipe: zbus::zvariant::OwnedFd,
    id: DatastoreId,
) -> Result<Keyset, Error> {
    let keyset = tokio::task::spawn_blocking(move || {
        let bytes = runtime::pipe::take_key(std::os::fd::OwnedFd::from(pipe))?;
        Keyset::decode(&bytes).map_err(|e| Error::Damaged(e.to_string()))
    });
    let keyset = keyset
        .await
        .map_err(|e| Error::Failed(format!("a fault of ours: {e}")))??;
    if keyset.datastore_id != id {
        return Err(Error::Failed(format!(
            "keyd gave the key set of datastore {} for {id}; see keyd's journal",
            keyset.datastore_id
        )));
    }
    Ok(keyset)
}
