//! Decisions for somebody else, who forwards the requests that pass, and never tells how they ended.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;

use super::answer;
use super::request_body::{BodyMode, sealed};
use super::service::{QuotaLayer, Triage};
use crate::body;
use crate::error::Error;
use crate::problem::Problem;
use crate::rules::MappedRule;

/// What has been handed on of a request's body.
#[derive(Debug)]
pub(crate) enum Handed {
    /// All of it.
    Whole(Bytes),
    /// Not all, or changed: what to answer where a rule needs it.
    Unread(Problem),
}

impl sealed::Sealed for Handed {}

impl BodyMode<Self> for Handed {
    type Body = ();

    fn pass(_body: Self) {}

    fn pass_request(request: Request<Self>) -> Request<()> {
        request.map(Self::pass)
    }

    async fn read(body: Self, cap: usize) -> Result<(Bytes, ()), Problem> {
        match body {
            Self::Whole(data) => Ok((body::read(Full::new(data), cap).await?.to_bytes(), ())),
            Self::Unread(problem) => {
                tracing::warn!(problem = problem.message(), "a rule needs a body that is not here: refused");
                Err(problem)
            }
        }
    }
}

impl<M> QuotaLayer<M> {
    /// Checks that it can decide about requests that are served elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when units would be settled before their request is done, and when a rule goes by what only
    /// the host's own code can put into a request.
    pub(crate) fn decides_for_others(&self) -> Result<(), Error> {
        if let Some(rule) = self.rules().find(|rule| rule.needs_extension()) {
            return Err(Error::config(format!(
                "rule {:?} takes the workspace from an extension of the request, which a proxy can't hand on: name another \
                 source, such as a header that the proxy sets",
                rule.name()
            )));
        }
        self.shared.quota.0.settles_elsewhere()
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &MappedRule> {
        self.shared.routes.rules()
    }

    /// Decides about a request that somebody else forwards. One that passes answers with the headers that its response is
    /// to have, and its units are settled as those of any request whose outcome nobody told.
    ///
    /// # Errors
    ///
    /// The response to give instead of forwarding it.
    pub(crate) async fn ask<R, B>(&self, request: Request<B>) -> Result<HeaderMap, Response<Bytes>>
    where
        R: BodyMode<B>,
    {
        let pending = match self.shared.triage(&request) {
            Triage::Pass => return Ok(HeaderMap::new()),
            Triage::Answer(problem) => return Err(answer::problem(&problem, request.headers())),
            Triage::Admitted(pending) => pending,
            Triage::Decide => {
                let (parts, body) = request.into_parts();
                let (_, mut pending) = self.shared.decide::<R, B>(parts, body).await?;
                pending.begin();
                pending
            }
        };
        Ok(pending.leave())
    }
}
