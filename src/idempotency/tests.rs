use super::*;
use crate::model::app::{Features, Limits};

const A: Fingerprint = [1; 32];
const B: Fingerprint = [2; 32];

fn kept(body: &str) -> Kept {
    Kept::of(&http::json(StatusCode::OK, body.to_owned()))
}

/// Enters a key that is free, and gives it a reply.
fn finish(keys: &mut Keys, key: &str, now_ms: u64, max_bytes: usize) {
    let Entered::First(key, _) = keys.enter(key, A, now_ms) else { panic!("{key} is taken") };
    keys.finish(&key, kept("{}"), now_ms + 100, max_bytes);
}

fn is_kept(keys: &mut Keys, key: &str, now_ms: u64) -> bool {
    let found = keys.enter(key, A, now_ms);
    if matches!(found, Entered::First(..)) {
        keys.remove(key);
    }
    matches!(found, Entered::Finished(_))
}

fn assert_is_empty(keys: &Keys) {
    assert_eq!((keys.entries.len(), keys.finished.len(), keys.bytes), (0, 0, 0));
}

#[test]
fn a_key_is_kept_for_its_time_and_no_longer() {
    let mut keys = Keys::default();
    finish(&mut keys, "k", 1000, 10_000);
    assert!(is_kept(&mut keys, "k", 1099));
    assert!(matches!(keys.enter("k", B, 1099), Entered::Other));
    // On access, without a sweep.
    assert!(matches!(keys.enter("k", B, 1100), Entered::First(..)));
    keys.remove("k");
    assert_is_empty(&keys);
}

#[test]
fn a_sweep_gives_back_what_is_over_and_leaves_the_rest() {
    let mut keys = Keys::default();
    for now_ms in 0..10 {
        finish(&mut keys, &now_ms.to_string(), now_ms, 10_000);
    }
    let Entered::First(_, _outcome) = keys.enter("under way", A, 0) else { panic!("taken") };
    keys.expire(104);
    assert!(!keys.entries.contains_key("4") && is_kept(&mut keys, "5", 104));
    assert_eq!((keys.entries.len(), keys.finished.len()), (6, 5));
    keys.expire(u64::MAX);
    assert_eq!((keys.entries.len(), keys.finished.len()), (1, 0), "what is under way stays");
    keys.remove("under way");
    keys.expire(u64::MAX);
    assert_is_empty(&keys);
    assert_eq!(keys.entries.capacity(), 0);
}

#[test]
fn at_the_bound_the_oldest_replies_are_forgotten() {
    let mut keys = Keys::default();
    let each = 1 + 32 + 2 + OVERHEAD;
    for key in ["a", "b", "c", "d"] {
        finish(&mut keys, key, 0, 3 * each);
        assert!(keys.bytes <= 3 * each);
    }
    assert!(!is_kept(&mut keys, "a", 0));
    assert!(["b", "c", "d"].iter().all(|key| is_kept(&mut keys, key, 0)));
    assert_eq!(keys.bytes, 3 * each);
    finish(&mut keys, "e", 0, each);
    assert!(is_kept(&mut keys, "e", 0));
    assert_eq!(keys.bytes, each);
    finish(&mut keys, "f", 0, each - 1);
    assert_is_empty(&keys);
}

#[test]
fn a_thousand_keys_under_a_small_bound_stay_few() {
    let mut keys = Keys::default();
    for number in 0..1000 {
        finish(&mut keys, &number.to_string(), number, 4096);
        assert!(keys.bytes <= 4096 && keys.entries.len() < 12);
        assert_eq!(keys.entries.len(), keys.finished.len());
    }
    assert!(is_kept(&mut keys, "999", 999));
}

#[test]
fn keys_under_way_are_never_forgotten() {
    let mut keys = Keys::default();
    let under_way: Vec<_> = (0..100).map(|number| keys.enter(&number.to_string(), A, 0)).collect();
    finish(&mut keys, "k", 0, 1);
    keys.expire(u64::MAX);
    assert_eq!(keys.entries.len(), 100);
    for entered in under_way {
        let Entered::First(key, _) = entered else { panic!("taken") };
        assert!(matches!(keys.enter(&key, A, u64::MAX), Entered::UnderWay(_, true)));
        assert!(matches!(keys.enter(&key, B, u64::MAX), Entered::UnderWay(_, false)));
        keys.remove(&key);
    }
    assert_is_empty(&keys);
}

#[test]
fn a_long_reply_counts_as_long() {
    let mut keys = Keys::default();
    let Entered::First(key, _) = keys.enter("k", A, 0) else { panic!("taken") };
    keys.finish(&key, kept(&"x".repeat(5000)), 100, 10_000);
    assert_eq!(keys.bytes, 1 + 32 + 5000 + OVERHEAD);
    keys.expire(100);
    assert_is_empty(&keys);
}

#[test]
fn a_reply_is_told_again_as_it_was() {
    let replies = [
        http::json(StatusCode::OK, "{\"channels\":{}}"),
        http::json(StatusCode::OK, vec![b' '; 300 * 1024]),
        http::text(StatusCode::ACCEPTED, "later"),
        Response::default(),
    ];
    for reply in replies {
        let again = Kept::of(&reply).reply();
        assert_eq!((again.status(), again.headers()), (reply.status(), reply.headers()));
        assert_eq!(again.body().whole(), reply.body().whole());
    }
}

fn app(id: &str) -> App {
    let (keys, features, limits) = (Vec::new(), Features::default(), Limits::default());
    App { id: Arc::from(id), keys, enabled: true, features, limits, webhooks: Vec::new() }
}

const NEVER: Duration = Duration::from_secs(3600);

async fn first(store: &Idempotency, app: &App, fingerprint: Fingerprint) -> Claim {
    match store.begin(app, "k", fingerprint).await {
        Ok(Turn::First(claim)) => claim,
        Ok(Turn::Again(_)) => panic!("kept"),
        Err(denied) => panic!("{denied:?}"),
    }
}

/// What became of a request: `Ok(None)` when it was the first, and then fails.
async fn outcome(store: &Idempotency, fingerprint: Fingerprint) -> Result<Option<Bytes>, Denied> {
    match store.begin(&app("1"), "k", fingerprint).await? {
        Turn::First(_) => Ok(None),
        Turn::Again(reply) => Ok(reply.body().whole()),
    }
}

fn done() -> Reply {
    http::json(StatusCode::OK, "done")
}

/// Polls once, so that it has found the key taken.
async fn is_waiting<T>(waiting: std::pin::Pin<&mut impl Future<Output = T>>) -> bool {
    tokio::time::timeout(Duration::ZERO, waiting).await.is_err()
}

#[tokio::test]
async fn those_who_wait_get_the_reply_of_the_first_or_learn_that_theirs_is_another_request() {
    let store = Idempotency::new(NEVER);
    let claim = first(&store, &app("1"), A).await;
    let (same, other) = (outcome(&store, A), outcome(&store, B));
    tokio::pin!(same, other);
    assert!(is_waiting(same.as_mut()).await && is_waiting(other.as_mut()).await);
    claim.keep(&done());
    assert_eq!(same.await, Ok(Some(Bytes::from("done"))));
    assert_eq!(other.await, Err(Denied::OtherRequest));
    assert_eq!(outcome(&store, A).await, Ok(Some(Bytes::from("done"))));
    assert_eq!(outcome(&store, B).await, Err(Denied::OtherRequest));
}

#[tokio::test]
async fn those_who_wait_get_a_reply_that_is_too_large_to_be_kept() {
    let store = Idempotency::new(NEVER);
    let mut small = app("1");
    small.limits.max_idempotency_bytes = 1;
    let claim = first(&store, &small, A).await;
    let same = outcome(&store, A);
    tokio::pin!(same);
    assert!(is_waiting(same.as_mut()).await);
    claim.keep(&done());
    assert_eq!(same.await, Ok(Some(Bytes::from("done"))));
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test]
async fn a_claim_without_a_reply_goes_to_one_of_those_who_wait_after_the_other() {
    let store = Idempotency::new(NEVER);
    let claim = first(&store, &app("1"), A).await;
    let (one, two) = (outcome(&store, B), outcome(&store, A));
    tokio::pin!(one, two);
    assert!(is_waiting(one.as_mut()).await && is_waiting(two.as_mut()).await);
    drop(claim);
    assert_eq!(one.await, Ok(None));
    assert_eq!(two.await, Ok(None));
    assert_eq!(store.size(), (0, 0), "nobody has it");
    first(&store, &app("1"), B).await.keep(&done());
    assert_eq!(outcome(&store, B).await, Ok(Some(Bytes::from("done"))));
}

#[tokio::test]
async fn a_request_that_is_dropped_while_it_waits_leaves_nothing_behind() {
    let store = Idempotency::new(NEVER);
    let claim = first(&store, &app("1"), A).await;
    {
        let same = outcome(&store, A);
        tokio::pin!(same);
        assert!(is_waiting(same.as_mut()).await);
    }
    drop(claim);
    assert_eq!(store.size(), (0, 0));
}

#[tokio::test]
async fn patience_ends_and_the_first_keeps_its_key() {
    let store = Idempotency::new(Duration::from_millis(1));
    let claim = first(&store, &app("1"), A).await;
    assert_eq!(outcome(&store, A).await, Err(Denied::UnderWay));
    assert_eq!(outcome(&store, B).await, Err(Denied::UnderWay));
    claim.keep(&done());
    assert_eq!(outcome(&store, A).await, Ok(Some(Bytes::from("done"))));
}

#[tokio::test]
async fn another_patience_holds_from_the_next_request_on() {
    let store = Idempotency::new(NEVER);
    let claim = first(&store, &app("1"), A).await;
    store.set_patience(Duration::from_millis(1));
    assert_eq!(outcome(&store, A).await, Err(Denied::UnderWay));
    drop(claim);
}

#[tokio::test]
async fn apps_do_not_share_keys() {
    let store = Idempotency::new(NEVER);
    let claims = [first(&store, &app("1"), A).await, first(&store, &app("2"), B).await];
    assert_eq!(store.size().0, 2);
    for claim in claims {
        claim.keep(&done());
    }
    assert_eq!(outcome(&store, B).await, Err(Denied::OtherRequest));
}

#[tokio::test]
async fn replies_end_after_the_time_that_the_app_sets() {
    let store = Idempotency::new(NEVER);
    let mut hasty = app("1");
    hasty.limits.idempotency_ttl = Duration::ZERO;
    first(&store, &hasty, A).await.keep(&done());
    first(&store, &app("2"), A).await.keep(&done());
    assert_eq!(store.size().0, 2);
    store.expire();
    assert_eq!(store.size().0, 1);
    assert_eq!(outcome(&store, B).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_the_first() {
    let store = Arc::new(Idempotency::new(NEVER));
    for round in 0..100 {
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (store, app) = (Arc::clone(&store), app(&round.to_string()));
            requests.spawn(async move {
                match store.begin(&app, "k", A).await {
                    // The first ones fail: the next in turn takes over.
                    Ok(Turn::First(claim)) if number % 10 != 0 => {
                        tokio::task::yield_now().await;
                        drop(claim);
                        0
                    }
                    Ok(Turn::First(claim)) => {
                        tokio::task::yield_now().await;
                        claim.keep(&done());
                        1
                    }
                    Ok(Turn::Again(_)) => 0,
                    Err(denied) => panic!("{denied:?}"),
                }
            });
        }
        assert_eq!(requests.join_all().await.iter().sum::<i32>(), 1);
    }
}
