//! Redis servers of the test's own that belong together: a Redis Cluster, and a master with a replica that
//! a Sentinel watches.

use super::redis::{self, BEGINNING, Redis};
use super::resp::Said;
use super::{eventually_within, within};

/// Three masters that share the keys.
pub struct Cluster {
    pub masters: Vec<Redis>,
}

impl Cluster {
    /// Starts them and waits until they agree.
    pub async fn start() -> Self {
        let mut masters = Vec::new();
        for _ in 0..3 {
            masters.push(Redis::with(&["--cluster-enabled", "yes"]).await);
        }
        let addresses = masters.iter().map(|master| master.address().to_string());
        let mut create = vec!["create".to_owned()];
        create.extend(addresses);
        create.extend(["--cluster-replicas", "0"].map(str::to_owned));
        manage("a cluster", &create).await;
        for master in &masters {
            eventually_within(BEGINNING, "cluster_state:ok", async || {
                let Said::Text(info) = master.command(&["CLUSTER", "INFO"]).await else { return false };
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        Self { masters }
    }

    /// How nodes reach it.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.masters.iter().map(|master| master.address().to_string()).collect();
        format!("redis-cluster://{}", addresses.join(","))
    }

    /// Moves as many slots from one master to another, with the keys that are in them.
    pub async fn move_slots(&self, count: u16, from: usize, to: usize) {
        let (from, to) = (&self.masters[from], &self.masters[to]);
        let id = async |master: &Redis| master.command(&["CLUSTER", "MYID"]).await.text();
        let (address, from, to) = (from.address().to_string(), id(from).await, id(to).await);
        let mut reshard = vec!["reshard".to_owned(), address, "--cluster-from".to_owned(), from];
        reshard.extend(["--cluster-to".to_owned(), to, "--cluster-slots".to_owned(), count.to_string()]);
        manage("slots that move", &reshard).await;
    }
}

/// Has several servers do something together, for which the program knows all the steps.
async fn manage(what: &str, words: &[String]) {
    let output = redis::cli().arg("--cluster").args(words).arg("--cluster-yes").output();
    // Thousands of slots move one by one.
    let output = within(BEGINNING * 6, what, output).await.expect("redis-cli runs");
    assert!(output.status.success(), "{output:?}");
}

/// A server, a copy of it, and a third that says which of the two is to be asked.
pub struct Sentinel {
    pub master: Redis,
    pub replica: Redis,
    pub sentinel: Redis,
}

impl Sentinel {
    /// Starts them and waits until the third knows the other two.
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
        let config = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 4000\n"
        );
        let sentinel = Redis::sentinel(&config).await;
        let whole = Self { master, replica, sentinel };
        eventually_within(BEGINNING, "a sentinel that knows the replica", async || {
            let linked = whole.replica.command(&["INFO", "replication"]).await;
            let known = whole.sentinel.command(&["SENTINEL", "replicas", "main"]).await;
            linked.holds("master_link_status:up") && known.holds(&whole.replica.port.to_string())
        })
        .await;
        whole
    }

    /// How nodes reach whichever is the master.
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}/main", self.sentinel.address())
    }

    /// Kills the master, and waits until the replica has taken over.
    pub async fn fail_over(&mut self) {
        self.master.kill();
        let port = self.replica.port.to_string();
        eventually_within(BEGINNING, "a new master", async || {
            let named = &["SENTINEL", "get-master-addr-by-name", "main"];
            // A server that changes its part closes its connections.
            let (Ok(named), Ok(role)) =
                (self.sentinel.try_command(named).await, self.replica.try_command(&["ROLE"]).await)
            else {
                return false;
            };
            named.holds(&port) && role.holds("master")
        })
        .await;
    }
}
