//! Who may have a session now. One peer cannot take them all, and all peers together leave some for
//! the operator. Who finds none is told so, in a session that does nothing else.

use crate::session::Peer;
use contract::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most sessions at a time; each holds some MiB.
const SESSIONS: usize = 64;
/// Of these, for the operator's restores over the bus alone.
const OPERATOR: usize = 4;
/// Of one peer: a backup, a restore or two, and some whose cut it has noticed before we have.
const EACH: usize = 8;
/// Beside them, one of a peer each, which are only told why they are none of them.
const REFUSED: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Operator,
    Peer(Peer),
    Refused(Peer),
}

/// How many seats each has.
#[derive(Default)]
struct Taken(HashMap<Holder, usize>);

impl Taken {
    fn count(&self, of: impl Fn(&Holder) -> bool) -> usize {
        self.0.iter().filter(|(h, _)| of(h)).map(|(_, n)| n).sum()
    }

    fn served(&self) -> usize {
        self.count(|holder| !matches!(holder, Holder::Refused(_)))
    }

    /// A seat for the operator, or why not.
    fn operator(&self) -> Result<Holder, String> {
        if self.served() >= SESSIONS {
            return Err(format!(
                "the restore cannot begin: {SESSIONS} sessions go on here, as many as can be \
                 served; try again when one has ended"
            ));
        }
        Ok(Holder::Operator)
    }

    /// A seat for a peer, or why not.
    fn peer(&self, peer: &Peer) -> Result<Holder, String> {
        let seat = Holder::Peer(peer.clone());
        if self.0.get(&seat).is_some_and(|mine| *mine >= EACH) {
            return Err(format!(
                "{peer} has {EACH} sessions here, as many as one peer may; try again when one \
                 has ended, and see what else there uses its key"
            ));
        }
        if self.served() >= SESSIONS - OPERATOR {
            return Err(format!(
                "{} sessions go on here, as many as can be served; try again when one has ended",
                self.served()
            ));
        }
        Ok(seat)
    }

    /// A seat to be refused on, if there is one.
    fn refused(&self, peer: &Peer) -> Option<Holder> {
        let seat = Holder::Refused(peer.clone());
        let room = self.count(|h| matches!(h, Holder::Refused(_))) < REFUSED;
        (room && !self.0.contains_key(&seat)).then_some(seat)
    }
}

/// All seats.
#[derive(Clone, Default)]
pub(crate) struct Seats(Arc<(Mutex<Taken>, Notify)>);

/// The right to a session; given back when dropped.
pub(crate) struct Seat {
    seats: Seats,
    holder: Holder,
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, choice: impl FnOnce(&Taken) -> Result<Holder, String>) -> Result<Seat, String> {
        let mut taken = self.taken();
        let holder = choice(&taken)?;
        *taken.0.entry(holder.clone()).or_default() += 1;
        let seats = self.clone();
        Ok(Seat { seats, holder })
    }

    /// For a restore of the operator's.
    pub(crate) fn operator(&self) -> Result<Seat, Error> {
        self.take(Taken::operator).map_err(Error::Failed)
    }

    /// For a peer's session, with what it is to be told when it is to be refused.
    pub(crate) fn peer(&self, peer: &Peer) -> Result<(Seat, Option<String>), Error> {
        let why = match self.take(|taken| taken.peer(peer)) {
            Ok(seat) => return Ok((seat, None)),
            Err(why) => why,
        };
        match self.take(|taken| taken.refused(peer).ok_or_else(|| why.clone())) {
            Ok(seat) => Ok((seat, Some(why))),
            Err(why) => Err(Error::Failed(why)),
        }
    }

    /// Returns when nobody has one.
    pub(crate) async fn idle(&self) {
        loop {
            let given_back = self.0.1.notified();
            if self.taken().0.is_empty() {
                return;
            }
            given_back.await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.0.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.0.remove(&self.holder);
            }
        }
        drop(taken);
        self.seats.0.1.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(n: usize) -> Peer {
        Peer::Agent(n.to_string())
    }

    /// Takes what a peer is given until it is told why there is no more.
    fn all_of(seats: &Seats, peer: &Peer) -> (Vec<Seat>, String) {
        let mut taken = Vec::new();
        loop {
            match seats.peer(peer).unwrap() {
                (seat, None) => taken.push(seat),
                (_, Some(why)) => return (taken, why),
            }
        }
    }

    #[test]
    fn one_peer_cannot_take_all_and_all_leave_some_to_the_operator() {
        let seats = Seats::default();
        let (first, why) = all_of(&seats, &agent(0));
        assert_eq!(first.len(), EACH);
        assert_eq!(
            why,
            "agent 0 has 8 sessions here, as many as one peer may; try again when one has ended, \
             and see what else there uses its key"
        );
        // a site of the same name is somebody else
        assert!(seats.peer(&Peer::Site("0".into())).unwrap().1.is_none());
        let rest: Vec<_> = (1..).map(|n| all_of(&seats, &agent(n)).0).take(8).collect();
        assert_eq!(
            first.len() + rest.iter().flatten().count(),
            SESSIONS - OPERATOR
        );
        let (_, why) = seats.peer(&agent(99)).unwrap();
        assert!(why.unwrap().starts_with("60 sessions go on here"));
        let operator: Vec<_> = (0..OPERATOR).map(|_| seats.operator().unwrap()).collect();
        assert!(seats.operator().is_err());
        drop(rest);
        assert!(seats.peer(&agent(99)).unwrap().1.is_none());
        assert!(seats.operator().is_ok());
        drop((first, operator));
        assert!(seats.taken().0.is_empty());
    }

    #[test]
    fn refusals_are_bounded_too() {
        let seats = Seats::default();
        let _all: Vec<_> = (0..8).map(|n| all_of(&seats, &agent(n)).0).collect();
        let refused: Vec<_> = (0..REFUSED)
            .map(|n| seats.peer(&agent(n)).unwrap())
            .collect();
        assert!(refused.iter().all(|(_, why)| why.is_some()));
        assert!(seats.peer(&agent(0)).is_err(), "one each");
        assert!(seats.peer(&agent(99)).is_err(), "and no more of all");
        assert_eq!(seats.taken().served(), SESSIONS - OPERATOR);
        drop(refused);
        assert!(seats.peer(&agent(99)).unwrap().1.is_some());
    }

    #[tokio::test]
    async fn idle_is_when_the_last_has_gone() {
        let seats = Seats::default();
        seats.idle().await;
        let (seat, _) = seats.peer(&agent(0)).unwrap();
        let mut idle = Box::pin(seats.idle());
        assert!(futures_util::poll!(&mut idle).is_pending());
        drop(seat);
        idle.await;
    }
}
