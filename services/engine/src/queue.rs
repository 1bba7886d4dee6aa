//! A bounded queue between threads that can be closed.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
    capacity: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::with_capacity(capacity),
                closed: false,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
            capacity,
        }
    }

    /// Waits for room; gives the item back when the queue is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        self.drained
            .wait_while(&mut state, |s| !s.closed && s.items.len() >= self.capacity);
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts an item in if there is room; else takes one out, for there are more than are dealt with. Gives
    /// the item back when the queue is closed.
    pub(crate) fn push_or_pop(&self, item: T) -> Result<Option<T>, T> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(item);
        }
        let full = state.items.len() >= self.capacity;
        let other = if full { state.items.pop_front() } else { None };
        state.items.push_back(item);
        drop(state);
        if !full {
            self.filled.notify_one();
        }
        Ok(other)
    }

    /// Waits for an item; `None` when the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        self.filled
            .wait_while(&mut state, |s| !s.closed && s.items.is_empty());
        let item = state.items.pop_front();
        drop(state);
        self.drained.notify_one();
        item
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }
}
