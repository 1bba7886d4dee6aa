//! The tunnel against the simulated kernel. Against a real one: qemu-tests/tests/emul_uplink.rs.

use std::net::{Ipv6Addr, SocketAddr};
use wireguard::simulated::{Device, Simulated};
use wireguard::{Error, Interface, Peer, Tunnel};

fn interface() -> Interface {
    Interface {
        address: "fd00:1:2::2".parse().unwrap(),
        prefix: 64,
        listen_port: 0,
        mtu: 1420,
    }
}

fn peer(number: u16) -> Peer {
    let mut public = [0; 32];
    public[..2].copy_from_slice(&number.to_le_bytes());
    Peer {
        public,
        endpoint: Some(SocketAddr::from(([192, 0, 2, 1], 51820))),
        allowed: vec![(Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, number).into(), 128)],
        keepalive: 25,
    }
}

#[test]
fn it_is_made_configured_and_removed() {
    let kernel = Simulated::default();
    let mut tunnel = Tunnel::open(&kernel, "sr0").unwrap();
    tunnel.configure(&[7; 32], &interface()).unwrap();
    let device = kernel.device("sr0").unwrap();
    assert_eq!(device.key, Some([7; 32]));
    assert_eq!(device.addresses, [(interface().address, 64)]);
    assert!(device.up);
    assert_eq!(device.mtu, 1420);
    tunnel.remove().unwrap();
    assert!(kernel.device("sr0").is_none());
}

#[test]
fn a_second_configuration_finds_the_first() {
    let kernel = Simulated::default();
    let mut first = Tunnel::open(&kernel, "sr0").unwrap();
    first.configure(&[7; 32], &interface()).unwrap();
    assert!(first.set_peers(&[peer(1)]).unwrap());
    let moved = Interface {
        address: "fd00:1:2::3".parse().unwrap(),
        listen_port: 51820,
        ..interface()
    };
    let mut second = Tunnel::open(&kernel, "sr0").unwrap();
    second.configure(&[7; 32], &moved).unwrap();
    let device = kernel.device("sr0").unwrap();
    assert_eq!(device.addresses, [(moved.address, 64)]);
    assert_eq!(device.port, 51820);
    assert_eq!(second.peers().unwrap()[0].peer, peer(1));
    assert!(!second.set_peers(&[peer(1)]).unwrap());
}

#[test]
fn only_peers_that_differ_are_touched() {
    let kernel = Simulated::default();
    let mut tunnel = Tunnel::open(&kernel, "sr0").unwrap();
    let many: Vec<_> = (1..=200).map(peer).collect();
    assert!(tunnel.set_peers(&many).unwrap());
    assert_eq!(kernel.changes(), 200);
    kernel.handshake("sr0", &peer(9).public, 1_800_000_000);
    let mut fewer = many.clone();
    fewer.remove(3);
    fewer[0].keepalive = 0;
    // an endpoint not given leaves the learned one
    fewer[1].endpoint = None;
    assert!(tunnel.set_peers(&fewer).unwrap());
    assert_eq!(kernel.changes(), 202);
    let now = tunnel.peers().unwrap();
    assert_eq!(now.len(), 199);
    assert!(now.iter().all(|p| p.peer.public != peer(4).public));
    let nine = now
        .iter()
        .find(|p| p.peer.public == peer(9).public)
        .unwrap();
    assert_eq!(nine.handshake, Some(1_800_000_000));
    assert_eq!((nine.received, nine.sent), (92, 148));
    assert_eq!(now[1].peer.endpoint, peer(2).endpoint);
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let kernel = Simulated::without_wireguard();
    assert!(matches!(
        Tunnel::open(&kernel, "sr0"),
        Err(Error::NoWireGuard)
    ));
    let kernel = Simulated::default();
    kernel.add(Device {
        name: "sr0".into(),
        kind: "dummy".into(),
        ..Device::default()
    });
    assert!(matches!(Tunnel::open(&kernel, "sr0"), Err(Error::Foreign(name)) if name == "sr0"));
    let kernel = Simulated::default();
    let mut tunnel = Tunnel::open(&kernel, "sr0").unwrap();
    kernel.refuse(true);
    let error = tunnel.configure(&[7; 32], &interface()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "giving the uplink its key was refused by the kernel; see whether this service may (CAP_NET_ADMIN)"
    );
}
