//! The data that is backed up, in two generations.
//!
//! ```text
//! data/sources    part of the Linux sources        upgraded
//! data/packages   unpacked Debian packages         some upgraded, one renamed, one new
//! data/archives   the same, as .deb files          as the packages
//! data/tar        more Linux sources, as a tar     137 bytes inserted at some places
//! data/images     raw ext4 images of two machines  files of upgraded packages, pages, a log
//! data/logs       generated, one packed with xz    appended, rotated, inserted into
//! data/heap       pages of 8 KiB, as databases do  some rewritten in place
//! ```
//!
//! Everything real is what apt, as it is configured on this machine, gives: the oldest version that it
//! knows is the first generation, the newest the second. The second is made out of a copy of the
//! first, in place: what it does not change keeps inode and times.

mod change;
mod generated;
mod image;
mod packages;

use crate::measure::{Size, quietly, size};
use anyhow::{Context, Result};
use packages::Package;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much of everything; names of packages as Debian 12 has them, then as 13.
pub(crate) struct Scale {
    name: &'static str,
    /// Parts of the Linux sources that are a tree.
    sources: &'static [&'static str],
    /// Parts of them that are a tar.
    tar: &'static [&'static str],
    packages: &'static [&'static str],
    /// What both images have.
    base: &'static [&'static str],
    /// What one image has and the other not.
    applications: [&'static [&'static str]; 2],
    image: u64,
    heap: u64,
    log: u64,
}

const LINUX: &str = "linux-source-6.1|linux-source-6.12";
/// The package that the second generation has and the first has not.
const ADDED: &str = "docutils-doc";

/// What the published figures are of: more than 3 GB.
pub(crate) const FULL: Scale = Scale {
    name: "full",
    sources: &[
        "arch/x86",
        "Documentation",
        "fs",
        "include",
        "kernel",
        "mm",
        "net",
        "sound",
    ],
    tar: &[
        "drivers/media",
        "drivers/net",
        "drivers/scsi",
        "drivers/staging",
        "tools",
    ],
    packages: &[
        "emacs-common",
        "golang-1.19-src|golang-1.24-src",
        "libreoffice-common",
        "libruby3.1|libruby3.3",
        "php8.2-cli|php8.4-cli",
        "python3-django",
        "python3.11-doc|python3.13-doc",
        "samba-libs",
    ],
    base: &[
        "coreutils",
        "cpp-12|cpp-14",
        "gcc-12|gcc-14",
        "git",
        "libc6",
        "libc6-dev",
        "libicu72|libicu76",
        "libperl5.36|libperl5.40",
        "libpython3.11-stdlib|libpython3.13-stdlib",
        "libssl3|libssl3t64",
        "locales",
        "openssl",
        "perl-modules-5.36|perl-modules-5.40",
        "systemd",
        "util-linux",
        "vim-runtime",
    ],
    applications: [
        &[
            "mariadb-server",
            "mariadb-server-core",
            "postgresql-15|postgresql-17",
        ],
        &[
            "libnode108|libnode115",
            "nginx",
            "openjdk-17-jre-headless|openjdk-21-jre-headless",
        ],
    ],
    image: 832 << 20,
    heap: 96 << 20,
    log: 64 << 20,
};

/// For trying the tool itself.
pub(crate) const SMALL: Scale = Scale {
    name: "small",
    sources: &["kernel", "mm"],
    tar: &["crypto"],
    packages: &["libruby3.1|libruby3.3", "python3-docutils"],
    base: &["libc6", "openssl"],
    applications: [&["coreutils"], &["nginx"]],
    image: 96 << 20,
    heap: 8 << 20,
    log: 4 << 20,
};

/// A corpus on disk.
pub(crate) struct Corpus {
    scale: &'static Scale,
    root: PathBuf,
    packages: Vec<Package>,
}

impl Corpus {
    /// The corpus of this scale; made, if it is not there yet.
    ///
    /// # Errors
    /// A program that it needs is missing, or the disk is full.
    pub(crate) fn at(bench: &Path, scale: &'static Scale) -> Result<Self> {
        let root = bench.join("corpus").join(scale.name);
        let debs = bench.join("debs");
        let complete = root.join("complete");
        if let Ok(listed) = fs::read_to_string(&complete) {
            let packages = packages::listed(&debs, &listed)?;
            return Ok(Self {
                scale,
                root,
                packages,
            });
        }
        // what an interruption left
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        let asked = [&[LINUX, ADDED], scale.packages, scale.base].concat();
        let asked = [asked, scale.applications.concat()].concat();
        let packages = packages::fetch(&debs, &asked)?;
        let made = Self {
            scale,
            root,
            packages,
        };
        eprintln!("making the {} corpus", scale.name);
        made.make()?;
        let listed: String = made.packages.iter().map(Package::line).collect();
        fs::write(&complete, listed)?;
        Ok(made)
    }

    /// The first generation; its only member is `data`.
    pub(crate) fn first(&self) -> PathBuf {
        self.root.join("gen1")
    }

    /// Makes `to` the first generation, whatever it was.
    ///
    /// # Errors
    /// As `cp` says.
    pub(crate) fn copy_first(&self, to: &Path) -> Result<()> {
        remove(to)?;
        copy(&self.first(), to)
    }

    /// What it is made of, for the report.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn size(&self) -> Result<Size> {
        size(&self.first())
    }

    /// Packages with both versions, for the report.
    pub(crate) fn packages(&self) -> impl Iterator<Item = String> {
        self.packages.iter().map(Package::told)
    }

    fn find(&self, names: &str) -> Option<&Package> {
        self.packages.iter().find(|p| p.asked == names)
    }

    fn find_all(&self, names: &[&str]) -> impl Iterator<Item = &Package> {
        names.iter().filter_map(|names| self.find(names))
    }

    /// The packages in an image.
    fn image(&self, number: usize) -> impl Iterator<Item = &Package> {
        self.find_all(self.scale.base)
            .chain(self.find_all(self.scale.applications[number]))
    }

    fn make(&self) -> Result<()> {
        let data = self.first().join("data");
        let scratch = self.root.join("scratch");
        for part in ["archives", "heap", "images", "logs", "packages", "tar"] {
            fs::create_dir_all(data.join(part))?;
        }
        fs::create_dir_all(&scratch)?;
        if let Some(linux) = self.find(LINUX) {
            let sources = |parts, to: &Path| linux_sources(&linux.first, parts, &scratch, to);
            sources(self.scale.sources, &data.join("sources"))?;
            let drivers = scratch.join("drivers");
            sources(self.scale.tar, &drivers)?;
            let owners = ["--sort=name", "--numeric-owner", "--owner=0", "--group=0"];
            let mut tar = Command::new("tar");
            tar.args(owners).arg("-cf").arg(data.join("tar/linux.tar"));
            quietly(tar.arg("-C").args([&drivers, Path::new(".")]))?;
        }
        for package in self.find_all(self.scale.packages) {
            packages::unpack(&package.first, &data.join("packages").join(&package.name))?;
            copy(&package.first, &data.join("archives"))?;
        }
        generated::logs(&data.join("logs"), self.scale.log)?;
        generated::heap(&data.join("heap/heap"), self.scale.heap)?;
        for number in 0..2 {
            let tree = scratch.join("machine");
            for package in self.image(number) {
                packages::unpack(&package.first, &tree)?;
            }
            image::make(&image::path(&data, number), &tree, number, self.scale)?;
            remove(&tree)?;
        }
        remove(&scratch)
    }
}

/// Unpacks parts of the Linux sources in a package into `to`.
fn linux_sources(deb: &Path, parts: &[&str], scratch: &Path, to: &Path) -> Result<()> {
    let package = scratch.join("linux");
    packages::unpack(deb, &package)?;
    let sources = fs::read_dir(package.join("usr/src"))?
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "xz"))
        .with_context(|| format!("{} has no sources in usr/src", deb.display()))?;
    fs::create_dir_all(to)?;
    let mut tar = Command::new("tar");
    tar.args(["--wildcards", "--no-wildcards-match-slash"]);
    tar.args(["--strip-components=1", "--no-same-owner", "-xf"]);
    tar.arg(&sources).arg("-C").arg(to);
    quietly(tar.args(parts.iter().map(|part| format!("linux-source-*/{part}"))))?;
    remove(&package)
}

/// Copies all there is to know of a file or tree.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto", "--sparse=always", "--"]);
    quietly(cp.args([from, to])).map(drop)
}

/// Removes a tree, if it is there.
pub(crate) fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| tree.display().to_string())
        }
        _ => Ok(()),
    }
}
