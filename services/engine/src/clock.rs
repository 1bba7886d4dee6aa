//! The clock that locks go by. While a lock is pending it goes by the time that machines were seen
//! to run, whatever the wall clock is set to: so it lags by the time they were off, and a lock lasts
//! longer, never shorter, than it was made for.

use format::DatastoreId;
use format::lock::Clock;
use nix::time::{ClockId, clock_gettime};
use std::time::SystemTime;

/// What a machine's clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, seconds since the Unix epoch.
    pub wall: i64,
    /// Which boot it is; none where that cannot be told.
    pub boot: Option<[u8; 16]>,
    /// Seconds since that boot, those asleep included.
    pub up: i64,
}

/// Where the time comes from.
pub trait Source: Send + Sync {
    /// The time now.
    fn read(&self) -> Reading;
}

/// The kernel's clocks.
pub struct System;

impl Source for System {
    fn read(&self) -> Reading {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = u128::from_str_radix(&text.trim().replace('-', ""), 16);
        Reading {
            wall: since.map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX)),
            boot: boot.ok().map(u128::to_be_bytes),
            up: clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec()),
        }
    }
}

/// The datastore's clock now, by how it was saved, by when the last lock was made, and by the times
/// until which snapshots are locked.
pub(crate) fn now(
    saved: Option<&Clock>,
    made: Option<i64>,
    until: impl IntoIterator<Item = i64>,
    reading: &Reading,
) -> i64 {
    let seen = saved.map(|saved| {
        let same = reading.boot == Some(saved.boot);
        let passed = if same { reading.up - saved.up } else { 0 };
        saved.time.saturating_add(passed.max(0))
    });
    // nobody made a lock later than now
    match seen.max(made) {
        Some(seen) if until.into_iter().any(|until| until > seen) => seen,
        _ => reading.wall,
    }
}

/// How it is saved, where it can be told which boot this is.
pub(crate) fn saved(datastore: DatastoreId, time: i64, reading: &Reading) -> Clock {
    Clock {
        datastore,
        boot: reading.boot.unwrap_or_default(),
        time,
        up: reading.up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    fn reading(wall: i64, boot: u8, up: i64) -> Reading {
        Reading {
            wall,
            boot: Some([boot; 16]),
            up,
        }
    }

    #[test]
    fn without_a_pending_lock_it_is_the_wall_clock() {
        let saved = saved(DatastoreId([1; 16]), 1000, &reading(1000, 1, 50));
        assert_eq!(now(None, None, [], &reading(7, 1, 60)), 7);
        assert_eq!(now(Some(&saved), Some(900), [1005], &reading(7, 1, 60)), 7);
    }

    #[test]
    fn the_system_tells_which_boot_it_is_and_how_long_it_is_up() {
        let first = System.read();
        let second = System.read();
        assert!(first.boot.is_some() && first.boot == second.boot);
        assert!(first.up > 0 && first.wall > 1_700_000_000);
    }

    proptest! {
        /// Whatever the wall clock is set to, and however often the machine starts anew, a lock of 30
        /// days is not over before machines ran for 30 days.
        #[test]
        fn a_lock_outlasts_any_jump(steps in proptest::collection::vec(
            (-20_000i64..20_000, 0i64..DAY, prop::bool::weighted(0.2)), 1..60,
        )) {
            let (made, until) = (1_000_000_000, 1_000_000_000 + 30 * DAY);
            let mut clock = saved(DatastoreId([1; 16]), made, &reading(made, 0, 500));
            let (mut boot, mut up, mut ran) = (0, 500, 0);
            for (days, seconds, restart) in steps {
                if restart {
                    (boot, up) = (boot + 1, 0);
                }
                up += seconds;
                ran += seconds;
                let reading = reading(made + days * DAY, boot, up);
                let time = now(Some(&clock), Some(made), [until], &reading);
                if ran >= 30 * DAY {
                    return Ok(());
                }
                prop_assert!(time < until && time <= made + ran, "{time} after {ran}");
                clock = saved(DatastoreId([1; 16]), time, &reading);
            }
        }
    }
}
