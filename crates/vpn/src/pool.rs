//! Addresses for clients.
