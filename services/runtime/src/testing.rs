//! For tests (feature `testing`): an appliance of plain processes, a private bus and a directory
//! that stands for its `/`. Everything ends when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One appliance under test.
pub struct Appliance {
    daemons: Vec<(String, Child)>,
    broker: Child,
    /// The address of its bus.
    pub address: String,
    /// Its `/`: `etc/strongroom/*.toml`, `var/lib/strongroom/*`, `logs/*`.
    pub root: tempfile::TempDir,
}

impl Appliance {
    /// Starts the bus. Panics when dbus-daemon (Debian package dbus-daemon) is missing.
    /// Every role may be played by the user that runs the test.
    pub fn new() -> Appliance {
        Appliance::with_bus(BUS)
    }

    /// The same on a bus of this configuration, for what depends on who may call whom.
    pub fn with_bus(configuration: &str) -> Appliance {
        let root = tempfile::tempdir().expect("a temporary directory");
        for directory in ["etc/strongroom", "var/lib/strongroom", "logs"] {
            std::fs::create_dir_all(root.path().join(directory)).expect("a directory");
        }
        let config = root.path().join("bus.conf");
        std::fs::write(&config, configuration).expect("a bus configuration");
        let mut broker = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon, of the Debian package dbus-daemon");
        let mut address = String::new();
        BufReader::new(broker.stdout.take().expect("its output"))
            .read_line(&mut address)
            .expect("the bus's address");
        let appliance = Appliance {
            daemons: Vec::new(),
            broker,
            address: address.trim().to_owned(),
            root,
        };
        let user = nix::unistd::User::from_uid(nix::unistd::getuid())
            .ok()
            .flatten()
            .expect("a user")
            .name;
        let roles = [
            "keyd", "poold", "engined", "jobd", "uplinkd", "enrold", "portald", "centred",
        ];
        let callers: String = roles
            .iter()
            .map(|r| format!("{r} = \"{user}\"\n"))
            .collect();
        appliance.configure("callers", &callers);
        appliance
    }

    /// Writes `etc/strongroom/<name>.toml`.
    pub fn configure(&self, name: &str, toml: &str) {
        std::fs::write(self.path(format!("etc/strongroom/{name}.toml")), toml)
            .expect("a configuration");
    }

    /// A path below its `/`.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(below)
    }

    /// A command that finds this appliance's bus and root.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("STRONGROOM_BUS", &self.address)
            .env("STRONGROOM_ROOT", self.root.path());
        command
    }

    /// A connection to its bus.
    pub async fn connect(&self) -> zbus::Connection {
        let builder =
            zbus::connection::Builder::address(self.address.as_str()).expect("an address");
        builder.build().await.expect("the private bus")
    }

    /// Starts a daemon's program and waits until it holds `name`. Its log goes to `logs/<file name>`.
    pub async fn start(&mut self, program: impl AsRef<Path>, name: &str) {
        use futures_util::StreamExt;
        let program = program.as_ref();
        let file = program
            .file_name()
            .expect("a program")
            .to_string_lossy()
            .into_owned();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(format!("logs/{file}")))
            .expect("a log");
        let bus = self.connect().await;
        let proxy = zbus::fdo::DBusProxy::new(&bus).await.expect("the bus");
        let mut owners = proxy
            .receive_name_owner_changed_with_args(&[(0, name)])
            .await
            .expect("a match rule");
        let child = self
            .command(program)
            .stderr(log)
            .spawn()
            .expect("the daemon's program");
        self.daemons.push((file.clone(), child));
        let taken = async {
            while let Some(change) = owners.next().await {
                if change.args().expect("a signal").new_owner().is_some() {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), taken)
            .await
            .is_err()
        {
            panic!("{file} did not take {name}; its log:\n{}", self.log(&file));
        }
    }

    /// Ends a daemon by its program's name and the signal, and waits for its end.
    pub fn stop(&mut self, file: &str, signal: nix::sys::signal::Signal) {
        let place = self
            .daemons
            .iter()
            .position(|(name, _)| name == file)
            .expect("a running daemon");
        let (_, mut child) = self.daemons.remove(place);
        end(&mut child, signal);
    }

    /// What a daemon has logged.
    pub fn log(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(format!("logs/{file}"))).unwrap_or_default()
    }
}

/// Tests that the daemon of this name, at the path that goes with it, is what the contract says.
pub async fn conforms(bus: &zbus::Connection, name: &str) {
    let path = format!("/{}", name.replace('.', "/"));
    let proxy = zbus::fdo::IntrospectableProxy::builder(bus)
        .destination(name)
        .and_then(|builder| builder.path(path))
        .expect("a daemon's name");
    let proxy = proxy.build().await.expect("the private bus");
    let xml = proxy.introspect().await.expect("a daemon that answers");
    contract::conformity::check(&xml, name).expect("the contract");
}

/// The program of another daemon of this workspace, beside the test that runs: built already when
/// the whole workspace is tested, else built now.
pub fn program(daemon: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps");
    let program = profile.join(format!("strongroom-{daemon}"));
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", daemon]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let built = build.status().expect("cargo");
        assert!(built.success(), "{daemon} does not build");
    }
    program
}

impl Default for Appliance {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, _) in &self.daemons {
                eprintln!("--- {name}\n{}", self.log(name));
            }
        }
        for (_, child) in &mut self.daemons {
            end(child, nix::sys::signal::Signal::SIGTERM);
        }
        end(&mut self.broker, nix::sys::signal::Signal::SIGTERM);
    }
}

fn end(child: &mut Child, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal);
    let patience = Instant::now() + Duration::from_secs(10);
    while Instant::now() < patience {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)), // wait() knows no deadline
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;
