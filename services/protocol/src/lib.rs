//! What agent, site and centre say to each other: messages and sans-I/O state machines.
