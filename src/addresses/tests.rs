use super::*;

fn table(settings: Settings) -> Arc<Addresses> {
    let failure_window = Duration::from_secs(3600);
    Arc::new(Addresses::new(Settings { failure_window, ..settings }, Arc::default()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn arrive(addresses: &Arc<Addresses>, from: &str) -> Result<Guest, TurnedAway> {
    let mut guest = addresses.knock(ip(from))?;
    guest.comes_from(ip(from))?;
    Ok(guest)
}

/// At rest for sure: no rate, so that no bucket has to fill.
fn forget(addresses: &Addresses) -> usize {
    addresses.forget();
    addresses.len()
}

#[test]
fn connections_are_counted_by_address_and_given_back() {
    let addresses = table(Settings { max_connections: 2, ..Settings::default() });
    let guests = [arrive(&addresses, "10.0.0.1"), arrive(&addresses, "10.0.0.1")];
    assert!(guests.iter().all(Result::is_ok));
    assert_eq!(arrive(&addresses, "10.0.0.1").err(), Some(TurnedAway::Connections));
    assert!(arrive(&addresses, "10.0.0.2").is_ok(), "somebody else");
    assert_eq!(forget(&addresses), 1);
    drop(guests);
    assert_eq!((forget(&addresses), addresses.handshakes()), (0, 0));
    assert!(arrive(&addresses, "10.0.0.1").is_ok());
    assert_eq!(addresses.metrics.times_turned_away(TurnedAway::Connections), 1);
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let addresses = table(Settings { max_connections: 1, ..Settings::default() });
    let guest = arrive(&addresses, "2001:db8::1");
    assert!(guest.is_ok());
    assert_eq!(arrive(&addresses, "2001:db8::ffff").err(), Some(TurnedAway::Connections));
    assert!(arrive(&addresses, "2001:db8:0:1::1").is_ok());
}

#[test]
fn handshakes_count_in_all_and_by_address_until_something_is_asked() {
    let settings = Settings { max_handshakes: 3, max_handshakes_per_address: 2, ..Settings::default() };
    let addresses = table(settings);
    let one = arrive(&addresses, "10.0.0.1").expect("the first");
    let _two = arrive(&addresses, "10.0.0.1").expect("the second");
    assert_eq!(arrive(&addresses, "10.0.0.1").err(), Some(TurnedAway::HandshakesOfAddress));
    let _three = arrive(&addresses, "10.0.0.2").expect("of another address");
    assert_eq!(arrive(&addresses, "10.0.0.2").err(), Some(TurnedAway::Handshakes));
    one.has_asked();
    one.has_asked();
    assert_eq!(addresses.handshakes(), 2);
    assert!(arrive(&addresses, "10.0.0.1").is_ok());
    drop(one);
    assert_eq!(addresses.handshakes(), 2, "counted down once");
}

#[test]
fn the_rate_of_new_connections_is_of_each_address() {
    let addresses = table(Settings { connections_per_second: 2, ..Settings::default() });
    let came = (0..5).filter(|_| arrive(&addresses, "10.0.0.1").is_ok()).count();
    assert!((2..5).contains(&came), "{came}");
    assert!(arrive(&addresses, "10.0.0.2").is_ok());
    assert_eq!(forget(&addresses), 2, "remembered while the bucket is not full");
}

#[test]
fn those_who_are_not_limited_leave_no_trace() {
    let unlimited = vec!["10.0.0.0/8".parse().expect("a network")];
    let addresses = table(Settings { max_connections: 1, max_failures: 1, unlimited, ..Settings::default() });
    let guests: Vec<_> = (0..10).map(|_| arrive(&addresses, "::ffff:10.0.0.1").expect("no limit")).collect();
    addresses.failed(ip("10.0.0.1"));
    assert!(guests.iter().all(|guest| !guest.is_counted()) && addresses.is_empty());
    assert_eq!((addresses.handshakes(), addresses.locked_out(ip("10.0.0.1"))), (10, None));
}

#[test]
fn wrong_signatures_lock_their_address_out_until_the_window_ends() {
    let addresses = table(Settings { max_failures: 3, ..Settings::default() });
    let (bad, good) = (ip("10.0.0.1"), ip("10.0.0.2"));
    for _ in 0..3 {
        assert_eq!(addresses.locked_out(bad), None);
        addresses.failed(bad);
    }
    assert!(addresses.locked_out(bad).is_some_and(|seconds| (3599..=3600).contains(&seconds)));
    assert_eq!(addresses.locked_out(good), None);
    let settings = Settings { max_failures: 3, ..Settings::default() };
    addresses
        .change(Settings { unlimited: vec!["10.0.0.1/32".parse().expect("a network")], ..settings.clone() });
    assert_eq!(addresses.locked_out(bad), None, "nothing of this holds for it any more");
    addresses.change(settings);
    assert_eq!(forget(&addresses), 1);
    addresses.table.get_mut(&bad).expect("an account").forgiven_ms = 0;
    assert_eq!(addresses.locked_out(bad), None);
    assert_eq!((forget(&addresses), addresses.failing.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_full_table_counts_nobody_new_and_turns_nobody_away() {
    let addresses = table(Settings { max_connections: 1, max_failures: 1, ..Settings::default() });
    let known = arrive(&addresses, "10.0.0.1").expect("the first");
    addresses.count.store(MAX_ADDRESSES, Ordering::Relaxed);
    let guests: Vec<_> = (0..3).map(|_| arrive(&addresses, "10.0.0.2").expect("not counted")).collect();
    assert!(guests.iter().all(|guest| !guest.is_counted()));
    assert_eq!(arrive(&addresses, "10.0.0.1").err(), Some(TurnedAway::Connections), "still known");
    addresses.failed(ip("10.0.0.3"));
    assert_eq!(addresses.locked_out(ip("10.0.0.3")), None);
    drop((known, guests));
}

#[test]
fn the_log_is_told_now_and_then() {
    let addresses = table(Settings::default());
    let lines = &addresses.lines[TurnedAway::Connections as usize];
    assert_eq!(lines.due(), Some(0));
    assert_eq!(lines.due(), None);
}

/// Ten addresses that asked for nothing could once keep everybody out, proxies included.
#[test]
fn who_has_no_part_in_the_crowd_is_let_in_up_to_a_ceiling() {
    let unlimited = vec!["10.9.0.0/16".parse().expect("a network")];
    let addresses = table(Settings { max_handshakes: 4, unlimited, ..Settings::default() });
    let crowd: Vec<_> = (0..4).map(|_| arrive(&addresses, "10.0.0.1").expect("a place")).collect();
    assert_eq!(arrive(&addresses, "10.0.0.1").err(), Some(TurnedAway::Handshakes));
    let _other = arrive(&addresses, "10.0.0.2").expect("it has none");
    assert_eq!(arrive(&addresses, "10.0.0.2").err(), Some(TurnedAway::Handshakes), "it has one");
    let _proxies: Vec<_> = (0..3).map(|_| arrive(&addresses, "10.9.0.1").expect("a proxy")).collect();
    assert_eq!(addresses.handshakes(), 8);
    assert_eq!(arrive(&addresses, "10.9.0.1").err(), Some(TurnedAway::Handshakes), "the ceiling");
    drop(crowd);
    assert!(arrive(&addresses, "10.0.0.1").is_ok());
}

#[test]
fn so_many_are_told_of_a_limit_at_once_by_address_and_in_all() {
    let addresses = table(Settings::default());
    let refuse = |from: &str| addresses.refuse(ip(from));
    let mut told: Vec<_> = (0..MAX_REFUSALS_PER_ADDRESS).map(|_| refuse("10.0.0.1")).collect();
    assert!(told.iter().all(Option::is_some));
    assert!(refuse("10.0.0.1").is_none());
    for other in told.len()..MAX_REFUSALS {
        told.push(refuse(&format!("10.1.{}.{}", other / 250, other % 250)));
    }
    assert!(told.iter().all(Option::is_some));
    assert!(refuse("10.2.0.1").is_none(), "all together");
    told.remove(0);
    assert!(refuse("10.0.0.1").is_some());
    drop(told);
    assert_eq!((forget(&addresses), addresses.refusals.load(Ordering::Relaxed)), (0, 0));
}
