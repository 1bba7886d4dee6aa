//! Reads a live file tree into entries and writes entries back: links, modes, times, xattrs, ACLs, holes.
