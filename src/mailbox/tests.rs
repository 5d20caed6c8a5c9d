use super::state::BUFFER_OVERHEAD;
use super::*;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::pin;
use std::task::{Waker, ready};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Writes to the stream of a mailbox, as its task would.
struct Own(Arc<Mailbox>);

impl Wire for Own {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = self.0.stream().expect("a stream");
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_write_vectored(buffers) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(0)),
            other => Poll::Ready(other),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shut_down(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

async fn pair(limit: usize) -> (Arc<Mailbox>, TcpStream) {
    one_of(&Arc::new(Backlogs::new(0)), limit).await
}

async fn one_of(all: &Arc<Backlogs>, limit: usize) -> (Arc<Mailbox>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (near, far) =
        tokio::join!(TcpStream::connect(listener.local_addr().expect("addr")), listener.accept());
    let id = SocketId::draw().expect("id");
    (
        Arc::new(Mailbox::new(
            id,
            Transport::WebSocket,
            far.ok().map(|far| far.0),
            limit,
            Arc::clone(all),
            0,
        )),
        near.expect("connect"),
    )
}

/// Fills the kernel's buffers until the mailbox queues.
fn fill(mailbox: &Mailbox) -> usize {
    let block = Bytes::from(vec![b'x'; 64 * 1024]);
    let mut pushed = 0;
    while mailbox.queued() == 0 {
        mailbox.push(&block);
        pushed += block.len();
        assert!(pushed < 256 << 20, "the kernel takes everything");
    }
    pushed
}

#[tokio::test]
async fn writes_through_while_nothing_is_queued() {
    let (mailbox, mut peer) = pair(1024).await;
    mailbox.push(&Bytes::from_static(b"hello"));
    assert_eq!(mailbox.queued(), 0);
    let mut got = [0; 5];
    peer.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn the_backlog_arrives_whole_and_in_order() {
    let (mailbox, mut peer) = pair(1 << 20).await;
    let filled = fill(&mailbox);
    for n in 0..1000u32 {
        mailbox.push(&Bytes::from(n.to_be_bytes().to_vec()));
    }
    let read = async {
        let mut all = vec![0; filled + 4000];
        peer.read_exact(&mut all).await.expect("read");
        all
    };
    let mut wire = Own(Arc::clone(&mailbox));
    let (all, flushed) = tokio::join!(read, poll_fn(|cx| mailbox.poll_flush(cx, &mut wire)));
    flushed.expect("flush");
    assert!(mailbox.has_moved() && !mailbox.has_moved(), "progress is told once");
    for (n, chunk) in all[filled..].chunks(4).enumerate() {
        assert_eq!(chunk, (n as u32).to_be_bytes());
    }
    assert_eq!(mailbox.queued(), 0);
}

#[tokio::test]
async fn above_the_limit_the_socket_closes_and_the_backlog_is_given_back() {
    let (mailbox, _peer) = pair(128 * 1024).await;
    fill(&mailbox);
    let block = Bytes::from(vec![b'x'; 100 * 1024]);
    while mailbox.closing().is_none() {
        mailbox.push(&block);
    }
    assert_eq!(mailbox.closing(), Some(CloseReason::SlowConsumer));
    assert!(mailbox.queued() <= 64 * 1024 + BUFFER_OVERHEAD, "only a begun frame stays");
    let before = mailbox.queued();
    mailbox.push(&block);
    assert_eq!(mailbox.queued(), before, "a closing mailbox takes nothing");
}

#[tokio::test]
async fn the_first_reason_stands() {
    let (mailbox, _peer) = pair(1).await;
    mailbox.close(CloseReason::NoPong);
    mailbox.close(CloseReason::Stopping);
    let mut wire = Own(Arc::clone(&mailbox));
    assert_eq!(poll_fn(|cx| mailbox.poll_closing(cx, &mut wire)).await, CloseReason::NoPong);
}

#[tokio::test]
async fn tiny_frames_count_with_what_they_cost() {
    let (mailbox, _peer) = pair(64 * 1024).await;
    fill(&mailbox);
    let tiny = Bytes::from_static(b"x");
    let pushed = (0..).take_while(|_| {
        mailbox.push(&tiny);
        mailbox.closing().is_none()
    });
    assert!(pushed.count() < 64 * 1024 / BUFFER_OVERHEAD + 1);
}

#[tokio::test]
async fn a_peer_is_pinged_once_and_dead_when_that_is_not_answered() {
    let (mailbox, _peer) = pair(1).await;
    let at = |now| mailbox.silence(now, 100, 30);
    assert_eq!(at(99), Silence::Short);
    // A standstill of the process is no sign of death.
    assert_eq!(at(1000), Silence::PingDue);
    assert_eq!(at(1029), Silence::Pinged);
    assert_eq!(at(1030), Silence::Dead);
    mailbox.heard(1031);
    assert_eq!((at(1130), at(1131)), (Silence::Short, Silence::PingDue));
}

#[tokio::test]
async fn what_is_owed_comes_unless_it_is_cancelled() {
    let (mailbox, mut peer) = pair(1024).await;
    let channel = ChannelName::parse("a", 10).expect("a name");
    mailbox.owe(&channel);
    mailbox.deliver(&channel, 1, &Bytes::from_static(b"1"));
    mailbox.cancel_owed(&channel, 2);
    mailbox.deliver(&channel, 1, &Bytes::from_static(b"x"));
    mailbox.deliver(&channel, 2, &Bytes::from_static(b"2"));
    mailbox.settled(&channel);
    mailbox.push(&Bytes::from_static(b"3"));
    let mut got = [0; 3];
    peer.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"123");
}

/// A mailbox that nobody writes out.
fn shut(all: &Arc<Backlogs>) -> Mailbox {
    Mailbox::new(SocketId::NOBODY, Transport::XhrStreaming, None, 1 << 20, Arc::clone(all), 0)
}

/// A block that costs so much.
fn block(cost: usize) -> Bytes {
    Bytes::from(vec![b'x'; cost - BUFFER_OVERHEAD])
}

fn is_crossed(all: &Backlogs) -> bool {
    let mut crossed = pin!(all.crossed());
    crossed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

const LIMIT: usize = 400_000;
/// What one byte costs.
const TINY: usize = BUFFER_OVERHEAD + 1;

#[test]
fn above_the_limit_of_all_more_is_taken_for_a_while_and_it_is_told() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let (greedy, modest) = (shut(&all), shut(&all));
    greedy.push(&block(LIMIT));
    assert!(!is_crossed(&all) && all.are_too_full(), "as much as there may be");
    modest.push(&block(TINY));
    modest.push(&block(50_000));
    assert!(is_crossed(&all));
    assert_eq!((greedy.closing(), modest.closing()), (None, None), "nobody pays for coming last");
    assert!(!greedy.shed(2 * LIMIT), "it has been read meanwhile");
    assert_eq!(greedy.closing(), None);
    assert!(greedy.shed(LIMIT) && !greedy.shed(LIMIT));
    assert_eq!(greedy.closing(), Some(CloseReason::SlowConsumer));
    assert_eq!((all.bytes(), all.mailboxes()), (50_000 + TINY, 1), "its backlog is given back");
    assert!(!is_crossed(&all) && !all.are_too_full());
}

#[test]
fn another_limit_holds_at_once_also_for_what_waits_already() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let greedy = shut(&all);
    greedy.push(&block(LIMIT / 2));
    all.set_limit(LIMIT / 4);
    assert!(is_crossed(&all) && all.are_too_full());
    all.set_limit(0);
    assert!(!is_crossed(&all) && !all.are_too_full(), "none");
}

/// A notice once came only with the next push.
#[tokio::test]
async fn who_waits_for_the_limit_to_be_crossed_is_told_of_another_one() {
    let all = Arc::new(Backlogs::new(LIMIT));
    shut(&all).push(&block(LIMIT / 2));
    let greedy = shut(&all);
    greedy.push(&block(LIMIT / 2));
    let waiting = {
        let all = Arc::clone(&all);
        tokio::spawn(async move { all.crossed().await })
    };
    tokio::task::yield_now().await;
    all.set_limit(LIMIT / 4);
    waiting.await.expect("told");
}

#[test]
fn half_as_much_again_is_the_end_but_for_little_ones_and_first_ones() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let (greedy, second, modest, first) = (shut(&all), shut(&all), shut(&all), shut(&all));
    greedy.push(&block(LIMIT));
    second.push(&block(LIMIT / 2));
    assert_eq!(all.bytes(), LIMIT + LIMIT / 2);
    for _ in 0..2 {
        modest.push(&block(SMALL_BACKLOG / 2));
    }
    first.push(&block(100_000));
    assert_eq!([&greedy, &second, &modest, &first].map(|mailbox| mailbox.closing()), [None; 4]);
    let before = all.bytes();
    modest.push(&block(TINY));
    assert_eq!(modest.closing(), Some(CloseReason::SlowConsumer), "more than a little");
    assert_eq!((all.bytes(), all.mailboxes()), (before - SMALL_BACKLOG, 3));
    greedy.push(&block(TINY));
    second.push(&block(SMALL_BACKLOG));
    assert_eq!((second.closing(), second.queued()), (None, LIMIT / 2 + SMALL_BACKLOG), "there is room again");
    assert_eq!((greedy.closing(), greedy.queued()), (Some(CloseReason::SlowConsumer), 0));
}

#[test]
fn there_is_never_more_than_is_promised_whoever_pushes() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let mailboxes: Vec<_> = (0..20).map(|_| shut(&all)).collect();
    std::thread::scope(|scope| {
        for mine in mailboxes.chunks(5) {
            let all = &all;
            scope.spawn(move || {
                for _ in 0..1000 {
                    mine.iter().for_each(|mailbox| mailbox.push(&block(2000)));
                    assert!(all.bytes() <= LIMIT + LIMIT / 2 + 20 * SMALL_BACKLOG + 4 * 2000);
                }
            });
        }
    });
    assert!(mailboxes.iter().any(|mailbox| mailbox.closing().is_some()), "there was too much");
    assert_eq!(all.bytes(), mailboxes.iter().map(|mailbox| mailbox.queued()).sum::<usize>());
    drop(mailboxes);
    assert_eq!((all.bytes(), all.mailboxes()), (0, 0));
}

#[test]
fn what_closing_ones_have_is_bounded_and_no_reason_to_close_others() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let (kept, dropped, open) = (shut(&all), shut(&all), shut(&all));
    for mailbox in [&kept, &dropped, &open] {
        mailbox.push(&block(LIMIT / 2));
    }
    assert!(is_crossed(&all));
    kept.close(CloseReason::NoPong);
    assert!(!is_crossed(&all), "what closes is not to be made up for by others");
    dropped.close(CloseReason::Stopping);
    assert_eq!((kept.queued(), dropped.queued(), open.queued()), (LIMIT / 2, 0, LIMIT / 2));
    assert_eq!(all.bytes(), LIMIT);
    dropped.push_farewell(Bytes::from_static(b"bye"));
    assert_eq!(dropped.take_backlog(), b"bye", "nothing was begun: last words can be said");
}

#[tokio::test]
async fn a_begun_frame_for_which_there_is_no_room_is_the_end_of_the_connection() {
    let all = Arc::new(Backlogs::new(2 * SMALL_BACKLOG));
    let (mailbox, _peer) = one_of(&all, 1 << 20).await;
    // More than any kernel's buffers, and the first: a part of it is taken for certain.
    mailbox.push(&block(64 << 20));
    let left = mailbox.queued();
    assert!((SMALL_BACKLOG + BUFFER_OVERHEAD + 1..64 << 20).contains(&left), "{left}");
    assert!(mailbox.closing().is_none());
    mailbox.push(&block(1000));
    assert_eq!(mailbox.closing(), Some(CloseReason::SlowConsumer));
    mailbox.push_farewell(Bytes::from_static(b"bye"));
    assert_eq!((mailbox.queued(), all.bytes(), all.mailboxes()), (0, 0, 0));
    let mut wire = Own(Arc::clone(&mailbox));
    poll_fn(|cx| mailbox.poll_flush(cx, &mut wire)).await.expect_err("no way to go on");
}

/// Takes a little, and keeps it.
struct Keeps(usize);

impl Wire for Keeps {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_write(&mut self, _: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let taken = buffers[0].len().min(1000 - self.0);
        self.0 += taken;
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shut_down(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn held(&self) -> usize {
        self.0
    }
}

#[test]
fn what_a_connection_keeps_is_counted_until_it_is_gone() {
    let all = Arc::new(Backlogs::new(LIMIT));
    let (mailbox, mut wire) = (shut(&all), Keeps(0));
    let mut cx = Context::from_waker(Waker::noop());
    mailbox.push(&block(900 + BUFFER_OVERHEAD));
    assert!(mailbox.poll_closing(&mut cx, &mut wire).is_pending());
    assert_eq!((mailbox.queued(), all.bytes(), all.mailboxes()), (900, 900, 1));
    mailbox.push(&block(900 + BUFFER_OVERHEAD));
    assert!(mailbox.poll_closing(&mut cx, &mut wire).is_pending());
    assert_eq!((mailbox.queued(), all.bytes()), (1800 + BUFFER_OVERHEAD, 1800 + BUFFER_OVERHEAD));
    mailbox.take_backlog();
    assert_eq!((all.bytes(), all.mailboxes()), (1000, 1), "it still has that");
    assert!(mailbox.shed(1), "which is reason enough to close it");
    mailbox.hold(0);
    assert_eq!((all.bytes(), all.mailboxes()), (0, 0));
}

#[tokio::test]
async fn what_waits_in_all_is_nothing_when_nothing_waits_in_any() {
    let all = Arc::new(Backlogs::new(1 << 30));
    let (read, mut peer) = one_of(&all, 1 << 30).await;
    read.push(&Bytes::from_static(b"x"));
    assert_eq!(all.bytes(), 0, "what is written through does not wait");
    let pushed = fill(&read) + 1;
    let (left, _unread) = one_of(&all, 1 << 30).await;
    fill(&left);
    assert_eq!((all.mailboxes(), all.bytes()), (2, read.queued() + left.queued()));
    drop(left);
    let mut wire = Own(Arc::clone(&read));
    let writing = poll_fn(|cx| read.poll_flush(cx, &mut wire));
    let mut bytes = vec![0; pushed];
    let (written, _) = tokio::join!(writing, peer.read_exact(&mut bytes));
    written.expect("the peer reads");
    assert_eq!((all.mailboxes(), all.bytes()), (0, 0));
    read.push_farewell(Bytes::from_static(b"bye"));
    assert_eq!(all.mailboxes(), 1);
    read.take_backlog();
    assert_eq!((all.mailboxes(), all.bytes()), (0, 0));
}
