//! Our TLS key, made anew in memory at each start, and what we serve with it.

use crate::portal::{Portal, Role};
use anyhow::Context;
use contract::Error;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Certificates begin a day before they are made and are good for 30 days; we ask for new ones
/// after a week.
const FRESH: i64 = 8 * 86_400;
/// How often that is looked at: by the wall clock, as it may be set under our feet.
const LOOK: Duration = Duration::from_secs(15);
/// When keyd refused: it may have been asked before it was unsealed.
const RETRY: Duration = Duration::from_secs(5);

pub(crate) struct ServerKey {
    /// PKCS#8 DER.
    key: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER.
    csr: Vec<u8>,
}

impl ServerKey {
    pub(crate) fn make() -> anyhow::Result<ServerKey> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .context("no key for TLS could be made")?;
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&pair)
            .context("no certificate could be requested")?;
        Ok(ServerKey {
            key: Zeroizing::new(pair.serialize_der()),
            csr: csr.der().to_vec(),
        })
    }
}

/// What a client wants, by its ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Agent,
    Pair,
    Enrol,
    Time,
    Site,
    Control,
}

impl Purpose {
    pub(crate) const ALL: [Purpose; 6] = [
        Purpose::Agent,
        Purpose::Pair,
        Purpose::Enrol,
        Purpose::Time,
        Purpose::Site,
        Purpose::Control,
    ];

    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Agent => protocol::ALPN_AGENT,
            Purpose::Pair => protocol::pairing::ALPN,
            Purpose::Enrol => protocol::enrol::ALPN,
            Purpose::Time => protocol::time::ALPN,
            Purpose::Site => protocol::ALPN_SITE,
            Purpose::Control => protocol::enrol::custody::ALPN,
        }
    }
}

/// One TLS configuration per purpose, as far as this appliance's role serves it.
pub(crate) struct Configs {
    /// For who wants nothing we serve: no protocol ever fits it.
    pub(crate) stranger: Arc<ServerConfig>,
    agent: Arc<ServerConfig>,
    pair: Arc<ServerConfig>,
    fleet: Option<Fleet>,
    /// When our certificates begin, seconds since 1970.
    begin: i64,
    /// The agents' authority, DER.
    pub(crate) agents: Vec<u8>,
    /// DNS names of our certificate towards agents.
    pub(crate) names: Vec<String>,
}

struct Fleet {
    enrol: Arc<ServerConfig>,
    time: Arc<ServerConfig>,
    site: Arc<ServerConfig>,
    control: Arc<ServerConfig>,
}

impl Configs {
    pub(crate) fn serving(&self, purpose: Purpose) -> Option<Arc<ServerConfig>> {
        let fleet = self.fleet.as_ref();
        match purpose {
            Purpose::Agent => Some(self.agent.clone()),
            Purpose::Pair => Some(self.pair.clone()),
            Purpose::Enrol => fleet.map(|f| f.enrol.clone()),
            Purpose::Time => fleet.map(|f| f.time.clone()),
            Purpose::Site => fleet.map(|f| f.site.clone()),
            Purpose::Control => fleet.map(|f| f.control.clone()),
        }
    }

    async fn fetch(portal: &Portal, role: Role) -> Result<Configs, Error> {
        let keys = portal.keys().await?;
        let agents = keys.authority("agents").await?;
        let chain = keys.server_certificate("agents", &portal.key.csr).await?;
        let names = crate::peer::dns_names(chain.first().map_or(&[], Vec::as_slice));
        let make = |chain: &[Vec<u8>], alpn: &[u8], authority: Option<&[u8]>| {
            config(&portal.key, chain, alpn, authority)
                .map_err(|e| Error::Failed(format!("keyd's certificates cannot be served: {e:#}")))
        };
        let fleet = if role == Role::Centre {
            let authority = keys.authority("fleet").await?;
            let mut chain = keys.server_certificate("fleet", &portal.key.csr).await?;
            // who enrols knows only the authority's fingerprint, so it must be among these
            if !chain.contains(&authority) {
                chain.push(authority.clone());
            }
            Some(Fleet {
                enrol: make(&chain, Purpose::Enrol.alpn(), None)?,
                time: make(&chain, Purpose::Time.alpn(), None)?,
                site: make(&chain, Purpose::Site.alpn(), Some(&authority))?,
                control: make(&chain, Purpose::Control.alpn(), Some(&authority))?,
            })
        } else {
            None
        };
        let begin = chain.first().and_then(|leaf| crate::peer::validity(leaf));
        Ok(Configs {
            begin: begin.map_or(0, |(begin, _)| begin),
            stranger: make(&chain, b"strongroom", None)?,
            agent: make(&chain, Purpose::Agent.alpn(), Some(&agents))?,
            pair: make(&chain, Purpose::Pair.alpn(), None)?,
            fleet,
            agents,
            names,
        })
    }
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn config(
    key: &ServerKey,
    chain: &[Vec<u8>],
    alpn: &[u8],
    authority: Option<&[u8]>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(authority))?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
            builder.with_client_cert_verifier(Arc::new(crate::admit::Naming(verifier)))
        }
        None => builder.with_no_client_auth(),
    };
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.key.to_vec()));
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // each session proves itself: no tickets, no early data
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Whether certificates that begin then are to be replaced: they are a week old, or were made by a
/// clock that was ahead.
fn stale(begin: i64, now: i64) -> bool {
    !(begin..begin.saturating_add(FRESH)).contains(&now)
}

/// Keeps [`Portal::configs`] as the role and keyd have it.
pub(crate) fn keep(portal: &Arc<Portal>) {
    let portal = portal.clone();
    tokio::spawn(async move {
        let mut enrolment = portal.enrolment.clone();
        let mut keyd =
            runtime::follow::property(&portal.daemon.bus, "org.strongroom.Keys1", "State");
        let mut told = String::new();
        let mut due = true;
        loop {
            let role = portal.role();
            let wait = if role == Role::None || !due {
                LOOK
            } else {
                match Configs::fetch(&portal, role).await {
                    Ok(configs) => {
                        told.clear();
                        tracing::info!(?role, "has its certificates");
                        portal.configs.send_replace(Some(Arc::new(configs)));
                        LOOK
                    }
                    Err(error) => {
                        // what was served before is served on: better an old certificate than none
                        let text = error.text();
                        if text != told {
                            tracing::warn!("keyd gives no certificates: {text}");
                            told = text;
                        }
                        RETRY
                    }
                }
            };
            // cancel-safe: a watch keeps its newest value
            let changed = tokio::select! {
                change = enrolment.changed() => if change.is_err() { return } else { true },
                change = keyd.changed() => if change.is_err() { return } else { true },
                () = tokio::time::sleep(wait) => false,
                () = portal.daemon.shutdown.cancelled() => return,
            };
            let configs = portal.configs.borrow();
            due = changed
                || configs
                    .as_ref()
                    .is_none_or(|configs| stale(configs.begin, runtime::now()));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::stale;

    #[test]
    fn a_clock_that_was_set_makes_certificates_new() {
        const DAY: i64 = 86_400;
        let made = 20_000 * DAY;
        let begin = made - DAY;
        assert!(!stale(begin, made));
        assert!(!stale(begin, made + 6 * DAY));
        assert!(stale(begin, made + 7 * DAY));
        assert!(stale(begin, made + 365 * DAY));
        assert!(stale(begin, made - 365 * DAY));
    }
}
