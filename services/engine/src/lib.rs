//! Chunk, deduplicate, pack, commit, restore, verify, over a Storage trait.
