//! Query strings, as sockets and the API send them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of a query string, in the order in which they came.
#[derive(Debug)]
pub(super) struct Query<'a> {
    parameters: Vec<Parameter<'a>>,
    plus: Plus,
}

#[derive(Debug)]
pub(super) struct Parameter<'a> {
    /// Decoded, in lower case: what is signed and looked up.
    pub(super) key: Cow<'a, str>,
    raw_value: &'a str,
}

/// How a `+` in a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plus {
    /// As a space, as forms write it.
    Space,
    /// As itself.
    Literal,
}

impl<'a> Query<'a> {
    /// Splits a query string. `None` when a key or a value is not UTF-8 once decoded.
    pub(super) fn parse(query: &'a str) -> Option<Self> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| {
            let (key, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            decode(raw_value, Plus::Space)?;
            Some(Parameter { key: lower_case(decode(key, Plus::Space)?), raw_value })
        });
        Some(Self { parameters: parameters.collect::<Option<_>>()?, plus: Plus::Space })
    }

    /// Reads `+` as whoever signed the query did.
    pub(super) fn read_plus_as(&mut self, plus: Plus) {
        self.plus = plus;
    }

    /// The value of a parameter; of several, the last.
    pub(super) fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        self.parameters.iter().rfind(|parameter| parameter.key == key)?.value(self.plus)
    }

    /// Every value of a parameter, in their order.
    pub(super) fn all(&self, key: &str) -> Vec<Cow<'a, str>> {
        let matching = self.parameters.iter().filter(|parameter| parameter.key == key);
        matching.filter_map(|parameter| parameter.value(self.plus)).collect()
    }

    /// How often a parameter stands in the query.
    pub(super) fn count(&self, key: &str) -> usize {
        self.parameters.iter().filter(|parameter| parameter.key == key).count()
    }

    /// Every parameter but one, sorted by key; those of one key keep their order.
    pub(super) fn sorted_without(&self, key: &str) -> Vec<&Parameter<'a>> {
        let mut rest: Vec<_> = self.parameters.iter().filter(|parameter| parameter.key != key).collect();
        rest.sort_by(|a, b| a.key.cmp(&b.key));
        rest
    }

    /// Whether the two readings of `+` differ.
    pub(super) fn has_plus(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter.raw_value.contains('+'))
    }
}

impl<'a> Parameter<'a> {
    /// The decoded value.
    pub(super) fn value(&self, plus: Plus) -> Option<Cow<'a, str>> {
        decode(self.raw_value, plus)
    }
}

/// Percent-decodes once; `None` when the result is not UTF-8.
pub(super) fn decode(text: &str, plus: Plus) -> Option<Cow<'_, str>> {
    // Nearly everything that libraries send stands for itself.
    if memchr::memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    if plus == Plus::Space && text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
        return Some(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}

fn lower_case(key: Cow<'_, str>) -> Cow<'_, str> {
    if key.bytes().any(|c| c.is_ascii_uppercase()) { Cow::Owned(key.to_ascii_lowercase()) } else { key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lower_cased_and_values_decoded_once() {
        let query = Query::parse("Info=a%2Cb&x=1+2&y=%2541&flag&x=last").expect("valid");
        assert_eq!(query.get("info").as_deref(), Some("a,b"));
        assert_eq!(query.get("y").as_deref(), Some("%41"));
        assert_eq!(query.get("flag").as_deref(), Some(""));
        assert_eq!((query.get("x").as_deref(), query.count("x")), (Some("last"), 2));
        assert_eq!(query.get("none"), None);
        let x = query.sorted_without("info").into_iter().find(|p| p.key == "x").expect("x");
        assert_eq!(x.value(Plus::Space).as_deref(), Some("1 2"));
        assert_eq!(x.value(Plus::Literal).as_deref(), Some("1+2"));
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        assert!(Query::parse("a=%ff").is_none());
        assert!(Query::parse("%ff=a").is_none());
        assert!(Query::parse("a=%zz&&b=%").is_some(), "a stray percent sign stands for itself");
    }
}
