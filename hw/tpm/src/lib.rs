//! Sealer: seal and unseal over a TCTI string.
