//! Addresses, routes and rules of this machine.
