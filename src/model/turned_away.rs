//! Why somebody is turned away before anything is done for them. One list for the log and the metrics.

/// Why somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnedAway {
    /// The address has all the connections that it may have.
    Connections,
    /// The address makes connections too fast.
    Rate,
    /// Too many connections, of all addresses together, have not asked for anything yet.
    Handshakes,
    /// The same of one address.
    HandshakesOfAddress,
    /// Too many API requests of the address had a wrong signature.
    Signatures,
    /// Only trusted proxies may connect, and the peer is none.
    NoProxy,
    /// A trusted proxy's connection did not begin with a PROXY header.
    NoProxyHeader,
}

impl TurnedAway {
    /// Every reason, for tables and metrics.
    pub const ALL: [TurnedAway; 7] = [
        Self::Connections,
        Self::Rate,
        Self::Handshakes,
        Self::HandshakesOfAddress,
        Self::Signatures,
        Self::NoProxy,
        Self::NoProxyHeader,
    ];

    /// The reason's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections_per_ip",
            Self::Rate => "connections_per_second_per_ip",
            Self::Handshakes => "handshakes",
            Self::HandshakesOfAddress => "handshakes_per_ip",
            Self::NoProxy => "not_a_trusted_proxy",
            Self::NoProxyHeader => "no_proxy_header",
            Self::Signatures => "failed_requests_per_ip",
        }
    }

    /// What may be behind it, for the log.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Connections | Self::Rate | Self::HandshakesOfAddress | Self::Signatures | Self::NoProxy => {
                "; if that is a proxy, name it in server.trusted_proxies"
            }
            Self::Handshakes | Self::NoProxyHeader => "",
        }
    }
}
