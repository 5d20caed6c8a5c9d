//! `presence`: members join one after another and leave again. Whoever is there hears of each of
//! the others exactly once, so M members make M(M-1)/2 events each way.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memmem;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::crowd::{Crowd, Seat};
use super::failure::Failure;
use super::flags::Presence;
use super::report::Report;
use super::run::{Moment, Run};
use super::socket::{Seen, contains, subscription};

const CHANNEL: &str = "presence-bench";
/// What the ids of our users begin with; their number follows.
const USER: &str = "bench-user-";
/// How many sockets are opened at the same time.
const WINDOW: u32 = 64;
/// How long joining and leaving may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Silence for so long means that nothing more will come.
const SILENCE: Duration = Duration::from_secs(3);
/// How long doubled events are waited for after all have come.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What was heard by all members together.
#[derive(Debug, Default)]
struct Heard {
    joined: Cell<u64>,
    refused: Cell<u64>,
    added: Cell<u64>,
    removed: Cell<u64>,
    doubled: Cell<u64>,
    something: Notify,
}

/// Whom one member has heard of.
#[derive(Debug, Default)]
struct Known {
    added: HashSet<u64>,
    removed: HashSet<u64>,
}

impl Heard {
    fn take(&self, frame: &[u8], known: &mut Known) -> Seen<()> {
        let (count, users) = if contains(frame, "member_added") {
            (&self.added, &mut known.added)
        } else if contains(frame, "member_removed") {
            (&self.removed, &mut known.removed)
        } else {
            return self.take_answer(frame);
        };
        let count = if user(frame).is_some_and(|user| users.insert(user)) { count } else { &self.doubled };
        self.add(count);
        Seen::Expected
    }

    fn take_answer(&self, frame: &[u8]) -> Seen<()> {
        if contains(frame, "subscription_succeeded") {
            self.add(&self.joined);
            return Seen::Expected;
        }
        if contains(frame, "pusher:error") || contains(frame, "subscription_error") {
            self.add(&self.refused);
        }
        Seen::Other
    }

    fn add(&self, count: &Cell<u64>) {
        count.set(count.get() + 1);
        self.something.notify_one();
    }

    /// Waits until it is `done`, within limits; says whether it is.
    async fn wait(&self, begun: Instant, done: impl Fn() -> bool) -> bool {
        while !done() {
            let silent = timeout(SILENCE, self.something.notified()).await.is_err();
            if silent || begun.elapsed() > LIMIT {
                return done();
            }
        }
        true
    }
}

/// The number of the user that a frame is about.
fn user(frame: &[u8]) -> Option<u64> {
    let digits = &frame[memmem::find(frame, USER.as_bytes())? + USER.len()..];
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

/// Runs `presence`.
///
/// # Errors
/// It could not begin.
pub(super) async fn presence(run: &Rc<Run>, flags: &Presence) -> Result<Report, Failure> {
    run.preflight(false).await?;
    let heard: Rc<Heard> = Rc::default();
    let crowd = Crowd::gather(run, flags.members, WINDOW, |_| {
        let (heard, mut known) = (Rc::clone(&heard), Known::default());
        Seat { channel: None, inbox: Box::new(move |frame| heard.take(frame, &mut known)) }
    })
    .await;
    let before = run.moment();
    join(run, flags, &crowd, &heard).await;
    let full = run.moment();
    leave(run, flags, &crowd, &heard).await;
    let after = run.moment();
    tokio::time::sleep(AFTERMATH).await;
    Ok(tell(run, flags, &heard, [&before, &full, &after]))
}

fn expected(flags: &Presence) -> u64 {
    let members = u64::from(flags.members);
    members * (members - 1) / 2
}

async fn join(run: &Run, flags: &Presence, crowd: &Crowd, heard: &Heard) {
    run.progress.begin("joining", u64::from(flags.members));
    let begun = Instant::now();
    for n in 0..flags.members {
        let answered = || heard.joined.get() + heard.refused.get();
        let window = u64::from(flags.window);
        if !heard.wait(begun, || answered() + window > u64::from(n)).await {
            break;
        }
        run.progress.at(heard.joined.get());
        let Some(member) = crowd.attendee(n as usize) else { continue };
        let user = json!({ "user_id": format!("{USER}{n}"), "user_info": { "name": format!("User {n}") } });
        member.writer.send(&subscription(&run.target, &member.id, CHANNEL, Some(&user.to_string())));
    }
    let all = u64::from(flags.members);
    heard
        .wait(begun, || {
            let complete = heard.joined.get() == all && heard.added.get() >= expected(flags);
            complete || heard.joined.get() + heard.refused.get() >= all && heard.refused.get() > 0
        })
        .await;
}

async fn leave(run: &Run, flags: &Presence, crowd: &Crowd, heard: &Heard) {
    run.progress.begin("leaving", u64::from(flags.members));
    let begun = Instant::now();
    let text = json!({ "event": "pusher:unsubscribe", "data": { "channel": CHANNEL } }).to_string();
    for n in 0..flags.members as usize {
        // A server that does not read makes each wait.
        if begun.elapsed() > LIMIT {
            break;
        }
        if let Some(member) = crowd.attendee(n) {
            member.writer.send(&text);
            member.writer.flush().await;
        }
        // What comes in meanwhile is read now and then.
        if n % 16 == 15 {
            tokio::task::yield_now().await;
        }
    }
    let wanted = if heard.refused.get() > 0 { 0 } else { expected(flags) };
    heard.wait(begun, || heard.removed.get() >= wanted || crowd.present() == 0).await;
}

fn tell(run: &Run, flags: &Presence, heard: &Heard, [before, full, after]: [&Moment; 3]) -> Report {
    let expected = expected(flags);
    let (added, removed) = (heard.added.get(), heard.removed.get());
    let seconds = |from: &Moment, to: &Moment| to.at.saturating_sub(from.at) as f64 / 1e9;
    let (joining, leaving) = (seconds(before, full), seconds(full, after));
    let mut report = Report::new("presence", format!("{} members join and leave one channel", flags.members));
    report.put("members", flags.members);
    report.put("joined", heard.joined.get());
    report.put("expected_each_way", expected);
    report.put("added", added);
    report.put("removed", removed);
    report.put("join_s", joining);
    report.put("leave_s", leaving);
    let lost = expected.saturating_sub(added) + expected.saturating_sub(removed);
    report.tally(lost, heard.doubled.get(), 0);
    report.count(
        "event",
        "events",
        added + removed,
        (added + removed) as f64 / (joining + leaving).max(1e-9),
    );
    report.usage(before, after, added + removed);
    report.note(format!(
        "{} joined in {joining:.3} s with {added} member_added, left in {leaving:.3} s with {removed} \
         member_removed; {expected} expected of each",
        heard.joined.get()
    ));
    report.failures(&run.failures);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_heard_of_once() {
        let heard = Heard::default();
        let mut known = Known::default();
        let frame =
            |event: &str, n: u64| format!(r#"{{"event":"{event}","data":"{{\"user_id\":\"{USER}{n}\"}}"}}"#);
        for (event, n) in
            [("member_added", 1), ("member_added", 12), ("member_added", 1), ("member_removed", 1)]
        {
            heard.take(frame(event, n).as_bytes(), &mut known);
        }
        heard.take(b"{\"event\":\"pusher_internal:subscription_succeeded\"}", &mut known);
        heard.take(b"{\"event\":\"pusher:error\"}", &mut known);
        let counts = [&heard.added, &heard.removed, &heard.doubled, &heard.joined, &heard.refused];
        assert_eq!(counts.map(Cell::get), [2, 1, 1, 1, 1]);
    }
}
