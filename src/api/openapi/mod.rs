//! The description of the API in OpenAPI 3.1: made of the routes, of what their handlers take, and of what stands beside
//! each handler in `describe!`. It names the resource types of the catalog that the API is on.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::problem::ErrorCode;
use crate::resource::ResourceCatalog;

pub(in crate::api) mod examples;
mod input;
mod operation;
pub(super) mod page;
pub(in crate::api) mod schema;

pub(super) use operation::Operation;

/// The document, as it is filled by the routes.
pub(super) struct Document {
    paths: Map<String, Value>,
    #[cfg(test)]
    faults: Vec<String>,
}

impl Document {
    pub(super) fn new() -> Self {
        Self {
            paths: Map::new(),
            #[cfg(test)]
            faults: Vec::new(),
        }
    }

    /// Adds the operation that `handler` is, on a path with its parameters in braces.
    pub(super) fn add<T, H: input::Handler<T>>(
        &mut self,
        path: &str,
        method: &str,
        handler: &H,
        describe: fn(&mut Operation),
    ) {
        let mut operation = Operation::new();
        for (_, rest) in path.match_indices('{').map(|(at, _)| path.split_at(at + 1)) {
            let Some((name, _)) = rest.split_once('}') else { continue };
            let (schema, what) = parameter(name);
            operation.parameter("path", name, schema, what);
            if name == "workspaceId" {
                operation.example("acme");
            }
        }
        handler.describe(&mut operation);
        describe(&mut operation);
        #[cfg(test)]
        self.faults.extend(operation.missing().iter().map(|what| format!("{method} {path} has no {what}")));
        let operations = self.paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = operation.finish();
    }

    /// The whole, but for where the API is.
    pub(super) fn finish(self, catalog: &ResourceCatalog) -> Value {
        let mut tags: Vec<&str> = self
            .paths
            .values()
            .filter_map(Value::as_object)
            .flat_map(|operations| operations.values().filter_map(|operation| operation["tags"][0].as_str()))
            .collect();
        tags.sort_unstable();
        tags.dedup();
        let tags: Vec<_> = tags.iter().map(|name| json!({"name": name})).collect();
        json!({
            "openapi": "3.1.1",
            "info": {
                "title": "Quota API",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
            },
            "tags": tags,
            "components": {
                "schemas": schema::components(catalog),
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                "responses": {
                    "MethodNotAllowed": operation::failure(
                        StatusCode::METHOD_NOT_ALLOWED,
                        &[operation::example(ErrorCode::MethodNotAllowed)],
                    ),
                },
            },
            "paths": self.paths,
        })
    }
}

const ABOUT: &str = "Reads and sets the quotas of workspaces, and what they come from.\n\n\
    Every error is `{\"error\", \"message\", \"details\"?}`, with the code in `error`. Where `Accept` names \
    `application/problem+json`, the same object has the members of RFC 9457 too. A path with another method than \
    those listed is answered with 405 `METHOD_NOT_ALLOWED`.\n\n\
    Bodies are JSON objects, whatever `Content-Type` says. A field that is given twice is refused. A quota, a plan or \
    a webhook that was read may be sent back whole to its own path: its read-only fields are passed over.";

/// What a parameter of a path is.
fn parameter(name: &str) -> (Value, &'static str) {
    match name {
        "workspaceId" => (schema::named("WorkspaceId"), "The workspace."),
        "resourceType" => (schema::named("ResourceType"), "The resource type."),
        "id" | "delivery" => (schema::uuid(), "Its id."),
        "name" => (schema::named("PlanName"), "Its name."),
        _ => (schema::text(), ""),
    }
}

#[cfg(test)]
mod tests;
