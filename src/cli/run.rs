//! A broker, from its start to its end.

use std::io;

use fanfare::Broker;
use fanfare::config::{Config, Env};
use tokio::runtime;
use tokio::sync::oneshot;

use super::limits::Limits;
use super::log::{self, SetLevel};
use super::reload::Reloads;
use super::serve::{self, Args};
use super::signals::{Stops, hangup};
use super::tell;

/// Serves a configuration until a signal ends it.
///
/// # Errors
/// When it cannot be served, or could not be ended as it should.
pub(crate) fn run(config: Config, args: Args, env: Env) -> io::Result<()> {
    let (set_level, log) = log::start(&config.log)?;
    // Before any socket is opened.
    let limits = Limits::raise();
    for warning in config.warnings.iter().chain(&limits.warnings()) {
        tracing::warn!("{warning}");
    }
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, args, env, &limits, set_level));
    // A webhook's host may still be looked up, which cannot be cut short: nobody waits for that.
    runtime.shutdown_background();
    log.finish();
    ended
}

async fn serve(config: Config, args: Args, env: Env, limits: &Limits, set_level: SetLevel) -> io::Result<()> {
    // Before anything is told, so that whoever reads it may signal at once.
    let (stops, hangup) = (Stops::new()?, hangup()?);
    let broker = Broker::bind(config.clone()).await?;
    tell(&serve::listening(&config.server.listen, broker.public_addrs(), broker.admin_addr()));
    tell(&limits.line());
    if let Some(address) = broker.public_addrs().first().filter(|_| args.config.is_none()) {
        tell(&serve::banner(&config, *address).unwrap_or_default());
    }
    let reloads = Reloads { args, env, control: broker.control(), set_level };
    let following = tokio::spawn(async move { reloads.follow(hangup, &config).await });
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
