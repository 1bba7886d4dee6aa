//! Connections we make for other daemons.

use crate::identity::{Purpose, provider};
use crate::limits::{SESSIONS, SESSIONS_EACH};
use crate::portal::Portal;
use crate::session::{self, PATIENCE};
use crate::socket;
use crate::verify::Pinned;
use contract::Error;
use protocol::token::{Endpoint, FINGERPRINT, Host};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zbus::zvariant::OwnedFd;

/// Name in every centre's certificate, whatever address it has.
const CENTRE: &str = "centre.strongroom";

/// To a centre's portal, pinned by its authority's fingerprint.
pub(crate) async fn pinned(
    portal: &Arc<Portal>,
    purpose: Purpose,
    endpoint: &Endpoint,
    fingerprint: [u8; FINGERPRINT],
) -> Result<OwnedFd, Error> {
    let config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(Pinned::new(fingerprint))
        .with_no_client_auth();
    let place = endpoint.to_string();
    let stream = connect(&resolve(endpoint).await?, &place).await?;
    dial(portal, purpose, config, stream, &place).await
}

/// To the centre inside the tunnel, as this site.
pub(crate) async fn tunnel(portal: &Arc<Portal>, purpose: Purpose) -> Result<OwnedFd, Error> {
    let address = match portal.settings.replicate {
        Some(address) => address,
        None => centre(portal).await?,
    };
    let keys = portal.keys().await?;
    let (chain, key) = keys.site_identity().await?;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(keys.authority("fleet").await?))
        .map_err(|e| unusable("the centre's authority", &e))?;
    let pipe: std::os::fd::OwnedFd = key.into();
    let key = tokio::task::spawn_blocking(move || runtime::pipe::take_key(pipe))
        .await
        .map_err(|e| {
            Error::Failed(format!(
                "reading this site's key from keyd ended by a fault of portald's own ({e}); try \
                 again, and report it with this text"
            ))
        })??;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    // rustls parses it and drops these bytes; ours are wiped
    let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&key[..])).clone_key();
    let config = builder()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key_der)
        .map_err(|e| unusable("this site's certificate or key", &e))?;
    let place = address.to_string();
    let stream = connect(&[address], &place)
        .await
        .map_err(|error| Error::UplinkDown(error.text()))?;
    dial(portal, purpose, config, stream, &place).await
}

/// What keyd gave is not what it keeps.
fn unusable(what: &str, error: &rustls::Error) -> Error {
    Error::Damaged(format!(
        "{what}, as keyd has it, cannot be used ({error}); restore keyd's files \
         (/var/lib/strongroom/keyd) from a copy and restart the appliance"
    ))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| {
            Error::Failed(format!(
                "TLS cannot be set up, by a fault of portald's own ({e}); report it with this text"
            ))
        })
}

async fn centre(portal: &Portal) -> Result<SocketAddr, Error> {
    let uplink = contract::UplinkProxy::builder(&portal.daemon.bus)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let address = uplink.centre().await?;
    let address = address.split('/').next().unwrap_or_default();
    let address = address.parse().map_err(|_| {
        Error::UplinkDown("the uplink to the centre is not configured; enrol this site".into())
    })?;
    Ok(SocketAddr::new(address, portal.settings.replication_port))
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Error> {
    let name = match &endpoint.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, endpoint.port)]),
        Host::Name(name) => name,
    };
    let unknown = |why: &str| {
        Error::CentreUnreachable(format!(
            "the centre's name {name} cannot be resolved ({why}); check this network's DNS"
        ))
    };
    let found = timeout(
        PATIENCE,
        tokio::net::lookup_host((name.as_str(), endpoint.port)),
    )
    .await
    .map_err(|_| unknown("no answer"))?
    .map_err(|e| unknown(&e.to_string()))?
    .collect::<Vec<_>>();
    if found.is_empty() {
        return Err(unknown("it has no address"));
    }
    Ok(found)
}

/// The first address that answers; `place` names the end in errors.
async fn connect(addresses: &[SocketAddr], place: &str) -> Result<TcpStream, Error> {
    let mut why = "no address".to_owned();
    for address in addresses {
        // one of several must not use up the patience for all
        let each = PATIENCE.min(Duration::from_secs(20) / addresses.len().max(1) as u32);
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                socket::prepare(&stream).map_err(|e| {
                    Error::Failed(format!(
                        "the connection to the centre at {place} ended at once ({e}); try again"
                    ))
                })?;
                return Ok(stream);
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} seconds", each.as_secs()),
        }
    }
    Err(Error::CentreUnreachable(format!(
        "the centre at {place} cannot be reached ({why}); check the network between, its firewall, \
         and that the centre is on"
    )))
}

async fn dial(
    portal: &Arc<Portal>,
    purpose: Purpose,
    mut config: ClientConfig,
    stream: TcpStream,
    place: &str,
) -> Result<OwnedFd, Error> {
    let seat = portal.limits.session("the centre").ok_or_else(|| {
        Error::Failed(format!(
            "too many sessions are open at once ({SESSIONS_EACH} to the centre, or {SESSIONS} in \
             all); try again when some have ended"
        ))
    })?;
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from(CENTRE).expect("a DNS name");
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let tls = match timeout(PATIENCE, connected).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return Err(refused(&error, place)),
        Err(_) => {
            return Err(Error::CentreUnreachable(format!(
                "the centre at {place} took the connection and does not answer; look at its \
                 portald's journal"
            )));
        }
    };
    if tls.get_ref().1.alpn_protocol() != Some(purpose.alpn()) {
        return Err(Error::CentreUnreachable(format!(
            "what answers at {place} is no Strongroom centre of this release; check the address"
        )));
    }
    session::detach(portal, tls, seat)
}

/// A handshake that failed, told with what is wrong and what next.
fn refused(error: &std::io::Error, place: &str) -> Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(certificate)) => bad_certificate(certificate, place),
        Some(rustls::Error::AlertReceived(alert)) => Error::NotAuthorised(format!(
            "the centre at {place} refused this machine ({alert:?}); look at its portald's journal"
        )),
        Some(_) | None => Error::CentreUnreachable(format!(
            "the connection to the centre at {place} failed ({error}); check that a Strongroom \
             centre answers there"
        )),
    }
}

fn bad_certificate(error: &CertificateError, place: &str) -> Error {
    use CertificateError::{BadSignature, ExpiredContext, NotValidYetContext, UnknownIssuer};
    match error {
        NotValidYetContext { time, not_before } => Error::ClockWrong(format!(
            "the clock of this machine says {}; the centre's certificate is valid from {}: set the \
             clock right",
            date(time.as_secs()),
            date(not_before.as_secs())
        )),
        ExpiredContext { time, not_after } => Error::ClockWrong(format!(
            "the clock of this machine says {}; the centre's certificate was valid until {}: set \
             the clock right, or restart portald at the centre",
            date(time.as_secs()),
            date(not_after.as_secs())
        )),
        UnknownIssuer | BadSignature => Error::NotAuthorised(format!(
            "the machine that answers at {place} is not the centre this was made for; check the \
             address, and whether someone stands in between"
        )),
        other => Error::NotAuthorised(format!(
            "the certificate of the machine at {place} is not a centre's ({other:?}); check the \
             address, and whether someone stands in between"
        )),
    }
}

fn date(seconds: u64) -> String {
    match jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => "a time beyond all calendars".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;

    #[test]
    fn what_keyd_gives_and_cannot_be_used_is_told_with_the_next_step() {
        let error = rustls::Error::General("no certificate".into());
        assert_eq!(
            unusable("the centre's authority", &error).text(),
            "the centre's authority, as keyd has it, cannot be used (unexpected error: no \
             certificate); restore keyd's files (/var/lib/strongroom/keyd) from a copy and restart \
             the appliance"
        );
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_both_dates() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = CertificateError::NotValidYetContext {
            time: at(1_700_000_000),
            not_before: at(1_790_000_000),
        };
        assert_eq!(
            bad_certificate(&early, "[fd00::1]:7444").text(),
            "the clock of this machine says 2023-11-14 22:13 UTC; the centre's certificate is valid \
             from 2026-09-21 14:13 UTC: set the clock right"
        );
        let late = CertificateError::ExpiredContext {
            time: at(1_790_000_000),
            not_after: at(1_700_000_000),
        };
        assert!(matches!(
            bad_certificate(&late, "x"),
            Error::ClockWrong(text) if text.contains("was valid until 2023-11-14")
        ));
    }
}
