//! Who makes a request, and what they may see and change.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What a principal may do in the workspaces that are open to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads quotas and changes them.
    Admin,
    /// Reads quotas.
    Member,
}

/// Which workspaces are open to a principal. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workspaces {
    /// All of them.
    All,
    /// Those in the set and no other; none at all where it is empty.
    Only(Arc<BTreeSet<String>>),
}

impl Workspaces {
    /// The workspaces with these ids, in their canonical form (see [`WorkspaceFormat`](crate::WorkspaceFormat)): an id
    /// in another spelling opens nothing.
    pub fn only<I>(ids: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::Only(Arc::new(ids.into_iter().map(Into::into).collect()))
    }

    /// Whether `workspace`, in its canonical form, is one of them.
    pub fn contains(&self, workspace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(workspace),
        }
    }
}

/// An authenticated caller.
///
/// It is what an authentication layer leaves in the extensions of a request, for all that comes behind it. Cloning is
/// cheap.
///
/// ```
/// use tower_quota::Principal;
///
/// let support = Principal::member("support", ["acme"]);
/// assert!(support.may_access("acme") && !support.may_access("globex"));
/// assert!(!support.is_admin());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    subject: Arc<str>,
    role: Role,
    workspaces: Workspaces,
}

impl Principal {
    /// A caller that logs know as `subject`.
    pub fn new(subject: impl Into<Arc<str>>, role: Role, workspaces: Workspaces) -> Self {
        Self { subject: subject.into(), role, workspaces }
    }

    /// An admin of all workspaces.
    pub fn admin(subject: impl Into<Arc<str>>) -> Self {
        Self::new(subject, Role::Admin, Workspaces::All)
    }

    /// An admin of the workspaces with these ids, in their canonical form.
    pub fn admin_of<I>(subject: impl Into<Arc<str>>, workspaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::new(subject, Role::Admin, Workspaces::only(workspaces))
    }

    /// A member of the workspaces with these ids, in their canonical form.
    pub fn member<I>(subject: impl Into<Arc<str>>, workspaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::new(subject, Role::Member, Workspaces::only(workspaces))
    }

    /// What logs call the caller.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What the caller may do.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where the caller may do it.
    pub fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    /// Whether `workspace`, in its canonical form, is open to the caller.
    pub fn may_access(&self, workspace: &str) -> bool {
        self.workspaces.contains(workspace)
    }

    /// Whether the caller may change quotas of the workspaces that are open to it.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether the caller may change what all workspaces share, such as the enforcement mode: an admin of one workspace
    /// must not be able to switch off the limits of another.
    pub fn is_operator(&self) -> bool {
        self.is_admin() && self.workspaces == Workspaces::All
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_set_opens_nothing() {
        let nobody = Principal::member("nobody", Vec::<String>::new());
        assert!(!nobody.may_access("acme") && !nobody.may_access(""));
    }

    #[test]
    fn an_admin_of_one_workspace_is_no_operator() {
        assert!(Principal::admin("root").is_operator());
        let local = Principal::admin_of("local", ["acme"]);
        assert!(local.is_admin() && !local.is_operator() && !local.may_access("globex"));
        assert!(!Principal::new("reader", Role::Member, Workspaces::All).is_operator());
    }
}
