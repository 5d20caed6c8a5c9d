//! TLS for the `tls://` listeners.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ResolvesServerCert, StoresServerSessions};

use crate::certificates::Certificates;

/// Makes TLS connections, each with the certificate that is current when it begins.
///
/// # Errors
/// When the cryptography offers no version of TLS.
pub fn acceptor(certificates: &Arc<Certificates>) -> io::Result<TlsAcceptor> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(certificates) as _;
    let sessions: Arc<dyn StoresServerSessions> = Arc::clone(certificates) as _;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.session_storage = sessions;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
