//! Bytes to types and back: chunk frames, packs, index, snapshots, labels. No I/O, no clock.
