//! Debian packages in two versions, from where apt on this machine gets them.

use crate::measure::quietly;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package that was downloaded.
pub(super) struct Package {
    /// The names that were asked for.
    pub(super) asked: String,
    pub(super) name: String,
    versions: [String; 2],
    /// The file of the first generation's version.
    pub(super) first: PathBuf,
    /// That of the second's, which may be the same.
    pub(super) second: PathBuf,
}

impl Package {
    fn new(debs: &Path, asked: &str, name: &str, versions: [&str; 2]) -> Result<Self> {
        let here = |version: &str| {
            find(debs, name, version).with_context(|| {
                format!("{name}={version} was not downloaded to {}; run apt-get update, remove .cache/bench/corpus and try again", debs.display())
            })
        };
        Ok(Self {
            asked: asked.to_owned(),
            name: name.to_owned(),
            first: here(versions[0])?,
            second: here(versions[1])?,
            versions: versions.map(str::to_owned),
        })
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.versions[0] != self.versions[1]
    }

    /// As [`listed`] reads it.
    pub(super) fn line(&self) -> String {
        let [first, second] = &self.versions;
        format!("{} {} {first} {second}\n", self.asked, self.name)
    }

    /// As people read it.
    pub(super) fn told(&self) -> String {
        let [first, second] = &self.versions;
        match self.is_upgraded() {
            true => format!("{} {first} to {second}", self.name),
            false => format!("{} {first}", self.name),
        }
    }
}

/// Unpacks a package's files.
pub(super) fn unpack(deb: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    quietly(Command::new("dpkg-deb").arg("-x").args([deb, to])).map(drop)
}

/// The packages of a corpus that was made earlier.
pub(super) fn listed(debs: &Path, lines: &str) -> Result<Vec<Package>> {
    let package = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [asked, name, first, second] => Package::new(debs, asked, name, [first, second]),
        _ => anyhow::bail!("the corpus has a damaged list; remove .cache/bench/corpus"),
    };
    lines.lines().map(package).collect()
}

/// Downloads the oldest and the newest version of each package, unless they are in `debs`. A name may
/// be several, of which the first is taken that apt knows; a package it does not know is left out.
pub(super) fn fetch(debs: &Path, asked: &[&str]) -> Result<Vec<Package>> {
    fs::create_dir_all(debs)?;
    let (mut packages, mut missing) = (Vec::new(), Vec::new());
    for asked in asked {
        let known = asked.split('|').find_map(|name| {
            let told = quietly(Command::new("apt-cache").args(["madison", name])).ok()?;
            Some((name, versions(&told)?))
        });
        let Some((name, versions)) = known else {
            eprintln!("apt knows no package {asked}: the corpus is made without it");
            continue;
        };
        for version in &versions {
            let wanted = format!("{name}={version}");
            if find(debs, name, version).is_none() && !missing.contains(&wanted) {
                missing.push(wanted);
            }
        }
        packages.push((asked, name, versions));
    }
    if !missing.is_empty() {
        eprintln!("downloading {} Debian packages", missing.len());
        let mut apt = Command::new("apt-get");
        quietly(
            apt.args(["-qq", "download"])
                .args(&missing)
                .current_dir(debs),
        )?;
    }
    packages
        .iter()
        .map(|(asked, name, [first, second])| Package::new(debs, asked, name, [first, second]))
        .collect()
}

/// The oldest and the newest version in what `apt-cache madison` says, which goes from new to old.
fn versions(madison: &str) -> Option<[String; 2]> {
    let mut versions = madison.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (_, version, origin) = (fields.next()?, fields.next()?, fields.next()?);
        origin.ends_with(" Packages").then(|| version.to_owned())
    });
    let newest = versions.next()?;
    let oldest = versions.next_back().unwrap_or_else(|| newest.clone());
    Some([oldest, newest])
}

fn find(debs: &Path, name: &str, version: &str) -> Option<PathBuf> {
    let start = format!("{name}_{}_", version.replace(':', "%3a"));
    let mut files = fs::read_dir(debs).ok()?.flatten();
    files
        .find(|file| file.file_name().to_string_lossy().starts_with(&start))
        .map(|file| file.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_and_newest_of_what_apt_can_download() {
        let told = " a | 3.1-2 | archive stable-security/main amd64 Packages\n \
                     a | 3.0-9 | archive stable/main amd64 Packages\n \
                     a | 2.9-1 | archive stable/main Sources\n";
        assert_eq!(versions(told).unwrap(), ["3.0-9", "3.1-2"]);
        let one = told.lines().next().unwrap();
        assert_eq!(versions(one).unwrap(), ["3.1-2", "3.1-2"]);
        assert_eq!(versions(""), None);
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let temp = tempfile::tempdir().unwrap();
        for file in ["b_1%3a2.0_all.deb", "b_1%3a2.1_all.deb"] {
            fs::write(temp.path().join(file), "").unwrap();
        }
        let package = Package::new(temp.path(), "a|b", "b", ["1:2.0", "1:2.1"]).unwrap();
        let again = listed(temp.path(), &package.line()).unwrap();
        assert_eq!(again[0].told(), "b 1:2.0 to 1:2.1");
        assert_eq!(
            (&again[0].first, &again[0].second),
            (&package.first, &package.second)
        );
        assert!(listed(temp.path(), "a|b b 1:2.0 1:2.2\n").is_err());
        assert!(listed(temp.path(), "a|b b\n").is_err());
    }
}
