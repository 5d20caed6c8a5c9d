//! The certificate of the `tls://` listeners, which can be exchanged while they serve.

mod fault;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use tokio_rustls::rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use tokio_rustls::rustls::sign::CertifiedKey;

pub use self::fault::{CertificateProblem, Fault};

use self::files::Pair;
use crate::metrics::Counter;

/// Sessions that clients may resume, at most; the oldest are forgotten first.
const MAX_SESSIONS: usize = 256;

/// Looks into a certificate's file and its key's as they are now; returns what is allowed but may not be
/// meant. Reads files, so it blocks.
///
/// # Errors
/// Everything for which they cannot be served.
pub fn inspect(cert: &Path, key: &Path) -> Result<Vec<CertificateProblem>, Vec<CertificateProblem>> {
    Pair::read(cert, key, now()).map(|pair| pair.warnings)
}

/// A certificate chain with its key, and where both are read from. All listeners share it: a handshake
/// uses what is current when it begins.
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
    /// Held by whoever reloads.
    turn: Mutex<()>,
    has_failed: AtomicBool,
    reloads: [Counter; Outcome::ALL.len()],
}

struct Current {
    certified: Arc<CertifiedKey>,
    /// Sessions of this certificate. A client that resumes one is shown no certificate, so they end with it.
    sessions: Arc<ServerSessionMemoryCache>,
    loaded_at: u64,
    not_after: u64,
}

/// How a certificate is doing. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// When the current one was read.
    pub loaded_at: u64,
    /// When it expires.
    pub not_after: u64,
    /// The files could not be used when they were last read, so what they held before is served.
    pub reload_failed: bool,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is a new certificate.
    Changed,
    /// The files hold what is served already.
    Unchanged,
    /// They cannot be used.
    Failed,
}

impl Outcome {
    /// Every outcome with its name in the metrics.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Changed, "changed"), (Self::Unchanged, "unchanged"), (Self::Failed, "failed")];
}

impl Certificates {
    /// Reads a certificate chain and its key. Blocks.
    ///
    /// # Errors
    /// The first thing for which they cannot be served.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CertificateProblem> {
        let now = now();
        let pair = Pair::read(cert, key, now).map_err(first)?;
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(Current::new(pair, now)),
            turn: Mutex::default(),
            has_failed: AtomicBool::new(false),
            reloads: Default::default(),
        })
    }

    /// Reads both files again, and says whether there is a new certificate: the next handshake uses it,
    /// and connections go on. Blocks.
    ///
    /// # Errors
    /// Why the files cannot be served, or are worse than what they held before; then that still is. It is
    /// logged.
    pub fn reload(&self) -> Result<bool, CertificateProblem> {
        let _turn = self.turn.lock();
        let now = now();
        let read = Pair::read(&self.cert, &self.key, now).map_err(first);
        let read = read.and_then(|pair| self.refuse_expired(pair, now));
        self.has_failed.store(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(pair) => {
                let changed = self.exchange(pair, now);
                self.count(if changed { Outcome::Changed } else { Outcome::Unchanged });
                Ok(changed)
            }
            Err(problem) => {
                self.count(Outcome::Failed);
                tracing::error!(%problem, "the certificate cannot be reloaded; the one before is still served");
                Err(problem)
            }
        }
    }

    /// One whose time is over is refused as long as there is a better one. Not one whose time has yet to come:
    /// the files need not change again when it does.
    fn refuse_expired(&self, pair: Pair, now: u64) -> Result<Pair, CertificateProblem> {
        let expired = pair.warnings.iter().find(|warning| matches!(warning.fault, Fault::Expired(_)));
        match expired.filter(|_| self.current.read().not_after >= now) {
            Some(expired) => Err(expired.clone()),
            None => Ok(pair),
        }
    }

    fn exchange(&self, pair: Pair, now: u64) -> bool {
        if self.current.read().certified.cert == pair.certified.cert {
            return false;
        }
        for warning in &pair.warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(expires = fault::date(pair.not_after), "there is a new certificate");
        *self.current.write() = Current::new(pair, now);
        true
    }

    fn count(&self, outcome: Outcome) {
        self.reloads[outcome as usize].add(1);
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let current = self.current.read();
        Status {
            loaded_at: current.loaded_at,
            not_after: current.not_after,
            reload_failed: self.has_failed.load(Ordering::Relaxed),
        }
    }

    /// How many reloads ended so.
    pub fn reloads(&self, outcome: Outcome) -> u64 {
        self.reloads[outcome as usize].get()
    }

    fn sessions(&self) -> Arc<ServerSessionMemoryCache> {
        Arc::clone(&self.current.read().sessions)
    }
}

impl Current {
    fn new(pair: Pair, now: u64) -> Self {
        let sessions = ServerSessionMemoryCache::new(MAX_SESSIONS);
        Self { certified: pair.certified, sessions, loaded_at: now, not_after: pair.not_after }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("cert", &self.cert).field("status", &self.status()).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().certified))
    }
}

impl StoresServerSessions for Certificates {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.sessions().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions().take(key)
    }

    fn can_cache(&self) -> bool {
        self.sessions().can_cache()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Files are refused for one thing at least.
fn first(problems: Vec<CertificateProblem>) -> CertificateProblem {
    problems
        .into_iter()
        .next()
        .unwrap_or_else(|| CertificateProblem::cert(Path::new(""), Fault::NoCertificate))
}
