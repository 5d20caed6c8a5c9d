//! The certificate's files: exchanged while they are served, and what can be wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::certificates::{Authority, Folder, Issued};
use common::tls::{Socket, next, offering, send, subscribe, trusting};
use common::{Program, Settings, boot, settings, tls};
use fanfare::certificates::{Certificates, Fault};
use serde_json::json;
use tokio_rustls::rustls::{HandshakeKind, ProtocolVersion};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Sockets that live through an exchange.
const CROWD: usize = 1000;

fn with_tls(folder: &Folder) -> Settings {
    let files = [("cert", folder.file("cert.pem")), ("key", folder.file("key.pem"))];
    let table = toml::Table::from_iter(files.map(|(key, file)| (key.to_owned(), file.into())));
    settings().server("listen", vec!["127.0.0.1:0", "tls://127.0.0.1:0"]).server("tls", table)
}

/// The serial number of the certificate that a socket was shown.
fn serial(socket: &Socket) -> u64 {
    let (_, tls) = socket.get_ref().get_ref();
    let shown = tls.peer_certificates().expect("a certificate");
    let (_, parsed) = X509Certificate::from_der(&shown[0]).expect("X.509");
    parsed.serial.iter_u64_digits().next().expect("a number")
}

async fn is_alive(socket: &mut Socket) {
    send(socket, json!({"event": "pusher:ping", "data": {}})).await;
    assert_eq!(next(socket).await["event"], "pusher:pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_at_the_next_handshake_and_drops_no_socket() {
    let (authority, folder) = (Authority::new(), Folder::new("swap"));
    folder.hold(&authority.issue_number(7));
    let broker = boot(with_tls(&folder)).await;
    let (connector, port) = (trusting(&authority.der), broker.addresses[1].port());
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut socket = tls::connect(&connector, port).await;
        subscribe(&mut socket, "a").await;
        assert_eq!(serial(&socket), 7);
        crowd.push(socket);
    }
    // Sessions can be resumed, but not across an exchange.
    let (_, last) = crowd[CROWD - 1].get_ref().get_ref();
    assert_eq!(last.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(last.protocol_version(), Some(ProtocolVersion::TLSv1_3));

    let certificates = broker.certificates.clone().expect("certificates");
    assert_eq!(certificates.reload(), Ok(false));
    folder.hold(&authority.issue_number(8));
    assert_eq!(certificates.reload(), Ok(true));
    let mut newcomer = tls::connect(&connector, port).await;
    assert_eq!(serial(&newcomer), 8);
    let with_names = tls::shake(&offering(&authority.der, &["h2", "http/1.1"]), port).await;
    assert_eq!(with_names.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    subscribe(&mut newcomer, "a").await;
    crowd.push(newcomer);

    broker.api().publish("a", "n", "still here").await;
    for socket in &mut crowd {
        assert_eq!(next(socket).await["data"], "still here");
        is_alive(socket).await;
    }
    let metrics = broker.metrics().await;
    assert_eq!(metrics.get("fanfare_connections{app=\"1\"}"), (CROWD + 1) as f64);
    for (result, count) in [("changed", 1.0), ("unchanged", 1.0), ("failed", 0.0)] {
        assert_eq!(metrics.get(&format!("fanfare_tls_reloads_total{{result=\"{result}\"}}")), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_new_certificate_leaves_the_one_before_and_is_told() {
    let (authority, folder) = (Authority::new(), Folder::new("bad-swap"));
    let end = rcgen::date_time_ymd(2090, 2, 3);
    let with_end = |year| authority.issue(|params| params.not_after = rcgen::date_time_ymd(year, 2, 3));
    folder.hold(&with_end(2090));
    let broker = boot(with_tls(&folder)).await;
    let certificates = broker.certificates.clone().expect("certificates");
    let before = certificates.status();
    assert_eq!(before.not_after, u64::try_from(end.unix_timestamp()).expect("later than 1970"));
    let expiry = "fanfare_tls_certificate_expiry_timestamp_seconds";
    assert_eq!(broker.metric(expiry).await, before.not_after as f64);
    assert_eq!(broker.metric("fanfare_tls_reload_failed").await, 0.0);

    folder.write("cert.pem", &with_end(2091).cert);
    let problem = certificates.reload().expect_err("the key is another's");
    assert!(matches!(problem.fault, Fault::Mismatch { .. }), "{problem}");
    folder.write("cert.pem", "");
    assert!(certificates.reload().is_err());
    assert_eq!(broker.metric("fanfare_tls_reload_failed").await, 1.0);
    assert_eq!(broker.metric(expiry).await, before.not_after as f64);
    assert_eq!(broker.metrics().await.get("fanfare_tls_reloads_total{result=\"failed\"}"), 2.0);
    let mut socket = tls::connect(&trusting(&authority.der), broker.addresses[1].port()).await;
    subscribe(&mut socket, "a").await;

    folder.hold(&with_end(2092));
    assert_eq!(certificates.reload(), Ok(true));
    assert_eq!(broker.metric("fanfare_tls_reload_failed").await, 0.0);
    assert!(broker.metric(expiry).await > before.not_after as f64);
    is_alive(&mut socket).await;
}

/// Out of an old backup, or by a wrong path.
#[test]
fn an_expired_certificate_replaces_none_that_is_valid() {
    let (authority, folder) = (Authority::new(), Folder::new("expired-swap"));
    let expired = |serial: u64| {
        authority.issue(|params| {
            params.serial_number = Some(serial.into());
            params.not_after = rcgen::date_time_ymd(2020, 1, 31);
        })
    };
    let (cert, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    folder.hold(&authority.issue_number(7));
    let certificates = Certificates::load(Path::new(&cert), Path::new(&key)).expect("loaded");
    let before = certificates.status();
    folder.hold(&expired(8));
    let problem = certificates.reload().expect_err("it has expired");
    assert!(matches!(problem.fault, Fault::Expired(_)), "{problem}");
    let after = certificates.status();
    assert!(after.reload_failed && after.not_after == before.not_after, "{after:?}");

    // Where there is nothing better, it is what the operator wants.
    let certificates = Certificates::load(Path::new(&cert), Path::new(&key)).expect("loaded");
    assert_eq!(certificates.reload(), Ok(false));
    folder.hold(&expired(9));
    assert_eq!(certificates.reload(), Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_there_are_no_metrics_of_it() {
    let broker = boot(settings()).await;
    assert!(broker.certificates.is_none());
    assert!(!broker.metrics().await.0.keys().any(|sample| sample.starts_with("fanfare_tls_")));
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("a lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// It was logged once until it changed: whoever had put another wrong file in its place took it for right.
#[test]
fn why_a_reload_fails_is_logged_each_time() {
    let (authority, folder) = (Authority::new(), Folder::new("log"));
    folder.hold(&authority.issue_number(7));
    let (cert, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    let certificates = Certificates::load(Path::new(&cert), Path::new(&key)).expect("loaded");
    let log = Log::default();
    let written = log.clone();
    let logging = tracing_subscriber::fmt().with_writer(move || written.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(logging, || {
        for text in ["", "", "", "-----BEGIN X-----\n-----END X-----\n"] {
            folder.write("cert.pem", text);
            certificates.reload().expect_err("no certificate");
        }
        folder.hold(&authority.issue_number(8));
        certificates.reload().expect("a certificate");
        folder.write("cert.pem", "");
        certificates.reload().expect_err("no certificate");
    });
    let log = String::from_utf8(log.0.lock().expect("a lock").clone()).expect("UTF-8");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 5, "{log}");
    assert!(errors.iter().all(|line| line.contains(&format!("server.tls.cert: {cert}: "))), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("there is a new certificate")).count(), 1, "{log}");
}

/// Runs `fanfare check`; returns its exit code and all it says.
fn check(folder: &Folder) -> (Option<i32>, String) {
    let config = folder.write("fanfare.toml", &with_tls(folder).to_toml());
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["check", "--config", &config]).env_clear().stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(told).expect("UTF-8"))
}

const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH0\n-----END ENCRYPTED PRIVATE KEY-----\n";
const OLD_ENCRYPTED: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                             DEK-Info: AES-256-CBC,00\n\nMIH0\n-----END RSA PRIVATE KEY-----\n";
const OTHER_PEM: &str = "-----BEGIN DH PARAMETERS-----\nMIH0\n-----END DH PARAMETERS-----\n";
const NO_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIH0\n-----END CERTIFICATE-----\n";
const CUT: &str = "-----BEGIN CERTIFICATE-----\nMIH0\n";
const NO_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIH0\n-----END PRIVATE KEY-----\n";

#[test]
fn what_cannot_be_served_is_named_by_key_and_file() {
    let (authority, folder) = (Authority::new(), Folder::new("faults"));
    let good = authority.issue_number(7);
    let other = authority.issue_number(8);
    let cert = good.cert.as_str();
    for (name, text, fault) in [
        ("cert", None, "cannot be read: No such file"),
        ("key", None, "cannot be read: No such file"),
        ("cert", Some(""), "not PEM"),
        ("key", Some("\u{0}\u{1}secret"), "not PEM"),
        ("cert", Some(CUT), "not PEM: a section of it is damaged"),
        ("cert", Some(good.key.as_str()), "no certificate is in it"),
        ("cert", Some(OTHER_PEM), "no certificate is in it"),
        ("cert", Some(NO_CERTIFICATE), "not an X.509 certificate"),
        ("key", Some(cert), "no private key is in it"),
        ("key", Some(ENCRYPTED), "the private key is encrypted, which is not supported"),
        ("key", Some(OLD_ENCRYPTED), "the private key is encrypted, which is not supported"),
        ("key", Some(NO_KEY), "the private key cannot be used"),
        ("key", Some(other.key.as_str()), "the private key does not belong to the certificate in "),
    ] {
        folder.hold(&good);
        let file = folder.file(&format!("{name}.pem"));
        match text {
            Some(text) => drop(folder.write(&format!("{name}.pem"), text)),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        let (code, told) = check(&folder);
        assert_eq!((code, told.lines().count()), (Some(2), 1), "{told}");
        assert!(told.contains(&format!(": server.tls.{name}: {file}: {fault}")), "{fault}: {told}");
        assert!(told.starts_with(&folder.file("fanfare.toml:")), "the line of the setting: {told}");
        assert!(!told.contains("secret"), "{told}");
    }
    folder.hold(&Issued { cert: String::new(), key: String::new() });
    assert_eq!(check(&folder).1.lines().count(), 2, "both are told at once");
    // Nothing that can be opened, but read: and nobody waits for it.
    std::fs::remove_file(folder.file("cert.pem")).expect("removed");
    std::fs::create_dir(folder.file("cert.pem")).expect("a folder");
    let (code, told) = check(&folder);
    assert!(code == Some(2) && told.contains("cert.pem: cannot be read: not a file"), "{told}");
}

/// Certificates that are served all the same, with what is said of them.
fn doubtful() -> Vec<(Issued, &'static str)> {
    let authority = Authority::new();
    let with_chain = |mut issued: Issued| {
        issued.cert.push_str(&authority.pem);
        issued
    };
    let past = authority.issue(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 31));
    let future = authority.issue(|params| params.not_before = rcgen::date_time_ymd(2090, 2, 1));
    let alone = authority.issue_number(7);
    vec![
        (with_chain(past), "the certificate expired at 2020-01-31T00:00:00Z"),
        (with_chain(future), "the certificate is not valid before 2090-02-01T00:00:00Z"),
        (
            alone,
            "the chain is missing: the certificate of the issuer, \"CN=an authority of a test\", is not in it",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_doubtful_is_served_and_told_by_check_and_at_the_start() {
    let folder = Folder::new("doubts");
    for (issued, doubt) in doubtful() {
        folder.hold(&issued);
        let warning = format!("server.tls.cert: {}: {doubt}", folder.file("cert.pem"));
        let (code, told) = check(&folder);
        assert_eq!((code, told.lines().count()), (Some(0), 2), "{told}");
        assert!(told.ends_with(&format!("\nwarning: {warning}\n")), "{doubt}: {told}");
        let program = Program::start("doubt", &with_tls(&folder), "").await;
        let ended = program.stop(common::DEADLINE * 4).await;
        assert_eq!(ended.code, Some(0));
        assert!(
            ended.log.lines().any(|line| line.contains("WARN") && line.contains(&warning)),
            "{}",
            ended.log
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_a_certificate_that_is_in_order_nor_of_one_that_nobody_is_shown() {
    let (authority, folder) = (Authority::new(), Folder::new("order"));
    let mut issued = authority.issue_number(7);
    issued.cert.push_str(&authority.pem);
    folder.hold(&issued);
    let (code, told) = check(&folder);
    assert_eq!((code, told.lines().count()), (Some(0), 1), "{told}");
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    folder.hold(&Issued { cert: own.cert.pem(), key: own.signing_key.serialize_pem() });
    let (code, told) = check(&folder);
    assert_eq!((code, told.lines().count()), (Some(0), 1), "{told}");
    folder.hold(&Issued { cert: String::new(), key: String::new() });
    let refusal = Program::refusal("order", &with_tls(&folder), "").await;
    assert!(refusal.contains(": server.tls.key: ") && refusal.lines().count() == 2, "{refusal}");
    let unused = with_tls(&folder).server("listen", vec!["127.0.0.1:0"]);
    drop(Program::start("order", &unused, "").await);
}
