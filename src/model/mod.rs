//! The nouns that every room shares. Nothing here does I/O or knows a runtime.

pub mod app;
pub mod channel;
pub mod clock;
pub mod close;
pub mod cluster;
pub mod cluster_url;
pub mod event;
pub mod member;
pub mod network;
pub mod quoted;
pub mod rate;
pub mod secret;
pub mod socket;
pub mod transport;
pub mod turned_away;
pub mod webhooks;
