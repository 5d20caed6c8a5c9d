//! The scripts that run in Redis, each at once and alone.

use data_encoding::HEXLOWER;

use super::connection::{Access, Batch, Connection, Lost};

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("scripts/common.lua"), include_str!(concat!("scripts/", $name, ".lua")))
    };
}

/// A script's name within Redis: its digest.
pub(super) type Script = String;

/// The scripts, as a server that has loaded them knows them.
#[derive(Debug, Clone)]
pub(super) struct Scripts {
    pub(super) write: Script,
    pub(super) publish: Script,
    pub(super) register: Script,
    pub(super) retire: Script,
    pub(super) beat: Script,
    pub(super) reap: Script,
    pub(super) take: Script,
    pub(super) miss: Script,
}

impl Scripts {
    /// Has a server load them.
    pub(super) async fn load(connection: &mut Connection, access: &Access) -> Result<Self, Lost> {
        let sources = [
            script!("write"),
            script!("publish"),
            script!("register"),
            script!("retire"),
            script!("beat"),
            script!("reap"),
            script!("take"),
            script!("miss"),
        ];
        let mut batch = Batch::default();
        for source in sources {
            batch.push(&[b"SCRIPT", b"LOAD", source.as_bytes()]);
        }
        let replies = connection.ask(&batch, access.timeout).await?;
        let mut digests = replies.iter().filter_map(|reply| reply.text()).map(str::to_owned);
        let mut next = || digests.next().filter(|digest| HEXLOWER.decode(digest.as_bytes()).is_ok());
        let mut all = || {
            Some(Self {
                write: next()?,
                publish: next()?,
                register: next()?,
                retire: next()?,
                beat: next()?,
                reap: next()?,
                take: next()?,
                miss: next()?,
            })
        };
        all().ok_or_else(|| "it does not take scripts".to_owned())
    }
}

/// Adds a script's call.
pub(super) fn run(batch: &mut Batch, script: &Script, tag: &str, args: &[&[u8]]) {
    let mut parts: Vec<&[u8]> = vec![b"EVALSHA", script.as_bytes(), b"1", tag.as_bytes()];
    parts.extend_from_slice(args);
    batch.push(&parts);
}

/// The call of a single script.
pub(super) fn call(script: &Script, tag: &str, args: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    run(&mut batch, script, tag, args);
    batch
}
