//! A client that is listened to all the time, whatever the test does meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::client::subscribe_with;
use super::ear::{Begun, Ear};
use super::nodes::PATIENCE;
use super::users::sign_in_with;
use super::{APP, Client, within};

/// A client in a task of its own. Its socket is dropped with it.
pub struct Listener {
    pub socket_id: String,
    ear: Arc<Mutex<Ear>>,
    changed: watch::Receiver<u64>,
    /// Channels that it has left, with the subscriptions that it had had by then.
    left: Mutex<BTreeMap<String, u64>>,
    out: mpsc::UnboundedSender<Value>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// One that cannot know what it misses at its beginning.
    pub fn new(client: Client) -> Self {
        Self::with(client, Ear::default())
    }

    /// One that knows what is published.
    pub fn knowing(client: Client, begun: &Arc<Begun>) -> Self {
        Self::with(client, Ear::knowing(begun))
    }

    fn with(client: Client, ear: Ear) -> Self {
        let ear = Arc::new(Mutex::new(ear));
        let (out, commands) = mpsc::unbounded_channel();
        let (told, changed) = watch::channel(0);
        let socket_id = client.socket_id.clone();
        let task = tokio::spawn(listen(client, Arc::clone(&ear), commands, told));
        Self { socket_id, ear, changed, left: Mutex::default(), out, task }
    }

    /// Sends a command; nothing when the socket is gone.
    pub fn send(&self, command: Value) {
        let _ = self.out.send(command);
    }

    /// Looks at what was heard so far.
    pub fn look<T>(&self, look: impl FnOnce(&Ear) -> T) -> T {
        look(&self.ear.lock().expect("a lock"))
    }

    /// From here on events may be missing, or nothing may be.
    pub fn forgive(&self, forgiving: bool) {
        self.ear.lock().expect("a lock").forgive(forgiving);
    }

    /// Waits until what was heard is so; nothing that was heard is wrong.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Ear) -> bool) {
        let so = self.until_closed(what, &is_so).await;
        self.look(|ear| assert!(so, "closed with {:?} before {what}", ear.closed));
    }

    /// Waits until what was heard is so, or the socket is closed before that: then it is not so.
    pub async fn until_closed(&self, what: &str, is_so: impl Fn(&Ear) -> bool) -> bool {
        let mut changed = self.changed.clone();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                self.assert_right();
                let (so, closed) = self.look(|ear| (is_so(ear), ear.closed.is_some()));
                if so || closed || changed.changed().await.is_err() {
                    return so;
                }
            }
        };
        within(PATIENCE, what, waiting).await
    }

    /// Nothing that was heard is wrong.
    pub fn assert_right(&self) {
        let fault = self.look(|ear| ear.fault.clone());
        assert!(fault.is_none(), "heard by {}: {}", self.socket_id, fault.unwrap_or_default());
    }

    pub fn is_closed(&self) -> bool {
        self.look(|ear| ear.closed.is_some())
    }

    /// Whether it was told of a subscription to this channel, and has not left it.
    pub fn is_in(&self, channel: &str) -> bool {
        let left = self.left.lock().expect("a lock");
        let successes = self.look(|ear| ear.sub(channel).successes);
        !self.is_closed() && successes > left.get(channel).copied().unwrap_or_default()
    }

    /// Subscribes, and is told of success.
    pub async fn subscribe(&self, channel: &str) {
        assert!(self.try_enter(channel, None).await, "closed before a subscription to {channel}");
    }

    /// Joins a presence channel as this user, and is told who is there.
    pub async fn join(&self, channel: &str, user_id: &str) {
        let user_id = user_id.to_owned();
        assert!(self.try_enter(channel, Some(&user_id)).await, "closed before a subscription to {channel}");
    }

    /// Subscribes; not when the socket is closed before.
    pub async fn try_enter(&self, channel: &str, user_id: Option<&String>) -> bool {
        let before = self.look(|ear| ear.sub(channel).successes);
        self.send(self.subscription(channel, user_id.map(String::as_str)));
        let what = format!("a subscription to {channel}");
        self.until_closed(&what, |ear| ear.sub(channel).successes > before).await
    }

    /// The command that subscribes, signed.
    pub fn subscription(&self, channel: &str, user_id: Option<&str>) -> Value {
        let mut data = json!({"channel": channel});
        let channel_data = user_id.map(|id| json!({"user_id": id}).to_string());
        data["auth"] = APP.auth(&self.socket_id, channel, channel_data.as_deref()).into();
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data.into();
        }
        subscribe_with(data)
    }

    /// Unsubscribes, and knows that the node has taken notice.
    pub async fn unsubscribe(&self, channel: &str) {
        assert!(self.try_unsubscribe(channel).await, "closed before it left {channel}");
    }

    /// As [`Listener::unsubscribe`]; not when the socket is closed before.
    pub async fn try_unsubscribe(&self, channel: &str) -> bool {
        let successes = self.look(|ear| ear.sub(channel).successes);
        self.left.lock().expect("a lock").insert(channel.to_owned(), successes);
        self.send(json!({"event": "pusher:unsubscribe", "data": {"channel": channel}}));
        self.try_round().await
    }

    /// Whatever was sent before has been taken notice of.
    pub async fn round(&self) {
        assert!(self.try_round().await, "closed before a pong");
    }

    /// As [`Listener::round`]; not when the socket is closed before.
    pub async fn try_round(&self) -> bool {
        let before = self.look(|ear| ear.pongs);
        self.send(json!({"event": "pusher:ping", "data": {}}));
        self.until_closed("a pong", |ear| ear.pongs > before).await
    }

    /// Signs in with this data, and is told of success.
    pub async fn sign_in(&self, user_data: &str) {
        assert!(self.try_sign_in(user_data).await, "closed before a sign-in");
    }

    /// As [`Listener::sign_in`]; not when the socket is closed before.
    pub async fn try_sign_in(&self, user_data: &str) -> bool {
        let before = self.look(|ear| ear.sign_ins);
        let auth = APP.user_auth(&self.socket_id, user_data);
        self.send(sign_in_with(json!({"auth": auth, "user_data": user_data})));
        self.until_closed("a sign-in", |ear| ear.sign_ins > before).await
    }

    /// Waits until these are in a presence channel, in its own view.
    pub async fn sees(&self, channel: &str, wanted: &[String]) {
        let what = format!("{} members in {channel}", wanted.len());
        let wanted = wanted.iter().cloned().collect();
        self.until(&what, |ear| ear.sub(channel).members == wanted).await;
    }

    /// Waits until everything that was begun in a channel has come.
    pub async fn completes(&self, channel: &str) {
        self.until(&format!("every event in {channel}"), |ear| ear.is_complete(channel)).await;
    }

    /// Waits until the socket is closed with this code.
    pub async fn closed_with(&self, code: u16) {
        let what = format!("a close with {code}");
        self.until(&what, |ear| ear.closed.as_ref().is_some_and(|(given, _)| *given == code)).await;
    }
}

async fn listen(
    mut client: Client,
    ear: Arc<Mutex<Ear>>,
    mut commands: mpsc::UnboundedReceiver<Value>,
    told: watch::Sender<u64>,
) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => client.send(command).await,
                None => return,
            },
            heard = client.listen() => {
                let ended = matches!(heard, super::Heard::Closed { .. } | super::Heard::Gone);
                ear.lock().expect("a lock").take(heard);
                told.send_modify(|count| *count += 1);
                if ended {
                    return;
                }
            }
        }
    }
}
