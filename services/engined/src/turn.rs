//! One session at a time, and the newest wins: a site whose connection was cut comes back before
//! the old session has noticed. The old one still takes what had arrived, and then makes way.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    /// Numbers the sessions that came.
    newest: u64,
    /// The one whose turn it is.
    now: Option<UnixStream>,
}

/// A place for one session.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<(Mutex<State>, Condvar)>);

/// A session's turn; over when dropped.
pub(crate) struct Turn(Turns);

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whose turn it is to make way, and waits. `None` when a still newer one has come.
    pub(crate) fn take(&self, stream: UnixStream) -> Option<Turn> {
        let mut state = self.state();
        state.newest += 1;
        let number = state.newest;
        while let Some(before) = &state.now {
            // what it has received already it can still read
            let _ = before.shutdown(Shutdown::Both);
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.newest != number {
                return None;
            }
        }
        state.now = Some(stream);
        Some(Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state().now = None;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn the_newest_wins_after_the_old_one_took_what_had_arrived() {
        let turns = Turns::default();
        let (mut peer, old) = UnixStream::pair().unwrap();
        let turn = turns.take(old.try_clone().unwrap()).unwrap();
        peer.write_all(b"arrived").unwrap();
        std::thread::scope(|scope| {
            let newer = scope.spawn(|| turns.take(UnixStream::pair().unwrap().0).is_some());
            let mut all = Vec::new();
            (&old).read_to_end(&mut all).unwrap();
            assert_eq!(all, b"arrived");
            drop(turn);
            assert!(newer.join().unwrap());
        });
        assert!(turns.take(UnixStream::pair().unwrap().0).is_some());
    }
}
