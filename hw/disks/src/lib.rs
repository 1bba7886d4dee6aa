//! md arrays, LUKS2 and filesystems through mdadm, cryptsetup and mkfs.
