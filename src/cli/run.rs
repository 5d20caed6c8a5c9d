//! A broker, from its start to its end.

use std::io;

use fanfare::Broker;
use fanfare::config::{Config, Env};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::oneshot;

use super::limits::Limits;
use super::log::{self, SetLevel};
use super::reload::{Reloads, Seen};
use super::serve::{self, Args};
use super::signals::{Stops, hangup};
use super::write_to;

/// What a broker is started with.
struct Start {
    config: Config,
    args: Args,
    env: Env,
    seen: Seen,
    set_level: SetLevel,
}

/// Serves a configuration until a signal ends it. `seen` is its file before it was read.
///
/// # Errors
/// When it cannot be served, or could not be ended as it should.
pub(crate) fn run(config: Config, args: Args, env: Env, seen: Seen) -> io::Result<()> {
    let seen = seen.and(config.server.tls.cert.iter().chain(&config.server.tls.key));
    let (set_level, log) = log::start(&config.log)?;
    // Before any socket is opened.
    let limits = Limits::raise();
    for warning in config.warnings.iter().chain(&limits.warnings()) {
        tracing::warn!("{warning}");
    }
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Start { config, args, env, seen, set_level };
    let ended = runtime.block_on(serve(start, &limits));
    // A webhook's host may still be looked up, or a file be read from a disk that does not answer, which
    // cannot be cut short: nobody waits for that.
    runtime.shutdown_background();
    log.finish();
    ended
}

async fn serve(start: Start, limits: &Limits) -> io::Result<()> {
    let Start { config, args, env, seen, set_level } = start;
    // Before anything is told, so that whoever reads it may signal at once.
    let (mut stops, hangup) = (Stops::new()?, Mutex::new(Some(hangup()?)));
    let broker = tokio::select! {
        broker = Broker::bind(config.clone()) => broker?,
        () = stops.next() => return Ok(()),
    };
    write_to(io::stdout(), started(&config, &args, &broker, limits));
    let reloads = Reloads { args, env, control: broker.control(), set_level, seen, hangup };
    let following = tokio::spawn(reloads.follow());
    let (told, stop) = oneshot::channel();
    let stop = async {
        let _ = stop.await;
    };
    let ended = tokio::select! {
        ended = broker.run(stop) => ended,
        () = stops.twice(told) => {
            Err(io::Error::new(io::ErrorKind::Interrupted, "ended at once by a second signal"))
        }
    };
    following.abort();
    ended
}

/// What is told once all listeners are bound.
fn started(config: &Config, args: &Args, broker: &Broker, limits: &Limits) -> String {
    let listening = serve::listening(&config.server.listen, broker.public_addrs(), broker.admin_addr());
    let development = broker.public_addrs().first().filter(|_| args.config.is_none());
    let banner = development.and_then(|address| serve::banner(config, *address));
    [listening, limits.line(), banner.unwrap_or_default()].concat()
}
