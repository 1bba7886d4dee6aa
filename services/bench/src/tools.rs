//! The tools that are measured: what each is run as, for the same work.
//!
//! Scripts of sh, so that they can be tried by hand and printed. They find `$SOURCE`, whose only member
//! is `data`, an empty `$TARGET`, `$STATE` for what they keep, with the repository in `$STATE/repo`,
//! and for each backup a `$NAME`.

use crate::fresh::Medium;
use crate::measure::quietly;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    First,
    Unchanged,
    Second,
    Restore,
    RestoreInMemory,
    Verify,
    Prune,
}

impl Step {
    pub(crate) const ALL: [Self; 7] = [
        Self::First,
        Self::Unchanged,
        Self::Second,
        Self::Restore,
        Self::RestoreInMemory,
        Self::Verify,
        Self::Prune,
    ];

    /// What it restores to, if that is what it does.
    pub(crate) fn target(self) -> Option<Medium> {
        match self {
            Self::Restore => Some(Medium::Disk),
            Self::RestoreInMemory => Some(Medium::Memory),
            _ => None,
        }
    }

    /// The name of the snapshot it makes, and of its row.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unchanged => "unchanged",
            Self::Second => "second",
            Self::Restore => "restore",
            Self::RestoreInMemory => "in memory",
            Self::Verify => "verify",
            Self::Prune => "prune",
        }
    }
}

/// One tool and how it is used.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// What it says of itself.
    pub(crate) version: String,
    environment: &'static [(&'static str, &'static str)],
    /// Makes the repository; not measured.
    setup: &'static str,
    backup: &'static str,
    restore: &'static str,
    verify: Option<&'static str>,
    prune: Option<&'static str>,
}

/// Our own.
pub(crate) const OURS: &str = "strongroom";

impl Tool {
    /// The script of a step, if it can do that.
    pub(crate) fn script(&self, step: Step) -> Option<&'static str> {
        match step {
            Step::First | Step::Unchanged | Step::Second => Some(self.backup),
            Step::Restore | Step::RestoreInMemory => Some(self.restore),
            Step::Verify => self.verify,
            Step::Prune => self.prune,
        }
    }

    /// The scripts, for the report.
    pub(crate) fn settings(&self) -> impl Iterator<Item = &'static str> {
        [
            Some(self.setup),
            Some(self.backup),
            Some(self.restore),
            self.verify,
            self.prune,
        ]
        .into_iter()
        .flatten()
    }

    /// The command that makes the repository in `work`.
    pub(crate) fn setup(&self, work: &Path) -> Command {
        self.command(work, self.setup)
    }

    /// A command that runs a script with its variables, and nothing else of our environment: caches and
    /// settings of the user are not seen, and no proxy.
    pub(crate) fn command(&self, work: &Path, script: &str) -> Command {
        let state = self.state(work);
        let mut command = Command::new("sh");
        command.args(["-euc", script]).env_clear();
        for name in ["PATH", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
            .env("LANG", "C.UTF-8")
            .env("HOME", &state)
            .env("SOURCE", work.join("source"))
            .env("TARGET", self.target(work))
            .env("STATE", &state);
        for (name, value) in self.environment {
            command.env(name, value.replace("$STATE", &state.to_string_lossy()));
        }
        command
    }

    /// Where it keeps all it keeps.
    pub(crate) fn state(&self, work: &Path) -> PathBuf {
        work.join(self.name)
    }

    /// Where it restores to.
    pub(crate) fn target(&self, work: &Path) -> PathBuf {
        work.join("targets").join(self.name)
    }

    /// Its repository.
    pub(crate) fn repository(&self, work: &Path) -> PathBuf {
        self.state(work).join("repo")
    }
}

/// Our own engine and the peers that answer on this machine; says of the others why they are left out.
pub(crate) fn all() -> (Vec<Tool>, Vec<String>) {
    let (mut tools, mut absent) = (Vec::new(), Vec::new());
    for mut tool in [strongroom(), restic(), rustic(), borg(), bupstash()] {
        let program = if tool.name == OURS { OURS } else { tool.name };
        let ask = if tool.name == "restic" {
            "version"
        } else {
            "--version"
        };
        match quietly(Command::new(program).arg(ask)) {
            Ok(told) => {
                tool.version = version(&told).unwrap_or("unknown version").to_owned();
                tools.push(tool);
            }
            Err(error) => absent.push(format!("{}: {error:#}", tool.name)),
        }
    }
    (tools, absent)
}

/// The first word of what a program says of itself that has a number with a dot.
fn version(told: &str) -> Option<&str> {
    told.split([' ', '\n', '-'])
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
}

fn strongroom() -> Tool {
    // what this build of it cannot do yet is left out
    let help = quietly(Command::new(OURS).args(["store", "help"])).unwrap_or_default();
    let can = |command: &str| commands(&help).any(|known| known == command);
    Tool {
        name: OURS,
        version: String::new(),
        environment: &[],
        setup: r#"strongroom store init "$STATE/repo" --key-file "$STATE/key""#,
        backup: r#"strongroom store backup "$STATE/repo" --key-file "$STATE/key" --group bench "$SOURCE" --json >"$STATE/$NAME""#,
        restore: r#"strongroom store restore "$STATE/repo" --key-file "$STATE/key" latest "$TARGET""#,
        verify: Some(r#"strongroom store verify "$STATE/repo" --key-file "$STATE/key""#),
        prune: (can("forget") && can("gc")).then_some(
            r#"strongroom store forget "$STATE/repo" $(sed -n 's/^ *"snapshot": "\(.*\)",*$/\1/p' "$STATE/first" "$STATE/unchanged") && strongroom store gc "$STATE/repo""#,
        ),
    }
}

/// The commands that a help of clap lists.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
}

fn restic() -> Tool {
    Tool {
        name: "restic",
        version: String::new(),
        environment: &[
            ("RESTIC_REPOSITORY", "$STATE/repo"),
            ("RESTIC_PASSWORD", "bench"),
            ("RESTIC_CACHE_DIR", "$STATE/cache"),
        ],
        setup: "restic -q init --repository-version 2",
        backup: r#"cd "$SOURCE" && restic -q backup --compression auto data"#,
        restore: r#"restic -q restore latest --target "$TARGET""#,
        verify: Some("restic -q check --read-data"),
        prune: Some("restic -q forget --keep-last 1 --prune"),
    }
}

fn rustic() -> Tool {
    Tool {
        name: "rustic",
        version: String::new(),
        environment: &[
            ("RUSTIC_REPOSITORY", "$STATE/repo"),
            ("RUSTIC_PASSWORD", "bench"),
            ("RUSTIC_CACHE_DIR", "$STATE/cache"),
            ("RUSTIC_NO_PROGRESS", "true"),
        ],
        setup: "rustic init",
        backup: r#"cd "$SOURCE" && rustic backup data"#,
        restore: r#"rustic restore latest "$TARGET""#,
        verify: Some("rustic check --read-data"),
        prune: Some("rustic forget --keep-last 1 --prune --instant-delete"),
    }
}

fn borg() -> Tool {
    Tool {
        name: "borg",
        version: String::new(),
        environment: &[
            ("BORG_REPO", "$STATE/repo"),
            ("BORG_PASSPHRASE", "bench"),
            ("BORG_BASE_DIR", "$STATE"),
        ],
        setup: "borg init --encryption repokey-blake2",
        backup: r#"cd "$SOURCE" && borg create --compression zstd,3 "::$NAME" data"#,
        restore: r#"cd "$TARGET" && borg extract --sparse ::second"#,
        verify: Some("borg check --verify-data"),
        prune: Some("borg delete :: first unchanged && borg compact"),
    }
}

fn bupstash() -> Tool {
    Tool {
        name: "bupstash",
        version: String::new(),
        environment: &[
            ("BUPSTASH_REPOSITORY", "$STATE/repo"),
            ("BUPSTASH_KEY", "$STATE/key"),
            ("XDG_CACHE_HOME", "$STATE/cache"),
        ],
        setup: r#"bupstash new-key -o "$STATE/key" && bupstash init"#,
        backup: r#"bupstash put -q --xattrs --compression zstd:3 "name=$NAME" "$SOURCE""#,
        restore: r#"bupstash restore -q --ownership --xattrs --into "$TARGET" name=second"#,
        // it has none; reading a snapshot to nowhere is less
        verify: None,
        prune: Some("bupstash rm --allow-many name=first or name=unchanged && bupstash gc -q"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(
            version("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n"),
            Some("0.14.0")
        );
        assert_eq!(version("borg 1.2.4\n"), Some("1.2.4"));
        assert_eq!(version("rustic v0.11.4\n"), Some("0.11.4"));
        assert_eq!(version("bupstash-0.12.0\n"), Some("0.12.0"));
        assert_eq!(version("none\n"), None);
    }

    #[test]
    fn commands_are_those_of_a_help() {
        let help = "What can be done\n\nUsage: x <COMMAND>\n\nCommands:\n  init  Make\n  gc    Free it\n\nOptions:\n  -h, --help\n";
        assert_eq!(commands(help).collect::<Vec<_>>(), ["init", "gc"]);
        assert_eq!(commands("no such command\n").count(), 0);
    }
}
