//! Reading a certificate chain and its key, and looking whether they will do.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use tokio_rustls::rustls::{Error, InconsistentKeys};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::fault::{CertificateProblem, Fault};

/// Bytes of one file, at most: hundreds of certificates.
const MAX_FILE: u64 = 1 << 20;
/// What every PEM section begins with.
const PEM_BEGIN: &str = "-----BEGIN ";
/// What an encrypted key says, in its first line or in the one behind it.
const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];

/// A chain with its key, fit to be served.
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// Of the first certificate, in seconds since 1970.
    pub(super) not_after: u64,
    /// What is allowed but may not be meant.
    pub(super) warnings: Vec<CertificateProblem>,
}

impl Pair {
    /// Reads both files, as of `now`, in seconds since 1970.
    pub(super) fn read(cert: &Path, key: &Path, now: u64) -> Result<Self, Vec<CertificateProblem>> {
        let chain = read_chain(cert).map_err(|fault| CertificateProblem::cert(cert, fault));
        let private = read_key(key).map_err(|fault| CertificateProblem::key(key, fault));
        let (chain, private) = match (chain, private) {
            (Ok(chain), Ok(private)) => (chain, private),
            (chain, private) => return Err(chain.err().into_iter().chain(private.err()).collect()),
        };
        let leaf = look_at(&chain, now).map_err(|fault| vec![CertificateProblem::cert(cert, fault)])?;
        let certified = CertifiedKey::new(chain, private);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(vec![CertificateProblem::key(key, Fault::Mismatch { cert: cert.to_owned() })]);
            }
            Err(_) => return Err(vec![CertificateProblem::cert(cert, Fault::NotX509)]),
        }
        let warnings = leaf.doubts.into_iter().map(|fault| CertificateProblem::cert(cert, fault)).collect();
        Ok(Self { certified: Arc::new(certified), not_after: leaf.not_after, warnings })
    }
}

/// What the first certificate of a chain says.
struct Leaf {
    not_after: u64,
    doubts: Vec<Fault>,
}

fn look_at(chain: &[CertificateDer<'_>], now: u64) -> Result<Leaf, Fault> {
    let parse = |der| X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| Fault::NotX509);
    let parsed: Vec<_> = chain.iter().map(|der| parse(der)).collect::<Result<_, _>>()?;
    let (leaf, others) = parsed.split_first().ok_or(Fault::NoCertificate)?;
    let (not_before, not_after) = (seconds(leaf.validity().not_before), seconds(leaf.validity().not_after));
    let mut doubts = Vec::new();
    if not_after < now {
        doubts.push(Fault::Expired(not_after));
    }
    if not_before > now {
        doubts.push(Fault::NotYetValid(not_before));
    }
    let issuer = leaf.issuer();
    let is_self_signed = issuer.as_raw() == leaf.subject().as_raw();
    if !is_self_signed && !others.iter().any(|other| other.subject().as_raw() == issuer.as_raw()) {
        doubts.push(Fault::MissingChain { issuer: issuer.to_string() });
    }
    Ok(Leaf { not_after, doubts })
}

/// Since 1970, and none before.
fn seconds(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or_default()
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = read(file)?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(Fault::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(_) => Err(Fault::NotPem("a section of it is damaged")),
    }
}

fn read_key(file: &Path) -> Result<Arc<dyn SigningKey>, Fault> {
    let text = read(file)?;
    if ENCRYPTED.iter().any(|mark| text.contains(mark)) {
        return Err(Fault::EncryptedKey);
    }
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) => any_supported_type(&key).map_err(|_| Fault::UnusableKey),
        Err(pem::Error::NoItemsFound) => Err(Fault::NoKey),
        Err(_) => Err(Fault::NotPem("a section of it is damaged")),
    }
}

/// The text of a file that has PEM in it.
fn read(file: &Path) -> Result<String, Fault> {
    let unreadable = |error: std::io::Error| Fault::Unreadable(error.to_string());
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(Fault::Unreadable("not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Fault::Unreadable("longer than 1 MiB".to_owned()));
    }
    // What stands around the sections may be in any encoding.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if text.contains(PEM_BEGIN) { Ok(text) } else { Err(Fault::NotPem("there is no \"-----BEGIN\" in it")) }
}
