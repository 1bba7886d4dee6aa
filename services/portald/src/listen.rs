//! Listeners: which there are, and what comes in.

use crate::portal::{Portal, Role};
use crate::{session, socket};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Pause after an accept that failed (out of descriptors), and before another try to bind.
const PAUSE: Duration = Duration::from_millis(200);
const REBIND: Duration = Duration::from_secs(5);

/// What is served on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Portal,
    Replication,
}

/// Opens the doors of the role as soon as there are certificates, and keeps them open.
pub(crate) fn keep(portal: &Arc<Portal>) {
    for address in &portal.settings.listen {
        tokio::spawn(serve(portal.clone(), *address, Door::Portal));
    }
    tokio::spawn(replication(portal.clone()));
}

/// At a centre: on the address it has inside the tunnel, now.
async fn replication(portal: Arc<Portal>) {
    let (mut configs, mut address) = (portal.configs.subscribe(), portal.address.clone());
    loop {
        let wanted = (portal.role() == Role::Centre && configs.borrow_and_update().is_some())
            .then(|| replication_address(&portal, address.borrow_and_update().as_deref()))
            .flatten();
        let door = async {
            match wanted {
                Some(address) => serve(portal.clone(), address, Door::Replication).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = door => return,
            () = async {
                // a renewed certificate is no reason to close the door
                loop {
                    tokio::select! {
                        change = configs.changed() => if change.is_err() || wanted.is_none() { return },
                        change = address.changed() => { let _ = change; return },
                    }
                }
            } => {}
        }
    }
}

fn replication_address(portal: &Portal, tunnel: Option<&str>) -> Option<SocketAddr> {
    if portal.settings.replicate.is_some() {
        return portal.settings.replicate;
    }
    // uplinkd may tell it with its prefix length
    let address = tunnel?.split('/').next()?.parse().ok()?;
    Some(SocketAddr::new(address, portal.settings.replication_port))
}

/// Listens until shutdown; binds when there is something to serve.
async fn serve(portal: Arc<Portal>, address: SocketAddr, door: Door) {
    let mut configs = portal.configs.subscribe();
    if configs.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let listener = loop {
        match socket::listen(address) {
            Ok(listener) => break listener,
            Err(error) => tracing::error!("cannot listen on {address}: {error}; trying again"),
        }
        tokio::time::sleep(REBIND).await;
    };
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!("listens on {bound} ({door:?})");
    let _open = Open::new(portal.clone(), address, bound).await;
    accept(&portal, &listener, bound, door).await;
}

async fn accept(portal: &Arc<Portal>, listener: &TcpListener, bound: SocketAddr, door: Door) {
    let mut refused = 0u64;
    loop {
        // cancel-safe: a connection is either taken or left in the queue
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = portal.daemon.shutdown.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if door == Door::Replication && !inside(bound.ip(), peer.ip()) {
            tracing::warn!(%peer, "refused: replication is for the tunnel only");
            continue;
        }
        let Some(stranger) = portal.limits.stranger(peer.ip()) else {
            refused += 1;
            // powers of two: a flood must not flood the journal
            if refused.is_power_of_two() {
                tracing::warn!(%peer, "refused: too many connections whose peer is not known yet ({refused} so far)");
            }
            continue;
        };
        tokio::spawn(attend(portal.clone(), stream, peer, door, stranger));
    }
}

async fn attend(
    portal: Arc<Portal>,
    stream: TcpStream,
    peer: SocketAddr,
    door: Door,
    stranger: crate::limits::Stranger,
) {
    let shutdown = portal.daemon.shutdown.clone();
    tokio::select! {
        ended = session::serve(&portal, stream, door, stranger) => {
            if let Err(why) = ended {
                tracing::info!(%peer, "{why}");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

/// Whether a peer is inside the tunnel whose address of ours this is: of the same /48.
fn inside(ours: IpAddr, peer: IpAddr) -> bool {
    match (ours.to_canonical(), peer.to_canonical()) {
        (IpAddr::V6(ours), IpAddr::V6(peer)) => ours.to_bits() >> 80 == peer.to_bits() >> 80,
        // only tests listen for sites on IPv4, and there on loopback
        (IpAddr::V4(ours), IpAddr::V4(peer)) => ours.is_loopback() && peer.is_loopback(),
        _ => false,
    }
}

/// An entry of the property Listening.
struct Open {
    portal: Arc<Portal>,
    address: SocketAddr,
}

impl Open {
    async fn new(portal: Arc<Portal>, address: SocketAddr, bound: SocketAddr) -> Open {
        portal
            .listening
            .lock()
            .expect("no panic holds it")
            .insert(address, bound);
        crate::bus::listening_changed(&portal.daemon.bus).await;
        Open { portal, address }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut listening = self.portal.listening.lock().expect("no panic holds it");
        listening.remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn only_the_tunnels_own_network_is_inside() {
        let check = |a: &str, b: &str| inside(a.parse().unwrap(), b.parse().unwrap());
        assert!(check("fd12:3456:789a::1", "fd12:3456:789a::2:7"));
        assert!(!check("fd12:3456:789a::1", "fd12:3456:789b::2"));
        assert!(!check("fd12:3456:789a::1", "::1"));
        assert!(!check("fd12:3456:789a::1", "10.0.0.1"));
        assert!(check("127.0.0.1", "127.0.0.2"));
        assert!(!check("127.0.0.1", "10.0.0.2"));
    }
}
