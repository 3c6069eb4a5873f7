//! Authentication: who makes this request.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, header};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::BoxFuture;
use crate::error::Error;
use crate::principal::Principal;
use crate::problem::{ErrorCode, Problem};

/// Tells who makes a request.
///
/// [`StaticTokens`] and [`TrustExtension`] are ready to use. Another scheme implements this trait, for example over the
/// host's sessions:
///
/// ```
/// use http::request::Parts;
/// use tower_quota::{Authenticator, BoxFuture, ErrorCode, Principal, Problem, bearer_token};
///
/// struct Sessions;
///
/// impl Sessions {
///     async fn owner(&self, token: &str) -> Option<String> {
///         token.strip_prefix("session-of-").map(str::to_owned)
///     }
/// }
///
/// impl Authenticator for Sessions {
///     fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
///         Box::pin(async move {
///             let token = bearer_token(&parts.headers)?;
///             match self.owner(token).await {
///                 Some(workspace) => Ok(Principal::member(workspace.clone(), [workspace])),
///                 None => Err(Problem::new(ErrorCode::Unauthenticated, "the session has ended")),
///             }
///         })
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// The caller; or the answer to give instead, as a rule [`ErrorCode::Unauthenticated`], and
    /// [`ErrorCode::QuotaUnavailable`] where it can't be told now. The answer's message is shown to the caller.
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>>;
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
        (**self).authenticate(parts)
    }
}

/// The token of `Authorization: Bearer <token>` (RFC 6750, 2.1).
///
/// # Errors
///
/// [`ErrorCode::Unauthenticated`] when there is no such header, when there are several (one that an intermediary checked
/// might not be the one that counts here), or when it has another scheme.
pub fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let unauthenticated = |message| Problem::new(ErrorCode::Unauthenticated, message);
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(unauthenticated("authentication is required: send `Authorization: Bearer <token>`"));
    };
    if values.next().is_some() {
        return Err(unauthenticated("there are several `Authorization` headers: send one"));
    }
    let credentials = value.to_str().ok().and_then(|value| value.split_once(' '));
    match credentials {
        // Schemes are compared without regard to case (RFC 9110, 11.1).
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_ascii()),
        _ => Err(unauthenticated("the `Authorization` header is not `Bearer <token>`")),
    }
}

/// Uses the [`Principal`] that the host's own authentication layer left in the request's extensions.
///
/// Whoever can put a principal there is believed, so that the layer must stand in front of the API; without it, every
/// request is answered with 401.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrustExtension;

impl Authenticator for TrustExtension {
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
        let principal = parts.extensions.get::<Principal>().cloned();
        let answer = principal.ok_or_else(|| Problem::new(ErrorCode::Unauthenticated, "authentication is required"));
        Box::pin(std::future::ready(answer))
    }
}

/// A fixed list of bearer tokens.
///
/// A presented token is compared with all of them, in a time that depends neither on where it differs nor on which one it
/// equals. `Debug` shows the callers, never a token.
///
/// ```
/// use tower_quota::StaticTokens;
///
/// # let (root, acme) = ("0f6c2b0e", "95d1a1c7");
/// let tokens = StaticTokens::builder().admin(root).member(acme, ["acme"]).build()?;
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Clone)]
pub struct StaticTokens(Arc<[Entry]>);

struct Entry {
    token: Padded,
    principal: Principal,
}

impl StaticTokens {
    /// The longest token, in bytes.
    pub const MAX_LEN: usize = 512;

    /// No tokens, to be added to.
    pub fn builder() -> StaticTokensBuilder {
        StaticTokensBuilder { tokens: Vec::new() }
    }

    fn principal_of(&self, token: &str) -> Option<&Principal> {
        let presented = Padded::new(token);
        let mut found = Choice::from(0);
        let mut at = 0_u64;
        // No early exit: how long the loop takes tells nothing about the tokens but how many there are.
        for (index, entry) in (0_u64..).zip(self.0.iter()) {
            let equal = entry.token.ct_eq(&presented);
            at.conditional_assign(&index, equal);
            found |= equal;
        }
        if !bool::from(found) {
            return None;
        }
        let entry = self.0.get(usize::try_from(at).ok()?)?;
        Some(&entry.principal)
    }
}

impl Authenticator for StaticTokens {
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
        let answer = bearer_token(&parts.headers).and_then(|token| match self.principal_of(token) {
            Some(principal) => Ok(principal.clone()),
            None => Err(Problem::new(ErrorCode::Unauthenticated, "the token is not valid")),
        });
        Box::pin(std::future::ready(answer))
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.principal)).finish()
    }
}

/// A token in a block of one size, so that comparing two of them takes one time: the usual comparison of slices in
/// constant time gives up at once where lengths differ, and so tells the length of the secret.
struct Padded {
    bytes: [u8; StaticTokens::MAX_LEN],
    // Keeps apart a token and the same with zeros behind it, and what is too long from what it begins with.
    length: u64,
}

impl Padded {
    fn new(token: &str) -> Self {
        let mut bytes = [0; StaticTokens::MAX_LEN];
        for (slot, byte) in bytes.iter_mut().zip(token.bytes()) {
            *slot = byte;
        }
        Self { bytes, length: u64::try_from(token.len()).unwrap_or(u64::MAX) }
    }
}

impl ConstantTimeEq for Padded {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.bytes.ct_eq(&other.bytes) & self.length.ct_eq(&other.length)
    }
}

/// Builds [`StaticTokens`].
#[derive(Clone)]
pub struct StaticTokensBuilder {
    tokens: Vec<(String, Principal)>,
}

impl StaticTokensBuilder {
    /// Adds the token of an admin of all workspaces.
    #[must_use]
    pub fn admin(self, token: impl Into<String>) -> Self {
        let subject = self.next_subject();
        self.token(token, Principal::admin(subject))
    }

    /// Adds the token of an admin of the workspaces with these ids, in their canonical form.
    #[must_use]
    pub fn admin_of<I>(self, token: impl Into<String>, workspaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let subject = self.next_subject();
        self.token(token, Principal::admin_of(subject, workspaces))
    }

    /// Adds the token of a member of the workspaces with these ids, in their canonical form.
    #[must_use]
    pub fn member<I>(self, token: impl Into<String>, workspaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let subject = self.next_subject();
        self.token(token, Principal::member(subject, workspaces))
    }

    /// Adds the token of `principal`: for subjects that logs can tell apart by name.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>, principal: Principal) -> Self {
        self.tokens.push((token.into(), principal));
        self
    }

    /// What logs call a token that was given no name: its place in the list, from 1.
    fn next_subject(&self) -> String {
        format!("token {}", self.tokens.len() + 1)
    }

    /// Checks the tokens and builds the list.
    ///
    /// # Errors
    ///
    /// When a token is empty, longer than [`StaticTokens::MAX_LEN`], given twice, or has anything but visible ASCII
    /// letters, which no client could send. The message names its place in the list, never the token.
    pub fn build(self) -> Result<StaticTokens, Error> {
        let mut seen = HashSet::new();
        for (place, (token, _)) in (1..).zip(&self.tokens) {
            let refuse = |why: &str| Err(Error::config(format!("the API token in place {place} {why}")));
            if token.is_empty() {
                return refuse("is empty");
            }
            if token.len() > StaticTokens::MAX_LEN {
                return refuse(&format!("is longer than {} bytes", StaticTokens::MAX_LEN));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return refuse("has a space or another byte that is not visible ASCII");
            }
            if !seen.insert(token) {
                return refuse("was given before");
            }
        }
        let entries = self
            .tokens
            .iter()
            .map(|(token, principal)| Entry { token: Padded::new(token), principal: principal.clone() });
        Ok(StaticTokens(entries.collect()))
    }
}

impl fmt::Debug for StaticTokensBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tokens.iter().map(|(_, principal)| principal)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request};

    fn parts(values: &[&'static str]) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        for value in values {
            parts.headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        parts
    }

    fn tokens() -> StaticTokens {
        StaticTokens::builder()
            .admin("root-token")
            .member("acme-token", ["acme"])
            .admin_of("boss-token", ["acme"])
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn the_scheme_is_read_without_regard_to_case() {
        for value in ["Bearer root-token", "bearer root-token", "BEARER  root-token"] {
            let principal = tokens().authenticate(&parts(&[value])).await.unwrap();
            assert!(principal.is_operator(), "{value}");
        }
        let member = tokens().authenticate(&parts(&["Bearer acme-token"])).await.unwrap();
        assert!(!member.is_admin() && member.may_access("acme"));
        let boss = tokens().authenticate(&parts(&["Bearer boss-token"])).await.unwrap();
        assert!(boss.is_admin() && !boss.is_operator() && boss.subject() == "token 3");
    }

    #[tokio::test]
    async fn anything_else_is_unauthenticated() {
        let refused: [&[&'static str]; 10] = [
            &[],
            &["root-token"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer root-toke"],
            &["Bearer root-token-and-more"],
            &["Bearer Root-Token"],
            &["Basic root-token"],
            &["Bearer root-token, Bearer acme-token"],
            &["Bearer root-token", "Bearer root-token"],
        ];
        for values in refused {
            let problem = tokens().authenticate(&parts(values)).await.unwrap_err();
            assert_eq!(problem.code(), ErrorCode::Unauthenticated, "{values:?}");
            assert!(!problem.message().contains("root-token"));
        }
    }

    #[test]
    fn padding_and_cutting_make_no_two_tokens_equal() {
        let longest = "x".repeat(StaticTokens::MAX_LEN);
        let tokens = StaticTokens::builder().admin(longest.clone()).admin("short").build().unwrap();
        assert!(tokens.principal_of(&longest).is_some());
        assert!(tokens.principal_of(&format!("{longest}x")).is_none());
        assert!(tokens.principal_of("short").is_some());
        assert!(tokens.principal_of("short\0").is_none());
        assert!(tokens.principal_of("").is_none());
    }

    #[test]
    fn a_list_without_tokens_lets_nobody_in() {
        assert!(StaticTokens::builder().build().unwrap().principal_of("").is_none());
    }

    #[test]
    fn bad_tokens_are_build_errors_that_do_not_show_them() {
        let too_long = "x".repeat(StaticTokens::MAX_LEN + 1);
        for bad in ["", " ", "se cret", "sécret", "se\ncret", too_long.as_str(), "twice"] {
            let build = StaticTokens::builder().admin("twice").member(bad, ["acme"]).build();
            let error = build.unwrap_err();
            assert!(error.is_config() && error.message().contains("place 2"), "{bad:?}: {error}");
            assert!(!error.message().contains("cret") && !error.message().contains("twice"));
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let builder = StaticTokens::builder().token("s3cr3t", Principal::admin("root"));
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(shown.contains("root") && !shown.contains("s3cr3t"));
    }

    #[tokio::test]
    async fn an_extension_is_trusted_and_its_absence_is_not() {
        let mut parts = parts(&["Bearer root-token"]);
        let problem = TrustExtension.authenticate(&parts).await.unwrap_err();
        assert_eq!(problem.code(), ErrorCode::Unauthenticated);
        parts.extensions.insert(Principal::admin("root"));
        assert_eq!(TrustExtension.authenticate(&parts).await.unwrap().subject(), "root");
    }
}
