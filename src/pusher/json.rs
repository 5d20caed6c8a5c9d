//! Reading JSON where each wrong shape deserves its own answer.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Reads a JSON object; `None` for anything else, arrays included, which serde would take.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    text.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(text).ok()).flatten()
}

/// The string that a raw value is; `None` when it is something else.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let literal = raw.get();
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { owned(raw).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// A raw value as a type of its own.
pub(super) fn owned<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// For fields where `null` is a value: absent is `None`, null is not.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// The first characters of attacker-chosen text, for error messages.
pub(super) fn shown(text: &str) -> &str {
    const MAX: usize = 200;
    text.char_indices().nth(MAX).map_or(text, |(end, _)| &text[..end])
}
