//! A certificate for loopback, signed by an authority of the test's own or by itself.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Writes `ca.pem`, and `cert.pem` with `key.pem` that it has signed; returns the first.
pub fn write(folder: &Path) -> PathBuf {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "an authority of a test");
    let key = KeyPair::generate().expect("a key");
    let root = authority.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, key);
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(names).expect("names");
    let signed = params.signed_by(&own, &issuer).expect("a certificate");
    for (name, text) in [("ca.pem", &root), ("cert.pem", &signed.pem()), ("key.pem", &own.serialize_pem())] {
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
