//! The API's authentication, for the host's own routes.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use http::Request;
use tower::{Layer, Service};

use super::auth::Authenticator;
use crate::BoxFuture;
use crate::problem::ProblemFormat;

/// Guards the host's own routes with an [`Authenticator`].
///
/// It puts the [`Principal`](crate::Principal) in the request's extensions, for the quota layer and the handlers behind
/// it, and answers in the API's form where there is none. It doesn't ask what the principal may access: what stands
/// behind it knows which workspace a request is about.
///
/// ```
/// use std::sync::Arc;
///
/// use axum::routing::post;
/// use axum::{Extension, Router};
/// use tower_quota::{AuthLayer, Authenticator, Principal, StaticTokens};
///
/// let tokens: Arc<dyn Authenticator> = Arc::new(StaticTokens::builder().member("95d1a1c7", ["acme"]).build()?);
/// let routes: Router = Router::new()
///     .route("/segments", post(|Extension(caller): Extension<Principal>| async move { caller.subject().to_owned() }))
///     .layer(AuthLayer::new(tokens));
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Clone)]
pub struct AuthLayer {
    authenticator: Arc<dyn Authenticator>,
}

impl AuthLayer {
    /// A layer that asks `authenticator`.
    pub fn new(authenticator: impl Authenticator) -> Self {
        Self { authenticator: Arc::new(authenticator) }
    }
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Auth { inner, authenticator: Arc::clone(&self.authenticator) }
    }
}

/// The service that [`AuthLayer`] makes.
#[derive(Clone)]
pub struct Auth<S> {
    inner: S,
    authenticator: Arc<dyn Authenticator>,
}

impl<S: fmt::Debug> fmt::Debug for Auth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Auth<S>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was polled ready is the one to call; its clone is not ready yet and stays behind.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = Arc::clone(&self.authenticator);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match authenticator.authenticate(&parts).await {
                Ok(principal) => {
                    parts.extensions.insert(principal);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(problem) => Ok(problem.to_response(ProblemFormat::negotiate(&parts.headers)).map(Body::from)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Extension, Router};
    use http::{StatusCode, header};
    use tower::ServiceExt;

    use super::*;
    use crate::{Principal, StaticTokens};

    fn routes() -> Router {
        let tokens = StaticTokens::builder().token("t", Principal::member("ann", ["acme"])).build().unwrap();
        let whoami = |Extension(caller): Extension<Principal>| async move { caller.subject().to_owned() };
        Router::new().route("/me", get(whoami)).layer(AuthLayer::new(tokens))
    }

    async fn body_of(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_principal_reaches_the_handler() {
        let request = Request::get("/me").header(header::AUTHORIZATION, "Bearer t").body(Body::empty()).unwrap();
        let response = routes().oneshot(request).await.unwrap();
        assert_eq!(body_of(response).await, "ann");
    }

    #[tokio::test]
    async fn strangers_get_the_contracts_answer() {
        let request = Request::get("/me").header(header::ACCEPT, "application/problem+json").body(Body::empty());
        let response = routes().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(body_of(response).await.contains("UNAUTHENTICATED"));
    }
}
