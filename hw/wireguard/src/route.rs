//! Links and addresses (rtnetlink).

use crate::message::{F_ACK, F_CREATE, F_DUMP, F_EXCL, Writer, find, text, u32_at};
use crate::port::{Error, Line};
use nix::errno::Errno;
use std::net::Ipv6Addr;

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DEL_LINK: u16 = 17;
pub(crate) const GET_LINK: u16 = 18;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DEL_ADDRESS: u16 = 21;
pub(crate) const GET_ADDRESS: u16 = 22;
pub(crate) const LINK_LEN: usize = 16;
pub(crate) const ADDRESS_LEN: usize = 8;
pub(crate) const LINK_NAME: u16 = 3;
pub(crate) const LINK_MTU: u16 = 4;
pub(crate) const LINK_INFO: u16 = 18;
pub(crate) const INFO_KIND: u16 = 1;
pub(crate) const ADDRESS: u16 = 1;
pub(crate) const LOCAL: u16 = 2;
pub(crate) const UP: u32 = 1;
pub(crate) const INET6: u8 = 10;
/// No duplicate address detection: nobody else can have it, and it would delay the first packet.
const NO_DAD: u8 = 2;
const SCOPE_LINK: u8 = 253;

pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) wireguard: bool,
}

fn link(index: u32, flags: u32, change: u32) -> [u8; LINK_LEN] {
    let mut fixed = [0; LINK_LEN];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn name_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

pub(crate) fn get_link(line: &mut Line, name: &str) -> Result<Option<Link>, Error> {
    const DOING: &str = "looking for the uplink's interface";
    let request = Writer::new(GET_LINK, 0)
        .fixed(&link(0, 0, 0))
        .attribute(LINK_NAME, &name_bytes(name));
    let mut found = None;
    let asked = line.ask(DOING, request, |answer| found = read_link(answer.payload));
    match asked {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => found.map(Some).ok_or(Error::Answer(DOING)),
    }
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let kind = payload
        .get(LINK_LEN..)
        .and_then(|attributes| find(attributes, LINK_INFO))
        .and_then(|info| find(info, INFO_KIND))
        .map(text);
    Some(Link {
        index: u32_at(payload, 4)?,
        wireguard: kind.as_deref() == Some("wireguard"),
    })
}

pub(crate) fn make_link(line: &mut Line, name: &str) -> Result<(), Error> {
    let request = Writer::new(NEW_LINK, F_ACK | F_CREATE | F_EXCL)
        .fixed(&link(0, 0, 0))
        .attribute(LINK_NAME, &name_bytes(name))
        .nest(LINK_INFO, |w| w.attribute(INFO_KIND, b"wireguard\0"));
    match line.ask("making the uplink's interface", request, |_| {}) {
        // made by another process since we looked
        Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Err(Error::NoWireGuard),
        result => result,
    }
}

pub(crate) fn remove_link(line: &mut Line, index: u32) -> Result<(), Error> {
    let request = Writer::new(DEL_LINK, F_ACK).fixed(&link(index, 0, 0));
    match line.ask("removing the uplink's interface", request, |_| {}) {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
        result => result,
    }
}

pub(crate) fn raise_link(line: &mut Line, index: u32, mtu: u32) -> Result<(), Error> {
    let request = Writer::new(NEW_LINK, F_ACK)
        .fixed(&link(index, UP, UP))
        .attribute(LINK_MTU, &mtu.to_ne_bytes());
    line.ask("raising the uplink's interface", request, |_| {})
}

/// The interface's addresses that people or we gave it: link-local ones are the kernel's.
pub(crate) fn addresses(line: &mut Line, index: u32) -> Result<Vec<(Ipv6Addr, u8)>, Error> {
    let mut fixed = [0; ADDRESS_LEN];
    fixed[0] = INET6;
    let request = Writer::new(GET_ADDRESS, F_DUMP).fixed(&fixed);
    let mut found = Vec::new();
    line.ask("reading the uplink's addresses", request, |answer| {
        found.extend(read_address(answer.payload, index));
    })?;
    Ok(found)
}

fn read_address(payload: &[u8], index: u32) -> Option<(Ipv6Addr, u8)> {
    let (fixed, attributes) = payload.split_first_chunk::<ADDRESS_LEN>()?;
    if u32_at(fixed, 4) != Some(index) || fixed[3] == SCOPE_LINK {
        return None;
    }
    let octets: [u8; 16] = find(attributes, ADDRESS)?.try_into().ok()?;
    Some((Ipv6Addr::from(octets), fixed[1]))
}

fn address(kind: u16, flags: u16, index: u32, address: Ipv6Addr, prefix: u8) -> Writer {
    let mut fixed = [INET6, prefix, NO_DAD, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    Writer::new(kind, F_ACK | flags)
        .fixed(&fixed)
        .attribute(LOCAL, &address.octets())
        .attribute(ADDRESS, &address.octets())
}

pub(crate) fn add_address(
    line: &mut Line,
    index: u32,
    wanted: Ipv6Addr,
    prefix: u8,
) -> Result<(), Error> {
    let request = address(NEW_ADDRESS, F_CREATE | F_EXCL, index, wanted, prefix);
    match line.ask("giving the uplink its address", request, |_| {}) {
        Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

pub(crate) fn remove_address(
    line: &mut Line,
    index: u32,
    unwanted: Ipv6Addr,
    prefix: u8,
) -> Result<(), Error> {
    let request = address(DEL_ADDRESS, 0, index, unwanted, prefix);
    match line.ask("taking an old address from the uplink", request, |_| {}) {
        Err(error) if error.errno() == Some(Errno::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_makes_the_reading_panic() {
        bolero::check!()
            .with_type::<(Vec<u8>, u32)>()
            .for_each(|(payload, index)| {
                let _ = read_link(payload);
                let _ = read_address(payload, *index);
            });
    }

    #[test]
    fn an_answer_cut_short_names_no_address() {
        for length in 0..ADDRESS_LEN {
            assert_eq!(read_address(&[0; ADDRESS_LEN][..length], 0), None);
        }
    }

    #[test]
    fn an_address_of_the_interface_is_read_and_others_are_not() {
        let wanted: Ipv6Addr = "fd00::1".parse().unwrap();
        let message = address(NEW_ADDRESS, 0, 7, wanted, 48).finish(1);
        let payload = &message[crate::message::HEADER_LEN..];
        assert_eq!(read_address(payload, 7), Some((wanted, 48)));
        assert_eq!(read_address(payload, 8), None);
    }
}
