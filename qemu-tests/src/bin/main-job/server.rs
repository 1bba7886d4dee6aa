//! The protected server: this host, with a tree of files and the agent.

use crate::screen::Screen;
use anyhow::{Context, Result, bail};
use filetree::specimen::{self, Scale};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How much of this system's own files is protected.
const REAL_BYTES: u64 = 40_000_000;
const SEED: u64 = 2014;
/// Where real files are taken from, in this order, until there are enough.
const REAL: &[&str] = &[
    "/usr/share/perl",
    "/usr/lib/python3",
    "/usr/share/zoneinfo",
    "/usr/lib/git-core",
    "/usr/bin",
];

/// Gives `$1` and its way there to a program that may not search all directories above it: in a view
/// of its own, the closed one `$2` (a home directory is its owner's alone) is an empty one with nothing
/// but `$1` in it.
const OPEN_THE_WAY: &str = r#"
    set -e; umask 022; exec 9<"$1"
    mount -t tmpfs -o mode=755 none "$2"
    mkdir -p "$1"
    mount --no-canonicalize --bind /proc/self/fd/9 "$1"
    exec 9<&-; shift 2; exec "$@"
"#;

/// A protected tree, in three places.
pub(crate) struct Root {
    /// Where the agent read it.
    pub(crate) protected: PathBuf,
    /// Where it still is as it was.
    pub(crate) original: PathBuf,
    /// Where the restore put it.
    pub(crate) restored: PathBuf,
}

pub(crate) struct Server {
    directory: PathBuf,
    agent: PathBuf,
    /// What is protected, and for the first generation where the same still lies when the second
    /// has replaced it.
    pub(crate) paths: Vec<PathBuf>,
    /// Protects what the user named, not only what was made for it here.
    users: bool,
    serving: Option<Child>,
}

impl Server {
    /// Makes the tree to protect below `directory`; what an earlier run left there goes.
    pub(crate) fn prepare(
        directory: &Path,
        protect: Option<&Path>,
        screen: &Screen,
    ) -> Result<Server> {
        if directory.exists() {
            std::fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let live = directory.join("live");
        let generated = live.join("generated");
        std::fs::create_dir_all(&generated)?;
        let made = specimen::create(&generated, SEED, Scale::default())?;
        screen.detail(&format!(
            "a generated tree of {} entries, {} bytes",
            made.entries, made.bytes
        ));
        for skipped in &made.skipped {
            screen.line(&format!("not in the generated tree: {skipped}"));
        }
        let mut paths = vec![live.clone()];
        match protect {
            Some(path) => {
                let path = std::fs::canonicalize(path).with_context(|| {
                    format!("{} cannot be protected; does it exist?", path.display())
                })?;
                paths.push(path);
            }
            None => screen.detail(&format!(
                "{} bytes of this system's own files",
                real_files(&live.join("system"))?
            )),
        }
        // the first generation once more, for when the live tree has moved on; the generated part is
        // made again, since its paths are longer than cp can name
        let first = directory.join("first");
        std::fs::create_dir_all(first.join("generated"))?;
        specimen::create(&first.join("generated"), SEED, Scale::default())?;
        if protect.is_none() {
            run(Command::new("cp")
                .arg("-a")
                .arg(live.join("system"))
                .arg(&first))?;
        }
        run(Command::new("touch").arg("-r").arg(&live).arg(&first))?;
        let same = filetree::compare::compare(&live, &first)?;
        if !same.is_same() {
            bail!(
                "the reference copy differs from the tree: {:?}",
                same.differences.first()
            );
        }
        Ok(Server {
            directory: directory.into(),
            agent: packaged_agent(&directory.join("package"))?,
            paths,
            users: protect.is_some(),
            serving: None,
        })
    }

    /// Changes the tree as a day's work does.
    pub(crate) fn change(&self) -> Result<Vec<String>> {
        Ok(specimen::mutate(&self.paths[0].join("generated"), SEED)?)
    }

    /// Each protected tree as it was in a generation, and where a restore has it.
    pub(crate) fn roots(&self, generation: u8, restored: &Path) -> Vec<Root> {
        let root = |(i, path): (usize, &PathBuf)| Root {
            protected: path.clone(),
            original: match (i, generation) {
                (0, 1) => self.directory.join("first"),
                _ => path.clone(),
            },
            // one root is the snapshot's root; several lie under their absolute paths
            restored: match self.paths.len() {
                1 => restored.to_owned(),
                _ => restored.join(path.strip_prefix("/").unwrap_or(path)),
            },
        };
        self.paths.iter().enumerate().map(root).collect()
    }

    /// A directory of this server's that does not exist yet.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn command(&self, identity: &str) -> Command {
        // it ends with us, however we end
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "SIGKILL"]).arg(&self.agent);
        command.arg("--state").arg(self.directory.join(identity));
        command
    }

    /// Pairs an identity of this server with an appliance.
    pub(crate) fn pair(&self, identity: &str, portal: SocketAddr, code: &str) -> Result<()> {
        run(self
            .command(identity)
            .arg("pair")
            .arg(portal.to_string())
            .args(["--code", code, "--name", "server"]))
        .map(drop)
    }

    /// Starts the agent's service. What the user named it reads as its unit would, past all
    /// permissions; else not, as an agent that is not root, so that the tree holds files it may not
    /// read.
    pub(crate) fn serve(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.log())?;
        let closed = self.directory.ancestors().skip(1).filter(|above| {
            let metadata = above.metadata();
            metadata.is_ok_and(|m| m.uid() != 0 && m.mode() & 0o001 == 0)
        });
        let mut command = Command::new("unshare");
        command.arg("--mount");
        let without = match (self.users, closed.last()) {
            (true, _) => "-dac_override",
            (false, closed) => {
                if let Some(closed) = closed {
                    command.args(["sh", "-c", OPEN_THE_WAY, "sh"]);
                    command.args([&self.directory, closed]);
                }
                "-dac_override,-dac_read_search"
            }
        };
        // it ends with us, however we end
        command.args(["setpriv", "--pdeathsig", "SIGTERM"]);
        command.args(["--bounding-set", without]);
        command
            .arg(&self.agent)
            .arg("--state")
            .arg(self.directory.join("agent"))
            .arg("serve");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.serving = Some(child.context("unshare, of the Debian package util-linux")?);
        Ok(())
    }

    /// Fails when the agent's service has ended.
    pub(crate) fn still_serves(&mut self) -> Result<()> {
        match self.serving.as_mut().map(Child::try_wait).transpose()? {
            Some(Some(status)) => bail!("the server's agent has ended ({status})"),
            _ => Ok(()),
        }
    }

    /// The snapshots an identity may restore.
    pub(crate) fn list(&self, identity: &str) -> Result<serde_json::Value> {
        let output = run(self.command(identity).args(["list", "--json"]))?;
        serde_json::from_str(&output).context("`strongroom-agent list --json` answered no JSON")
    }

    /// Restores a snapshot into `target`, showing its progress.
    pub(crate) fn restore(
        &self,
        identity: &str,
        snapshot: &str,
        target: &Path,
        screen: &Screen,
    ) -> Result<()> {
        let mut command = self.command(identity);
        command
            .args(["restore", snapshot])
            .arg(target)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut last = String::new();
        for line in BufReader::new(child.stderr.take().context("its messages")?).lines() {
            last = line?;
            screen.detail(&last);
        }
        match child.wait()?.code() {
            Some(0) => Ok(()),
            _ => bail!("{last}"),
        }
    }

    /// What the agent's service has told. jobd keeps the first of a run's problems, this all.
    pub(crate) fn problems(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.log())?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// The end of what the agent's service has told.
    pub(crate) fn report(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("--- server: the end of strongroom-agent's log:\n{end}\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.serving {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The agent out of its package, which is what a protected server gets.
fn packaged_agent(to: &Path) -> Result<PathBuf> {
    let debs = qemu_tests::workspace().join("out/debs");
    let package = std::fs::read_dir(&debs)
        .with_context(|| debs.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/strongroom-agent_"))
        .with_context(|| format!("no strongroom-agent in {}; run ./dev deb", debs.display()))?;
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(to))?;
    Ok(to.join("usr/bin/strongroom-agent"))
}

/// Copies real files until there are enough of them; answers the bytes.
fn real_files(to: &Path) -> Result<u64> {
    std::fs::create_dir_all(to)?;
    let mut bytes = 0;
    for from in REAL.iter().map(Path::new).filter(|p| p.is_dir()) {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let output = run(Command::new("du").args(["-sbx"]).arg(entry.path()))?;
            let size: u64 = output.split_whitespace().next().unwrap_or("0").parse()?;
            if bytes + size > REAL_BYTES {
                continue;
            }
            let place = to.join(from.strip_prefix("/")?);
            std::fs::create_dir_all(&place)?;
            run(Command::new("cp").arg("-a").arg(entry.path()).arg(&place))?;
            bytes += size;
        }
    }
    Ok(bytes)
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
