//! Everything at once, at random, on all nodes: whatever anybody was told is true in the end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::churn::{Crowd, lively};
use common::nodes::{GAPS, PATIENCE, mortal, patient};
use common::{Dice, Nodes, Proxy, Redis, within};

const ACTORS: usize = 24;

async fn lived(crowd: Crowd, steps: usize) -> Crowd {
    within(PATIENCE * 3, "a life", crowd.live(steps)).await
}

/// Something happens to what joins the nodes while the crowd lives on; nothing is lost afterwards.
async fn disturbed(nodes: &Nodes, mut crowd: Crowd, happens: impl AsyncFnOnce()) -> Crowd {
    let stop = Arc::<AtomicBool>::default();
    let living = tokio::spawn(crowd.live_through(Arc::clone(&stop)));
    happens().await;
    stop.store(true, Ordering::Relaxed);
    crowd = within(PATIENCE * 3, "a life", living).await.unwrap();
    nodes.ready().await;
    crowd.is_true(nodes).await;
    crowd.insist();
    let mut crowd = lived(crowd, 20).await;
    crowd.is_true(nodes).await;
    crowd
}

// The same on a node by itself: what is asked for here is nothing new.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_one_node_sees_the_truth() {
    let nodes = Nodes::alone(lively()).await;
    let crowd = Crowd::gather(&nodes, ACTORS, Dice::printed("a_crowd_on_one_node_sees_the_truth")).await;
    let mut crowd = lived(crowd, 100).await;
    crowd.is_true(&nodes).await;
    assert!(crowd.published() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_three_nodes_sees_the_truth() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), lively()).await;
    let crowd = Crowd::gather(&nodes, ACTORS, Dice::printed("a_crowd_on_three_nodes_sees_the_truth")).await;
    let mut crowd = lived(crowd, 100).await;
    crowd.is_true(&nodes).await;
    for node in nodes.iter() {
        assert_eq!(node.metric(GAPS).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_told_everything_again() {
    let mut redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), patient(lively())).await;
    let dice = Dice::printed("a_redis_that_comes_back_empty_is_told_everything_again");
    let crowd = lived(Crowd::gather(&nodes, ACTORS, dice).await, 20).await;
    disturbed(&nodes, crowd, async || {
        for _ in 0..3 {
            redis.restart_empty().await;
            nodes.ready().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_everything_is_told_again() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), patient(lively())).await;
    let dice = Dice::printed("a_redis_that_forgets_everything_is_told_again");
    let crowd = lived(Crowd::gather(&nodes, ACTORS, dice).await, 20).await;
    disturbed(&nodes, crowd, async || {
        for _ in 0..3 {
            redis.flush().await;
            // Nothing else shows that they have noticed: their leases stand again.
            let what = "keys of everybody";
            common::eventually_within(PATIENCE, what, async || {
                redis.command(&["DBSIZE"]).await.text().parse::<u64>().unwrap() > 0
            })
            .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_line_is_cut_again_and_again_catches_up() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let mut nodes = Nodes::start(2, &redis.url(), patient(lively())).await;
    nodes.add(&proxy.url()).await;
    nodes.ready().await;
    let dice = Dice::printed("a_node_whose_line_is_cut_again_and_again_catches_up");
    let crowd = lived(Crowd::gather(&nodes, ACTORS, dice).await, 20).await;
    disturbed(&nodes, crowd, async || {
        for _ in 0..3 {
            proxy.cut();
            nodes[2].unready().await;
            proxy.resume();
            nodes[2].ready().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_is_waited_for_in_vain() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), mortal(lively())).await;
    let dice = Dice::printed("a_redis_that_stands_still_is_waited_for_in_vain");
    let crowd = lived(Crowd::gather(&nodes, ACTORS, dice).await, 20).await;
    disturbed(&nodes, crowd, async || {
        redis.pause();
        for node in nodes.iter() {
            node.unready().await;
        }
        redis.resume();
        nodes.ready().await;
    })
    .await;
}

/// Slow is not away: nothing is lost, whatever else happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_loses_nothing() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let mut nodes = Nodes::start(2, &redis.url(), lively()).await;
    nodes.add(&proxy.url()).await;
    nodes.ready().await;
    let crowd = Crowd::gather(&nodes, ACTORS, Dice::printed("a_slow_line_loses_nothing")).await;
    proxy.slow(200_000);
    let crowd = lived(crowd, 20).await;
    proxy.resume();
    let mut crowd = lived(crowd, 20).await;
    crowd.is_true(&nodes).await;
}
