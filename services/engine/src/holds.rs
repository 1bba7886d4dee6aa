//! Who leans on what is there. What a collection finds dead goes only when all holds that were there
//! by then have ended: who took one later saw it as gone.

use crate::core::locked;
use crate::error::Result;
use crate::progress::Progress;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How soon a cancelled wait ends: nothing tells of that.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    next: u64,
    /// By number, the number that the next pack had when it began.
    active: BTreeMap<u64, u32>,
}

#[derive(Default)]
pub(crate) struct Holds {
    state: Mutex<State>,
    changed: Condvar,
}

/// What was found while this is held stays until it is dropped.
pub struct Hold {
    holds: Arc<Holds>,
    number: u64,
}

impl Holds {
    /// Takes one; `next_pack` is the number of the next pack.
    pub(crate) fn take(self: &Arc<Self>, next_pack: u32) -> Hold {
        let mut state = locked(&self.state);
        let number = state.next;
        state.next += 1;
        state.active.insert(number, next_pack);
        Hold {
            holds: self.clone(),
            number,
        }
    }

    /// The pack before which nobody who holds is storing; `None` when nobody holds.
    pub(crate) fn first_pack(&self) -> Option<u32> {
        locked(&self.state).active.values().min().copied()
    }

    /// Returns when all that are there now have ended.
    pub(crate) fn wait_for_present(&self, progress: &Progress) -> Result<()> {
        let mut state = locked(&self.state);
        let present = state.next;
        while state
            .active
            .first_key_value()
            .is_some_and(|(first, _)| *first < present)
        {
            progress.check()?;
            state = self
                .changed
                .wait_timeout(state, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        locked(&self.holds.state).active.remove(&self.number);
        self.holds.changed.notify_all();
    }
}
