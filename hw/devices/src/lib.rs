//! Enumerates and watches block devices (udev).
