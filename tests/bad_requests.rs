//! HTTP nobody should send: slow, endless, oversized or nonsensical, and harmless to everybody else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Broker, HOME, Http, Settings, Signed, boot, in_time, settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GIBIBYTE: u64 = 1 << 30;
/// What the kernels of both sides may hold between them, besides what the broker reads.
const IN_TRANSIT: usize = 4 << 20;
/// What is read of a refused request so that its sender reads why, and kept nowhere.
const THROWN_AWAY: usize = 16 << 20;

fn event() -> Value {
    json!({"name": "e", "channel": "a", "data": "d"})
}

fn post() -> Signed {
    Signed::post("/apps/1/events", &event())
}

fn hasty() -> Settings {
    settings().server("header_timeout", "1s").server("body_timeout", "1s")
}

/// Sends a byte every few milliseconds for as long as the broker lets it; returns what it answered.
async fn trickle(http: Http) -> String {
    let Http { mut reader, mut writer } = http;
    let trickling = tokio::spawn(async move {
        let mut drip = tokio::time::interval(Duration::from_millis(20));
        while writer.write_all(b"x").await.is_ok() {
            drip.tick().await;
        }
    });
    let mut answer = Vec::new();
    let _ = in_time("the end of a trickle", reader.read_to_end(&mut answer)).await;
    trickling.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends these bytes, and is refused or hung up on.
async fn is_refused(broker: &Broker, request: &[u8]) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
    let mut http = broker.http().await;
    let _ = http.writer.write_all(request).await;
    let _ = http.writer.shutdown().await;
    if let Some(reply) = http.reply().await {
        assert!((400..500).contains(&reply.status), "{shown:?} was answered by {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_never_finished_are_not_waited_for() {
    let broker = boot(hasty()).await;
    let mut witness = broker.witness().await;
    let whole = post().bytes();
    let head = whole.len() - event().to_string().len();
    for cut in [0, 1, 4, 20, head - 4, head - 1] {
        let mut http = broker.http().await;
        http.write(&whole[..cut]).await;
        let answer = String::from_utf8_lossy(&http.rest().await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_trickle_are_cut_off() {
    let broker = boot(hasty()).await;
    let mut http = broker.http().await;
    http.write(b"GET /apps/1/channels HTTP/1.1\r\nX-Long: ").await;
    let answer = trickle(http).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    broker.witness().await.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_or_trickles_is_cut_off() {
    let broker = boot(hasty()).await;
    let mut witness = broker.witness().await;
    for trickles in [false, true] {
        let mut http = broker.http().await;
        http.write(&post().head(10_000)).await;
        http.write(b"{").await;
        let answer = match trickles {
            true => trickle(http).await,
            false => String::from_utf8_lossy(&http.rest().await).into_owned(),
        };
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_publishes_nothing() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let whole = post().bytes();
    let mut http = broker.http().await;
    http.write(&whole[..whole.len() - 1]).await;
    http.writer.shutdown().await.unwrap();
    let answer = String::from_utf8_lossy(&http.rest().await).into_owned();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    broker.api().publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_of_a_stranger_is_answered_at_once_and_hardly_read() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let stranger = post().with("auth_key", "nobody").head(GIBIBYTE);
    let mut silent = broker.http().await;
    silent.write(&stranger).await;
    silent.reply().await.expect("an answer").expect_error(401, "auth_key should be a valid app key");
    silent.rest().await;
    let mut pouring = Http::over(broker.narrow_tcp().await);
    pouring.write(&stranger).await;
    let (reply, taken) = pouring.pour(&[b'x'; 16 * 1024]).await;
    reply.expect("an answer").expect_error(401, "auth_key should be a valid app key");
    assert!(taken <= THROWN_AWAY + 256 * 1024 + IN_TRANSIT, "{taken} bytes were taken");
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_it_has_come() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut silent = broker.http().await;
    silent.write(&post().head(GIBIBYTE)).await;
    let reply = silent.reply().await.expect("an answer");
    reply.expect_error(413, "");
    assert!(reply.closes(), "{reply:?}");
    silent.rest().await;
    let mut pouring = Http::over(broker.narrow_tcp().await);
    pouring.write(&post().head(GIBIBYTE)).await;
    let (reply, taken) = pouring.pour(&[b' '; 16 * 1024]).await;
    reply.expect("an answer").expect_error(413, "");
    assert!(taken <= THROWN_AWAY + 256 * 1024 + IN_TRANSIT, "{taken} bytes were taken");
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_is_refused_at_the_limit() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let head = String::from_utf8(post().head(1)).unwrap();
    let head = head.replace("Content-Length: 1", "Transfer-Encoding: chunked");
    let mut http = Http::over(broker.narrow_tcp().await);
    http.write(head.as_bytes()).await;
    let chunk = [&b"4000\r\n"[..], &[b' '; 0x4000], b"\r\n"].concat();
    let (reply, taken) = http.pour(&chunk).await;
    reply.expect("an answer").expect_error(413, "");
    assert!(taken <= THROWN_AWAY + (8 << 20) + IN_TRANSIT, "{taken} bytes were taken");
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_is_told_to_go_on_or_not_to() {
    let broker = boot(settings()).await;
    let careful = post().header("Expect", Some("100-continue"));
    let body = event().to_string();
    let mut http = broker.http().await;
    http.write(&careful.head(body.len() as u64)).await;
    assert_eq!(http.reply().await.unwrap().status, 100);
    http.write(body.as_bytes()).await;
    http.reply().await.unwrap().expect_ok();
    let stranger = careful.signature("00").head(body.len() as u64);
    http.write(&stranger).await;
    http.reply().await.unwrap().expect_error(401, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_queries_and_headers_are_refused() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let huge = "x".repeat(100 * 1024);
    let many = "X-Many: x\r\n".repeat(10_000);
    let requests = [
        format!("GET /apps/1/channels?{huge} HTTP/1.1\r\nHost: b\r\n\r\n"),
        format!("GET /apps/1/channels?auth_key={huge} HTTP/1.1\r\nHost: b\r\n\r\n"),
        format!("GET /apps/1/channels?{} HTTP/1.1\r\nHost: b\r\n\r\n", "a=b&".repeat(25_000)),
        format!("GET /apps/1/channels?{} HTTP/1.1\r\nHost: b\r\n\r\n", "%".repeat(60_000)),
        format!("GET /app/app-key?protocol=7&x={huge} HTTP/1.1\r\nHost: b\r\n\r\n"),
        format!("GET /{huge} HTTP/1.1\r\nHost: b\r\n\r\n"),
        format!("GET /apps/1/channels HTTP/1.1\r\nHost: b\r\nX-Huge: {huge}\r\n\r\n"),
        format!("GET /apps/1/channels HTTP/1.1\r\nHost: b\r\n{many}\r\n"),
    ];
    for request in requests {
        is_refused(&broker, request.as_bytes()).await;
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn percent_signs_need_not_mean_anything() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let garbage =
        ["%", "%%", "%2", "%zz", "%ff%fe", "%00", "%c3%28", "%25zz", "%F0%9F%92", "%u0041", "a%0d%0ab"];
    for text in garbage {
        for path in [
            format!("/apps/{text}/channels?x=1"),
            format!("/apps/1/channels/{text}?x=1"),
            format!("/apps/1/channels?auth_key={text}"),
            format!("/apps/1/channels?{text}={text}&auth_key=app-key"),
            format!("/{text}"),
        ] {
            is_refused(&broker, format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n").as_bytes()).await;
        }
        common::Raw::open(broker.tcp().await, &format!("/app/{text}?protocol=5&{text}={text}"))
            .await
            .until_end()
            .await;
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn percent_signs_that_are_signed_are_read_as_text() {
    let broker = boot(settings()).await;
    for prefix in ["%zz", "100%", "%"] {
        let request = Signed::get("/apps/1/channels").param("filter_by_prefix", prefix);
        let raw = request.query().replace("%25", "%");
        let reply = broker.api().send(&request.clone().sends_query(raw)).await;
        assert!(matches!(reply.status, 200 | 400 | 401), "{reply:?}");
        broker.api().send(&request).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_repeated_parameters_the_last_counts() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    let request = Signed::get("/apps/1/channels");
    let request = request.param("filter_by_prefix", "b").param("filter_by_prefix", "a");
    let reply = broker.api().send(&request).await.expect_ok();
    assert_eq!(reply, json!({"channels": {"a": {}}}));
    // Whatever a repeated protocol means, it is answered.
    let mut raw =
        common::Raw::open(broker.tcp().await, &format!("{HOME}&protocol=7&version=1&version=!!")).await;
    raw.frame().await.expect("a greeting or a close");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_refused() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let requests: [&[u8]; 20] = [
        b"\r\n\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting by TLS",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /apps/1/channels HTTP/1.1\r\nHost: b\r\nno colon\r\n\r\n",
        b"GET /apps/1/channels HTTP/1.1\r\nHost: b\r\nX: \x00\r\n\r\n",
        b"G\x00T /apps/1/channels HTTP/1.1\r\nHost: b\r\n\r\n",
        b"GET /apps/1/\xff\xfe HTTP/1.1\r\nHost: b\r\n\r\n",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nContent-Length: -1\r\n\r\n",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nContent-Length: x\r\n\r\n",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /apps/1/events HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
        b"CONNECT broker.test:80 HTTP/1.1\r\nHost: b\r\n\r\n",
        b"GET http://broker.test/apps/1/channels HTTP/1.1\r\nHost: b\r\n\r\n",
    ];
    for request in requests {
        is_refused(&broker, request).await;
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upgrade_is_refused() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let requests = [
        format!("GET {HOME} HTTP/1.1\r\nHost: b\r\n{upgrade}{version}\r\n"),
        format!("GET {HOME} HTTP/1.1\r\nHost: b\r\n{upgrade}{key}\r\n"),
        format!("GET {HOME} HTTP/1.1\r\nHost: b\r\n{upgrade}{key}Sec-WebSocket-Version: 8\r\n\r\n"),
        format!("GET {HOME} HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n{key}{version}\r\n"),
        format!("GET {HOME} HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\n{key}{version}\r\n"),
        format!(
            "GET {HOME} HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{key}{version}\r\n"
        ),
        format!("POST {HOME} HTTP/1.1\r\nHost: b\r\n{upgrade}{key}{version}\r\n"),
        format!("GET {HOME} HTTP/1.0\r\nHost: b\r\n{upgrade}{key}{version}\r\n"),
    ];
    for request in requests {
        is_refused(&broker, request.as_bytes()).await;
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_json_in_a_request_is_refused_or_passed_on() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut api = broker.api();
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for body in [
        deep.clone(),
        format!(r#"{{"name":"e","channel":"a","data":{deep}}}"#),
        format!(r#"{{"name":"e","channels":{deep},"data":"d"}}"#),
        format!(r#"{{"batch":{deep}}}"#),
        "{\"batch\":".repeat(10_000),
    ] {
        for path in ["/apps/1/events", "/apps/1/batch_events"] {
            let request = Signed::new("POST", path, common::APP, body.as_bytes());
            api.send(&request).await.expect_error(400, "");
        }
    }
    let ignored = format!(r#"{{"name":"e","channel":"a","data":"d","more":{deep}}}"#);
    let request = Signed::new("POST", "/apps/1/events", common::APP, ignored.as_bytes());
    assert!(matches!(api.send(&request).await.status, 200 | 400));
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_do_not_wait_for_the_last_of_many_requests() {
    let broker = boot(settings()).await;
    let Http { reader, mut writer } = broker.http().await;
    let requests = Signed::get("/apps/1/channels").bytes().repeat(100);
    let asking = tokio::spawn(async move { while writer.write_all(&requests).await.is_ok() {} });
    let mut http = Http { reader, writer: broker.http().await.writer };
    for _ in 0..1_000 {
        assert_eq!(http.reply().await.expect("a reply").expect_ok(), json!({"channels": {}}));
    }
    asking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_replies_is_soon_not_listened_to() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut deaf = broker.narrow_tcp().await;
    let requests = b"GET / HTTP/1.1\r\n\r\n".repeat(500);
    common::until_ignored(&mut deaf, &requests).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_reads_no_replies_keeps_nobody_waiting() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut deaf = broker.narrow_tcp().await;
    let request = Signed::get("/apps/1/channels").bytes();
    let shouting = tokio::spawn(async move { while deaf.write_all(&request).await.is_ok() {} });
    for _ in 0..200 {
        witness.still_works().await;
    }
    shouting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_reads_no_replies_is_let_go() {
    let broker = boot(hasty()).await;
    // Long replies fill the buffers soon.
    let mut crowd = broker.connect().await;
    for number in 0..100 {
        crowd.subscribe(&format!("{number:0>160}")).await;
    }
    let mut deaf = broker.narrow_tcp().await;
    let request = Signed::get("/apps/1/channels").bytes();
    let shouting = async { while deaf.write_all(&request).await.is_ok() {} };
    in_time("the end of a deaf connection", shouting).await;
}
