//! The one pairing that may be open: its code, its tries, its end.

use protocol::pairing::{Code, TRIES};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What a pairing at a centre is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recovery {
    pub(crate) datastore: String,
    pub(crate) share: Option<Zeroizing<String>>,
    pub(crate) hours: u32,
}

struct Open {
    number: u64,
    code: Code,
    until: Instant,
    wrong: u8,
    recovery: Option<Recovery>,
}

#[derive(Default)]
pub(crate) struct Desk(Mutex<(u64, Option<Open>)>);

/// What becomes of a guess.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Right, and with it the code is used.
    Right(Option<Recovery>),
    /// Wrong; tries left, 0 when this one ended the pairing.
    Wrong(u8),
    /// The code was used, ended, replaced or has expired meanwhile.
    Closed,
}

impl Desk {
    /// Opens a pairing; an earlier one ends.
    pub(crate) fn open(&self, code: Code, life: Duration, recovery: Option<Recovery>) {
        let mut desk = self.0.lock().expect("no panic holds it");
        desk.0 += 1;
        desk.1 = Some(Open {
            number: desk.0,
            code,
            until: Instant::now() + life,
            wrong: 0,
            recovery,
        });
    }

    /// The open code, and its number for [`Desk::guess`].
    pub(crate) fn code(&self) -> Option<(u64, Code)> {
        let mut desk = self.0.lock().expect("no panic holds it");
        // an expired one leaves here, so that no share is kept longer than its code
        desk.1.take_if(|open| Instant::now() >= open.until);
        desk.1.as_ref().map(|open| (open.number, open.code.clone()))
    }

    /// Counts a guess at the code of this number: guesses on many connections at once are
    /// judged one after the other, and after the fifth wrong one a right one comes too late.
    pub(crate) fn guess(&self, number: u64, right: bool) -> Verdict {
        let mut desk = self.0.lock().expect("no panic holds it");
        desk.1.take_if(|open| Instant::now() >= open.until);
        let Some(open) = desk.1.as_mut().filter(|open| open.number == number) else {
            return Verdict::Closed;
        };
        if right {
            let used = desk.1.take();
            return Verdict::Right(used.and_then(|open| open.recovery));
        }
        open.wrong += 1;
        let left = TRIES - open.wrong;
        if left == 0 {
            desk.1 = None;
        }
        Verdict::Wrong(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(life: Duration) -> (Desk, u64) {
        let desk = Desk::default();
        desk.open(Code::from_random([1; 16]), life, None);
        let number = desk.code().map_or(0, |(number, _)| number);
        (desk, number)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_code_pairs_once() {
        let (desk, number) = desk(MINUTE);
        assert_eq!(desk.guess(number, true), Verdict::Right(None));
        assert_eq!(desk.guess(number, true), Verdict::Closed);
        assert!(desk.code().is_none());
    }

    #[test]
    fn the_fifth_wrong_guess_ends_it_for_right_ones_under_way_too() {
        let (desk, number) = desk(MINUTE);
        for left in [4, 3, 2, 1, 0] {
            assert_eq!(desk.guess(number, false), Verdict::Wrong(left));
        }
        assert_eq!(desk.guess(number, true), Verdict::Closed);
    }

    #[test]
    fn an_expired_or_replaced_code_is_closed() {
        let (expired, _) = desk(Duration::ZERO);
        assert!(expired.code().is_none());
        assert_eq!(expired.guess(1, true), Verdict::Closed);
        let (desk, number) = desk(MINUTE);
        desk.open(Code::from_random([2; 16]), MINUTE, None);
        assert_eq!(desk.guess(number, true), Verdict::Closed);
        assert_eq!(desk.guess(number + 1, true), Verdict::Right(None));
    }

    #[test]
    fn a_share_leaves_with_the_guess_that_needs_it() {
        let desk = Desk::default();
        let recovery = Recovery {
            datastore: "d".into(),
            share: Some(Zeroizing::new("words".into())),
            hours: 24,
        };
        desk.open(Code::from_random([1; 16]), MINUTE, Some(recovery.clone()));
        assert_eq!(desk.guess(1, false), Verdict::Wrong(4));
        assert_eq!(desk.guess(1, true), Verdict::Right(Some(recovery)));
    }
}
