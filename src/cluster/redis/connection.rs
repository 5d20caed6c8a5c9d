//! A connection to a Redis server, and one that several callers send their commands through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wire::{Decoder, Reply, push_command};

/// Why a server is lost. Never holds a password.
pub(super) type Lost = String;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// How servers are reached.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) tls: Option<TlsConnector>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    /// How long anything may take.
    pub(super) timeout: Duration,
}

/// Commands in the form that they are sent in, each to be answered by one reply.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    commands: usize,
}

impl Batch {
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        push_command(&mut self.bytes, parts);
        self.commands += 1;
    }

    pub(super) fn one(parts: &[&[u8]]) -> Self {
        let mut batch = Self::default();
        batch.push(parts);
        batch
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A connection that is signed in.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

pub(super) struct Reader {
    stream: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    decoder: Decoder,
}

pub(super) struct Writer {
    stream: WriteHalf<Box<dyn Stream>>,
    timeout: Duration,
}

impl Access {
    /// Connects and signs in. Takes no longer than three times the timeout.
    pub(super) async fn connect(&self, server: &(String, u16)) -> Result<Connection, Lost> {
        let named = |what: &str| format!("{}:{}: {what}", server.0, server.1);
        let opened = timeout(self.timeout, self.open(server)).await;
        let stream = opened.map_err(|_| named("no connection in time"))?.map_err(|e| named(&e))?;
        let (reader, writer) = tokio::io::split(stream);
        let reader = Reader { stream: reader, buffer: BytesMut::new(), decoder: Decoder::default() };
        let writer = Writer { stream: writer, timeout: self.timeout };
        let mut connection = Connection { reader, writer };
        self.sign_in(&mut connection).await.map_err(|e| named(&e))?;
        Ok(connection)
    }

    async fn open(&self, server: &(String, u16)) -> Result<Box<dyn Stream>, Lost> {
        let tcp = TcpStream::connect((server.0.as_str(), server.1)).await.map_err(|e| e.to_string())?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(server.0.clone()).map_err(|e| e.to_string())?;
        let stream = tls.connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?;
        Ok(Box::new(stream))
    }

    async fn sign_in(&self, connection: &mut Connection) -> Result<(), Lost> {
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &self.password {
            let user = self.user.as_deref().unwrap_or("default");
            hello.extend([&b"AUTH"[..], user.as_bytes(), password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], b"fanfare"]);
        let mut batch = Batch::one(&hello);
        if self.database > 0 {
            batch.push(&[b"SELECT", self.database.to_string().as_bytes()]);
        }
        connection.ask(&batch, self.timeout).await.map(drop)
    }
}

impl Connection {
    /// Sends commands and waits for their replies, none of which may be an error.
    pub(super) async fn ask(&mut self, batch: &Batch, limit: Duration) -> Result<Vec<Reply>, Lost> {
        self.writer.send(&batch.bytes).await?;
        self.reader.replies(batch.commands, limit).await
    }
}

impl Reader {
    /// The next reply or push. May be dropped half-way without losing anything.
    pub(super) async fn next(&mut self) -> Result<Reply, Lost> {
        loop {
            if let Some(reply) = self.decoder.next(&mut self.buffer).map_err(|e| e.to_string())? {
                return Ok(reply);
            }
            self.buffer.reserve(16 << 10);
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err("it closed the connection".to_owned());
            }
        }
    }

    /// The next replies, none of which may be an error, or take longer than the limit.
    async fn replies(&mut self, count: usize, limit: Duration) -> Result<Vec<Reply>, Lost> {
        let mut replies = Vec::with_capacity(count);
        while replies.len() < count {
            let next = timeout(limit, self.next()).await;
            match next.map_err(|_| "no answer in time".to_owned())?? {
                Reply::Error(error) => return Err(error),
                // Nothing on such a connection asks for one.
                Reply::Push(_) => {}
                reply => replies.push(reply),
            }
        }
        Ok(replies)
    }
}

impl Writer {
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let sent = timeout(self.timeout, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        sent.await.map_err(|_| "it takes nothing in time".to_owned())?.map_err(|e| e.to_string())
    }
}

type Answer = oneshot::Sender<Vec<Reply>>;

/// Batches that wait to be sent; who has another waits.
const WAITING: usize = 64;
/// Batches that are sent and not answered.
const UNANSWERED: usize = 64;

/// Sends commands through a connection that others share.
#[derive(Clone)]
pub(super) struct Caller(mpsc::Sender<(Batch, Answer)>);

/// The connection is lost, and its link with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone;

impl Caller {
    /// Gives the replies, none of which is an error: such a connection is lost.
    pub(super) async fn call(&self, batch: Batch) -> Result<Vec<Reply>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.0.send((batch, answer)).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&self) {
        self.0.closed().await;
    }
}

/// A caller, and what has to be awaited for it to work: it ends when the connection is lost.
pub(super) fn shared(
    connection: Connection,
    limit: Duration,
) -> (Caller, impl Future<Output = Lost> + Send + 'static) {
    let (sender, batches) = mpsc::channel(WAITING);
    (Caller(sender), serve(connection, batches, limit))
}

async fn serve(connection: Connection, batches: mpsc::Receiver<(Batch, Answer)>, limit: Duration) -> Lost {
    let Connection { reader, writer } = connection;
    let (sent, unanswered) = mpsc::channel(UNANSWERED);
    tokio::select! {
        lost = write(writer, batches, sent) => lost,
        lost = read(reader, unanswered, limit) => lost,
    }
}

async fn write(
    mut writer: Writer,
    mut batches: mpsc::Receiver<(Batch, Answer)>,
    sent: mpsc::Sender<(usize, Answer)>,
) -> Lost {
    while let Some((batch, answer)) = batches.recv().await {
        if sent.send((batch.commands, answer)).await.is_err() {
            break;
        }
        if let Err(lost) = writer.send(&batch.bytes).await {
            return lost;
        }
    }
    "nobody needs it".to_owned()
}

async fn read(mut reader: Reader, mut unanswered: mpsc::Receiver<(usize, Answer)>, limit: Duration) -> Lost {
    loop {
        let (count, answer) = tokio::select! {
            biased;
            next = unanswered.recv() => match next {
                Some(next) => next,
                None => return "nobody needs it".to_owned(),
            },
            early = reader.next() => match early {
                // A reply that was not asked for would be taken for the next command's.
                Ok(Reply::Push(_)) => continue,
                Ok(_) => return "it answers what was not asked".to_owned(),
                Err(lost) => return lost,
            },
        };
        match reader.replies(count, limit).await {
            // The caller may have given up.
            Ok(replies) => drop(answer.send(replies)),
            Err(lost) => return lost,
        }
    }
}

/// A TLS connector that trusts the certificates in a PEM file, or the system's.
pub(super) fn tls_connector(ca: Option<&std::path::Path>) -> std::io::Result<TlsConnector> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
    let certificates: VecDeque<CertificateDer<'static>> = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|e| invalid(format!("{}: {e}", path.display())))?,
        None => rustls_native_certs::load_native_certs().certs.into(),
    };
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(invalid("there is no certificate to trust for TLS to the engine".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
