//! A Redis that refuses, is none, or says what no Redis says; and strangers who talk in the nodes' own
//! places. Nodes log it, stay up, and say what is wrong without saying the password.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::nodes::mortal;
use common::{DEADLINE, Nodes, Redis, Settings, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ROOM: &str = "presence-room";

/// A server that answers everything with this, and hangs up or not.
struct Fake {
    address: std::net::SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Fake {
    async fn start(answer: Vec<u8>, hangs_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(1..) = stream.read(&mut bytes).await {
                        if stream.write_all(&answer).await.is_err() || hangs_up {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, accepting }
    }
}

/// For a server that never answers as it should: whoever waits longer for it learns nothing more.
fn hasty() -> Settings {
    mortal(settings()).cluster("timeout", "1s")
}

/// A node on this Redis serves, is not ready, and says why; returns what it says, its log too.
async fn refused(url: &str, settings: Settings) -> (String, String) {
    let mut nodes = Nodes::none(settings);
    nodes.add(url).await;
    let reason = nodes[0].unready().await;
    let listener = nodes[0].listener().await;
    listener.join(ROOM, "ada").await;
    listener.subscribe("news").await;
    nodes[0].api().publish("news", "e", "1").await;
    listener.until("one's own event", |ear| ear.others.len() == 1).await;
    assert!(!nodes[0].is_ready().await);
    (reason, nodes[0].program.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_not_repeated() {
    let redis = Redis::with_password("right").await;
    let right = redis.url();
    for url in [
        right.replace("right", "s3cret"),
        right.replace(":right", "who:s3cret"),
        right.replace(":right@", ""),
    ] {
        let (reason, log) = refused(&url, mortal(settings())).await;
        assert!(
            reason.contains("WRONGPASS") || reason.contains("NOAUTH") || reason.contains("password"),
            "{reason}"
        );
        assert!(!reason.contains("s3cret") && !log.contains("s3cret"), "{reason}\n{log}");
        assert!(!log.is_empty(), "nothing is logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_nothing_is_told_what() {
    let redis = Redis::start().await;
    redis.add_user("fan", "s3cret", &["~other*", "&other*", "+@all"]).await;
    let url = format!("redis://fan:s3cret@{}", redis.address());
    let (reason, log) = refused(&url, mortal(settings())).await;
    assert!(reason.contains("NOPERM"), "{reason}");
    assert!(!reason.contains("s3cret") && !log.contains("s3cret"), "{reason}\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_redis() {
    let answers: [(&[u8], bool); 8] = [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", true),
        (b"220 mail.test ESMTP\r\n", false),
        (b"", true),
        (b"", false),
        (b"\x00\xff\xfe\r\n\r\n", false),
        (b"$99999999999999\r\n", false),
        (b"*1000000000\r\n*1000000000\r\n", false),
        (b"+OK\r\n", false),
    ];
    for (answer, hangs_up) in answers {
        let fake = Fake::start(answer.to_vec(), hangs_up).await;
        let (reason, _) = refused(&format!("redis://{}", fake.address), hasty()).await;
        assert!(reason.trim().len() > 10, "no reason for {answer:?}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_end_take_no_memory() {
    for answer in
        [b"*1\r\n".repeat(100_000), vec![b'+'; 32 << 20], [&b"$536870912\r\n"[..], &[b'x'; 1 << 20]].concat()]
    {
        let fake = Fake::start(answer, false).await;
        let mut nodes = Nodes::none(hasty());
        nodes.add(&format!("redis://{}", fake.address)).await;
        nodes[0].unready().await;
        let size = nodes[0].program.resident();
        assert!(size < 128 << 20, "{size} bytes");
        nodes[0].connect().await.subscribe("news").await;
    }
}

/// What strangers say wherever anybody listens.
async fn babble(redis: &Redis) -> usize {
    let garbage = ["", "garbage", "{\"event\":1}", "\u{0}\u{1}\u{2}", "*3\r\n$1\r\n", &"x".repeat(100_000)];
    let sharded = redis.command(&["PUBSUB", "SHARDCHANNELS"]).await.texts();
    let plain = redis.command(&["PUBSUB", "CHANNELS"]).await.texts();
    for (command, topics) in [("SPUBLISH", &sharded), ("PUBLISH", &plain)] {
        for topic in topics {
            for text in garbage {
                redis.command(&[command, topic, text]).await;
            }
        }
    }
    sharded.len() + plain.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_publish_where_nodes_listen() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(2, &redis.url(), mortal(settings())).await;
    let (one, two) = (nodes[0].listener().await, nodes[1].listener().await);
    for (listener, id) in [(&one, "one"), (&two, "two")] {
        listener.join(ROOM, id).await;
        listener.subscribe("news").await;
    }
    let topics = babble(&redis).await;
    assert!(topics > 0, "nobody listens anywhere");
    nodes.ready().await;
    let both = ["one".to_owned(), "two".to_owned()];
    for (listener, node) in [&one, &two].into_iter().zip(nodes.iter()) {
        listener.sees(ROOM, &both).await;
        node.lists_users(ROOM, &both).await;
    }
    for node in nodes.iter() {
        node.api().publish("news", "e", "true").await;
    }
    for listener in [&one, &two] {
        let is_true = |frame: &serde_json::Value| frame["data"] == "true";
        listener.until("both events", |ear| ear.others.iter().filter(|f| is_true(f)).count() == 2).await;
        listener.look(|ear| assert!(ear.others.iter().all(is_true), "{:?}", ear.others));
    }
    for node in nodes.iter() {
        assert!(!node.program.log().contains("panic"), "{}", node.program.log());
    }
    drop((one, two));
    nodes.pop().program.stop(DEADLINE).await;
}

/// Keys of another kind where nodes keep theirs.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_overwrite_what_nodes_keep() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), mortal(settings())).await;
    let (one, two) = (nodes[0].listener().await, nodes[1].listener().await);
    one.join(ROOM, "one").await;
    two.join(ROOM, "two").await;
    for key in redis.command(&["KEYS", "*"]).await.texts() {
        redis.command(&["SET", &key, "garbage"]).await;
    }
    // They cannot be right about what they keep there, but they serve their own.
    for (node, listener) in nodes.iter().zip([&one, &two]) {
        listener.subscribe("news").await;
        node.api().publish("news", "e", "own").await;
        listener.until("one's own event", |ear| !ear.others.is_empty()).await;
        assert!(!node.program.log().contains("panic"), "{}", node.program.log());
    }
    redis.flush().await;
    nodes.ready().await;
    let both = ["one".to_owned(), "two".to_owned()];
    for (listener, node) in [&one, &two].into_iter().zip(nodes.iter()) {
        listener.sees(ROOM, &both).await;
        node.lists_users(ROOM, &both).await;
    }
}
