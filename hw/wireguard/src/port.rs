use crate::message::{self, DONE, ERROR, F_ACK, F_MULTI, Message, Writer};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use zeroize::{Zeroize, Zeroizing};

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel cannot do WireGuard.
    #[error("this kernel has no WireGuard; boot one with the wireguard module")]
    NoWireGuard,
    /// An interface of our name is of another kind.
    #[error("the interface {0} exists and is not WireGuard's; remove it")]
    Foreign(String),
    /// It refused.
    #[error("{doing} was refused by the kernel; see whether this service may (CAP_NET_ADMIN)")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// Its answer.
        source: Errno,
    },
    /// The socket failed.
    #[error(
        "{doing} got no answer from the kernel; it is tried again, restart the machine if this stays"
    )]
    Socket {
        /// What was asked.
        doing: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// It answered something of another form.
    #[error(
        "{0} was answered by the kernel in a form this program does not know; update this appliance"
    )]
    Answer(&'static str),
}

impl Error {
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// Which of the kernel's netlink services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links and addresses.
    Route,
    /// Families by name, WireGuard's among them.
    Generic,
}

/// One netlink socket: a datagram out, datagrams in.
pub trait Port: Send {
    /// Sends one message.
    fn send(&mut self, message: &[u8]) -> Result<(), Errno>;
    /// Receives one datagram of at most `buffer.len()` bytes; answers its length.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;
}

/// Where sockets come from.
pub trait Ports: Send {
    /// Opens a socket.
    fn open(&self, protocol: Protocol) -> Result<Box<dyn Port>, Errno>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

struct Socket(OwnedFd);

impl Ports for Kernel {
    fn open(&self, protocol: Protocol) -> Result<Box<dyn Port>, Errno> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Generic => SockProtocol::NetlinkGeneric,
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(10))?;
        Ok(Box::new(Socket(fd)))
    }
}

impl Port for Socket {
    fn send(&mut self, message: &[u8]) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty()).map(|_| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())
    }
}

/// Requests and their answers over one port.
pub(crate) struct Line {
    port: Box<dyn Port>,
    sequence: u32,
    /// Wiped after every use: the kernel's answers hold the private key too.
    buffer: Zeroizing<Vec<u8>>,
}

impl Line {
    pub(crate) fn open(ports: &dyn Ports, protocol: Protocol) -> Result<Line, Error> {
        let port = ports.open(protocol).map_err(|source| Error::Socket {
            doing: "opening a netlink socket",
            source,
        })?;
        Ok(Line {
            port,
            sequence: 0,
            buffer: Zeroizing::new(vec![0; 1 << 16]),
        })
    }

    /// Sends `request` and gives `each` every answer before the acknowledgement or end of dump.
    pub(crate) fn ask(
        &mut self,
        doing: &'static str,
        request: Writer,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.sequence += 1;
        let socket = |source| Error::Socket { doing, source };
        let bytes = request.finish(self.sequence);
        let acknowledged = message::u16_at(&bytes, 6).unwrap_or(0) & F_ACK != 0;
        self.port.send(&bytes).map_err(socket)?;
        loop {
            let length = match self.port.receive(&mut self.buffer) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(socket)?,
            };
            let mut end = None;
            for message in message::messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue; // the late answer to a request that timed out
                }
                end = match message.kind {
                    ERROR => Some(match message::u32_at(message.payload, 0) {
                        Some(0) => Ok(()),
                        Some(code) => Err(Error::Refused {
                            doing,
                            source: Errno::from_raw((code as i32).wrapping_neg()),
                        }),
                        None => Err(Error::Answer(doing)),
                    }),
                    DONE => Some(Ok(())),
                    _ => {
                        each(message);
                        (!acknowledged && message.flags & F_MULTI == 0).then_some(Ok(()))
                    }
                };
                if end.is_some() {
                    break;
                }
            }
            self.buffer[..length].zeroize();
            if let Some(end) = end {
                return end;
            }
        }
    }
}
