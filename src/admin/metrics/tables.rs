//! What is: read from the live tables, never counted up and down beside them.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::DescriptorEncoder;

use super::Admin;
use super::apps::Listed;
use super::samples::{gauge, gauges};

pub(super) fn encode(
    admin: &Admin,
    listed: &Listed,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let open = listed.sums(&admin.sockets.counts());
    gauges(encoder, "connections", "Open sockets", open)?;
    encode_sockets(admin, encoder)?;
    encode_hub(admin, listed, encoder)?;
    encode_kept(admin, encoder)?;
    encode_tables(admin, encoder)
}

fn encode_sockets(admin: &Admin, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let survey = admin.sockets.survey();
    let carried = survey.transports.map(|(transport, count)| ([("transport", transport.name())], count));
    gauges(encoder, "transport_connections", "Open sockets, by what carries them", carried)?;
    let help = "Bytes that wait for sockets to take them";
    gauge(encoder, "mailbox_bytes", help, survey.queued_bytes)?;
    let help = "Open sockets for which something waits";
    gauge(encoder, "lagging_connections", help, survey.lagging)
}

fn encode_hub(admin: &Admin, listed: &Listed, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (mut channels, mut subscriptions) = (Vec::new(), Vec::new());
    let (mut members, mut users) = (Vec::new(), Vec::new());
    admin.hub.each_app(|id, hub| {
        users.push((Arc::clone(id), hub.signed_in()));
        let (occupied, counts) = hub.totals();
        channels.push((Arc::clone(id), occupied));
        subscriptions.push((Arc::clone(id), counts.subscriptions));
        members.push((Arc::clone(id), counts.users));
    });
    for (name, help, values) in [
        ("channels", "Occupied channels", channels),
        ("subscriptions", "Sockets in channels, each once for every channel", subscriptions),
        ("members", "Users in presence channels, each once for every channel", members),
        ("users", "Signed-in users", users),
    ] {
        gauges(encoder, name, help, listed.sums(&values))?;
    }
    Ok(())
}

fn encode_kept(admin: &Admin, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (events, bytes) = admin.hub.cache_size();
    let (keys, key_bytes) = admin.idempotency.size();
    for (name, help, value) in [
        ("cached_events", "Cached events", events),
        ("cached_bytes", "Bytes of cached events", bytes),
        ("idempotency_keys", "Keys of requests that are not carried out twice", keys),
        ("idempotency_bytes", "Bytes of these keys and their replies", key_bytes),
    ] {
        gauge(encoder, name, help, value)?;
    }
    Ok(())
}

/// All are 0 when nobody is connected and nothing is cached, but for the cache misses that were
/// told: a leak would show here.
fn encode_tables(admin: &Admin, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let tables = admin.hub.tables();
    let entries = [
        ("sockets", admin.sockets.count()),
        ("addresses", admin.addresses.len()),
        ("backlogs", admin.backlogs.mailboxes()),
        ("handshakes", admin.addresses.handshakes()),
        ("unauthorized_sockets", admin.sockets.unauthorized()),
        ("channels", tables.channels),
        ("users", tables.users),
        ("jobs", tables.jobs),
        ("webhook_departures", admin.webhooks.departures()),
        ("webhook_misses", admin.webhooks.misses()),
    ];
    let entries = entries.map(|(table, entries)| ([("table", table)], entries));
    gauges(encoder, "table_entries", "Entries of the broker's tables", entries)
}
