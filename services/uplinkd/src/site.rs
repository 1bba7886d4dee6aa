//! When a site sets its clock, resolves its centre and raises the tunnel. Pure.
//!
//! WireGuard refuses handshakes from a clock that went back and tells nobody, and the kernel
//! resolves no names. So: clock, name, tunnel, in this order; then a handshake must come, and keep
//! coming; when it does not, or the clock jumps, all over again.

use std::net::SocketAddr;
use std::time::Duration;

/// A handshake older than this is no connection: WireGuard makes a new one every two minutes.
pub const STALE: i64 = 180;
/// How long after raising the first handshake may take, doubled at each new try.
pub const GRACE: Duration = Duration::from_secs(15);
const LONGEST_GRACE: Duration = Duration::from_secs(120);
/// How often a tunnel is looked at.
pub const LOOK: Duration = Duration::from_secs(5);
/// Seconds a clock may be off.
pub const TOLERANCE: i64 = 2;

/// What is looked at before each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Time since some fixed moment; never jumps.
    pub now: Duration,
    /// Unix seconds of the system's clock.
    pub wall: i64,
    /// Unix seconds of the last handshake.
    pub handshake: Option<i64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the centre's portal for the time and set the clock by it.
    SyncClock,
    /// Resolve the centre's name.
    Resolve,
    /// Raise the tunnel towards this address.
    Raise(SocketAddr),
    /// Look again after this long.
    Wait(Duration),
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Step::SyncClock`].
    Synced(Result<(), String>),
    /// Of [`Step::Resolve`].
    Resolved(Result<Vec<SocketAddr>, String>),
    /// Of [`Step::Raise`].
    Raised(Result<(), String>),
}

/// What the interface tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No handshake yet or no more; why.
    Connecting(String),
    /// A handshake within [`STALE`] seconds.
    Up,
    /// The tunnel cannot be raised here; why.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sync,
    Resolve,
    Raise,
    Watch { since: Duration },
    Rest { until: Duration },
}

/// The state machine of one site's uplink.
#[derive(Clone, Debug)]
pub struct Site {
    stage: Stage,
    /// Rounds since the last handshake.
    rounds: u32,
    addresses: Vec<SocketAddr>,
    /// Wall clock minus steady clock, seconds, at the last look.
    offset: Option<i64>,
    up: bool,
    /// What went wrong last with clock, name, tunnel.
    clock: Option<String>,
    name: Option<String>,
    tunnel: Option<String>,
    endpoint: String,
}

impl Site {
    /// The machine at its start; `endpoint` is for the texts.
    pub fn new(endpoint: &str) -> Site {
        Site {
            stage: Stage::Sync,
            rounds: 0,
            addresses: Vec::new(),
            offset: None,
            up: false,
            clock: None,
            name: None,
            tunnel: None,
            endpoint: endpoint.to_owned(),
        }
    }

    /// The next step.
    pub fn step(&mut self, seen: &Seen) -> Step {
        let offset = seen.wall.saturating_sub(seen.now.as_secs() as i64);
        let jumped = self
            .offset
            .replace(offset)
            .is_some_and(|before| before.abs_diff(offset) > TOLERANCE as u64);
        let age = seen.handshake.map(|at| seen.wall.saturating_sub(at));
        let watching = matches!(self.stage, Stage::Watch { .. } | Stage::Rest { .. });
        // a handshake in the future means the same as a jump we did not see; once, for a clock
        // that cannot be set must not make us spin
        let future = self.up && age.is_some_and(|age| age < -TOLERANCE);
        if watching && (jumped || future) {
            self.again();
        }
        let fresh = age.is_some_and(|age| (-TOLERANCE..=STALE).contains(&age));
        match self.stage {
            Stage::Sync => Step::SyncClock,
            Stage::Resolve => Step::Resolve,
            Stage::Raise => match self.addresses.get(self.turn()) {
                Some(address) => Step::Raise(*address),
                None => {
                    self.again();
                    Step::SyncClock
                }
            },
            Stage::Watch { .. } if fresh => {
                self.up = true;
                self.rounds = 0;
                Step::Wait(LOOK)
            }
            Stage::Watch { since } => {
                let patience = if self.up {
                    Duration::ZERO
                } else {
                    self.grace()
                };
                self.wait_until(since + patience, seen.now)
            }
            Stage::Rest { until } => self.wait_until(until, seen.now),
        }
    }

    fn wait_until(&mut self, end: Duration, now: Duration) -> Step {
        if now < end {
            return Step::Wait((end - now).min(LOOK));
        }
        self.rounds = self.rounds.saturating_add(1);
        self.again();
        Step::SyncClock
    }

    fn again(&mut self) {
        self.stage = Stage::Sync;
        self.up = false;
    }

    fn grace(&self) -> Duration {
        GRACE
            .saturating_mul(1 << self.rounds.min(8))
            .min(LONGEST_GRACE)
    }

    /// Each round takes the next of the centre's addresses.
    fn turn(&self) -> usize {
        self.rounds as usize % self.addresses.len().max(1)
    }

    /// Takes note of how a step ended.
    pub fn done(&mut self, now: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Synced(result) => {
                self.clock = result.err();
                self.offset = None; // a jump we made ourselves
                self.stage = Stage::Resolve;
            }
            Outcome::Resolved(Ok(addresses)) => {
                self.name = None;
                self.addresses = addresses;
                self.stage = Stage::Raise;
            }
            Outcome::Resolved(Err(problem)) => {
                self.name = Some(problem);
                // what it was before is better than nothing
                self.stage = if self.addresses.is_empty() {
                    Stage::Rest {
                        until: now + self.grace(),
                    }
                } else {
                    Stage::Raise
                };
            }
            Outcome::Raised(Ok(())) => {
                self.tunnel = None;
                self.stage = Stage::Watch { since: now };
            }
            Outcome::Raised(Err(problem)) => {
                self.tunnel = Some(problem);
                self.stage = Stage::Rest {
                    until: now + self.grace(),
                };
            }
        }
    }

    /// What to tell.
    pub fn state(&self) -> State {
        if let Some(problem) = &self.tunnel {
            return State::Failed(problem.clone());
        }
        if self.up {
            return State::Up;
        }
        let problems: Vec<_> = [&self.name, &self.clock]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        State::Connecting(if problems.is_empty() {
            format!(
                "no handshake with the centre at {} yet; if this stays, see that UDP reaches it and that it knows this site",
                self.endpoint
            )
        } else {
            problems.join("; ")
        })
    }
}

#[cfg(test)]
mod tests;
