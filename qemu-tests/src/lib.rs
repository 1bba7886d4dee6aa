//! Boots the image in QEMU and does to it what the world does.
