/// A layout of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every disk holds everything.
    Raid1,
    /// One disk's worth of parity.
    Raid5,
    /// Two disks' worth of parity.
    Raid6,
    /// Mirrored stripes.
    Raid10,
}

impl Level {
    /// The layout md names so (`raid1`).
    pub fn parse(name: &str) -> Option<Level> {
        Some(match name {
            "raid1" => Level::Raid1,
            "raid5" => Level::Raid5,
            "raid6" => Level::Raid6,
            "raid10" => Level::Raid10,
            _ => return None,
        })
    }

    /// md's name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Raid1 => "raid1",
            Level::Raid5 => "raid5",
            Level::Raid6 => "raid6",
            Level::Raid10 => "raid10",
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Level::Raid1 => 1,
            Level::Raid5 => 5,
            Level::Raid6 => 6,
            Level::Raid10 => 10,
        }
    }

    /// How many of `disks` may be missing, whichever they are.
    pub fn bears(self, disks: u32) -> u32 {
        match self {
            Level::Raid1 => disks.saturating_sub(1),
            Level::Raid5 | Level::Raid10 => 1,
            Level::Raid6 => 2,
        }
    }
}
