//! How two sides come to know each other's descriptions.

pub mod manual;
pub mod nostr;
