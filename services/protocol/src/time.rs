//! The time, as a centre's portal tells it: docs/protocol.md "Time".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The ALPN protocol: the centre sends the one message and closes.
pub const ALPN: &[u8] = b"strongroom-time/1";
/// Bytes of the one message.
pub const LEN: usize = 12;

/// The message for a moment: seconds since the Unix epoch (u64) and nanoseconds (u32), little
/// endian. A moment before the epoch is told as the epoch.
pub fn encode(now: SystemTime) -> [u8; LEN] {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&since.as_secs().to_le_bytes());
    bytes[8..].copy_from_slice(&since.subsec_nanos().to_le_bytes());
    bytes
}

/// The moment a message tells; None for one that names none (a billion nanoseconds or more, or
/// a second this system cannot count to).
pub fn decode(bytes: &[u8; LEN]) -> Option<SystemTime> {
    let (seconds, nanoseconds) = bytes.split_first_chunk::<8>()?;
    let nanoseconds = u32::from_le_bytes(nanoseconds.try_into().ok()?);
    let seconds = u64::from_le_bytes(*seconds);
    if nanoseconds >= 1_000_000_000 {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_moment_reads_back(seconds in 0..1u64 << 40, nanoseconds in 0..1_000_000_000u32) {
            let moment = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            prop_assert_eq!(decode(&encode(moment)), Some(moment));
        }
    }

    #[test]
    fn no_message_makes_it_panic() {
        bolero::check!().with_type::<[u8; LEN]>().for_each(|bytes| {
            if let Some(moment) = decode(bytes) {
                assert_eq!(encode(moment), *bytes);
            }
        });
    }
}
