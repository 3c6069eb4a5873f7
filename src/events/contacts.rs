//! Who is written to.

use std::future::Future;

use crate::BoxFuture;
use crate::error::Error;
use crate::workspace::WorkspaceId;

/// Knows the e-mail addresses of the admins of a workspace.
///
/// A closure will do:
///
/// ```
/// use tower_quota::{AdminContacts, Error, WorkspaceFormat, WorkspaceId};
///
/// fn contacts() -> impl AdminContacts {
///     |workspace: WorkspaceId| async move { Ok::<_, Error>(vec![format!("admin@{workspace}.example")]) }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(contacts().emails(&acme).await?, ["admin@acme.example"]);
/// # Ok(())
/// # }
/// ```
pub trait AdminContacts: Send + Sync {
    /// The addresses, such as `ada@example.com` or `Ada <ada@example.com>`; none where nobody is to be written to. An error
    /// puts the notice off, and so do addresses none of which is one; with others, what is none is logged and left out.
    fn emails<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<String>, Error>>;
}

impl<F, Fut> AdminContacts for F
where
    F: Fn(WorkspaceId) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Vec<String>, Error>> + Send + 'static,
{
    fn emails<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(self(workspace.clone()))
    }
}
