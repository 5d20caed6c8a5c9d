//! A line with a mailbox in front of it and replies behind, on a paused clock.

use std::future::poll_fn;
use std::pin::Pin;

use futures_util::FutureExt;
use hyper::body::Body;

use super::*;
use crate::mailbox::{Backlogs, Mailbox};
use crate::model::socket::SocketId;
use crate::model::transport::Transport;

fn mailbox() -> Mailbox {
    Mailbox::new(SocketId::NOBODY, Transport::XhrStreaming, None, 1 << 20, Arc::new(Backlogs::new(0)), 0)
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

/// All that a reply is given while the mailbox has something for it.
async fn all(mailbox: &Mailbox, line: &Arc<Line>, reply: &mut LineReply) -> String {
    let mut all = String::new();
    loop {
        pass_on(mailbox, line).await;
        match pieces(reply).await {
            more if more.is_empty() => return all,
            more => all += &more,
        }
    }
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
    let mut poll = line.attach(Reading::Once, Bytes::new());
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut poll).await, "12end");
    let mut next = line.attach(Reading::Once, Bytes::new());
    assert_eq!(piece(&mut next).await, None);
    assert_eq!(line.look(Instant::now() + SILENCE), None);
    assert_eq!(pieces(&mut next).await, "h\nend", "in place of nothing for ever");
}

/// A poll that had its messages was broken off by another one before they were sent, and they were lost.
#[tokio::test(start_paused = true)]
async fn who_has_taken_the_last_piece_is_not_broken_off() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut poll = line.attach(Reading::Once, Bytes::from_static(b"0"));
    mailbox.push(&Bytes::from_static(b"1"));
    pass_on(&mailbox, &line).await;
    assert_eq!(piece(&mut poll).await.as_deref(), Some("0"));
    assert!(!poll.is_end_stream());
    assert_eq!(piece(&mut poll).await.as_deref(), Some("1"));
    let mut stream = line.attach(Reading::Stream, Bytes::new());
    assert!(poll.is_end_stream());
    assert_eq!(piece(&mut poll).await.as_deref(), Some("end"));
    drop(poll);
    mailbox.push(&Bytes::from_static(b"2"));
    pass_on(&mailbox, &line).await;
    assert_eq!(piece(&mut stream).await.as_deref(), Some("2"), "it reads on");
    assert!(!stream.is_end_stream());
    line.end(Bytes::from_static(b"3"));
    assert_eq!(piece(&mut stream).await.as_deref(), Some("3"));
    line.abandon();
    assert!(stream.is_end_stream());
    assert_eq!(piece(&mut stream).await.as_deref(), Some("end"));
}

#[tokio::test(start_paused = true)]
async fn a_later_reply_takes_over_and_nothing_that_was_not_taken_is_lost() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut first = line.attach(Reading::Stream, Bytes::from_static(b"p"));
    assert_eq!(pieces(&mut first).await, "p");
    mailbox.push(&Bytes::from_static(b"1"));
    pass_on(&mailbox, &line).await;
    let mut second = line.attach(Reading::Stream, Bytes::from_static(b"q"));
    assert_eq!(pieces(&mut first).await, "broken");
    drop(first);
    assert_eq!(pieces(&mut second).await, "q1");
    drop(second);
    mailbox.push(&Bytes::from_static(b"2"));
    pass_on(&mailbox, &line).await;
    let mut third = line.attach(Reading::Stream, Bytes::new());
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut third).await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_long_reply_waits_for_the_next_one_but_not_for_ever() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut reply = line.attach(Reading::Stream, Bytes::new());
    let (large, small) = ("ä".repeat(LONG_REPLY), Bytes::from_static(b"later"));
    mailbox.push(&Bytes::from(large.clone()));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await, large, "which is not too long yet");
    mailbox.push(&Bytes::from_static(b"!"));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await, "!");
    mailbox.push(&small);
    pass_on(&mailbox, &line).await;
    assert_eq!(piece(&mut reply).await, None, "its client could miss it");
    assert_eq!(line.next_look(), Instant::now() + REOPEN_WAIT);
    assert_eq!(line.look(Instant::now() + SILENCE), None);
    assert_eq!(piece(&mut reply).await, None);
    assert_eq!(line.look(Instant::now() + REOPEN_WAIT), Some(CloseReason::SlowConsumer));
    line.begin_end();
    pass_on(&mailbox, &line).await;
    line.end(Bytes::from_static(b"c"));
    assert_eq!(pieces(&mut reply).await, "latercend", "nothing is held back at the end");
}

/// Events that were published together are one frame, which once went out whole.
#[tokio::test(start_paused = true)]
async fn a_frame_of_several_lines_is_handed_over_line_by_line() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut reply = line.attach(Reading::Stream, Bytes::new());
    let lines = format!("{}\n", "x".repeat(LONG_REPLY / 4)).repeat(7);
    mailbox.push(&Bytes::from(lines.clone()));
    let first = all(&mailbox, &line, &mut reply).await;
    assert_eq!(first.matches('\n').count(), 4, "and the fourth makes it long");
    let mut next = line.attach(Reading::Stream, Bytes::new());
    assert_eq!(first + &all(&mailbox, &line, &mut next).await, lines);
}

/// A reply that is polled was once as long as the whole mailbox, and its reading longer than the grace.
#[tokio::test(start_paused = true)]
async fn a_reply_is_given_no_more_than_there_is_room_for() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    for _ in 0..100 {
        mailbox.push(&Bytes::from(format!("{}\n", "x".repeat(1000))));
    }
    let mut poll = line.attach(Reading::Once, Bytes::new());
    pass_on(&mailbox, &line).await;
    let polled = pieces(&mut poll).await;
    assert!((ROOM..ROOM + 1010).contains(&polled.len()), "{}", polled.len());
}

/// Lines that were ready together were once sent together, so that a client that begins another
/// request behind one of them lost the rest.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_behind_the_line_that_makes_a_reply_long() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let quarter = "x".repeat(LONG_REPLY / 4);
    for _ in 0..7 {
        mailbox.push(&Bytes::from(quarter.clone()));
    }
    let mut first = line.attach(Reading::Stream, Bytes::from_static(b"p"));
    assert_eq!(all(&mailbox, &line, &mut first).await.len(), 1 + LONG_REPLY);
    let mut second = line.attach(Reading::Stream, Bytes::new());
    assert_eq!(pieces(&mut first).await, "broken");
    assert_eq!(all(&mailbox, &line, &mut second).await, quarter.repeat(3));
}

/// What an earlier reply had left was once not counted.
#[tokio::test(start_paused = true)]
async fn what_is_left_for_a_reply_counts_for_its_length() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    drop(line.attach(Reading::Stream, Bytes::new()));
    let first = line.attach(Reading::Stream, Bytes::new());
    mailbox.push(&Bytes::from("x".repeat(LONG_REPLY / 2)));
    pass_on(&mailbox, &line).await;
    drop(first);
    let mut second = line.attach(Reading::Stream, Bytes::new());
    for _ in 0..2 {
        mailbox.push(&Bytes::from("y".repeat(LONG_REPLY / 2 + 1)));
    }
    assert_eq!(pieces(&mut second).await.len(), LONG_REPLY / 2);
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut second).await.len(), LONG_REPLY / 2 + 1, "and no more");
}

/// The session's task once asked again and again, as the silence was due and could not be ended.
#[tokio::test(start_paused = true)]
async fn a_reply_that_waits_to_be_replaced_is_left_alone_until_then() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut reply = line.attach(Reading::Stream, Bytes::new());
    mailbox.push(&Bytes::from("x".repeat(LONG_REPLY + 1)));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await.len(), LONG_REPLY + 1);
    tokio::time::advance(SILENCE / 2).await;
    mailbox.push(&Bytes::from_static(b"later"));
    pass_on(&mailbox, &line).await;
    tokio::time::advance(SILENCE).await;
    assert_eq!(line.look(Instant::now()), None);
    assert_eq!(piece(&mut reply).await, None);
    assert!(line.next_look() > Instant::now());
}

/// Whoever hung up while the session waited for another reply once kept its task busy until it was missed.
#[tokio::test(start_paused = true)]
async fn who_hangs_up_a_reply_that_is_to_be_replaced_is_missed_after_the_grace() {
    let (mailbox, line) = (mailbox(), Arc::new(Line::new()));
    let mut reply = line.attach(Reading::Stream, Bytes::new());
    mailbox.push(&Bytes::from("x".repeat(LONG_REPLY + 1)));
    pass_on(&mailbox, &line).await;
    assert_eq!(pieces(&mut reply).await.len(), LONG_REPLY + 1);
    mailbox.push(&Bytes::from_static(b"later"));
    pass_on(&mailbox, &line).await;
    drop(reply);
    assert_eq!(line.next_look(), Instant::now() + GRACE);
    assert_eq!(line.look(Instant::now() + GRACE), Some(CloseReason::Lost));
}

/// Such a client once waited for ever, by a line that nobody wrote to.
#[tokio::test(start_paused = true)]
async fn whoever_comes_back_as_the_session_ends_is_broken_off() {
    let line = Arc::new(Line::new());
    assert_eq!(line.look(Instant::now() + GRACE), Some(CloseReason::Lost));
    let mut earlier = line.attach(Reading::Stream, Bytes::new());
    assert_eq!(piece(&mut earlier).await, None);
    line.abandon();
    assert_eq!(pieces(&mut earlier).await, "broken");
    assert_eq!(pieces(&mut line.attach(Reading::Once, Bytes::new())).await, "broken");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_reads_is_gone_after_the_grace() {
    let line = Arc::new(Line::new());
    let reply = line.attach(Reading::Stream, Bytes::new());
    assert_eq!(line.look(Instant::now() + GRACE), None);
    drop(reply);
    assert_eq!(line.look(Instant::now() + GRACE - Duration::from_millis(1)), None);
    assert_eq!(line.look(Instant::now() + GRACE), Some(CloseReason::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_and_the_end_is_told_to_each_who_asks() {
    let line = Arc::new(Line::new());
    let mut stream = line.attach(Reading::Stream, Bytes::new());
    assert_eq!(line.look(Instant::now() + SILENCE), None);
    assert_eq!(pieces(&mut stream).await, "h\n");
    line.end(Bytes::from_static(b"c"));
    assert!(line.told().now_or_never().is_none());
    assert_eq!(pieces(&mut stream).await, "cend");
    line.told().await;
    let mut late = line.attach(Reading::Once, Bytes::new());
    assert_eq!(pieces(&mut late).await, "cend");
    assert!(line.is_idle());
}

#[test]
fn code_units_are_those_of_a_browser() {
    for text in ["", "a", "ä", "€", "😀", "aä€😀"] {
        assert_eq!(units(text.as_bytes()), text.encode_utf16().count(), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_line_has_is_counted_until_a_reply_takes_it() {
    let all = Arc::new(Backlogs::new(0));
    let mailbox = Mailbox::new(SocketId::NOBODY, Transport::XhrStreaming, None, 1 << 20, Arc::clone(&all), 0);
    let line = Arc::new(Line::new());
    let mut stream = line.attach(Reading::Stream, Bytes::new());
    let frame = Bytes::from([&[b'x'; 999][..], b"\n"].concat());
    (0..100).for_each(|_| mailbox.push(&frame));
    let pushed = all.bytes();
    pass_on(&mailbox, &line).await;
    let held = line.held();
    assert!((ROOM..ROOM + frame.len()).contains(&held), "{held}");
    assert_eq!(mailbox.queued(), all.bytes());
    assert!((100 * frame.len()..pushed).contains(&all.bytes()), "{} of {pushed}", all.bytes());
    while !pieces(&mut stream).await.is_empty() {
        pass_on(&mailbox, &line).await;
    }
    pass_on(&mailbox, &line).await;
    assert_eq!((line.held(), mailbox.queued(), all.bytes(), all.mailboxes()), (0, 0, 0, 0));
}
