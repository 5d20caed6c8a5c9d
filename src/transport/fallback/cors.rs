//! What browsers ask before they let a page of another origin speak to us.

use hyper::StatusCode;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW,
    CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};

use crate::http::{self, Reply};

/// A year: the answer never changes.
const MAX_AGE: &str = "31536000";
const NOT_CACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
/// nginx passes a reply on as it comes when it sees this.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The origin of a request. Whether it may be here is for the protocol to say, when a session begins.
pub(super) struct Cors {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
}

impl Cors {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let get = |name| headers.get(name).cloned();
        Self { origin: get(ORIGIN), headers: get(ACCESS_CONTROL_REQUEST_HEADERS) }
    }

    /// The answer to the question whether a request would be let in.
    pub(super) fn preflight(&self) -> Reply {
        let mut reply = Reply::default();
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("OPTIONS, POST"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        if let Some(asked) = &self.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        self.allow(reply)
    }

    /// The answer to any other method than those that there are.
    pub(super) fn refuse_method(&self) -> Reply {
        let mut reply = http::text(StatusCode::METHOD_NOT_ALLOWED, "Only POST is allowed here");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("OPTIONS, POST"));
        self.allow(reply)
    }

    /// Lets the page that asks read the reply.
    pub(super) fn allow(&self, mut reply: Reply) -> Reply {
        let headers = reply.headers_mut();
        match &self.origin {
            Some(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                headers.insert(VARY, HeaderValue::from_static("Origin"));
            }
            None => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
        }
        reply
    }

    /// The same for messages, which nobody may keep or hold back.
    pub(super) fn allow_messages(&self, mut reply: Reply) -> Reply {
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/javascript; charset=UTF-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(NOT_CACHED));
        headers.insert(BUFFERING, HeaderValue::from_static("no"));
        self.allow(reply)
    }
}
