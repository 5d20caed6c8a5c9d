//! What each client address has of the broker, and what it may still have. Who is above a limit is turned
//! away as cheaply as can be.
//!
//! An address has an entry while it has connections, has just made some, or has sent wrong signatures; then
//! it is forgotten. The table is bounded: while it is full, new addresses are served without being
//! counted, so that nobody can have others turned away by coming from everywhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use dashmap::mapref::one::RefMut;
use ipnet::IpNet;

use crate::metrics::Metrics;
use crate::model::clock::millis;
use crate::model::network::network_of;
use crate::model::rate::TokenBucket;
use crate::model::turned_away::TurnedAway;
use crate::repeats::Repeats;

/// Addresses that are counted at once.
const MAX_ADDRESSES: usize = 131_072;
/// Of all unfinished handshakes, an address that has less than this part has few.
const FEW_OF: usize = 1000;

/// Sockets above a limit that are told so at once, of one address: each is held until its client has read it.
const MAX_REFUSALS_PER_ADDRESS: u32 = 10;
/// The same of all addresses together.
const MAX_REFUSALS: usize = 1000;

/// What an address may have. 0 is no limit.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Connections at once.
    pub max_connections: u32,
    /// New connections in a second, and as many at once.
    pub connections_per_second: u32,
    /// Connections that have not asked for anything yet, all addresses together.
    pub max_handshakes: usize,
    /// The same of one address.
    pub max_handshakes_per_address: u32,
    /// API requests with a wrong signature in a window.
    pub max_failures: u32,
    /// How long the window is; it begins with the first of them.
    pub failure_window: Duration,
    /// Whose addresses are not counted.
    pub unlimited: Vec<IpNet>,
}

/// Every address that has something of the broker.
pub struct Addresses {
    table: DashMap<IpAddr, Account>,
    count: AtomicUsize,
    handshakes: AtomicUsize,
    refusals: AtomicUsize,
    /// Those with failures: while there are none, nobody is looked up for them.
    failing: AtomicUsize,
    settings: ArcSwap<Settings>,
    metrics: Arc<Metrics>,
    started: Instant,
    /// One for each reason: none takes another's turn.
    lines: [Repeats; TurnedAway::ALL.len()],
}

struct Account {
    connections: u32,
    handshakes: u32,
    refusals: u32,
    arrivals: TokenBucket,
    failures: u32,
    /// When these failures are forgotten.
    forgiven_ms: u64,
}

impl Account {
    fn is_at_rest(&self, rate: u32, now_ms: u64) -> bool {
        let has_nothing = self.connections == 0 && self.refusals == 0 && self.failures == 0;
        has_nothing && self.arrivals.is_full(rate, now_ms)
    }

    /// Forgets failures whose time is over. Says whether there were any.
    fn forgive(&mut self, now_ms: u64) -> bool {
        let is_due = self.failures > 0 && now_ms >= self.forgiven_ms;
        self.failures = if is_due { 0 } else { self.failures };
        is_due
    }
}

impl Addresses {
    /// An empty table, which counts in `metrics` whom it turns away.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            table: DashMap::new(),
            count: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
            settings: ArcSwap::from_pointee(settings),
            metrics,
            started: Instant::now(),
            lines: Default::default(),
        }
    }

    /// From now on an address may have this much. Whoever is there stays.
    pub fn change(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Takes a place for a connection of which nothing is known yet.
    ///
    /// # Errors
    /// When too many have not asked for anything yet.
    pub fn knock(self: &Arc<Self>, peer: IpAddr) -> Result<Guest, TurnedAway> {
        let max = self.settings().max_handshakes;
        let free = |count: usize| {
            let is_free = max == 0 || count < max || (count < max.saturating_mul(2) && self.has_few(peer));
            is_free.then_some(count + 1)
        };
        if self.handshakes.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_err() {
            return Err(self.turn_away(TurnedAway::Handshakes, peer));
        }
        Ok(Guest { addresses: Arc::clone(self), network: None, shakes_hands: AtomicBool::new(true) })
    }

    /// Whether an address has hardly any part in a crowd of those who ask for nothing: such are let in when
    /// others have filled the places.
    fn has_few(&self, peer: IpAddr) -> bool {
        let few = (self.settings().max_handshakes / FEW_OF).max(1);
        let has_few = |account: &Account| (account.handshakes as usize) < few;
        self.is_unlimited(peer) || self.table.get(&network_of(peer)).is_none_or(|account| has_few(&account))
    }

    /// Takes a place for a socket that reaches the broker by somebody else's connection.
    ///
    /// # Errors
    /// When its address is above a limit.
    pub fn visit(self: &Arc<Self>, client: IpAddr) -> Result<Guest, TurnedAway> {
        let (addresses, shakes_hands) = (Arc::clone(self), AtomicBool::new(false));
        let mut guest = Guest { addresses, network: None, shakes_hands };
        guest.comes_from(client)?;
        Ok(guest)
    }

    /// Takes a place for a socket that is told of a limit before it is closed. `None` when so many are being
    /// told that this one is not worth it.
    pub fn refuse(self: &Arc<Self>, client: IpAddr) -> Option<Refusal> {
        let room = |count: usize| (count < MAX_REFUSALS).then_some(count + 1);
        self.refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        let mut refusal = Refusal { addresses: Arc::clone(self), network: None };
        let network = network_of(client);
        if let Some(mut account) = self.account(network, self.now_ms()) {
            if account.refusals >= MAX_REFUSALS_PER_ADDRESS {
                return None;
            }
            account.refusals += 1;
            refusal.network = Some(network);
        }
        Some(refusal)
    }

    /// Seconds for which an address is not told what is wrong with its requests, after too many wrong
    /// signatures.
    pub fn locked_out(&self, client: IpAddr) -> Option<u64> {
        if self.failing.load(Ordering::Relaxed) == 0 || self.is_unlimited(client) {
            return None;
        }
        let account = self.table.get(&network_of(client))?;
        let left_ms = account.forgiven_ms.saturating_sub(self.now_ms());
        let max = self.settings().max_failures;
        let is_out = max > 0 && account.failures >= max && left_ms > 0;
        drop(account);
        is_out.then(|| {
            self.turn_away(TurnedAway::Signatures, client);
            left_ms.div_ceil(1000)
        })
    }

    /// Counts a request with a wrong signature.
    pub fn failed(&self, client: IpAddr) {
        if self.settings().max_failures == 0 || self.is_unlimited(client) {
            return;
        }
        let now_ms = self.now_ms();
        let Some(mut account) = self.account(network_of(client), now_ms) else { return };
        if account.forgive(now_ms) {
            self.failing.fetch_sub(1, Ordering::Relaxed);
        }
        if account.failures == 0 {
            self.failing.fetch_add(1, Ordering::Relaxed);
            account.forgiven_ms = now_ms.saturating_add(millis(self.settings().failure_window));
        }
        account.failures = account.failures.saturating_add(1);
    }

    /// Forgets the addresses that have nothing any more.
    pub fn forget(&self) {
        if self.is_empty() {
            return;
        }
        let (now_ms, rate) = (self.now_ms(), self.settings().connections_per_second);
        self.table.retain(|_, account| {
            if account.forgive(now_ms) {
                self.failing.fetch_sub(1, Ordering::Relaxed);
            }
            let stays = !account.is_at_rest(rate, now_ms);
            self.count.fetch_sub(usize::from(!stays), Ordering::AcqRel);
            stays
        });
        if self.is_empty() {
            self.table.shrink_to_fit();
        }
    }

    /// How many addresses are counted.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether nobody is counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections that have not asked for anything yet.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Acquire)
    }

    /// Counts somebody who is turned away, and tells the log now and then.
    pub fn turn_away(&self, reason: TurnedAway, client: IpAddr) -> TurnedAway {
        self.metrics.turned_away(reason);
        if let Some(left_out) = self.lines[reason as usize].due() {
            let (name, times) = (reason.name(), self.metrics.times_turned_away(reason));
            let hint = reason.hint();
            tracing::warn!(%client, reason = name, times, left_out, "turned away{hint}");
        }
        reason
    }

    fn is_unlimited(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.settings().unlimited.iter().any(|network| network.contains(&client))
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// The account of a network; a new one if there is room.
    fn account(&self, network: IpAddr, now_ms: u64) -> Option<RefMut<'_, IpAddr, Account>> {
        let free = match self.table.entry(network) {
            Entry::Occupied(there) => return Some(there.into_ref()),
            Entry::Vacant(free) => free,
        };
        let room = |count: usize| (count < MAX_ADDRESSES).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        let arrivals = TokenBucket::full(self.settings().connections_per_second, now_ms);
        Some(free.insert(Account {
            connections: 0,
            handshakes: 0,
            refusals: 0,
            arrivals,
            failures: 0,
            forgiven_ms: 0,
        }))
    }
}

/// A connection, as its address is counted for it. Dropping it gives its place back.
pub struct Guest {
    addresses: Arc<Addresses>,
    /// `None` while it is not known, or not counted.
    network: Option<IpAddr>,
    /// It has not asked for anything yet.
    shakes_hands: AtomicBool,
}

impl Guest {
    /// Tells where it comes from.
    ///
    /// # Errors
    /// When the address is above a limit.
    pub fn comes_from(&mut self, client: IpAddr) -> Result<(), TurnedAway> {
        let addresses = &self.addresses;
        if addresses.is_unlimited(client) {
            return Ok(());
        }
        let (network, now_ms) = (network_of(client), addresses.now_ms());
        let Some(mut account) = addresses.account(network, now_ms) else { return Ok(()) };
        let shakes_hands = u32::from(self.shakes_hands.load(Ordering::Acquire));
        let Settings { max_connections, connections_per_second, max_handshakes_per_address, .. } =
            **addresses.settings();
        let is_below = |count: u32, max: u32| max == 0 || count < max;
        let above = if !is_below(account.connections, max_connections) {
            Some(TurnedAway::Connections)
        } else if shakes_hands == 1 && !is_below(account.handshakes, max_handshakes_per_address) {
            Some(TurnedAway::HandshakesOfAddress)
        } else if !account.arrivals.take(connections_per_second, now_ms) {
            Some(TurnedAway::Rate)
        } else {
            None
        };
        if let Some(reason) = above {
            drop(account);
            return Err(addresses.turn_away(reason, client));
        }
        account.connections += 1;
        account.handshakes += shakes_hands;
        drop(account);
        self.network = Some(network);
        Ok(())
    }

    /// Its first request has come whole with its headers.
    pub fn has_asked(&self) {
        if self.shakes_hands.load(Ordering::Relaxed) && self.shakes_hands.swap(false, Ordering::AcqRel) {
            self.addresses.handshakes.fetch_sub(1, Ordering::AcqRel);
            self.with_account(|account| account.handshakes -= 1);
        }
    }

    /// Whether its address is counted for it.
    pub fn is_counted(&self) -> bool {
        self.network.is_some()
    }

    fn with_account(&self, change: impl FnOnce(&mut Account)) {
        if let Some(network) = &self.network
            && let Some(mut account) = self.addresses.table.get_mut(network)
        {
            change(&mut account);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.has_asked();
        self.with_account(|account| account.connections -= 1);
    }
}

/// A socket that is told of a limit. Dropping it gives its place back.
pub struct Refusal {
    addresses: Arc<Addresses>,
    /// `None` while it is not counted for one.
    network: Option<IpAddr>,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.addresses.refusals.fetch_sub(1, Ordering::AcqRel);
        if let Some(network) = &self.network
            && let Some(mut account) = self.addresses.table.get_mut(network)
        {
            account.refusals -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
