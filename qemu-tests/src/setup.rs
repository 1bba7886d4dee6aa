//! What a machine is made of, and QEMU's words for it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, accel, tree};

/// How a machine finds its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// Kernel and initrd of the image handed over by QEMU: no firmware, nothing measured.
    Direct,
    /// UEFI, systemd-boot and the UKI of the image, each measured into the TPM.
    Firmware,
}

/// A data disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its serial number, shown as /dev/disk/by-id/virtio-SERIAL (or scsi, usb).
    pub serial: String,
    /// Size in bytes; takes no room before it is written.
    pub bytes: u64,
}

/// A network port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nic {
    /// To the host and what it reaches; the machine gets 10.0.2.15 by DHCP.
    User {
        /// Machine's TCP ports the host reaches, each on a free port of 127.0.0.1; see
        /// [`crate::Machine::forwarded`].
        forwards: Vec<u16>,
    },
    /// A cable to another machine.
    Cable {
        /// The cable: both ends name the same path (under 100 bytes).
        socket: PathBuf,
        /// Exactly one end is the first.
        first: bool,
        /// The machine's address on it, with its prefix (10.77.0.1/24).
        address: String,
    },
}

/// All of a machine; the same gives the same machine again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Short, of letters and digits: names directory and messages.
    pub name: String,
    /// How it boots.
    pub boot: Boot,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// System disk in GiB; the image, a second slot and the state volume want 6.
    pub system_gib: u64,
    /// Whether it has a TPM, whose state is kept with the machine.
    pub tpm: bool,
    /// Data disks present from the start.
    pub disks: Vec<Disk>,
    /// Network ports.
    pub nics: Vec<Nic>,
    /// Credentials in the firmware tables, by name.
    pub credentials: Vec<(String, Vec<u8>)>,
    /// The clock's start, as QEMU's `-rtc base=` takes it; the host's time if `None`.
    pub clock: Option<String>,
    /// Appended to the kernel's command line; under firmware only without Secure Boot.
    pub cmdline: String,
}

/// Sockets of a machine, in a directory with a short name.
pub(crate) struct Sockets<'a>(pub(crate) &'a Path);

impl Sockets<'_> {
    pub(crate) fn qmp(&self) -> PathBuf {
        self.0.join("qmp")
    }
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console")
    }
    /// Port 0 is for the test or job that made the machine, 1 for people.
    pub(crate) fn hand(&self, port: u32) -> PathBuf {
        self.0.join(format!("hand{port}"))
    }
}

impl Setup {
    /// A machine with a TPM, a port to the host and no data disks.
    pub fn new(name: &str, boot: Boot) -> Setup {
        Setup {
            name: name.into(),
            boot,
            memory_mib: 1536,
            cpus: 2,
            system_gib: 8,
            tpm: true,
            disks: Vec::new(),
            nics: vec![Nic::User {
                forwards: Vec::new(),
            }],
            credentials: Vec::new(),
            clock: None,
            cmdline: String::new(),
        }
    }

    /// Adds a data disk.
    #[must_use]
    pub fn disk(mut self, serial: &str, bytes: u64) -> Setup {
        self.disks.push(Disk {
            serial: serial.into(),
            bytes,
        });
        self
    }

    /// Lets the host reach this TCP port of the machine.
    #[must_use]
    pub fn forward(mut self, port: u16) -> Setup {
        for nic in &mut self.nics {
            if let Nic::User { forwards } = nic {
                forwards.push(port);
            }
        }
        self
    }

    /// Plugs in one end of a cable.
    #[must_use]
    pub fn cable(mut self, socket: &Path, first: bool, address: &str) -> Setup {
        self.nics.push(Nic::Cable {
            socket: socket.into(),
            first,
            address: address.into(),
        });
        self
    }

    /// Brings a credential.
    #[must_use]
    pub fn credential(mut self, name: &str, value: impl Into<Vec<u8>>) -> Setup {
        self.credentials.push((name.into(), value.into()));
        self
    }

    /// The hardware address of a port: the same for the same machine and port.
    pub fn mac(&self, nic: usize) -> String {
        let [a, b, c, _] = crc32fast::hash(format!("{}/{nic}", self.name).as_bytes()).to_be_bytes();
        format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
    }

    fn uuid(&self) -> String {
        let hash = |salt| crc32fast::hash(format!("{}/{salt}", self.name).as_bytes());
        let (a, b, c) = (hash("a"), hash("b"), hash("c"));
        format!(
            "{a:08x}-{:04x}-4{:03x}-8{:03x}-{c:08x}{:04x}",
            b >> 16,
            b & 0xfff,
            a & 0xfff,
            b & 0xffff
        )
    }

    /// QEMU's arguments. Files with credentials are written to the machine's directory.
    pub(crate) fn arguments(&self, dir: &Path, sockets: &Sockets) -> Result<Vec<String>> {
        let mut args = Args::default();
        let accelerator = accel::accelerator()?;
        args.flags("-no-user-config -nodefaults -display none");
        args.pair("-name", &self.name);
        args.pair("-uuid", &self.uuid());
        args.pair("-L", &shown(&tree::tool_file("usr/share/qemu")?));
        args.pair("-L", &shown(&tree::tool_file("usr/share/seabios")?));
        args.pair("-machine", "q35");
        args.pair("-accel", accel::argument(&accelerator));
        args.pair("-cpu", if accelerator == "kvm" { "host" } else { "max" });
        args.pair("-smp", &self.cpus.to_string());
        args.pair("-m", &self.memory_mib.to_string());
        args.device("virtio-rng-pci");
        args.device("qemu-xhci,id=usb");
        for slot in 0..4 {
            args.device(&format!(
                "pcie-root-port,id=slot{slot},chassis={slot},slot={slot}"
            ));
        }
        if let Some(clock) = &self.clock {
            args.pair("-rtc", &format!("base={clock}"));
        }
        self.boot_arguments(dir, &mut args)?;
        if self.tpm {
            args.pair("-chardev", "socket,id=tpm,fd=0");
            args.pair("-tpmdev", "emulator,id=tpm,chardev=tpm");
            args.device("tpm-tis,tpmdev=tpm");
        }
        self.ports(dir, sockets, &mut args);
        // what a new array's first resync writes are zeros, gigabytes of them
        let sparse = ",detect-zeroes=unmap";
        args.drive("system", "qcow2", &dir.join("system.qcow2"), sparse);
        let first = match self.boot {
            Boot::Direct => "",
            Boot::Firmware => ",bootindex=0",
        };
        args.device(&format!("virtio-blk-pci,drive=system,serial=system{first}"));
        for disk in &self.disks {
            let serial = &disk.serial;
            let file = dir.join(format!("{serial}.qcow2"));
            args.drive(serial, "qcow2", &file, sparse);
            args.device(&format!("virtio-blk-pci,drive={serial},serial={serial}"));
        }
        let hand = tree::own_binary("hand")?;
        args.drive("hand", "raw", &hand, ",readonly=on");
        args.device("virtio-blk-pci,drive=hand,serial=hand");
        self.nic_arguments(&mut args);
        self.credential_arguments(dir, &mut args)?;
        Ok(args.0)
    }

    fn boot_arguments(&self, dir: &Path, args: &mut Args) -> Result<()> {
        match self.boot {
            Boot::Direct => {
                args.pair("-kernel", &shown(&tree::image("strongroom.vmlinuz")?));
                args.pair("-initrd", &shown(&tree::image("strongroom.initrd")?));
                let file = tree::image("strongroom.cmdline")?;
                let base = std::fs::read_to_string(&file).map_err(Error::io(shown(&file)))?;
                let base = base.trim_matches(['\0', '\n', ' ']);
                args.pair("-append", &format!("{base} {}", self.cmdline));
            }
            Boot::Firmware => {
                let code = tree::tool_file("usr/share/OVMF/OVMF_CODE_4M.fd")?;
                let read_only = ",readonly=on,if=pflash";
                args.drive("code", "raw", &code, read_only);
                args.drive("vars", "raw", &dir.join("vars.fd"), ",if=pflash");
                if !self.cmdline.is_empty() {
                    let file = dir.join("cmdline");
                    let text = format!("io.systemd.stub.kernel-cmdline-extra={}", self.cmdline);
                    std::fs::write(&file, text).map_err(Error::io(shown(&file)))?;
                    args.pair("-smbios", &format!("type=11,path={}", shown(&file)));
                }
            }
        }
        Ok(())
    }

    fn ports(&self, dir: &Path, sockets: &Sockets, args: &mut Args) {
        let log = shown(&dir.join("console.log"));
        args.socket("qmp", &sockets.qmp(), "");
        args.pair("-mon", "chardev=qmp,mode=control");
        let keep = format!(",logfile={log},logappend=on");
        args.socket("console", &sockets.console(), &keep);
        args.pair("-serial", "chardev:console");
        args.device("virtio-serial-pci");
        for port in 0..2 {
            let id = format!("hand{port}");
            args.socket(&id, &sockets.hand(port), "");
            args.device(&format!("virtserialport,chardev={id},name=strongroom.{id}"));
        }
    }

    fn nic_arguments(&self, args: &mut Args) {
        for (n, nic) in self.nics.iter().enumerate() {
            let backend = match nic {
                Nic::User { forwards } => {
                    forwards
                        .iter()
                        .fold(format!("user,id=nic{n}"), |mut all, port| {
                            // writing to a String cannot fail
                            let _ = write!(all, ",hostfwd=tcp:127.0.0.1:0-:{port}");
                            all
                        })
                }
                Nic::Cable { socket, first, .. } => {
                    let role = if *first {
                        "server=on"
                    } else {
                        "server=off,reconnect-ms=200"
                    };
                    format!(
                        "stream,id=nic{n},{role},addr.type=unix,addr.path={}",
                        shown(socket)
                    )
                }
            };
            args.pair("-netdev", &backend);
            let mac = self.mac(n);
            args.device(&format!(
                "virtio-net-pci,id=port{n},netdev=nic{n},mac={mac},romfile="
            ));
        }
    }

    fn credential_arguments(&self, dir: &Path, args: &mut Args) -> Result<()> {
        let mut all = vec![
            (
                "systemd.extra-unit.strongroom-test-hand.service".to_owned(),
                HAND_UNIT.into(),
            ),
            (
                "systemd.unit-dropin.sysinit.target".to_owned(),
                b"[Unit]\nWants=strongroom-test-hand.service\n".into(),
            ),
        ];
        for (n, nic) in self.nics.iter().enumerate() {
            if let Nic::Cable { address, .. } = nic {
                let mac = self.mac(n);
                let network = format!(
                    "[Match]\nMACAddress={mac}\n[Network]\nAddress={address}\nLinkLocalAddressing=ipv6\n"
                );
                all.push((format!("network.network.50-cable{n}"), network.into_bytes()));
            }
        }
        all.extend(self.credentials.iter().cloned());
        for (n, (name, value)) in all.iter().enumerate() {
            let file = dir.join(format!("credential{n}"));
            let text = format!(
                "io.systemd.credential.binary:{name}={}",
                BASE64.encode(value)
            );
            std::fs::write(&file, text).map_err(Error::io(shown(&file)))?;
            args.pair("-smbios", &format!("type=11,path={}", shown(&file)));
        }
        Ok(())
    }
}

/// Starts the hand early, so that also a boot that gets stuck can be looked into. The disk is the
/// program itself, padded with zeroes; /run is the one place to put it that exists everywhere.
const HAND_UNIT: &str = r"[Unit]
Description=Hand of the tests
DefaultDependencies=no
ConditionPathExists=!/etc/initrd-release
Requires=dev-disk-by\x2did-virtio\x2dhand.device dev-virtio\x2dports-strongroom.hand0.device dev-virtio\x2dports-strongroom.hand1.device
After=dev-disk-by\x2did-virtio\x2dhand.device dev-virtio\x2dports-strongroom.hand0.device dev-virtio\x2dports-strongroom.hand1.device

[Service]
ExecStartPre=/bin/sh -c 'umask 077; cat /dev/disk/by-id/virtio-hand >/run/strongroom-test-hand; chmod 700 /run/strongroom-test-hand'
ExecStart=/run/strongroom-test-hand /dev/virtio-ports/strongroom.hand0 /dev/virtio-ports/strongroom.hand1
Restart=always
";

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flags(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(Into::into));
    }
    fn pair(&mut self, option: &str, value: &str) {
        self.0.extend([option.into(), value.into()]);
    }
    fn device(&mut self, device: &str) {
        self.pair("-device", device);
    }
    fn socket(&mut self, id: &str, path: &Path, more: &str) {
        // QEMU calls us, so that whoever listens later is found too.
        let path = shown(path);
        let chardev = format!("socket,id={id},path={path},server=off,reconnect-ms=200{more}");
        self.pair("-chardev", &chardev);
    }
    fn drive(&mut self, id: &str, format: &str, file: &Path, more: &str) {
        // The host's own flushes are left out: it does not lose power in a test.
        let none = if more.contains("if=") { "" } else { ",if=none" };
        let file = shown(file);
        self.pair(
            "-drive",
            &format!("id={id},format={format},file={file},cache=unsafe,discard=unmap{none}{more}"),
        );
    }
}

/// A path as QEMU takes it in an option, where a comma is doubled.
fn shown(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
