//! Names of users and groups, each asked for once.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

pub(super) struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self {
            users: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// The user's name; empty when the system knows none.
    pub(super) fn user(&mut self, uid: u32) -> Vec<u8> {
        let ask = || match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user.name.into_bytes(),
            _ => Vec::new(),
        };
        self.users.entry(uid).or_insert_with(ask).clone()
    }

    /// The group's name; empty when the system knows none.
    pub(super) fn group(&mut self, gid: u32) -> Vec<u8> {
        let ask = || match Group::from_gid(Gid::from_raw(gid)) {
            Ok(Some(group)) => group.name.into_bytes(),
            _ => Vec::new(),
        };
        self.groups.entry(gid).or_insert_with(ask).clone()
    }
}
