use super::*;
use std::future::poll_fn;
use std::sync::Arc;
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

#[test]
fn above_the_limit_of_all_those_with_more_than_their_share_are_closed() {
    let all = Arc::new(Backlogs::new(4000));
    let (greedy, modest) = (shut(&all), shut(&all));
    let block = Bytes::from(vec![b'x'; 904]);
    for _ in 0..3 {
        greedy.push(&block);
    }
    modest.push(&Bytes::from_static(b"x"));
    modest.push(&block);
    assert_eq!((all.bytes(), all.mailboxes()), (4097, 2), "a modest one goes beyond it");
    assert_eq!((greedy.closing(), modest.closing()), (None, None));
    greedy.push(&block);
    assert_eq!(greedy.closing(), Some(CloseReason::SlowConsumer));
    assert_eq!((all.bytes(), all.mailboxes()), (1097, 1), "its backlog is given back");
    modest.push(&block);
    assert_eq!(modest.closing(), None, "there is room again");
}

#[test]
fn above_the_limit_of_all_the_first_that_waits_is_kept() {
    let all = Arc::new(Backlogs::new(1000));
    let mailboxes: Vec<_> = (0..10).map(|_| shut(&all)).collect();
    let block = Bytes::from(vec![b'x'; 904]);
    mailboxes.iter().for_each(|mailbox| mailbox.push(&block));
    assert!(mailboxes.iter().all(|mailbox| mailbox.closing().is_none()));
    assert_eq!((all.bytes(), all.mailboxes()), (10_000, 10));
    mailboxes.iter().for_each(|mailbox| mailbox.push(&block));
    let closed = mailboxes.iter().filter(|mailbox| mailbox.closing().is_some()).count();
    assert!(closed >= 9, "{closed}");
    assert!(all.bytes() <= 2000, "{}", all.bytes());
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
