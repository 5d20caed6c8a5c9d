//! Which server keeps which partitions.

use std::collections::BTreeMap;

use super::connection::{Access, Batch, Connection, Lost};
use super::place::{PARTITIONS, slot};
use super::wire::Reply;
use crate::model::cluster_url::{EngineUrl, UrlKind};

/// A server, and the partitions that it is the master of.
pub(super) type Masters = BTreeMap<(String, u16), Vec<usize>>;

/// Asks around. Takes no longer than a few timeouts for each server that the URL names.
pub(super) async fn masters(url: &EngineUrl, access: &Access, tags: &[String]) -> Result<Masters, Lost> {
    let all = |server| Masters::from([(server, (0..PARTITIONS).collect())]);
    match &url.kind {
        UrlKind::Single => Ok(all(url.servers[0].clone())),
        UrlKind::Sentinel(service) => {
            first(url, |server| by_sentinel(access, server, service)).await.map(all)
        }
        UrlKind::Cluster => first(url, |server| by_slots(access, server, tags)).await,
    }
}

/// The answer of the first server that has one.
async fn first<'a, T, F>(url: &'a EngineUrl, ask: impl Fn(&'a (String, u16)) -> F) -> Result<T, Lost>
where
    F: Future<Output = Result<T, Lost>>,
{
    let mut problems = Vec::new();
    for server in &url.servers {
        match ask(server).await {
            Ok(answer) => return Ok(answer),
            Err(problem) => problems.push(problem),
        }
    }
    Err(problems.join("; "))
}

async fn by_sentinel(access: &Access, server: &(String, u16), service: &str) -> Result<(String, u16), Lost> {
    // Sentinels seldom ask for a password, and refuse to be given one then.
    let open = Access { password: None, database: 0, ..access.clone() };
    let mut sentinel = match open.connect(server).await {
        Err(lost) if lost.contains("NOAUTH") => {
            Access { database: 0, ..access.clone() }.connect(server).await?
        }
        other => other?,
    };
    let question = [&b"SENTINEL"[..], b"get-master-addr-by-name", service.as_bytes()];
    let answer = ask(&mut sentinel, &question, access).await?;
    let address = answer.list().and_then(|parts| match parts {
        [host, port] => Some((host.text()?.to_owned(), u16::try_from(port.number()?).ok()?)),
        _ => None,
    });
    let master = address.ok_or_else(|| format!("{}:{} knows no service '{service}'", server.0, server.1))?;
    // A sentinel may be the last to hear of a failover.
    let role = ask(&mut access.connect(&master).await?, &[b"ROLE"], access).await?;
    match role.list().and_then(|parts| parts.first()?.text()) {
        Some("master") => Ok(master),
        _ => Err(format!("{}:{} is not the master any more", master.0, master.1)),
    }
}

async fn by_slots(access: &Access, server: &(String, u16), tags: &[String]) -> Result<Masters, Lost> {
    let mut node = access.connect(server).await?;
    let answer = ask(&mut node, &[b"CLUSTER", b"SLOTS"], access).await?;
    let ranges: Vec<_> = answer.list().unwrap_or_default().iter().filter_map(|r| range(r, server)).collect();
    let mut masters = Masters::new();
    for (partition, tag) in tags.iter().enumerate() {
        let slot = i64::from(slot(tag));
        let master = ranges.iter().find(|(from, to, _)| (*from..=*to).contains(&slot));
        let (_, _, master) = master.ok_or_else(|| format!("nobody in the cluster serves slot {slot}"))?;
        masters.entry(master.clone()).or_default().push(partition);
    }
    Ok(masters)
}

/// First slot, last slot, master.
fn range(reply: &Reply, asked: &(String, u16)) -> Option<(i64, i64, (String, u16))> {
    let [from, to, master, ..] = reply.list()? else { return None };
    let [host, port, ..] = master.list()? else { return None };
    // A node that does not know its own address leaves it out.
    let host = host.text().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.0);
    Some((from.number()?, to.number()?, (host.to_owned(), u16::try_from(port.number()?).ok()?)))
}

async fn ask(connection: &mut Connection, question: &[&[u8]], access: &Access) -> Result<Reply, Lost> {
    let mut replies = connection.ask(&Batch::one(question), access.timeout).await?;
    replies.pop().ok_or_else(|| "no answer".to_owned())
}
