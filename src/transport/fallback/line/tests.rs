//! A line with a mailbox in front of it and replies behind, on a paused clock.

use std::future::poll_fn;
use std::pin::Pin;

use hyper::body::Body;

use super::*;
use crate::mailbox::Mailbox;
use crate::model::socket::SocketId;
use crate::model::transport::Transport;

fn mailbox() -> Mailbox {
    Mailbox::new(SocketId::NOBODY, Transport::XhrStreaming, None, 1 << 20, 0)
}

/// Gives the line what it takes of the mailbox now.
async fn pass_on(mailbox: &Mailbox, line: &Arc<Line>) {
    let mut wire = ToLine(Arc::clone(line));
    poll_fn(|cx| {
        let _ = mailbox.poll_closing(cx, &mut wire);
        Poll::Ready(())
    })
    .await;
}

/// The next piece of a reply, if there is one now: `end` and `broken` for what is none.
async fn piece(reply: &mut LineReply) -> Option<String> {
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *reply).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                frame.into_data().ok().map(|data| String::from_utf8_lossy(&data).into_owned())
            }
            Poll::Ready(Some(Err(_))) => Some("broken".to_owned()),
            Poll::Ready(None) => Some("end".to_owned()),
            Poll::Pending => None,
        })
    })
    .await
}

async fn pieces(reply: &mut LineReply) -> String {
    let mut all = String::new();
    while let Some(next) = piece(reply).await {
        all += &next;
        if next == "end" || next == "broken" {
            break;
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_poll_has_all_that_waits_and_ends_and_the_next_one_waits() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    mailbox.push(&Bytes::from_static(b"1"));
    mailbox.push(&Bytes::from_static(b"2"));
    pass_on(&mailbox, &line).await;
    let mut poll = line.read(Reading::Once, Bytes::new(), UnderWay::default());
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut poll).await, "12end");
    let mut next = line.read(Reading::Once, Bytes::new(), UnderWay::default());
    assert_eq!(piece(&mut next).await, None);
    assert!(!line.look(Instant::now() + SILENCE));
    assert_eq!(pieces(&mut next).await, "h\nend", "in place of nothing for ever");
}

#[tokio::test(start_paused = true)]
async fn a_later_reply_takes_over_and_nothing_that_was_not_taken_is_lost() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut first = line.read(Reading::Stream, Bytes::from_static(b"p"), UnderWay::default());
    assert_eq!(pieces(&mut first).await, "p");
    mailbox.push(&Bytes::from_static(b"1"));
    pass_on(&mailbox, &line).await;
    let mut second = line.read(Reading::Stream, Bytes::from_static(b"q"), UnderWay::default());
    assert_eq!(pieces(&mut first).await, "broken");
    drop(first);
    assert_eq!(pieces(&mut second).await, "q1");
    drop(second);
    mailbox.push(&Bytes::from_static(b"2"));
    pass_on(&mailbox, &line).await;
    let mut third = line.read(Reading::Stream, Bytes::new(), UnderWay::default());
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut third).await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_long_reply_waits_for_the_next_one_but_not_for_ever() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut reply = line.read(Reading::Stream, Bytes::new(), UnderWay::default());
    let (large, small) = ("ä".repeat(LONG_REPLY), Bytes::from_static(b"later"));
    mailbox.push(&Bytes::from(large.clone()));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await, large, "which is not too long yet");
    mailbox.push(&Bytes::from_static(b"!"));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await, "!");
    mailbox.push(&small);
    pass_on(&mailbox, &line).await;
    assert_eq!(piece(&mut reply).await, None);
    assert_eq!(line.next_look(), Instant::now() + REOPEN_WAIT);
    assert!(!line.look(Instant::now() + REOPEN_WAIT));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await, "later", "its client is of another kind");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_reads_is_gone_after_the_grace() {
    let line = Arc::new(Line::new());
    let reply = line.read(Reading::Stream, Bytes::new(), UnderWay::default());
    assert!(!line.look(Instant::now() + GRACE));
    drop(reply);
    assert!(!line.look(Instant::now() + GRACE - Duration::from_millis(1)));
    assert!(line.look(Instant::now() + GRACE));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_and_the_end_is_told_to_each_who_asks() {
    let line = Arc::new(Line::new());
    let mut stream = line.read(Reading::Stream, Bytes::new(), UnderWay::default());
    assert!(!line.look(Instant::now() + SILENCE));
    assert_eq!(pieces(&mut stream).await, "h\n");
    line.end(Bytes::from_static(b"c"));
    assert_eq!(pieces(&mut stream).await, "cend");
    let mut late = line.read(Reading::Once, Bytes::new(), UnderWay::default());
    assert_eq!(pieces(&mut late).await, "cend");
    assert!(line.is_idle());
}

#[test]
fn code_units_are_those_of_a_browser() {
    for text in ["", "a", "ä", "€", "😀", "aä€😀"] {
        assert_eq!(units(text.as_bytes()), text.encode_utf16().count(), "{text}");
    }
}
