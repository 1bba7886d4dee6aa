//! What real servers have, part by part.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io;

use super::{Maker, Scale};

pub(super) fn all(make: &mut Maker, root: &OwnedFd, scale: Scale) -> io::Result<()> {
    make.dir(root, b"acls", acls)?;
    make.dir(root, b"data", |make, dir| data(make, dir, scale))?;
    make.dir(root, b"deep", deep)?;
    make.dir(root, b"empty", |make, dir| {
        make.file(dir, b"file", b"")?;
        make.dir(dir, b"directory", |_, _| Ok(()))?;
        make.dir(dir, b"holds-empty", |make, dir| {
            make.dir(dir, b"too", |_, _| Ok(()))
        })
    })?;
    make.dir(root, b"links", links)?;
    make.dir(root, b"many", |make, dir| {
        many(make, dir, scale.small_files)
    })?;
    make.dir(root, b"modes", modes)?;
    make.dir(root, b"names", names)?;
    make.dir(root, b"sizes", sizes)?;
    make.dir(root, b"sparse", |make, dir| {
        sparse(make, dir, scale.sparse_file)
    })?;
    make.dir(root, b"special", special)?;
    make.dir(root, b"times", times)?;
    make.dir(root, b"xattrs", xattrs)
}

/// POSIX ACLs as the kernel takes them (linux/posix_acl_xattr.h): version 2, then tag, rights and
/// number of each line.
fn acl(lines: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in lines {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&rights.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn acls(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    const NONE: u32 = u32::MAX;
    let lines = acl(&[
        (0x01, 7, NONE), // owner
        (0x02, 5, 1234), // a user by number
        (0x04, 4, NONE), // group
        (0x08, 6, 4321), // a group by number
        (0x10, 7, NONE), // mask
        (0x20, 0, NONE), // others
    ]);
    make.file(dir, b"file", b"shared with a user and a group\n")?;
    make.xattr(dir, b"file", b"system.posix_acl_access", &lines)?;
    make.dir(dir, b"directory", |make, dir| {
        make.file(dir, b"before", b"made before the default ACL\n")?;
        make.xattr(dir, b".", b"system.posix_acl_access", &lines)?;
        make.xattr(dir, b".", b"system.posix_acl_default", &lines)?;
        make.file(dir, b"after", b"made after it\n")?;
        make.dir(dir, b"below", |make, dir| {
            make.file(dir, b"inherits", b"\n")
        })
    })
}

fn data(make: &mut Maker, dir: &OwnedFd, scale: Scale) -> io::Result<()> {
    let database = make.random.bytes(scale.large_file);
    make.file(dir, b"database", &database)?;
    // the same content once more, and once more but for its beginning
    make.file(dir, b"database.bak", &database)?;
    let shifted = [b"header\n", &database[database.len() / 2..]].concat();
    make.file(dir, b"database.part", &shifted)?;
    let text = make.random.text(scale.large_file / 2);
    make.file(dir, b"log.txt", &text)?;
    make.file(dir, b"zeros", &vec![0; 1 << 20])
}

fn deep(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    // deeper than a path may be long
    fn level(make: &mut Maker, dir: &OwnedFd, left: u32) -> io::Result<()> {
        if left == 0 {
            return make.file(dir, b"bottom", b"reached\n");
        }
        let name = format!("{left:03}-{}", "d".repeat(96));
        make.dir(dir, name.as_bytes(), |make, dir| level(make, dir, left - 1))
    }
    level(make, dir, 45)
}

fn links(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    make.file(dir, b"first", b"a file with four names\n")?;
    make.link(dir, b"first", dir, b"a-second")?;
    make.dir(dir, b"below", |make, below| {
        make.link(dir, b"first", below, b"third")?;
        make.link(dir, b"first", below, b"zz-fourth")
    })?;
    make.symlink(dir, b"to-file", b"first")?;
    make.link(dir, b"to-file", dir, b"to-file-again")?;
    make.symlink(dir, b"to-directory", b"below")?;
    make.symlink(dir, b"dangling", b"no/such/file")?;
    make.symlink(dir, b"absolute", b"/etc/hostname")?;
    make.symlink(dir, b"out", b"../../../../../../..")?;
    make.symlink(dir, b"itself", b"itself")?;
    make.symlink(dir, b"loop-a", b"loop-b")?;
    make.symlink(dir, b"loop-b", b"loop-a")?;
    make.symlink(dir, b"here", b".")?;
    make.symlink(dir, b"odd", b"\xff\n*")?;
    // the longest target Linux takes
    make.symlink(dir, b"long", "long/".repeat(819).as_bytes())
}

fn many(make: &mut Maker, dir: &OwnedFd, count: u32) -> io::Result<()> {
    for hundred in 0..count.div_ceil(100) {
        let name = format!("{hundred:04}");
        make.dir(dir, name.as_bytes(), |make, dir| {
            for file in 0..(count - hundred * 100).min(100) {
                let length = make.random.below(8193);
                let content = match file % 2 {
                    0 => make.random.text(length),
                    _ => make.random.bytes(length),
                };
                make.file(dir, format!("file-{file:02}").as_bytes(), &content)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn modes(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    let mut files = vec![0o400, 0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777];
    if make.privileged {
        files.extend([0o000, 0o222]);
    }
    for mode in files {
        let name = format!("file-{mode:04o}");
        make.file(dir, name.as_bytes(), name.as_bytes())?;
        make.mode(dir, name.as_bytes(), mode)?;
    }
    for mode in [0o500, 0o700, 0o711, 0o1777, 0o2775, 0o3777] {
        let name = format!("directory-{mode:04o}");
        make.dir(dir, name.as_bytes(), |make, dir| make.file(dir, b"x", b"x"))?;
        make.mode(dir, name.as_bytes(), mode)?;
    }
    if make.privileged {
        make.dir(dir, b"directory-0000", |make, dir| {
            make.file(dir, b"x", b"x")
        })?;
        make.mode(dir, b"directory-0000", 0)?;
        for (name, uid, gid) in [
            (b"other-user", 12_345, 54_321),
            (b"last-user_", u32::MAX - 1, 0),
        ] {
            make.file(dir, name, name)?;
            make.own(dir, name, uid, gid)?;
            // after the owner, whose change takes these bits away
            make.mode(dir, name, 0o6755)?;
        }
        make.symlink(dir, b"other-users-link", b"nowhere")?;
        make.own(dir, b"other-users-link", 12_345, 54_321)?;
    } else {
        let skipped = "owners, and what nobody may read or enter: only root can make and read it";
        make.made.skipped.push(skipped.to_string());
    }
    Ok(())
}

fn names(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    let longest = [b'n'; 255];
    let names: [&[u8]; 24] = [
        b" ",
        b"-rf",
        b"--",
        b"...",
        b"a b",
        b"new\nline",
        b"tab\t",
        b"\x01\x7f",
        b"\xff\xfe",
        b"\xc3\x28",
        "\u{fc}ml\u{e4}ut \u{65e5}\u{672c}".as_bytes(),
        "u\u{308}".as_bytes(),
        b"*",
        b"[a-z]?",
        b"'single'",
        b"\"double\"",
        b"back\\slash",
        b"$HOME",
        b"`id`",
        b";",
        b"~",
        b"#",
        b"a.b",
        &longest,
    ];
    for name in names {
        make.file(dir, name, name)?;
    }
    // names that sort around the separator: '-' < '.' < '/' < '0'
    for name in [&b"a"[..], b"a-", b"a0"] {
        make.dir(dir, name, |make, dir| make.file(dir, b"inside", name))?;
    }
    make.dir(dir, b"dir\xff\n", |make, dir| make.file(dir, b"\xff", b""))?;
    // every byte that a name may have: all in one, and each as the first
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    make.file(dir, &bytes, b"all")?;
    make.dir(dir, b"bytes", |make, dir| {
        let mut each = bytes.iter();
        each.try_for_each(|byte| make.file(dir, &[*byte, b'x'], &[*byte]))
    })
}

/// Around the sizes where buffers, blocks and chunks begin and end.
fn sizes(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    for power in [0, 9, 12, 14, 16, 18, 20] {
        for size in [(1u64 << power) - 1, 1 << power, (1 << power) + 1] {
            let content = make.random.bytes(size);
            let name = format!("{size:07}-at-{power:02}");
            make.file(dir, name.as_bytes(), &content)?;
        }
    }
    let content = make.random.bytes((4 << 20) + 1);
    make.file(dir, b"4194305", &content)
}

fn sparse(make: &mut Maker, dir: &OwnedFd, size: u64) -> io::Result<()> {
    let data = make.random.bytes(128 * 1024);
    let last = size.saturating_sub(data.len() as u64);
    make.sparse(dir, b"all", size, &[])?;
    make.sparse(dir, b"start", size, &[(last, &data)])?;
    make.sparse(dir, b"middle", size, &[(0, &data), (last, &data)])?;
    make.sparse(dir, b"end", size, &[(0, &data)])?;
    make.sparse(dir, b"odd", size + 1, &[(12_345, &data[..54_321])])?;
    make.sparse(dir, b"huge", 1 << 40, &[(1 << 39, &data[..4096])])?;
    let many: Vec<_> = (0..16).map(|i| (i * 1_048_576, &data[..65_536])).collect();
    make.sparse(dir, b"many", 16 << 20, &many)
}

fn special(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    make.node(dir, b"pipe", FileType::Fifo, (0, 0))?;
    make.node(dir, b"socket", FileType::Socket, (0, 0))?;
    make.node(dir, b"null", FileType::CharacterDevice, (1, 3))?;
    make.node(dir, b"loop", FileType::BlockDevice, (7, 0))?;
    make.node(dir, b"last", FileType::BlockDevice, (4095, 1_048_575))
}

fn times(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    for (name, seconds, nanos) in [
        ("1901", -2_147_483_648, 0),
        ("1969", -1, 999_999_999),
        ("1970", 0, 1),
        ("2001", 1_000_000_000, 123_456_789),
        ("2038", 2_147_483_648, 500_000_000),
        ("2446", 15_032_385_535, 0),
    ] {
        make.file(dir, name.as_bytes(), name.as_bytes())?;
        make.time(dir, name.as_bytes(), seconds, nanos)?;
    }
    make.dir(dir, b"old-directory", |make, dir| {
        make.file(dir, b"new", b"")
    })?;
    make.time(dir, b"old-directory", -86_400, 7)?;
    make.symlink(dir, b"old-link", b"2001")?;
    make.time(dir, b"old-link", -86_400, 8)
}

fn xattrs(make: &mut Maker, dir: &OwnedFd) -> io::Result<()> {
    make.file(dir, b"file", b"with attributes\n")?;
    make.xattr(dir, b"file", b"user.comment", b"plain words")?;
    make.xattr(dir, b"file", b"user.binary", b"\0\xff\n\0")?;
    make.xattr(dir, b"file", b"user.empty", b"")?;
    make.xattr(
        dir,
        b"file",
        format!("user.{}", "n".repeat(250)).as_bytes(),
        b"longest name",
    )?;
    let value = make.random.bytes(1500);
    make.xattr(dir, b"file", b"user.large", &value)?;
    make.dir(dir, b"directory", |_, _| Ok(()))?;
    make.xattr(dir, b"directory", b"user.comment", b"of a directory")?;
    make.symlink(dir, b"link", b"file")?;
    if make.privileged {
        make.xattr(dir, b"file", b"trusted.note", b"for root alone")?;
        make.xattr(dir, b"link", b"trusted.note", b"of a link")?;
        make.file(dir, b"program", b"#!/bin/true\n")?;
        make.mode(dir, b"program", 0o755)?;
        // linux/capability.h, revision 2: effective, CAP_NET_BIND_SERVICE permitted
        let mut value = [0; 20];
        value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
        value[4..8].copy_from_slice(&(1u32 << 10).to_le_bytes());
        make.xattr(dir, b"program", b"security.capability", &value)?;
    } else {
        let skipped = "trusted and security attributes: only root can set them";
        make.made.skipped.push(skipped.to_string());
    }
    Ok(())
}
