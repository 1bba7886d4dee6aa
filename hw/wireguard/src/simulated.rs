//! A kernel of our own behind [`Ports`]: links, addresses and WireGuard devices in memory. What
//! passes through real packets (handshakes, counters) is set by the test.

use crate::message::{
    DONE, ERROR, F_ACK, F_CREATE, F_DUMP, F_EXCL, F_MULTI, Message, Writer, attributes, find,
    messages, text, u16_at, u32_at,
};
use crate::port::{Port, Ports, Protocol};
use crate::{KEY_LEN, PeerState, generic, route};
use nix::errno::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};

const FAMILY: u16 = 31;

/// One interface.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its kind; "wireguard" for ours.
    pub kind: String,
    /// Whether it is raised.
    pub up: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Its addresses and their prefixes.
    pub addresses: Vec<(Ipv6Addr, u8)>,
    /// The private key, once set.
    pub key: Option<[u8; KEY_LEN]>,
    /// The UDP port.
    pub port: u16,
    /// The peers.
    pub peers: Vec<PeerState>,
}

#[derive(Default)]
struct State {
    devices: BTreeMap<u32, Device>,
    absent: bool,
    refused: bool,
    changes: usize,
}

/// The simulated kernel. Clones share one state.
#[derive(Clone, Default)]
pub struct Simulated(Arc<Mutex<State>>);

impl Simulated {
    /// A kernel that has never heard of WireGuard.
    pub fn without_wireguard() -> Simulated {
        let kernel = Simulated::default();
        kernel.state().absent = true;
        kernel
    }

    /// From now on refuses (EPERM) or grants what changes something.
    pub fn refuse(&self, refused: bool) {
        self.state().refused = refused;
    }

    /// The interface of this name.
    pub fn device(&self, name: &str) -> Option<Device> {
        let state = self.state();
        state.devices.values().find(|d| d.name == name).cloned()
    }

    /// How many peers were set or removed so far.
    pub fn changes(&self) -> usize {
        self.state().changes
    }

    /// Adds an interface, or replaces the one of its name.
    pub fn add(&self, device: Device) {
        let mut state = self.state();
        state.devices.retain(|_, d| d.name != device.name);
        let index = state.devices.keys().max().unwrap_or(&1) + 1;
        state.devices.insert(index, device);
    }

    /// Removes the interface of this name, as `ip link del` does.
    pub fn remove(&self, name: &str) {
        self.state().devices.retain(|_, d| d.name != name);
    }

    /// Lets a peer of an interface have had a handshake then (Unix seconds).
    pub fn handshake(&self, name: &str, public: &[u8; KEY_LEN], at: i64) {
        for device in self.state().devices.values_mut().filter(|d| d.name == name) {
            for peer in device.peers.iter_mut().filter(|p| p.peer.public == *public) {
                peer.handshake = Some(at);
                peer.received += 92;
                peer.sent += 148;
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic holds it")
    }
}

impl Ports for Simulated {
    fn open(&self, protocol: Protocol) -> Result<Box<dyn Port>, Errno> {
        Ok(Box::new(SimulatedPort {
            state: self.0.clone(),
            protocol,
            answers: VecDeque::new(),
        }))
    }
}

struct SimulatedPort {
    state: Arc<Mutex<State>>,
    protocol: Protocol,
    answers: VecDeque<Vec<u8>>,
}

impl Port for SimulatedPort {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let request = messages(bytes).next().ok_or(Errno::EINVAL)?;
        let mut state = self.state.lock().expect("no panic holds it");
        let result = match self.protocol {
            Protocol::Route => state.route(&request),
            Protocol::Generic => state.generic(&request),
        };
        let (answers, code) = match result {
            Ok(answers) => (answers, 0),
            Err(errno) => (Vec::new(), -(errno as i32)),
        };
        let many = request.flags & F_DUMP == F_DUMP;
        for answer in answers {
            let mut bytes = answer.finish(request.sequence).to_vec();
            let flags = if many { F_MULTI } else { 0 };
            bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
            self.answers.push_back(bytes);
        }
        let end = |kind| Writer::new(kind, 0).fixed(&code.to_ne_bytes());
        if many && code == 0 {
            self.answers
                .push_back(end(DONE).finish(request.sequence).to_vec());
        } else if code != 0 || request.flags & F_ACK != 0 {
            self.answers
                .push_back(end(ERROR).finish(request.sequence).to_vec());
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let answer = self.answers.pop_front().ok_or(Errno::EAGAIN)?;
        buffer[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

impl State {
    fn route(&mut self, request: &Message<'_>) -> Result<Vec<Writer>, Errno> {
        let changes = ![route::GET_LINK, route::GET_ADDRESS].contains(&request.kind);
        if changes && self.refused {
            return Err(Errno::EPERM);
        }
        match request.kind {
            route::GET_LINK | route::NEW_LINK | route::DEL_LINK => self.link(request),
            _ => self.address(request),
        }
    }

    fn link(&mut self, request: &Message<'_>) -> Result<Vec<Writer>, Errno> {
        let index = u32_at(request.payload, 4).ok_or(Errno::EINVAL)?;
        let given = request
            .payload
            .get(route::LINK_LEN..)
            .ok_or(Errno::EINVAL)?;
        let name = find(given, route::LINK_NAME).map(text);
        let place = self
            .devices
            .iter()
            .find(|(i, d)| **i == index || name.as_ref() == Some(&d.name))
            .map(|(i, _)| *i);
        match (request.kind, place) {
            (route::NEW_LINK, None) if request.flags & F_CREATE != 0 => {
                let kind = find(given, route::LINK_INFO)
                    .and_then(|info| find(info, route::INFO_KIND))
                    .map(text)
                    .ok_or(Errno::EINVAL)?;
                if self.absent {
                    return Err(Errno::EOPNOTSUPP);
                }
                let index = self.devices.keys().max().unwrap_or(&1) + 1;
                let device = Device {
                    name: name.ok_or(Errno::EINVAL)?,
                    kind,
                    ..Device::default()
                };
                self.devices.insert(index, device);
                Ok(Vec::new())
            }
            (_, None) => Err(Errno::ENODEV),
            (route::NEW_LINK, Some(_)) if request.flags & F_EXCL != 0 => Err(Errno::EEXIST),
            (route::NEW_LINK, Some(place)) => {
                let device = self.devices.get_mut(&place).ok_or(Errno::ENODEV)?;
                let flags = u32_at(request.payload, 8).ok_or(Errno::EINVAL)?;
                device.up = flags & route::UP != 0;
                if let Some(mtu) = find(given, route::LINK_MTU) {
                    device.mtu = u32_at(mtu, 0).ok_or(Errno::EINVAL)?;
                }
                Ok(Vec::new())
            }
            (route::DEL_LINK, Some(place)) => {
                self.devices.remove(&place);
                Ok(Vec::new())
            }
            (_, Some(place)) => {
                let device = &self.devices[&place];
                let mut fixed = [0; route::LINK_LEN];
                fixed[4..8].copy_from_slice(&place.to_ne_bytes());
                Ok(vec![
                    Writer::new(route::NEW_LINK, 0)
                        .fixed(&fixed)
                        .attribute(route::LINK_NAME, device.name.as_bytes())
                        .nest(route::LINK_INFO, |w| {
                            w.attribute(route::INFO_KIND, device.kind.as_bytes())
                        }),
                ])
            }
        }
    }

    fn address(&mut self, request: &Message<'_>) -> Result<Vec<Writer>, Errno> {
        let fixed = request
            .payload
            .get(..route::ADDRESS_LEN)
            .ok_or(Errno::EINVAL)?;
        if request.kind == route::GET_ADDRESS {
            return Ok(self.devices.iter().flat_map(list_addresses).collect());
        }
        let index = u32_at(fixed, 4).ok_or(Errno::EINVAL)?;
        let device = self.devices.get_mut(&index).ok_or(Errno::ENODEV)?;
        let octets: [u8; 16] = find(&request.payload[route::ADDRESS_LEN..], route::LOCAL)
            .and_then(|value| value.try_into().ok())
            .ok_or(Errno::EINVAL)?;
        let entry = (Ipv6Addr::from(octets), fixed[1]);
        let place = device.addresses.iter().position(|a| *a == entry);
        match (request.kind, place) {
            (route::NEW_ADDRESS, Some(_)) => Err(Errno::EEXIST),
            (route::NEW_ADDRESS, None) => {
                device.addresses.push(entry);
                Ok(Vec::new())
            }
            (_, Some(place)) => {
                device.addresses.remove(place);
                Ok(Vec::new())
            }
            (_, None) => Err(Errno::EADDRNOTAVAIL),
        }
    }

    fn generic(&mut self, request: &Message<'_>) -> Result<Vec<Writer>, Errno> {
        let command = *request.payload.first().ok_or(Errno::EINVAL)?;
        let given = request
            .payload
            .get(generic::FIXED_LEN..)
            .ok_or(Errno::EINVAL)?;
        if request.kind == generic::CONTROL && command == generic::GET_FAMILY {
            let name = find(given, generic::FAMILY_NAME).map(text);
            if self.absent || name.as_deref() != Some("wireguard") {
                return Err(Errno::ENOENT);
            }
            return Ok(vec![
                Writer::new(generic::CONTROL, 0)
                    .fixed(&[1, 1, 0, 0])
                    .attribute(generic::FAMILY_ID, &FAMILY.to_ne_bytes()),
            ]);
        }
        let index = find(given, generic::INDEX)
            .and_then(|v| u32_at(v, 0))
            .ok_or(Errno::EINVAL)?;
        if command == generic::SET_DEVICE && self.refused {
            return Err(Errno::EPERM);
        }
        let device = self.devices.get_mut(&index).ok_or(Errno::ENODEV)?;
        if command == generic::GET_DEVICE {
            return Ok(list_peers(device));
        }
        if let Some(key) = find(given, generic::PRIVATE_KEY) {
            device.key = Some(key.try_into().map_err(|_| Errno::EINVAL)?);
        }
        if let Some(port) = find(given, generic::LISTEN_PORT) {
            device.port = u16_at(port, 0).ok_or(Errno::EINVAL)?;
        }
        for (_, value) in find(given, generic::PEERS).into_iter().flat_map(attributes) {
            let (change, flags) = generic::read_change(value).ok_or(Errno::EINVAL)?;
            self.changes += 1;
            let place = device
                .peers
                .iter()
                .position(|p| p.peer.public == change.peer.public);
            match place {
                Some(place) if flags & generic::REMOVE_PEER != 0 => {
                    device.peers.remove(place);
                }
                Some(place) => {
                    let old = &mut device.peers[place].peer;
                    old.endpoint = change.peer.endpoint.or(old.endpoint);
                    old.keepalive = change.peer.keepalive;
                    if flags & generic::REPLACE_ALLOWED != 0 {
                        old.allowed.clear();
                    }
                    old.allowed.extend(change.peer.allowed);
                }
                None if flags & generic::REMOVE_PEER == 0 => device.peers.push(change),
                None => {}
            }
        }
        Ok(Vec::new())
    }
}

fn list_addresses((index, device): (&u32, &Device)) -> Vec<Writer> {
    let one = |(address, prefix): &(Ipv6Addr, u8)| {
        let mut fixed = [route::INET6, *prefix, 0, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        Writer::new(route::NEW_ADDRESS, 0)
            .fixed(&fixed)
            .attribute(route::ADDRESS, &address.octets())
    };
    device.addresses.iter().map(one).collect()
}

/// One message a peer, as the kernel may split them, each with the private key.
fn list_peers(device: &Device) -> Vec<Writer> {
    let head = || {
        Writer::new(FAMILY, 0)
            .fixed(&[generic::GET_DEVICE, 1, 0, 0])
            .attribute(generic::PRIVATE_KEY, &device.key.unwrap_or_default())
    };
    if device.peers.is_empty() {
        return vec![head()];
    }
    let one = |state: &PeerState| {
        let peer = &state.peer;
        let handshake = [state.handshake.unwrap_or(0), 0]
            .map(i64::to_ne_bytes)
            .concat();
        head().nest(generic::PEERS, |w| {
            w.nest(0, |mut w| {
                w = w
                    .attribute(generic::PEER_KEY, &peer.public)
                    .attribute(generic::PEER_KEEPALIVE, &peer.keepalive.to_ne_bytes())
                    .attribute(generic::PEER_HANDSHAKE, &handshake)
                    .attribute(generic::PEER_RECEIVED, &state.received.to_ne_bytes())
                    .attribute(generic::PEER_SENT, &state.sent.to_ne_bytes());
                if let Some(endpoint) = peer.endpoint {
                    w = w.attribute(generic::PEER_ENDPOINT, &generic::socket_address(endpoint));
                }
                w.nest(generic::PEER_ALLOWED, |w| {
                    peer.allowed.iter().fold(w, |w, (address, prefix)| {
                        w.nest(0, |w| generic::write_allowed(w, *address, *prefix))
                    })
                })
            })
        })
    };
    device.peers.iter().map(one).collect()
}
