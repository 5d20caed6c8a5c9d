//! Fanfare: a self-hosted, drop-in replacement for hosted Pusher Channels.
//!
//! The rooms, in the order in which an event meets them:
//!
//! * [`server`] — listeners; a request's path leads to its room (`server/route.rs`); the stop
//! * [`pusher`] — the protocol: sockets' sessions, and the HTTP API in `pusher/rest`
//! * [`transport`] — what carries the protocol: WebSocket connections and their liveness
//! * [`hub`] — channels: who is in them, and the fan-out of events to mailboxes
//! * [`cluster`] — the engine that joins nodes, below the hub
//! * [`webhook`] — what the hub reports, told to the apps' own servers
//! * [`admin`] — the private listener: health and metrics
//!
//! Below them the leaves, which all may use: [`apps`], [`accept`], [`activation`], [`addresses`], [`certificates`], [`notify`],
//! [`sockets`], [`tasks`], [`mailbox`], [`http`], [`idempotency`], [`metrics`], [`repeats`], [`watchdog`]; and at the
//! bottom [`model`], the shared nouns. Imports go downwards only;
//! `scripts/check-imports` knows the directions.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod accept;
pub mod activation;
pub mod addresses;
pub mod admin;
pub mod apps;
pub mod certificates;
pub mod cluster;
pub mod config;
pub mod http;
pub mod hub;
pub mod idempotency;
pub mod mailbox;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod pusher;
pub mod repeats;
pub mod server;
pub mod sockets;
pub mod tasks;
pub mod transport;
pub mod watchdog;
pub mod webhook;

mod broker;

pub use broker::{Broker, Control, NotReloaded, Reloaded};
