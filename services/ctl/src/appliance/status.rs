//! `strongroom status`: one look at everything, each daemon's own sentence where it has one.

use super::{Session, sentence, show};
use anyhow::Result;
use contract::{
    CentreProxy, EngineProxy, EnrolProxy, Error, Fields, KeysProxy, PoolProxy, UplinkProxy,
};
use serde_json::{Value as Json, json};

/// What a daemon says, or that it does not answer: status never fails because one daemon is down.
fn or_silent<T>(daemon: &str, answer: Result<T, Error>, to_json: impl FnOnce(T) -> Json) -> Json {
    match answer {
        Ok(answer) => to_json(answer),
        Err(error) => json!({ "state": "silent", "reason": sentence(daemon, &error) }),
    }
}

pub(super) async fn status(session: &Session) -> Result<()> {
    let bus = &session.bus;
    let enrol = EnrolProxy::new(bus).await?;
    let keys = KeysProxy::new(bus).await?;
    let pool = PoolProxy::new(bus).await?;
    let engine = EngineProxy::new(bus).await?;
    let uplink = UplinkProxy::new(bus).await?;
    let appliance = async {
        let membership = enrol.membership().await?;
        Ok((enrol.state().await?, membership))
    };
    let appliance = or_silent("enrold", appliance.await, |(state, membership)| {
        let mut document = show::object(&membership);
        document["state"] = json!(state);
        document
    });
    let keys = async { Ok((keys.state().await?, keys.reason().await?, keys.tpm().await?)) };
    let keys = or_silent(
        "keyd",
        keys.await,
        |(state, reason, tpm)| json!({ "state": state, "reason": reason, "tpm": tpm }),
    );
    let pool = async {
        Ok(json!({
            "state": pool.state().await?, "reason": pool.reason().await?, "id": pool.pool().await?,
            "level": pool.level().await?, "mount_point": pool.mount_point().await?,
            "size": pool.size().await?, "free": pool.free().await?,
        }))
    };
    let pool = or_silent("poold", pool.await, |pool| pool);
    let uplink_state = async {
        Ok(json!({
            "state": uplink.state().await?, "reason": uplink.reason().await?,
            "address": uplink.address().await?, "centre": uplink.centre().await?,
        }))
    };
    let mut uplink_document = or_silent("uplinkd", uplink_state.await, |uplink| uplink);
    let peers = uplink.peers().await.unwrap_or_default();
    uplink_document["peers"] = super::objects(&peers);
    let engine_state =
        async { Ok(json!({ "state": engine.state().await?, "reason": engine.reason().await? })) };
    let mut engine_document = or_silent("engined", engine_state.await, |engine| engine);
    let datastores = engine.datastores().await.unwrap_or_default();
    engine_document["datastores"] = super::objects(&datastores);
    let mut document = json!({
        "appliance": appliance, "keys": keys, "pool": pool, "engine": engine_document, "uplink": uplink_document,
    });
    let mut sites = Vec::new();
    if document["appliance"]["state"] == "centre" {
        let answer = CentreProxy::new(bus).await?.sites().await;
        document["centre"] = or_silent("centred", answer, |answer| {
            sites = answer;
            json!({ "state": "ready" })
        });
        document["sites"] = super::objects(&sites);
    }
    session.answer(document.clone(), || {
        print(&document, &datastores, &peers, &sites)
    })
}

fn print(document: &Json, datastores: &[Fields], peers: &[Fields], sites: &[Fields]) {
    let word =
        |part: &str, name: &str| document[part][name].as_str().unwrap_or_default().to_owned();
    let line = |label: &str, part: &str, more: String| {
        let reason = word(part, "reason");
        println!("{label:<10} {:<13} {more}", word(part, "state"));
        if !reason.is_empty() {
            println!("{:<10} {reason}", "");
        }
    };
    let membership = match word("appliance", "state").as_str() {
        "site" => format!(
            "{} of {}, centre {}",
            word("appliance", "site_name"),
            word("appliance", "tenant_name"),
            word("appliance", "endpoint")
        ),
        "unenrolled" => "next: `strongroom enrol`, or `strongroom centre init` at the MSP".into(),
        _ => String::new(),
    };
    line("appliance", "appliance", membership);
    line("keys", "keys", word("keys", "tpm"));
    let size = |name: &str| show::size(document["pool"][name].as_u64().unwrap_or(0));
    let pool = match word("pool", "mount_point").as_str() {
        "" => String::new(),
        _ => format!(
            "{}, {} free of {}",
            word("pool", "level"),
            size("free"),
            size("size")
        ),
    };
    line("pool", "pool", pool);
    line("engine", "engine", String::new());
    line("uplink", "uplink", word("uplink", "address"));
    if document["appliance"]["state"] == "centre" {
        line("centre", "centre", String::new());
    }
    for peer in peers {
        println!(
            "{:<10} peer {} at {}, last handshake {}, received {}, sent {}",
            "",
            show::text(peer, "address"),
            show::text(peer, "endpoint"),
            show::time_of(peer, "handshake"),
            show::size_of(peer, "received"),
            show::size_of(peer, "sent"),
        );
    }
    if !datastores.is_empty() {
        println!();
        let row = |d: &Fields| {
            vec![
                show::text(d, "id"),
                show::text(d, "role"),
                show::text(d, "snapshots"),
                show::size_of(d, "logical"),
                show::size_of(d, "unique"),
                show::size_of(d, "stored"),
            ]
        };
        let rows: Vec<_> = datastores.iter().map(row).collect();
        show::table(
            &[
                "DATASTORE",
                "ROLE",
                "SNAPSHOTS",
                "LOGICAL",
                "UNIQUE",
                "STORED",
            ],
            &rows,
        );
    }
    if !sites.is_empty() {
        println!();
        super::centre::print_sites(sites);
    }
}
