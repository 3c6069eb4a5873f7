//! What extractors say of the operations whose handlers have them: callers, parameters, bodies, and how they refuse.

use axum::extract::{OriginalUri, State};

use super::operation::Operation;
use super::schema::{flag, text};
use crate::api::Api;
use crate::api::dto::Object;
#[cfg(feature = "webhooks")]
use crate::api::extract::NamedTwice;
use crate::api::extract::{Admin, Caller, DryRun, Explain, IfMatch, MaybeEmpty, Named, Operator, Pairs, Reader, Soft};
use crate::problem::ErrorCode::{
    InsufficientPermissions, InvalidRequest, PayloadTooLarge, PreconditionFailed, QuotaNotFound, QuotaUnavailable,
    Unauthenticated,
};

/// An argument of a handler.
pub(super) trait Input {
    fn describe(operation: &mut Operation);
}

/// A handler, by the types of its arguments.
pub(in crate::api) trait Handler<Arguments> {
    fn describe(&self, operation: &mut Operation);
}

macro_rules! handlers {
    ($(($($argument:ident),*))+) => {
        $(
            impl<F, Answer, $($argument: Input),*> Handler<($($argument,)*)> for F
            where
                F: Fn($($argument),*) -> Answer,
            {
                fn describe(&self, operation: &mut Operation) {
                    let _ = &operation;
                    $($argument::describe(operation);)*
                }
            }
        )+
    };
}

handlers!(()(A)(A, B)(A, B, C)(A, B, C, D)(A, B, C, D, E)(A, B, C, D, E, G));

impl Input for State<Api> {
    fn describe(_: &mut Operation) {}
}

impl Input for OriginalUri {
    fn describe(_: &mut Operation) {}
}

impl Input for Caller {
    fn describe(operation: &mut Operation) {
        operation.needs_token().fails(&[Unauthenticated, QuotaUnavailable]);
    }
}

impl Input for Reader {
    fn describe(operation: &mut Operation) {
        Caller::describe(operation);
        operation.fails(&[InvalidRequest, InsufficientPermissions, QuotaNotFound]);
    }
}

impl Input for Admin {
    fn describe(operation: &mut Operation) {
        Reader::describe(operation);
    }
}

impl Input for Operator {
    fn describe(operation: &mut Operation) {
        Caller::describe(operation);
        operation.fails(&[InsufficientPermissions]);
    }
}

impl Input for Named {
    fn describe(operation: &mut Operation) {
        operation.fails(&[InvalidRequest]);
    }
}

#[cfg(feature = "webhooks")]
impl Input for NamedTwice {
    fn describe(operation: &mut Operation) {
        Named::describe(operation);
    }
}

impl Input for IfMatch {
    fn describe(operation: &mut Operation) {
        let what = "Entity tags as they came in `ETag`, or `*`: without one that is current, nothing is changed.";
        operation
            .parameter("header", "If-Match", text(), what)
            .example("*")
            .fails(&[InvalidRequest, PreconditionFailed]);
    }
}

/// Which they are, the handler's description tells.
impl Input for Pairs {
    fn describe(operation: &mut Operation) {
        operation.reads_query().fails(&[InvalidRequest]);
    }
}

impl Input for Soft {
    fn describe(operation: &mut Operation) {
        Pairs::describe(operation);
        operation.query("soft", flag(), "A refusal is told by `allowed` in an answer with status 200.");
    }
}

impl Input for Explain {
    fn describe(operation: &mut Operation) {
        Pairs::describe(operation);
        operation.query("explain", flag(), "Tells for each resource type where its limit comes from.");
    }
}

impl Input for DryRun {
    fn describe(operation: &mut Operation) {
        Pairs::describe(operation);
        operation.query("dryRun", flag(), "Tells what would be corrected, and changes nothing.");
    }
}

impl Input for Object {
    fn describe(operation: &mut Operation) {
        operation.reads_body(true).fails(&[InvalidRequest, PayloadTooLarge]);
    }
}

impl Input for MaybeEmpty {
    fn describe(operation: &mut Operation) {
        Object::describe(operation);
        operation.reads_body(false);
    }
}
