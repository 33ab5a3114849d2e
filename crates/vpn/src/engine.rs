//! Packets in, packets out: the VPN without I/O and clock.
