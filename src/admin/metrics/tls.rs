//! The certificate of the `tls://` listeners.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{counters, gauge};
use crate::certificates::{Certificates, Outcome};

pub(super) fn encode(
    certificates: &Certificates,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let status = certificates.status();
    let expiry = "When the certificate expires, in seconds since 1970";
    let failed = "1 when the certificate's files could not be used when they were last read";
    for (name, help, value) in [
        ("tls_certificate_expiry_timestamp_seconds", expiry, status.not_after),
        ("tls_reload_failed", failed, u64::from(status.reload_failed)),
    ] {
        gauge(encoder, name, help, value)?;
    }
    let reloads = Outcome::ALL.map(|(outcome, result)| ([("result", result)], certificates.reloads(outcome)));
    counters(encoder, "tls_reloads", "Reloads of the certificate, by how they ended", reloads)
}
