//! One VPN client a machine.
