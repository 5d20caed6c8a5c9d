//! What can be wrong with a certificate's files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// What is wrong with one of the two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateProblem {
    /// The setting that names the file: `server.tls.cert` or `server.tls.key`.
    pub key: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl CertificateProblem {
    pub(super) fn cert(file: &Path, fault: Fault) -> Self {
        Self { key: "server.tls.cert", file: file.to_owned(), fault }
    }

    pub(super) fn key(file: &Path, fault: Fault) -> Self {
        Self { key: "server.tls.key", file: file.to_owned(), fault }
    }
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.key, self.file.display(), self.fault)
    }
}

impl std::error::Error for CertificateProblem {}

/// One thing that can be wrong. Never contains anything of a key. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not there, not a file, or not for us; by the system's words.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// There is no PEM in it, or only damaged PEM.
    #[error("not PEM: {0}")]
    NotPem(&'static str),
    /// It is PEM of something else.
    #[error("no certificate is in it")]
    NoCertificate,
    /// What it calls a certificate is none.
    #[error("not an X.509 certificate")]
    NotX509,
    /// It is PEM of something else.
    #[error("no private key is in it")]
    NoKey,
    /// It asks for a passphrase.
    #[error("the private key is encrypted, which is not supported; `openssl pkey` decrypts it")]
    EncryptedKey,
    /// It is of a kind that TLS has no use for, or damaged.
    #[error("the private key cannot be used: it has to be RSA, ECDSA (P-256, P-384) or Ed25519")]
    UnusableKey,
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate in {}", cert.display())]
    Mismatch {
        /// The file of that certificate.
        cert: PathBuf,
    },
    /// Its time is over.
    #[error("the certificate expired at {}", date(*.0))]
    Expired(u64),
    /// Its time has not come.
    #[error("the certificate is not valid before {}", date(*.0))]
    NotYetValid(u64),
    /// Nothing in the file leads to an authority.
    #[error("the chain is missing: the certificate of the issuer, {issuer:?}, is not in it")]
    MissingChain {
        /// The issuer's name.
        issuer: String,
    },
}

/// The end of what a certificate can say: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Seconds since 1970 as people write them.
pub(super) fn date(seconds: u64) -> String {
    // Later years cannot be written.
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at).to_string()
}
