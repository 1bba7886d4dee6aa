//! Pairing, our half: codes, agents, and at a centre the grant for a recovery.

use crate::desk::{Recovery, Verdict};
use crate::identity::Configs;
use crate::portal::Portal;
use crate::session::{Ended, Tls};
use contract::{Error, Options};
use protocol::pairing::{self, Event, Paired, Request, Site};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zbus::zvariant::Value;

/// Pairs the agent at the other end, or tells it why not.
pub(crate) async fn serve(
    portal: &Arc<Portal>,
    configs: &Configs,
    mut tls: Tls,
) -> Result<(), Ended> {
    let Some((number, code)) = portal.desk.code() else {
        return Err(Ended::Stranger);
    };
    let exporter = tls
        .get_ref()
        .1
        .export_keying_material([0; pairing::EXPORTER], pairing::EXPORTER_LABEL, None)
        .map_err(|e| Ended::Handshake(std::io::Error::other(e)))?;
    let mut site = Site::new(&code, &exporter);
    let mut recovery = None;
    let mut buffer = [0; 4096];
    loop {
        let count = tls.read(&mut buffer).await.map_err(Ended::Broken)?;
        if count == 0 {
            return Ok(());
        }
        let event = site
            .receive(&buffer[..count])
            .map_err(|e| Ended::Broken(std::io::Error::other(e)))?;
        let last = match event {
            None => false,
            Some(Event::Guessed { right }) => {
                let verdict = portal.desk.guess(number, right);
                let from = tls.get_ref().0.peer_addr().map(|a| a.ip().to_string());
                tell(&verdict, from.as_deref().unwrap_or("an unknown address"));
                match verdict {
                    Verdict::Right(needs) => {
                        recovery = needs;
                        site.confirm();
                        false
                    }
                    Verdict::Wrong(left) => {
                        site.refuse(Some(left));
                        true
                    }
                    Verdict::Closed => {
                        site.refuse(None);
                        true
                    }
                }
            }
            Some(Event::Asked(request)) => {
                match issue(portal, configs, &request, recovery.take()).await {
                    Ok(paired) => {
                        tracing::info!(agent = paired.agent, name = request.name, "paired");
                        site.pair(paired);
                    }
                    Err(error) => {
                        tracing::warn!(name = request.name, "not paired: {}", error.text());
                        site.fail(error.text());
                    }
                }
                true
            }
        };
        tls.write_all(&site.output()).await.map_err(Ended::Broken)?;
        tls.flush().await.map_err(Ended::Broken)?;
        if last {
            return tls.shutdown().await.map_err(Ended::Broken);
        }
    }
}

fn tell(verdict: &Verdict, from: &str) {
    match verdict {
        Verdict::Right(_) => {}
        Verdict::Wrong(0) => tracing::warn!(
            "pairing ended: the code was wrong {} times, last from {from}; open a new one with strongroom pair",
            pairing::TRIES
        ),
        Verdict::Wrong(left) => tracing::warn!(
            "a wrong pairing code from {from}, or someone in between; {left} tries are left"
        ),
        Verdict::Closed => {
            tracing::warn!("a pairing code from {from} came after the pairing had ended");
        }
    }
}

async fn issue(
    portal: &Portal,
    configs: &Configs,
    request: &Request,
    recovery: Option<Recovery>,
) -> Result<Paired, Error> {
    let scope = match &recovery {
        Some(recovery) => format!("restore:{}", recovery.datastore),
        None => "backup".to_owned(),
    };
    let (agent, chain) = portal
        .keys()
        .await?
        .issue_agent(&request.name, &request.csr, &scope)
        .await?;
    if let Some(recovery) = recovery {
        grant(portal, &recovery, &agent, &request.name).await?;
    }
    Ok(Paired {
        agent,
        chain,
        authority: configs.agents.clone(),
        names: configs.names.clone(),
        scope,
    })
}

/// The keyset is released here and now, or the agent never gets its certificate.
async fn grant(portal: &Portal, recovery: &Recovery, agent: &str, name: &str) -> Result<(), Error> {
    let until = runtime::now() + i64::from(recovery.hours) * 3600;
    let reason = format!("recovery by agent {agent} ({name})");
    let mut options = Options::from([
        ("agent", Value::from(agent)),
        ("until", Value::from(until)),
        ("reason", Value::from(reason)),
    ]);
    if let Some(share) = &recovery.share {
        options.insert("share", Value::from(share.as_str()));
    }
    let engine = portal.engine().await?;
    engine.grant(&recovery.datastore, options).await
}
