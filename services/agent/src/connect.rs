//! TLS to the paired appliance, whose authority was pinned at pairing.

use crate::identity::Identity;
use crate::{Error, Result};
use protocol::ALPN_AGENT;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a connection may take to come about.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The appliance's port when none is named.
pub const PORT: u16 = 7443;

/// Dials one appliance, as often as sessions are needed.
#[derive(Clone)]
pub struct Dialer {
    endpoint: String,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Dialer {
    /// A dialer with this identity; `None` when keys or certificates are none.
    pub fn new(identity: &Identity) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(identity.authority.clone()))
            .ok()?;
        let chain = identity
            .chain
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.to_vec()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .ok()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .ok()?;
        config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
        // the certificate says which agent this is; a resumed session would not show it again
        config.resumption = rustls::client::Resumption::disabled();
        Some(Self {
            endpoint: identity.endpoint.clone(),
            name: ServerName::try_from(identity.server_name.clone()).ok()?,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// A connection.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Clock`] or [`Error::Untrusted`].
    pub async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let stream = dial_tcp(&self.endpoint).await?;
        match timeout(PATIENCE, self.connector.connect(self.name.clone(), stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(untrusted(&self.endpoint, &error)),
            Err(_) => Err(Error::Connect {
                endpoint: self.endpoint.clone(),
                reason: "it took the connection and does not answer".into(),
            }),
        }
    }
}

/// Why a handshake failed. Of certificates only a server's has dates that can be over.
fn untrusted(endpoint: &str, error: &std::io::Error) -> Error {
    use CertificateError::{BadSignature, ExpiredContext, NotValidYetContext, UnknownIssuer};
    let endpoint = endpoint.to_owned();
    let clock = |now: &UnixTime, word: &str, limit: &UnixTime| Error::Clock {
        endpoint: endpoint.clone(),
        now: date(now),
        valid: format!("{word} {}", date(limit)),
    };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let reason = match tls {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            NotValidYetContext { time, not_before } => return clock(time, "from", not_before),
            ExpiredContext { time, not_after } => return clock(time, "until", not_after),
            // authorities may have the same name
            UnknownIssuer | BadSignature => "its certificate is of another authority".into(),
            other => other.to_string(),
        },
        Some(other) => other.to_string(),
        None => {
            let reason = error.to_string();
            return Error::Connect { endpoint, reason };
        }
    };
    Error::Untrusted { endpoint, reason }
}

fn date(time: &UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => "a time beyond all calendars".into(),
    }
}

/// A TCP connection to `host:port`.
///
/// # Errors
/// [`Error::Connect`].
pub async fn dial_tcp(endpoint: &str) -> Result<TcpStream> {
    let failed = |reason: String| Error::Connect {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let stream = match timeout(PATIENCE, TcpStream::connect(endpoint)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("no answer".into())),
    };
    let keepalive = || -> nix::Result<()> {
        use nix::sys::socket::{setsockopt, sockopt};
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &60)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &15)
    };
    stream
        .set_nodelay(true)
        .and_then(|()| keepalive().map_err(Into::into))
        .map_err(|e| failed(e.to_string()))?;
    Ok(stream)
}

/// `host`, `host:port` or `[v6]:port` with our port when none is named.
pub fn with_port(host: &str) -> String {
    let bare_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let named = !bare_v6
        && host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (named, bare_v6) {
        (true, _) => host.to_owned(),
        (false, true) => format!("[{host}]:{PORT}"),
        (false, false) => format!("{host}:{PORT}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_port_is_ours_unless_named() {
        for (given, full) in [
            ("site", "site:7443"),
            ("site:1", "site:1"),
            ("10.0.0.1", "10.0.0.1:7443"),
            ("fd00::1", "[fd00::1]:7443"),
            ("[fd00::1]", "[fd00::1]:7443"),
            ("[fd00::1]:9", "[fd00::1]:9"),
        ] {
            assert_eq!(super::with_port(given), full);
        }
    }
}
