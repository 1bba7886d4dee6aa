//! Makes a tree of entries again.
