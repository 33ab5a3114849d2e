//! One WireGuard tunnel.
