//! Certificates for loopback, signed by an authority of the test's own or by themselves.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Who signs.
pub struct Authority {
    pub pem: String,
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate");
        Self { pem: root.pem(), der: root.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for this machine, with what `change` makes of it.
    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { cert, key: key.serialize_pem() }
    }

    /// One that is known by its serial number.
    pub fn issue_number(&self, serial: u64) -> Issued {
        self.issue(|params| params.serial_number = Some(serial.into()))
    }
}

/// Writes `ca.pem`, and `cert.pem` with `key.pem` that it has signed; returns the first.
pub fn write(folder: &Path) -> PathBuf {
    let authority = Authority::new();
    let issued = authority.issue(|_| ());
    for (name, text) in [("ca.pem", &authority.pem), ("cert.pem", &issued.cert), ("key.pem", &issued.key)] {
        std::fs::write(folder.join(name), text).expect("written");
    }
    folder.join("ca.pem")
}

/// Writes `cert.pem`, whose only authority it is itself, with its `key.pem`; returns the first.
pub fn write_self_signed(folder: &Path) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    for (name, text) in [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())] {
        std::fs::write(folder.join(name), text).expect("written");
    }
    folder.join("cert.pem")
}

/// A folder for a test's files, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        // A program of this name has a folder, too.
        let path = std::env::temp_dir().join(format!("fanfare-files-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a file, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).expect("written");
        self.file(name)
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn hold(&self, issued: &Issued) {
        self.write("cert.pem", &issued.cert);
        self.write("key.pem", &issued.key);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
