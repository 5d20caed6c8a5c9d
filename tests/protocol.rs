//! Runs the examples of protocol.md, whose language is explained at its beginning, and compares its
//! tables with those of the code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::client::Heard;
use common::{APP, Api, Broker, Client, Reply, Settings, Signed, boot, data_of};
use fanfare::model::channel::{Access, KINDS};
use serde_json::Value;

const PROTOCOL: &str = include_str!("../protocol.md");
const ERROR_TABLE: &str = include_str!("../src/pusher/error.rs");
const EVERY_SETTING: &str = include_str!("../config/fanfare.toml");

/// The client of an example that has only one.
const THE_CLIENT: char = ' ';

/// One line of an example, with those that continue it.
#[derive(Clone)]
struct Line {
    number: usize,
    text: String,
}

/// One example.
struct Example {
    /// The number of the chapter it stands in; 0 before the first.
    chapter: usize,
    lines: Vec<Line>,
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut chapter, mut fence) = (0, None);
    for (i, text) in document.lines().enumerate() {
        match (fence, text.strip_prefix("```")) {
            (None, Some(language)) => {
                fence = Some(language);
                examples.extend((language == "transcript").then(|| Example { chapter, lines: Vec::new() }));
            }
            (Some(_), Some(_)) => fence = None,
            (Some("transcript"), None) => examples.last_mut().expect("begun").add(i + 1, text),
            (Some(_), None) => {}
            (None, None) => {
                let heading = text.strip_prefix("## ").and_then(|title| title.split(' ').next());
                chapter = heading.and_then(|number| number.parse().ok()).unwrap_or(chapter);
            }
        }
    }
    assert!(fence.is_none(), "protocol.md ends within a block");
    examples
}

impl Example {
    fn add(&mut self, number: usize, text: &str) {
        match self.lines.last_mut() {
            Some(line) if text.starts_with(' ') => line.text += text.trim_start(),
            _ if text.starts_with('#') => {}
            _ => self.lines.push(Line { number, text: text.trim_end().to_owned() }),
        }
    }

    /// Runs it against a broker of its own; what does not fit is told with its line.
    async fn run(&self) -> Result<(), String> {
        let (lines, at) = (self.lines.clone(), Arc::new(AtomicUsize::new(0)));
        let reached = Arc::clone(&at);
        // As a task, so that the line is known when a client of the tests panics.
        let ended = tokio::spawn(async move { play(&lines, &reached).await }).await;
        let told = ended.unwrap_or_else(|panic| {
            let panic = panic.into_panic();
            Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".to_owned()))
        });
        told.map_err(|what| format!("protocol.md:{}: {what}", at.load(Ordering::Relaxed)))
    }
}

async fn play(lines: &[Line], at: &AtomicUsize) -> Result<(), String> {
    let mut settings = Settings::default();
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next_if(|line| line.text.starts_with("set ")) {
        at.store(line.number, Ordering::Relaxed);
        settings = set(settings, &line.text["set ".len()..])?;
    }
    let broker = boot(settings).await;
    let mut stage = Stage { api: broker.api(), broker, clients: HashMap::new(), reply: None, checks: 0 };
    for line in lines {
        at.store(line.number, Ordering::Relaxed);
        stage.step(&line.text).await?;
    }
    stage.end().await
}

fn set(settings: Settings, assignment: &str) -> Result<Settings, String> {
    let (path, value) = assignment.split_once(" = ").ok_or("a setting without a value")?;
    let (section, key) = path.split_once('.').ok_or("a setting without a section")?;
    let table: toml::Table = toml::from_str(&format!("value = {value}")).map_err(|e| e.to_string())?;
    let value = table["value"].clone();
    match section {
        "server" => Ok(settings.server(key, value)),
        "app" => Ok(settings.app(key, value)),
        "features" => Ok(settings.feature(key, value)),
        "limits" => Ok(settings.limit(key, value)),
        _ => Err(format!("no section {section}")),
    }
}

/// Everybody who takes part in one example.
struct Stage {
    broker: Broker,
    api: Api,
    clients: HashMap<char, Client>,
    /// To the last request, until the example has shown it.
    reply: Option<Reply>,
    /// Lines so far that say what the broker does.
    checks: usize,
}

impl Stage {
    async fn step(&mut self, text: &str) -> Result<(), String> {
        if let Some(expected) = text.strip_prefix('=') {
            return self.show_reply(expected.trim_start());
        }
        self.nothing_untold()?;
        let (name, action) = speaker(text);
        match action.split_once(' ').unwrap_or((action, "")) {
            (">", message) => self.send(name, message).await,
            ("<", expected) => self.receive(name, expected).await?,
            ("connect", path) => {
                let client = self.broker.dial(path).await;
                self.clients.insert(name, client);
            }
            ("close", "") => self.clients.remove(&name).ok_or("nobody to close")?.close().await,
            ("stop", "") => self.broker.begin_stop(),
            ("unsigned", request) => self.request(request, false, None).await?,
            ("keyed", rest) => {
                let (key, request) = rest.split_once(' ').ok_or("a key without a request")?;
                self.request(request, true, Some(key)).await?;
            }
            ("GET" | "POST", _) => self.request(action, true, None).await?,
            _ => return Err(format!("no line of the language: {text}")),
        }
        Ok(())
    }

    /// An example tells everything: every reply, every frame.
    async fn end(mut self) -> Result<(), String> {
        self.nothing_untold()?;
        for (name, client) in &mut self.clients {
            let untold = client.round().await;
            if !untold.is_empty() {
                return Err(format!("the example ends, but {name} got {untold:?}"));
            }
        }
        if self.checks == 0 { Err("the example shows nothing of the broker".to_owned()) } else { Ok(()) }
    }

    fn nothing_untold(&self) -> Result<(), String> {
        self.reply.as_ref().map_or(Ok(()), |reply| Err(format!("the reply is not shown: {reply:?}")))
    }

    async fn client(&mut self, name: char) -> &mut Client {
        if !self.clients.contains_key(&name) {
            let client = self.broker.connect().await;
            self.clients.insert(name, client);
        }
        self.clients.get_mut(&name).expect("just connected")
    }

    async fn send(&mut self, name: char, message: &str) {
        self.client(name).await;
        let message = self.filled(name, message);
        self.client(name).await.send_text(message).await;
    }

    async fn receive(&mut self, name: char, expected: &str) -> Result<(), String> {
        self.checks += 1;
        if expected == "nothing" {
            let heard = self.client(name).await.round().await;
            return if heard.is_empty() { Ok(()) } else { Err(format!("expected nothing, got {heard:?}")) };
        }
        match self.client(name).await.hear().await {
            Heard::Frame(frame) => {
                if frame["event"] == "pusher:connection_established" {
                    let id = data_of(&frame)["socket_id"].as_str().expect("a socket id").to_owned();
                    self.client(name).await.socket_id = id;
                }
                let expected = self.filled(name, expected);
                let wanted: Value = serde_json::from_str(&expected)
                    .map_err(|_| format!("expected {expected}, got {frame}"))?;
                if fits(&wanted, &frame) { Ok(()) } else { Err(format!("expected {expected}, got {frame}")) }
            }
            Heard::Closed { code, reason } => {
                self.clients.remove(&name);
                let closed = format!("closed {code} {reason}");
                if like(expected, &closed) {
                    Ok(())
                } else {
                    Err(format!("expected {expected}, got {closed}"))
                }
            }
            other => Err(format!("expected {expected}, got {other:?}")),
        }
    }

    async fn request(&mut self, text: &str, signed: bool, key: Option<&str>) -> Result<(), String> {
        let text = self.filled(THE_CLIENT, text);
        let (method, rest) = text.split_once(' ').ok_or("a request without an address")?;
        let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Signed::new(method, path, APP, body.as_bytes());
        for pair in query.split('&').filter(|_| signed && !query.is_empty()) {
            request = match pair.split_once('=').ok_or("a parameter without a value")? {
                ("auth_signature", value) => request.signature(value),
                (name, value) => request.with(name, value),
            };
        }
        let request = if signed { request } else { request.sends_query(query) };
        self.reply = Some(self.api.send(&request.header("Idempotency-Key", key)).await);
        Ok(())
    }

    fn show_reply(&mut self, expected: &str) -> Result<(), String> {
        self.checks += 1;
        let reply = self.reply.take().ok_or("a reply without a request")?;
        let (status, body) = expected.split_once(' ').unwrap_or((expected, ""));
        let as_expected = match serde_json::from_str::<Value>(body) {
            Ok(wanted) => {
                reply.header("content-type") == Some("application/json")
                    && serde_json::from_str(&reply.body).is_ok_and(|got| fits(&wanted, &got))
            }
            Err(_) if body.is_empty() => reply.body.is_empty(),
            Err(_) => reply.body.strip_suffix('\n').is_some_and(|line| like(body, line)),
        };
        let as_expected = as_expected && status == reply.status.to_string();
        if as_expected { Ok(()) } else { Err(format!("expected {expected}, got {reply:?}")) }
    }

    /// Puts in what the words of the language stand for.
    fn filled(&self, name: char, text: &str) -> String {
        let socket_id = |name: char| self.clients[&name].socket_id.clone();
        let letters = |count: Option<&str>| "x".repeat(count.and_then(|n| n.parse().ok()).expect("a count"));
        let text = fill(text, "LETTERS", letters);
        let by_name = |other: Option<&str>| socket_id(other.and_then(|o| o.chars().next()).unwrap_or(name));
        let text = fill(&text, "SOCKET_ID", by_name);
        fill(&text, "AUTH", |channel| match channel {
            Some(channel) => APP.auth(&socket_id(name), channel, None),
            None => {
                let message: Value = serde_json::from_str(&text).expect("AUTH stands in a JSON message");
                if let Some(user) = message["data"]["user_data"].as_str() {
                    return APP.user_auth(&socket_id(name), user);
                }
                let channel = message["data"]["channel"].as_str().unwrap_or_default();
                APP.auth(&socket_id(name), channel, message["data"]["channel_data"].as_str())
            }
        })
    }
}

/// Whose line it is, and the rest of it: `A> x` is A's `> x`, as `A close` is A's `close`.
fn speaker(text: &str) -> (char, &str) {
    let mut rest = text.chars();
    match (rest.next(), rest.clone().next()) {
        (Some(name @ 'A'..='Z'), Some('>' | '<' | ' ')) => (name, rest.as_str().trim_start()),
        _ => (THE_CLIENT, text),
    }
}

/// Replaces `WORD` and `WORD(argument)`.
fn fill(text: &str, word: &str, value: impl Fn(Option<&str>) -> String) -> String {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(word) {
        filled += before;
        let argument = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        filled += &value(argument.map(|(argument, _)| argument));
        rest = argument.map_or(after, |(_, after)| after);
    }
    filled + rest
}

fn fits(wanted: &Value, got: &Value) -> bool {
    match (wanted, got) {
        (Value::String(any), _) if any == "*" => true,
        (Value::String(wanted), Value::String(got)) => like(wanted, got),
        (Value::Array(wanted), Value::Array(got)) => {
            wanted.len() == got.len() && wanted.iter().zip(got).all(|(wanted, got)| fits(wanted, got))
        }
        (Value::Object(wanted), Value::Object(got)) => {
            let fitting =
                |(key, wanted): (&String, &Value)| got.get(key).is_some_and(|got| fits(wanted, got));
            wanted.len() == got.len() && wanted.iter().all(fitting)
        }
        _ => wanted == got,
    }
}

/// Whether a text is the wanted one, in which `*` stands for anything.
fn like(wanted: &str, got: &str) -> bool {
    let Some((head, tail)) = wanted.split_once('*') else { return wanted == got };
    let rest = got.strip_prefix(head);
    rest.is_some_and(|rest| rest.char_indices().any(|(i, _)| like(tail, &rest[i..])) || like(tail, ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_what_the_broker_does() {
    let examples = examples(PROTOCOL);
    assert!(examples.len() >= 15, "only {} examples found", examples.len());
    let mut failures = Vec::new();
    for example in &examples {
        failures.extend(example.run().await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_chapter_shows_success_and_bad_input() {
    let examples = examples(PROTOCOL);
    let shows = |chapter: usize, signs: &[&str]| {
        let lines = examples.iter().filter(|example| example.chapter == chapter).flat_map(|e| &e.lines);
        let mut shown = lines.filter(|line| line.text.contains("< ") || line.text.starts_with('='));
        shown.any(|line| signs.iter().any(|sign| line.text.contains(sign)))
    };
    for chapter in [1, 2, 3, 4, 6] {
        assert!(shows(chapter, &["_established", "_succeeded", "= 200"]), "no success in chapter {chapter}");
        assert!(shows(chapter, &["pusher:error", "closed 4", "= 4"]), "no bad input in chapter {chapter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_example_fails_at_its_line() {
    let subscribe = r#"> {"event":"pusher:subscribe","data":{"channel":"a"}}"#;
    let succeeded = r#"< {"event":"pusher_internal:subscription_succeeded","channel":"a","data":"{}"}"#;
    let right = format!("{subscribe}\n{succeeded}");
    let publish = r#"POST /apps/1/events {"name":"e","channel":"a","data":"1"}"#;
    for (line, wrong) in [
        (3, format!("{subscribe}\n{}", succeeded.replace("{}", "{ }"))),
        (3, format!("{subscribe}\n{}", succeeded.replace("\"data\"", "\"x\""))),
        (3, format!("{subscribe}\n< nothing")),
        (2, subscribe.to_owned()),
        (4, format!("{right}\n{publish}")),
        (5, format!("{right}\n{publish}\n= 201 {{}}")),
        (5, format!("{right}\n{publish}\n= 200 []")),
        (5, format!("{right}\n{publish}\n= 200 {{}}")),
        (3, "connect /app/nobody?protocol=7\n< closed 4002 *".to_owned()),
        (2, "> {\"event\":\"pusher:pong\"}".to_owned()),
        (2, "shout".to_owned()),
        (2, "set limits.none = 1\n< nothing".to_owned()),
    ] {
        let document = format!("```transcript\n{wrong}\n```\n");
        let failure = examples(&document)[0].run().await.expect_err(&wrong);
        assert!(failure.starts_with(&format!("protocol.md:{line}: ")), "{failure} in {wrong}");
    }
    examples(&format!("```transcript\n{right}\n```\n"))[0].run().await.expect("the right one");
}

#[test]
fn the_table_of_close_codes_is_that_of_the_code() {
    let table = ERROR_TABLE.split("#[cfg(test)]").next().expect("the table");
    // The text that goes out names the key.
    let written = PROTOCOL.replace("App key KEY not", "App key not");
    let mut found = 0;
    for entry in table.split('(') {
        let Some((code, text)) = entry.split_once(", \"") else { continue };
        let (Ok(code), Some((text, _))) = (code.parse::<u16>(), text.split_once('"')) else { continue };
        found += 1;
        let row = format!("| {code} | {text} |");
        assert!(text.is_empty() && written.contains(&code.to_string()) || written.contains(&row), "{row}");
    }
    assert_eq!(found, fanfare::model::close::CloseReason::ALL.len(), "entries of the table");
}

#[test]
fn the_table_of_kinds_is_that_of_the_code() {
    let yes = |yes| if yes { "yes" } else { "no" };
    for kind in &KINDS {
        let name = if kind.prefix.is_empty() { "(anything else)" } else { &format!("`{}`", kind.prefix) };
        let access = match kind.access {
            Access::Open => "anybody",
            Access::Signed => "with a signature",
            Access::OwnUser => "the user of that id",
        };
        let (members, cache, client) = (yes(kind.presence), yes(kind.cache), yes(kind.client_events));
        let row = format!("| {name} | {access} | {members} | {cache} | {client} |");
        assert!(PROTOCOL.contains(&row), "{row}");
    }
}

#[test]
fn the_limits_have_the_defaults_of_the_configuration() {
    let all: toml::Table = EVERY_SETTING.parse().expect("the configuration is TOML");
    let limits = all["defaults"]["limits"].as_table().expect("limits");
    for (key, value) in limits {
        let row = format!("| `{key}` | {}", value.to_string().trim_matches('"'));
        assert!(PROTOCOL.contains(&format!("{row} ")), "{row}");
    }
}
