//! One machine: its files, its power, and what one does with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::console::bind;
use crate::guard::{Guard, Kept};
use crate::pace::{Deadline, Pace};
use crate::setup::Sockets;
use crate::{Boot, Console, Error, Hand, Output, Qmp, Result, Running, Setup, accel, tree};

/// A machine. Off when made; dropped, its power is cut.
#[derive(Debug)]
pub struct Machine {
    record: Record,
    dir: PathBuf,
    pace: Pace,
    console: Console,
    hand: Hand,
    power: Mutex<Option<Power>>,
}

/// What is written down of a machine, for those who meet it later.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    setup: Setup,
    sockets: PathBuf,
    keeper: Option<u32>,
}

#[derive(Debug)]
struct Power {
    qmp: std::sync::Arc<Qmp>,
    /// None for a machine that somebody else left up.
    guard: Option<Guard>,
}

impl Machine {
    /// Makes the machine's files in a directory of its own, which is emptied.
    ///
    /// # Errors
    /// When image or tools are missing, or the disk is full.
    pub fn create(dir: &Path, setup: Setup) -> Result<Machine> {
        let shown = || dir.display().to_string();
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(Error::io(shown()))?;
        }
        std::fs::create_dir_all(dir).map_err(Error::io(shown()))?;
        let image = tree::image("strongroom.raw")?;
        let system = dir.join("system.qcow2");
        disk(&system, setup.system_gib << 30, Some(&image))?;
        for data in &setup.disks {
            let file = dir.join(format!("{}.qcow2", data.serial));
            disk(&file, data.bytes, None)?;
        }
        if setup.boot == Boot::Firmware {
            let vars = tree::tool_file("usr/share/OVMF/OVMF_VARS_4M.fd")?;
            std::fs::copy(&vars, dir.join("vars.fd")).map_err(Error::io(shown()))?;
        }
        let sockets = tempfile::Builder::new()
            .prefix("strongroom-")
            .tempdir()
            .map_err(Error::io("a directory for sockets"))?
            .keep();
        Machine::with(
            dir,
            Record {
                setup,
                sockets,
                keeper: None,
            },
            0,
        )
    }

    fn with(dir: &Path, record: Record, port: u32) -> Result<Machine> {
        let name = &record.setup.name;
        let sockets = Sockets(&record.sockets);
        let log = dir.join("console.log");
        Ok(Machine {
            pace: accel::pace()?,
            console: Console::listen(name, &sockets.console(), log)?,
            hand: Hand::listen(name, &sockets.hand(port))?,
            power: Mutex::new(None),
            dir: dir.into(),
            record,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.setup.name
    }

    /// What it is made of.
    pub fn setup(&self) -> &Setup {
        &self.record.setup
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A deadline for what takes up to `seconds` on real hardware.
    pub fn within(&self, seconds: u64) -> Deadline {
        self.pace.within(seconds)
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The hand inside.
    pub fn hand(&self) -> &Hand {
        &self.hand
    }

    /// Its QEMU.
    ///
    /// # Errors
    /// When it is off.
    pub fn qmp(&self) -> Result<std::sync::Arc<Qmp>> {
        let power = self.power.lock().expect("no panic while held");
        match &*power {
            Some(p) => Ok(p.qmp.clone()),
            None => Err(self.off("it was switched off")),
        }
    }

    /// Switches it on.
    ///
    /// # Errors
    /// With QEMU's words when it does not start.
    pub fn power_on(&self) -> Result<()> {
        let mut power = self.power.lock().expect("no panic while held");
        let sockets = Sockets(&self.record.sockets);
        let listener = bind(&sockets.qmp())?;
        let kept = Kept {
            tpm: self.record.setup.tpm,
            qemu: self.record.setup.arguments(&self.dir, &sockets)?,
        };
        let mut guard = Guard::start(&self.dir, &kept)?;
        match Qmp::accept(self.name(), &listener, self.within(5)) {
            Ok(qmp) => {
                *power = Some(Power {
                    qmp: qmp.into(),
                    guard: Some(guard),
                });
                Ok(())
            }
            Err(e) => {
                guard.end();
                let why = ["qemu.log", "tpm.log"]
                    .map(|log| std::fs::read_to_string(self.dir.join(log)).unwrap_or_default())
                    .concat();
                Err(if why.trim().is_empty() {
                    e
                } else {
                    self.off(why.trim())
                })
            }
        }
    }

    /// Switches it on and waits until its system has started (systemd finished, failed units or
    /// not).
    ///
    /// # Errors
    /// As [`Machine::power_on`], or the deadline.
    pub fn boot(&self) -> Result<()> {
        let before = self.hand.sessions();
        let shown = self.console.len();
        self.power_on()?;
        if self.lost_a_timer(before, shown)? {
            eprintln!(
                "{}: the emulator lost a timer of its second processor before the system began, \
                 which then waits for ever; it is switched on again",
                self.name()
            );
            self.cut_power();
            self.power_on()?;
        }
        self.started(before)
    }

    /// Whether that befell it: QEMU's TCG with several processors, seen once in many boots.
    fn lost_a_timer(&self, sessions: u64, shown: usize) -> Result<bool> {
        const TOLD: &str = "rcu_preempt kthread timer wakeup didn't happen";
        let by = self.within(60);
        let has = |text| {
            let now = Deadline::after(Duration::ZERO);
            self.console.wait_for(text, shown, now).is_ok()
        };
        while by.left().is_some() {
            if has(TOLD) && !has("Booting initrd of") {
                return Ok(true);
            }
            let slice = Deadline::after(Duration::from_secs(5));
            match self.hand.wait(sessions, slice) {
                Err(Error::Late { .. }) => {}
                other => return other.map(|()| false),
            }
        }
        self.hand.wait(sessions, by).map(|()| false)
    }

    /// Waits for a system whose hand is younger than `sessions`.
    fn started(&self, sessions: u64) -> Result<()> {
        self.hand.wait(sessions, self.within(60))?;
        let wait = ["systemctl", "is-system-running", "--wait"];
        // "degraded" is a nonzero exit; which units failed is for the caller to judge.
        self.hand.start(wait)?.finish(self.within(60))?;
        Ok(())
    }

    /// Restarts its system in order and waits until it has started again.
    ///
    /// # Errors
    /// The deadline.
    pub fn reboot(&self) -> Result<()> {
        let before = self.hand.sessions();
        self.check(["systemctl", "--no-block", "reboot"])?;
        self.started(before)
    }

    /// Switches it off in order, as a press on its button does.
    ///
    /// # Errors
    /// When it is not off by the deadline; it then still runs.
    pub fn power_off(&self) -> Result<()> {
        let by = self.within(30);
        let qmp = self.qmp()?;
        qmp.command("system_powerdown", json!({}), by)?;
        qmp.event("SHUTDOWN", by, |_| true)?;
        self.gone(by)
    }

    /// Cuts its power: nothing in it gets to write another byte.
    pub fn cut_power(&self) {
        let power = self.power.lock().expect("no panic while held").take();
        if let Some(mut p) = power {
            match &mut p.guard {
                Some(guard) => guard.end(),
                // Its end is the answer.
                None => {
                    let _ = p.qmp.command("quit", json!({}), self.within(2));
                }
            }
        }
    }

    fn gone(&self, by: Deadline) -> Result<()> {
        let mut power = self.power.lock().expect("no panic while held");
        if let Some(guard) = power.as_mut().and_then(|p| p.guard.as_mut())
            && !guard.ended(by)
        {
            return Err(Error::Late {
                machine: self.name().into(),
                what: "QEMU to end".into(),
                after: by.length(),
            });
        }
        *power = None;
        Ok(())
    }

    /// Runs a program in the machine, as root, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started or takes more than a minute of real hardware; not for its exit code.
    pub fn run<S: AsRef<[u8]>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.hand.start(argv)?.finish(self.within(60))
    }

    /// Runs a program that has to succeed, and returns its output.
    ///
    /// # Errors
    /// As [`Machine::run`], and when it ends with anything but 0.
    pub fn check<S: AsRef<[u8]>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        let argv: Vec<Vec<u8>> = argv.into_iter().map(|a| a.as_ref().to_vec()).collect();
        let output = self.run(&argv)?;
        if output.code == 0 {
            return Ok(output.text());
        }
        let words = argv.join(&b' ');
        Err(Error::Command {
            machine: self.name().into(),
            command: String::from_utf8_lossy(&words).into_owned(),
            code: output.code,
            output: String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned(),
        })
    }

    /// Runs a line of shell that has to succeed.
    ///
    /// # Errors
    /// As [`Machine::check`].
    pub fn sh(&self, line: &str) -> Result<String> {
        self.check(["sh", "-euc", line])
    }

    /// Starts a program and leaves it running.
    ///
    /// # Errors
    /// When no hand answers.
    pub fn start<S: AsRef<[u8]>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Running> {
        self.hand.start(argv)
    }

    /// Writes a file in the machine, with this mode.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let by = self.within(60);
        let line = "umask 077; cat >\"$1\"; chmod \"$2\" \"$1\"";
        let mode = format!("{mode:o}");
        let writing = self.hand.start(["sh", "-euc", line, "put", path, &mode])?;
        let input = writing.input();
        input.write(bytes, by)?;
        input.close();
        let output = writing.finish(by)?;
        if output.code == 0 {
            return Ok(());
        }
        Err(Error::Command {
            machine: self.name().into(),
            command: format!("writing {path}"),
            code: output.code,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Reads a file of the machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(["cat", path])?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        Err(Error::Command {
            machine: self.name().into(),
            command: format!("reading {path}"),
            code: output.code,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Where the host reaches a TCP port of the machine.
    ///
    /// # Errors
    /// When the setup does not forward it.
    pub fn forwarded(&self, port: u16) -> Result<SocketAddr> {
        let arguments = json!({"command-line": "info usernet"});
        let table = self
            .qmp()?
            .command("human-monitor-command", arguments, self.within(5))?;
        // TCP[HOST_FORWARD]  12  127.0.0.1 41435  10.0.2.15  8443  0  0
        let host = table.as_str().unwrap_or_default().lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, _, _, host, _, guest, ..] = words[..] else {
                return None;
            };
            (kind.starts_with("TCP[HOST") && guest.parse() == Ok(port))
                .then(|| host.parse())?
                .ok()
        });
        host.map(|host: u16| SocketAddr::from(([127, 0, 0, 1], host)))
            .ok_or_else(|| Error::Garbled {
                what: format!("{}: QEMU's table of forwarded ports", self.name()),
                why: format!("port {port} is not in it; name it in the setup"),
            })
    }

    /// Waits until a network port (numbered as in the setup) has its IPv4 address.
    ///
    /// # Errors
    /// When it gets none in two minutes.
    pub fn online(&self, nic: usize) -> Result<()> {
        // The port is renamed some time after it appeared.
        let line = "udevadm settle --timeout 120; port=$(ip -br link | awk -v mac=\"$1\" '$3 == mac { print $1 }'); \
                    exec /usr/lib/systemd/systemd-networkd-wait-online --ipv4 --timeout 120 -i \"$port\"";
        let mac = self.record.setup.mac(nic);
        self.check(["sh", "-euc", line, "online", &mac])?;
        Ok(())
    }

    /// Pulls or plugs the cable of a network port (numbered as in the setup).
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        let arguments = json!({"name": format!("port{nic}"), "up": up});
        self.qmp()?.command("set_link", arguments, self.within(5))?;
        Ok(())
    }

    /// Plugs in a disk on USB, made if its serial number is new here; up to four at once.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn plug_usb_disk(&self, serial: &str, bytes: u64) -> Result<()> {
        let file = self.dir.join(format!("{serial}.qcow2"));
        if !file.exists() {
            disk(&file, bytes, None)?;
        }
        let qmp = self.qmp()?;
        let by = self.within(10);
        let node = format!("usb-{serial}");
        let backend = json!({
            "driver": "qcow2", "node-name": node, "discard": "unmap",
            "file": {"driver": "file", "filename": file},
        });
        qmp.command("blockdev-add", backend, by)?;
        let device = json!({"driver": "usb-storage", "bus": "usb.0", "id": node,
                            "drive": node, "serial": serial, "removable": true});
        qmp.command("device_add", device, by)?;
        Ok(())
    }

    /// Pulls a USB disk out, whatever is being written to it.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn pull_usb_disk(&self, serial: &str) -> Result<()> {
        let qmp = self.qmp()?;
        let by = self.within(10);
        let node = format!("usb-{serial}");
        qmp.command("device_del", json!({"id": node}), by)?;
        qmp.event("DEVICE_DELETED", by, |d| d["device"] == node.as_str())?;
        qmp.command("blockdev-del", json!({"node-name": node}), by)?;
        Ok(())
    }

    /// What is wrong in there, as far as can be told: failed units and the end of their journals,
    /// or of the console where nobody answers.
    pub fn report(&self) -> String {
        let name = self.name();
        if !self.hand.awake() {
            let tail = self.console.tail(60);
            return format!("--- {name}: no hand answers; the end of its console:\n{tail}\n");
        }
        let ask = |argv: &[&str]| match self.hand.start(argv).and_then(|r| r.finish(self.within(5)))
        {
            Ok(output) => output.text(),
            Err(e) => format!("({e})\n"),
        };
        let failed = ask(&["systemctl", "--failed", "--plain", "--no-legend"]);
        let mut text = String::new();
        for unit in failed.lines().filter_map(|l| l.split(' ').next()) {
            let journal = ask(&[
                "journalctl",
                "-b",
                "-n40",
                "-o",
                "short-monotonic",
                "-u",
                unit,
            ]);
            text += &format!("--- {name}: {unit} has failed:\n{journal}");
        }
        let ours = ask(&[
            "journalctl",
            "-b",
            "-n60",
            "-o",
            "short-monotonic",
            "-u",
            "strongroom-*",
        ]);
        let warnings = ask(&["journalctl", "-b", "-n20", "-o", "short-monotonic", "-p4"]);
        format!(
            "{text}--- {name}: the end of our services' journal:\n{ours}--- {name}: last warnings:\n{warnings}"
        )
    }

    /// Lets it run on after us, to be met again under [`left_up`]. Its directory has to be the one
    /// of that name in [`crate::runs`].
    ///
    /// # Errors
    /// When this cannot be written down.
    pub fn leave_up(mut self) -> Result<()> {
        let power = self.power.get_mut().expect("no panic while held").take();
        if let Some(Power {
            guard: Some(guard), ..
        }) = power
        {
            self.record.keeper = Some(guard.pid());
            let file = self.dir.join("machine.json");
            let json = serde_json::to_vec_pretty(&self.record).expect("plain data serialises");
            std::fs::write(&file, json).map_err(Error::io(file.display().to_string()))?;
            guard.stay()?;
        }
        Ok(())
    }

    fn off(&self, why: &str) -> Error {
        Error::Off {
            machine: self.name().into(),
            why: why.into(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
        if self.record.keeper.is_none() {
            // What is left of it are empty sockets in /tmp.
            let _ = std::fs::remove_dir_all(&self.record.sockets);
        }
    }
}

/// A machine that was left up, with its hand on the port for people (`job` false) or for what made
/// it. `None` when there is none of that name.
///
/// # Errors
/// When its record is damaged.
pub fn left_up(name: &str, job: bool) -> Result<Option<Machine>> {
    let dir = crate::runs().join(name);
    let file = dir.join("machine.json");
    let Ok(json) = std::fs::read(&file) else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&json).map_err(|e| Error::Garbled {
        what: file.display().to_string(),
        why: e.to_string(),
    })?;
    Machine::with(&dir, record, if job { 0 } else { 1 }).map(Some)
}

impl Machine {
    /// Switches a machine that was left up off, in order if it lets itself, and forgets it.
    ///
    /// # Errors
    /// When its record cannot be removed.
    pub fn stop_left_up(mut self) -> Result<()> {
        let sockets = Sockets(&self.record.sockets);
        let listener = bind(&sockets.qmp())?;
        let soon = Deadline::after(Duration::from_secs(5));
        if let Ok(qmp) = Qmp::accept(self.name(), &listener, soon) {
            let by = self.within(20);
            let over = qmp
                .command("system_powerdown", json!({}), by)
                .and_then(|_| qmp.event("SHUTDOWN", by, |_| true));
            if over.is_err() {
                // Its end is the answer.
                let _ = qmp.command("quit", json!({}), soon);
            }
            qmp.ended(self.within(10))?;
        }
        self.record.keeper = None;
        let file = self.dir.join("machine.json");
        std::fs::remove_file(&file).map_err(Error::io(file.display().to_string()))
    }
}

fn disk(file: &Path, bytes: u64, backing: Option<&Path>) -> Result<()> {
    let mut command = tree::tool("qemu-img")?;
    command.args(["create", "-q", "-f", "qcow2"]);
    if let Some(image) = backing {
        command.args(["-F", "raw", "-b"]).arg(image);
    }
    let output = command
        .arg(file)
        .arg(bytes.to_string())
        .output()
        .map_err(Error::io("qemu-img"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Garbled {
        what: file.display().to_string(),
        why: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}
