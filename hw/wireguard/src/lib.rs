//! Tunnel: the kernel's WireGuard over netlink.
