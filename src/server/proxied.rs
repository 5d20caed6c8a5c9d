//! The PROXY protocol: the first bytes of a connection, by which a proxy says whose it is.
//!
//! Not a byte is taken from the connection beyond the header: what follows may be TLS, and what is written
//! through to it later is the connection itself.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a header of version 2 begins with.
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of what stands before the addresses in version 2; the last two say how many follow.
const V2_FIXED: usize = 16;
/// Bytes of addresses and what else a proxy may say in version 2.
const V2_MAX_REST: usize = 216 + 4096;
/// Bytes of a header of version 1, with its line end.
const V1_MAX: usize = 107;

/// What a proxy says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxied {
    /// Whose it is; `None`: the proxy's own.
    pub(super) client: Option<SocketAddr>,
    /// The client came by TLS.
    pub(super) tls: bool,
}

/// Reads the header. `None`: the proxy has hung up without a word, having seen that somebody listens.
///
/// # Errors
/// Those of the connection, and `InvalidData` when there is no header, or none that can be read.
pub(super) async fn read_header(stream: &mut TcpStream) -> io::Result<Option<Proxied>> {
    let mut header = vec![0; V2.len()];
    let begun = match stream.read(&mut header).await {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        begun => begun?,
    };
    stream.read_exact(&mut header[begun..]).await?;
    if header == V2 {
        read_rest_of_v2(stream, &mut header).await?;
    } else if header.starts_with(b"PROXY ") {
        read_rest_of_v1(stream, &mut header).await?;
    } else {
        return Err(malformed("no PROXY header"));
    }
    parse(&header).map(Some)
}

async fn read_rest_of_v2(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<()> {
    header.resize(V2_FIXED, 0);
    stream.read_exact(&mut header[V2.len()..]).await?;
    let rest = usize::from(u16::from_be_bytes([header[V2_FIXED - 2], header[V2_FIXED - 1]]));
    if rest > V2_MAX_REST {
        return Err(malformed("the PROXY header is too long"));
    }
    header.resize(V2_FIXED + rest, 0);
    stream.read_exact(&mut header[V2_FIXED..]).await.map(drop)
}

/// Nobody says how long it is, so it is looked at before it is taken.
async fn read_rest_of_v1(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<()> {
    while header.len() < V1_MAX {
        let mut ahead = [0; V1_MAX];
        let room = V1_MAX - header.len();
        let seen = stream.peek(&mut ahead[..room]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = memchr::memchr(b'\n', &ahead[..seen]);
        let taken = end.map_or(seen, |end| end + 1);
        stream.read_exact(&mut ahead[..taken]).await?;
        header.extend_from_slice(&ahead[..taken]);
        if end.is_some() {
            return Ok(());
        }
    }
    Err(malformed("the PROXY header is too long"))
}

fn parse(header: &[u8]) -> io::Result<Proxied> {
    let parsed = ProxyHeader::parse(header, ParseConfig::default());
    let (parsed, used) = parsed.map_err(|error| malformed(&error.to_string()))?;
    if used != header.len() {
        return Err(malformed("the PROXY header is not what its length says"));
    }
    let client = parsed.proxied_address().map(|addresses| addresses.source);
    let tls = client.is_some() && parsed.ssl().is_some_and(|ssl| ssl.client_ssl());
    Ok(Proxied { client, tls })
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
        [&V2[..], &[command, family], &length, rest].concat()
    }

    fn client(header: &[u8]) -> Option<SocketAddr> {
        parse(header).expect("a header").client
    }

    #[test]
    fn both_versions_name_the_client() {
        let four = Some("198.51.100.7:5000".parse().expect("an address"));
        let six = Some("[2001:db8::7]:5000".parse().expect("an address"));
        assert_eq!(client(b"PROXY TCP4 198.51.100.7 127.0.0.1 5000 80\r\n"), four);
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 ::1 5000 80\r\n"), six);
        assert_eq!(client(&v2(0x21, 0x11, &[198, 51, 100, 7, 127, 0, 0, 1, 0x13, 0x88, 0, 80])), four);
        let mut addresses = [0; 36];
        addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (addresses[15], addresses[32], addresses[33]) = (7, 0x13, 0x88);
        assert_eq!(client(&v2(0x21, 0x21, &addresses)), six);
    }

    #[test]
    fn connections_of_the_proxy_itself_name_nobody() {
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n"), None);
        assert_eq!(client(&v2(0x20, 0, &[])), None);
        assert_eq!(client(&v2(0x20, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2])), None);
        assert_eq!(client(&v2(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn a_proxy_says_whether_the_client_had_tls() {
        let addresses = [198, 51, 100, 7, 127, 0, 0, 1, 0x13, 0x88, 0, 80];
        let with =
            |ssl: &[u8]| parse(&v2(0x21, 0x11, &[&addresses[..], ssl].concat())).expect("a header").tls;
        assert!(with(&[0x20, 0, 5, 1, 0, 0, 0, 0]));
        assert!(!with(&[0x20, 0, 5, 0, 0, 0, 0, 0]));
        assert!(!with(&[0x04, 0, 5, 1, 0, 0, 0, 0]), "something else");
        assert!(!with(&[0x20, 0, 50, 1]), "cut short");
        assert!(!with(&[]));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            &b"PROXY TCP4 198.51.100.7 127.0.0.1 5000\r\n"[..],
            b"PROXY TCP4 198.51.100.700 127.0.0.1 5000 80\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 5000 80\r\n",
            b"PROXY TCP4 198.51.100.7 127.0.0.1 5000 80000\r\n",
            b"PROXY TCP4 198.51.100.7 127.0.0.1 5000 80\n",
            b"PROXY UDP4 198.51.100.7 127.0.0.1 5000 80\r\n",
            b"PROXY \r\n\r\n\r\n\r\n\r\n",
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x41, &[0; 12]),
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
