//! `portald.toml`.

use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddr};

/// portald's settings; see [`runtime::config`] for where they come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where agents, new sites and those who ask the time connect. An IPv6 wildcard takes IPv4 too.
    pub(crate) listen: Vec<SocketAddr>,
    /// TCP port of replication, at the centre's address inside the tunnel.
    pub(crate) replication_port: u16,
    /// Instead of that address and port: a centre listens here, a site dials this. For appliances
    /// without a tunnel (tests).
    pub(crate) replicate: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: vec![(Ipv6Addr::UNSPECIFIED, protocol::token::DEFAULT_PORT).into()],
            replication_port: 7444,
            replicate: None,
        }
    }
}
