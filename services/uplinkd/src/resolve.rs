//! Names to addresses, by systemd-resolved over the bus: no network socket of our own.

use crate::configuration::split_endpoint;
use contract::Error;
use std::net::{IpAddr, SocketAddr};
use zbus::proxy;

#[proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_service = "org.freedesktop.resolve1",
    default_path = "/org/freedesktop/resolve1"
)]
trait Resolver {
    #[allow(clippy::type_complexity)]
    fn resolve_hostname(
        &self,
        interface: i32,
        name: &str,
        family: i32,
        flags: u64,
    ) -> zbus::Result<(Vec<(i32, i32, Vec<u8>)>, String, u64)>;
}

/// The addresses of "host:port"; of a literal address, itself.
pub(crate) async fn resolve(
    bus: &zbus::Connection,
    endpoint: &str,
) -> Result<Vec<SocketAddr>, Error> {
    let (host, port) = split_endpoint(endpoint).ok_or_else(|| {
        Error::InvalidArgument(format!("{endpoint} is not of the form host:port"))
    })?;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let answer = ResolverProxy::new(bus)
        .await?
        .resolve_hostname(0, host, 0, 0)
        .await;
    let (found, _, _) = answer.map_err(|error| {
        Error::CentreUnreachable(format!(
            "the name {host} of the centre cannot be resolved ({}); see this network's DNS",
            Error::ZBus(error).text()
        ))
    })?;
    let addresses: Vec<_> = found
        .into_iter()
        .filter_map(|(_, _, octets)| {
            let address = match octets.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
            };
            Some(SocketAddr::from((address, port)))
        })
        .collect();
    if addresses.is_empty() {
        return Err(Error::CentreUnreachable(format!(
            "the name {host} of the centre has no address; see this network's DNS"
        )));
    }
    Ok(addresses)
}
