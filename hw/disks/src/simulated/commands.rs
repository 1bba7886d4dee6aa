//! The programs, as far as this crate calls them.

use super::{Makeup, Media, Running, State, Volume};
use crate::Output;
use crate::md::Level;
use std::io::{ErrorKind, Result};

fn said(code: i32, stdout: impl Into<String>, stderr: impl Into<String>) -> Result<Output> {
    Ok(Output {
        code,
        stdout: stdout.into(),
        stderr: stderr.into(),
    })
}

/// The kernel's name of a device.
fn block(device: &str) -> String {
    device.rsplit('/').next().unwrap_or_default().to_owned()
}

fn option<'a>(arguments: &[&'a str], name: &str) -> Option<&'a str> {
    let prefix = format!("{name}=");
    arguments.iter().find_map(|a| a.strip_prefix(&prefix))
}

impl State {
    pub(super) fn mdadm(&mut self, arguments: &[&str]) -> Result<Output> {
        if !matches!(arguments, ["--examine" | "--detail", ..]) {
            self.commands.push(format!("mdadm {}", arguments.join(" ")));
        }
        match arguments {
            ["--examine", "--export", device] => self.examine(&block(device)),
            ["--detail", "--export", device] => self.detail(&block(device)),
            ["--create", node, rest @ ..] => self.create(&block(node), rest),
            ["--assemble", node, rest @ ..] => self.assemble(&block(node), rest),
            ["--stop", node] => {
                self.running.remove(&block(node));
                said(0, "", format!("mdadm: stopped {node}\n"))
            }
            [
                "--manage",
                node,
                "--fail",
                "detached",
                "--remove",
                "detached",
            ] => {
                let disks = &self.disks;
                if self.sticky {
                    return said(0, "", "");
                }
                if let Some(running) = self.running.get_mut(&block(node)) {
                    running.slots.retain(|(name, _)| disks[name].present);
                }
                self.touch(&block(node));
                said(0, "", "")
            }
            ["--manage", node, "--add", device] => self.add(&block(node), &block(device)),
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn examine(&self, name: &str) -> Result<Output> {
        let disk = self.disks.get(name).filter(|d| d.present);
        let Some(Media::Member(uuid, events)) = disk.map(|d| &d.media) else {
            return said(
                1,
                "",
                format!("mdadm: No md superblock detected on /dev/{name}.\n"),
            );
        };
        let makeup = &self.makeups[uuid];
        let text = format!(
            "MD_LEVEL={}\nMD_DEVICES={}\nMD_NAME={}\nMD_UUID={uuid}\nMD_EVENTS={events}\n",
            makeup.level.name(),
            makeup.disks,
            makeup.name
        );
        said(0, text, "")
    }

    fn detail(&self, name: &str) -> Result<Output> {
        let Some(running) = self.running.get(name) else {
            return said(
                1,
                "",
                format!("mdadm: cannot open /dev/{name}: No such file\n"),
            );
        };
        let makeup = &self.makeups[&running.uuid];
        let text = format!("MD_UUID={}\nMD_NAME={}\n", running.uuid, makeup.name);
        said(0, text, "")
    }

    fn create(&mut self, node: &str, rest: &[&str]) -> Result<Output> {
        let level = match option(rest, "--level") {
            Some("1") => Level::Raid1,
            Some("5") => Level::Raid5,
            Some("6") => Level::Raid6,
            _ => return Err(ErrorKind::InvalidInput.into()),
        };
        let names: Vec<_> = rest
            .iter()
            .filter(|a| !a.starts_with("--"))
            .map(|d| block(d))
            .collect();
        let home = option(rest, "--homehost").unwrap_or_default();
        let name = option(rest, "--name").unwrap_or_default();
        self.next_uuid += 1;
        let uuid = format!("{:08x}:0:0:0", self.next_uuid);
        for name in &names {
            let disk = self.disks.get_mut(name).ok_or(ErrorKind::NotFound)?;
            disk.media = Media::Member(uuid.clone(), 1);
        }
        let makeup = Makeup {
            name: format!("{home}:{name}"),
            level,
            disks: names.len() as u32,
            events: 1,
            working: names.len() as u32,
            volume: None,
        };
        self.makeups.insert(uuid.clone(), makeup);
        let slots = names.into_iter().map(|n| (n, false)).collect();
        let running = Running {
            uuid,
            active: true,
            slots,
        };
        self.running.insert(node.to_owned(), running);
        said(0, "", format!("mdadm: array /dev/{node} started.\n"))
    }

    fn assemble(&mut self, node: &str, rest: &[&str]) -> Result<Output> {
        let uuid = option(rest, "--uuid").unwrap_or_default().to_owned();
        let insist = rest.contains(&"--run");
        let given: Vec<_> = rest
            .iter()
            .filter(|a| !a.starts_with("--"))
            .map(|d| block(d))
            .collect();
        let Some(makeup) = self.makeups.get(&uuid) else {
            return said(1, "", "mdadm: no recogniseable superblock\n");
        };
        let events = |name: &String| match self.disks.get(name) {
            Some(disk) if disk.present => match &disk.media {
                Media::Member(of, events) if *of == uuid => Some(*events),
                _ => None,
            },
            _ => None,
        };
        // the newest are taken; what is older was away meanwhile
        let newest = given.iter().filter_map(events).max();
        let usable: Vec<_> = given
            .iter()
            .filter(|name| newest.is_some() && events(name) == newest)
            .cloned()
            .collect();
        let have = usable.len() as u32;
        let enough = have + makeup.level.bears(makeup.disks) >= makeup.disks;
        if have == 0 || !enough || (have < makeup.working && !insist) {
            let told = format!(
                "mdadm: /dev/{node} assembled from {have} drive - need all {} to start it (use --run to insist).\n",
                makeup.disks
            );
            return said(1, "", told);
        }
        let slots = usable.into_iter().map(|n| (n, false)).collect();
        let running = Running {
            uuid,
            active: true,
            slots,
        };
        self.running.insert(node.to_owned(), running);
        self.touch(node);
        said(
            0,
            "",
            format!("mdadm: /dev/{node} has been started with {have} drives.\n"),
        )
    }

    fn add(&mut self, node: &str, disk: &str) -> Result<Output> {
        let running = self.running.get_mut(node).ok_or(ErrorKind::NotFound)?;
        let makeup = &self.makeups[&running.uuid];
        let Some(found) = self.disks.get_mut(disk).filter(|d| d.present) else {
            return said(1, "", format!("mdadm: error opening /dev/{disk}\n"));
        };
        found.media = Media::Member(running.uuid.clone(), makeup.events);
        running.slots.retain(|(name, _)| name != disk);
        running.slots.push((disk.to_owned(), false));
        self.touch(node);
        said(0, "", format!("mdadm: re-added /dev/{disk}\n"))
    }

    pub(super) fn cryptsetup(&mut self, arguments: &[&str], input: &[u8]) -> Result<Output> {
        self.commands
            .push(format!("cryptsetup {}", arguments.join(" ")));
        match arguments {
            ["luksFormat", rest @ ..] => {
                let label = rest.iter().skip_while(|a| **a != "--label").nth(1);
                let device = block(rest.last().copied().unwrap_or_default());
                let volume = Volume {
                    label: label.copied().unwrap_or_default().to_owned(),
                    key: input.to_vec(),
                    file_system: None,
                };
                match self.running.get(&device) {
                    Some(running) => {
                        let makeup = self.makeups.get_mut(&running.uuid);
                        makeup.ok_or(ErrorKind::NotFound)?.volume = Some(volume);
                    }
                    None => {
                        let disk = self.disks.get_mut(&device).ok_or(ErrorKind::NotFound)?;
                        disk.media = Media::Volume(volume);
                    }
                }
                said(0, "", "")
            }
            ["open", .., device, name] => {
                let device = block(device);
                let Some(volume) = self.volume(&device) else {
                    return said(
                        1,
                        "",
                        format!("Device /dev/{device} is not a valid LUKS device.\n"),
                    );
                };
                if volume.key != input {
                    return said(2, "", "No key available with this passphrase.\n");
                }
                self.mapped = Some(((*name).to_owned(), device));
                said(0, "", "")
            }
            ["close", _] => {
                self.mapped = None;
                said(0, "", "")
            }
            [
                "config",
                "--label",
                label,
                "--subsystem",
                "strongroom",
                device,
            ] => {
                let volume = self.volume(&block(device)).ok_or(ErrorKind::NotFound)?;
                volume.label = (*label).to_owned();
                said(0, "", "")
            }
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    pub(super) fn mkfs(&mut self, arguments: &[&str]) -> Result<Output> {
        self.commands
            .push(format!("mkfs.xfs {}", arguments.join(" ")));
        let ["-q", "-f", "-L", label, device] = arguments else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let below = match &self.mapped {
            Some((name, below)) if *device == format!("/dev/mapper/{name}") => below.clone(),
            _ => return said(1, "", format!("{device}: No such file or directory\n")),
        };
        let volume = self.volume(&below).ok_or(ErrorKind::NotFound)?;
        volume.file_system = Some((*label).to_owned());
        said(0, "", "")
    }

    pub(super) fn blkid(&mut self, arguments: &[&str]) -> Result<Output> {
        let device = arguments.last().copied().unwrap_or_default();
        let name = block(device);
        if let Some(volume) = self.volume(&name) {
            let text = format!("LABEL={}\nTYPE=crypto_LUKS\nUSAGE=crypto\n", volume.label);
            return said(0, text, "");
        }
        let disk = self.disks.get(&name).filter(|d| d.present);
        match disk.map(|d| &d.media) {
            Some(Media::Foreign(kind, label)) => {
                said(0, format!("LABEL={label}\nTYPE={kind}\n"), "")
            }
            Some(Media::Member(uuid, _)) => {
                let makeup = &self.makeups[uuid];
                said(
                    0,
                    format!("LABEL={}\nTYPE=linux_raid_member\n", makeup.name),
                    "",
                )
            }
            Some(_) => said(2, "", ""),
            None if self.running.contains_key(&name) => said(2, "", ""),
            None => said(
                2,
                "",
                format!("blkid: error: {device}: No such file or directory\n"),
            ),
        }
    }

    pub(super) fn systemctl(&mut self, arguments: &[&str]) -> Result<Output> {
        self.commands
            .push(format!("systemctl {}", arguments.join(" ")));
        let ["start", unit] = arguments else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let place = self.units.get(*unit).cloned();
        let below = self.mapped.as_ref().map(|(_, below)| below.clone());
        let volume = below.and_then(|below| self.volume(&below).cloned());
        match (place, volume.and_then(|v| v.file_system)) {
            (Some(place), Some(_)) => {
                self.mounted = Some(place);
                said(0, "", "")
            }
            (None, _) => said(
                5,
                "",
                format!("Failed to start {unit}: Unit {unit} not found.\n"),
            ),
            (_, None) => said(
                1,
                "",
                format!("A dependency job for {unit} failed. See 'journalctl -xe' for details.\n"),
            ),
        }
    }

    pub(super) fn install(&mut self, arguments: &[&str]) -> Result<Output> {
        self.commands
            .push(format!("install {}", arguments.join(" ")));
        let ["-d", "-o", owner, "-g", _, "-m", "0700", path] = arguments else {
            return Err(ErrorKind::InvalidInput.into());
        };
        self.folders.insert((*path).to_owned(), (*owner).to_owned());
        said(0, "", "")
    }
}
