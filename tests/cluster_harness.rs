//! The tests' own tools: servers, lines and listeners do what the tests of the cluster trust them to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::ear::{Begun, TICK};
use common::redis::cli;
use common::redis_groups::{Cluster, Sentinel};
use common::resp::{Said, ask};
use common::{Listener, Nodes, Proxy, Redis, eventually, in_time, settings};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_begins_forgets_and_begins_again() {
    let mut redis = Redis::start().await;
    redis.command(&["SET", "a", "1"]).await;
    assert_eq!(redis.command(&["GET", "a"]).await, Said::Text("1".to_owned()));
    redis.flush().await;
    assert_eq!(redis.command(&["GET", "a"]).await, Said::Nothing);
    redis.command(&["SET", "a", "1"]).await;
    redis.restart_empty().await;
    assert_eq!(redis.command(&["GET", "a"]).await, Said::Nothing);
    let pid = redis.pid();
    drop(redis);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_redis_answers_when_it_goes_on() {
    let redis = Redis::start().await;
    let mut stream = TcpStream::connect(redis.address()).await.unwrap();
    redis.pause();
    {
        let mut asked = Box::pin(ask(&mut stream, &["PING"]));
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut asked).await;
        assert!(early.is_err(), "answered {early:?}");
        redis.resume();
        assert_eq!(in_time("an answer", asked).await.unwrap(), Said::Text("PONG".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_users_are_asked_for() {
    let redis = Redis::with_password("s3cret").await;
    redis.add_user("fan", "p4ss", &["~fan*", "&fan*", "+@all"]).await;
    let mut stream = TcpStream::connect(redis.address()).await.unwrap();
    let refused = ask(&mut stream, &["PING"]).await.unwrap();
    assert!(matches!(&refused, Said::Error(text) if text.starts_with("NOAUTH")), "{refused:?}");
    ask(&mut stream, &["AUTH", "fan", "p4ss"]).await.unwrap();
    assert!(matches!(ask(&mut stream, &["SET", "other", "1"]).await.unwrap(), Said::Error(_)));
    assert_eq!(ask(&mut stream, &["SET", "fan", "1"]).await.unwrap(), Said::Text("OK".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_signed_by_the_authority_that_is_told() {
    let (redis, ca) = Redis::with_tls().await;
    let port = redis.tls_port.unwrap().to_string();
    let output = cli()
        .args(["-h", "127.0.0.1", "-p", &port, "--tls", "--cacert"])
        .args([ca.as_os_str(), "PING".as_ref()])
        .output();
    let output = in_time("an answer", output).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n", "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_masters_share_the_keys() {
    let cluster = Cluster::start().await;
    let mut own = 0;
    for master in &cluster.masters {
        let said = master.try_command(&["SET", "a", "1"]).await.unwrap();
        own += usize::from(said == Said::Text("OK".to_owned()));
    }
    assert_eq!(own, 1, "one of them has the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over() {
    let mut sentinel = Sentinel::start().await;
    sentinel.fail_over().await;
    sentinel.replica.command(&["SET", "a", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_can_be_stalled_and_cut() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(ask(&mut stream, &["PING"]).await.unwrap(), Said::Text("PONG".to_owned()));
    assert_eq!((proxy.there(), proxy.back(), proxy.connections()), (14, 7, 1));
    proxy.stall();
    {
        let mut asked = Box::pin(ask(&mut stream, &["PING"]));
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut asked).await;
        assert!(early.is_err(), "answered {early:?}");
        assert_eq!(proxy.back(), 7);
        proxy.resume();
        assert_eq!(in_time("an answer", asked).await.unwrap(), Said::Text("PONG".to_owned()));
    }
    proxy.slow(1000);
    assert!(ask(&mut stream, &["PING"]).await.is_ok());
    proxy.cut();
    assert!(matches!(in_time("an end", stream.read(&mut [0])).await, Ok(0) | Err(_)));
    let mut late = TcpStream::connect(proxy.address).await.unwrap();
    assert!(in_time("a refusal", ask(&mut late, &["PING"])).await.is_err());
    proxy.resume();
    let mut again = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(ask(&mut again, &["PING"]).await.unwrap(), Said::Text("PONG".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_started_paused_and_killed() {
    let mut nodes = Nodes::alone(settings()).await;
    let node = &mut nodes[0];
    assert_eq!(node.metric("fanfare_opened_connections_total").await, 0.0);
    assert!(node.program.resident() > 1 << 20);
    let client = node.listener().await;
    client.join("presence-a", "ada").await;
    client.sees("presence-a", &["ada".to_owned()]).await;
    node.lists_users("presence-a", &["ada".to_owned()]).await;
    node.lists(&["presence-a"]).await;
    node.program.pause();
    client.send(json!({"event": "pusher:ping"}));
    node.program.resume();
    client.round().await;
    node.program.kill().await;
    eventually("a socket that ends", async || client.is_closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_notices_what_is_missing_and_what_is_doubled() {
    let nodes = Nodes::alone(settings()).await;
    let begun = Arc::<Begun>::default();
    let mut api = nodes[0].api();
    for (numbers, fault) in
        [(&[0, 1, 2][..], None), (&[0, 2], Some("missing")), (&[0, 1, 1], Some("after 1"))]
    {
        let listener = Listener::knowing(nodes[0].connect().await, &begun);
        listener.subscribe("a").await;
        for number in numbers {
            api.publish("a", TICK, &format!("p:{number}")).await;
        }
        listener.send(json!({"event": "pusher:ping"}));
        eventually("all of them", async || listener.look(|ear| ear.pongs == 1)).await;
        let heard = listener.look(|ear| ear.fault.clone());
        assert_eq!(heard.is_some(), fault.is_some(), "{heard:?}");
        assert!(heard.is_none_or(|heard| heard.contains(fault.unwrap())));
    }
    let late = Listener::knowing(nodes[0].connect().await, &begun);
    begun.next("a", "q");
    late.subscribe("a").await;
    api.publish("a", TICK, "q:2").await;
    eventually("a fault", async || late.look(|ear| ear.fault.is_some())).await;
}
