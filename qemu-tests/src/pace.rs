//! Deadlines that fit the machine: emulation is several times slower than virtualisation.

use std::time::{Duration, Instant};

/// How fast machines run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    factor: u32,
}

impl Pace {
    /// Of a machine under this accelerator (`kvm` or `tcg`).
    pub fn of(accelerator: &str) -> Pace {
        Pace {
            factor: if accelerator == "kvm" { 1 } else { 8 },
        }
    }

    /// A deadline for what takes up to `seconds` on real hardware.
    pub fn within(self, seconds: u64) -> Deadline {
        let length = Duration::from_secs(seconds) * self.factor;
        Deadline {
            start: Instant::now(),
            length,
        }
    }
}

/// A moment by which something has to have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    length: Duration,
}

impl Deadline {
    /// In that time from now, at any pace.
    pub fn after(length: Duration) -> Deadline {
        Deadline {
            start: Instant::now(),
            length,
        }
    }

    /// What is left; `None` when it has passed.
    pub fn left(&self) -> Option<Duration> {
        self.length
            .checked_sub(self.start.elapsed())
            .filter(|d| !d.is_zero())
    }

    /// From the start to the deadline.
    pub fn length(&self) -> Duration {
        self.length
    }
}
