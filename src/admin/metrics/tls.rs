//! The certificate of the `tls://` listeners.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

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
        let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value as i64).encode(gauge)?;
    }
    let help = "Reloads of the certificate, by how they ended";
    let mut reloads = encoder.encode_descriptor("tls_reloads", help, None, MetricType::Counter)?;
    for (outcome, result) in Outcome::ALL {
        let labels = [("result", result)];
        ConstCounter::new(certificates.reloads(outcome)).encode(reloads.encode_family(&labels)?)?;
    }
    Ok(())
}
