//! Who was not believed, and why.

use super::Counter;

/// Whom the broker did not believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// A client that wanted to subscribe.
    Subscribe,
    /// A client that wanted to sign in.
    SignIn,
    /// A backend.
    ApiRequest,
}

/// Why it was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It brought no credentials, or only a part.
    Missing,
    /// What it brought cannot be read.
    Malformed,
    /// The app has no such key.
    Key,
    /// It was signed too long ago, or will be: one of the two clocks is wrong.
    Time,
    /// It was signed with another secret, or something else was.
    Signature,
    /// The body is not the one that was signed.
    Body,
    /// The channel is that of another user.
    User,
}

impl Unproven {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::Subscribe, Self::SignIn, Self::ApiRequest];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::SignIn => "sign_in",
            Self::ApiRequest => "api_request",
        }
    }
}

impl Cause {
    /// All of them, for metrics.
    pub const ALL: [Self; 7] =
        [Self::Missing, Self::Malformed, Self::Key, Self::Time, Self::Signature, Self::Body, Self::User];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Key => "key",
            Self::Time => "time",
            Self::Signature => "signature",
            Self::Body => "body",
            Self::User => "user",
        }
    }
}

/// How often who was not believed, for each cause.
#[derive(Debug, Default)]
pub struct AuthFailures([[Counter; Cause::ALL.len()]; Unproven::ALL.len()]);

impl AuthFailures {
    /// Counts one.
    pub fn add(&self, who: Unproven, cause: Cause) {
        self.0[who as usize][cause as usize].add(1);
    }

    /// All numbers.
    pub fn each(&self) -> impl Iterator<Item = (Unproven, Cause, u64)> {
        let all = Unproven::ALL.into_iter().flat_map(|who| Cause::ALL.map(|cause| (who, cause)));
        all.map(|(who, cause)| (who, cause, self.0[who as usize][cause as usize].get()))
    }
}
