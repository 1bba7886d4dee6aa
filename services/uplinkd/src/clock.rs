//! The machine's clock, and the centre's.

use crate::sys;
use contract::{Error, PortalProxy};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use zbus::zvariant::Value;

/// The portal answers within this or not.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of its answer: seconds i64, nanoseconds u32, little endian.
const ANSWER_LEN: usize = 12;
/// From 2026 to 2100: what is outside is no time of ours.
const SANE: std::ops::Range<i64> = 1_767_225_600..4_102_444_800;

/// The clocks; the seam for tests.
pub trait Clock: Send + Sync {
    /// Time since the machine's start, asleep or not; never jumps.
    fn steady(&self) -> Duration;
    /// Seconds and nanoseconds since the Unix epoch.
    fn wall(&self) -> (i64, u32);
    /// Sets the wall clock, and the hardware clock with it.
    fn set(&self, seconds: i64, nanoseconds: u32) -> std::io::Result<()>;
}

/// The running system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn steady(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }

    fn wall(&self) -> (i64, u32) {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(TimeSpec::new(0, 0));
        (now.tv_sec(), now.tv_nsec() as u32)
    }

    fn set(&self, seconds: i64, nanoseconds: u32) -> std::io::Result<()> {
        let time = TimeSpec::new(seconds, i64::from(nanoseconds));
        clock_settime(ClockId::CLOCK_REALTIME, time)?;
        // the kernel writes a clock it holds for right to the hardware
        sys::mark_synchronised()
    }
}

/// Asks the portal at `endpoint` for the time and sets the clock by it when it is off by more than
/// [`crate::site::TOLERANCE`] seconds. Answers by how many seconds it moved.
pub async fn sync(
    bus: &zbus::Connection,
    clock: &dyn Clock,
    endpoint: &str,
    fingerprint: &[u8],
) -> Result<i64, Error> {
    let asked = tokio::time::timeout(PATIENCE, ask(bus, endpoint, fingerprint));
    let (seconds, nanoseconds) = asked.await.map_err(|_| {
        Error::CentreUnreachable(format!(
            "the centre at {endpoint} did not tell the time within {} seconds; see that TCP reaches it",
            PATIENCE.as_secs()
        ))
    })??;
    let moved = seconds.saturating_sub(clock.wall().0);
    if moved.abs() <= crate::site::TOLERANCE {
        return Ok(0);
    }
    clock.set(seconds, nanoseconds).map_err(|error| {
        Error::ClockWrong(format!(
            "the clock is off by {moved} seconds and cannot be set ({error}); see whether uplinkd may (CAP_SYS_TIME)"
        ))
    })?;
    tracing::warn!(moved, "set the clock by the centre's");
    Ok(moved)
}

async fn ask(
    bus: &zbus::Connection,
    endpoint: &str,
    fingerprint: &[u8],
) -> Result<(i64, u32), Error> {
    let options = [
        ("endpoint", Value::from(endpoint)),
        ("fingerprint", Value::from(fingerprint)),
    ];
    let portal = PortalProxy::new(bus).await?;
    let stream = match portal.dial("time", options.into()).await {
        Err(Error::ZBus(error)) => {
            return Err(Error::NotReady(format!(
                "portald does not answer ({error}), so the centre cannot be asked for the time; \
                 it is asked again by itself, see strongroom log if this stays"
            )));
        }
        answer => answer?,
    };
    let mut stream = runtime::pipe::adopt_stream(stream)?;
    let mut answer = Vec::new();
    let read = (&mut stream)
        .take(ANSWER_LEN as u64 + 1)
        .read_to_end(&mut answer)
        .await;
    read.map_err(|error| {
        Error::CentreUnreachable(format!(
            "the centre at {endpoint} broke off while telling the time ({error}); ask again"
        ))
    })?;
    parse(&answer).ok_or_else(|| {
        Error::ClockWrong(format!(
            "the centre at {endpoint} told no time that can be; see its clock"
        ))
    })
}

fn parse(answer: &[u8]) -> Option<(i64, u32)> {
    let (seconds, nanoseconds) = answer.split_at_checked(8)?;
    let seconds = i64::from_le_bytes(seconds.try_into().ok()?);
    let nanoseconds = u32::from_le_bytes(nanoseconds.try_into().ok()?);
    (SANE.contains(&seconds) && nanoseconds < 1_000_000_000).then_some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn a_time_is_read_and_nonsense_is_not() {
        let bytes = |s: i64, n: u32| [&s.to_le_bytes()[..], &n.to_le_bytes()].concat();
        assert_eq!(
            super::parse(&bytes(1_800_000_000, 5)),
            Some((1_800_000_000, 5))
        );
        assert_eq!(super::parse(&bytes(1_800_000_000, 1_000_000_000)), None);
        assert_eq!(super::parse(&bytes(0, 0)), None);
        assert_eq!(super::parse(&bytes(i64::MAX, 0)), None);
        assert_eq!(super::parse(&bytes(1_800_000_000, 5)[..11]), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_borne(answer in proptest::collection::vec(any::<u8>(), 0..20)) {
            super::parse(&answer);
        }
    }
}
