//! Cuts streams into chunks and computes digests; linked by engine and agent.
