//! The description of one operation.

#![expect(clippy::needless_pass_by_value, reason = "descriptions are made in place")]

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::schema::named;
use crate::problem::{ErrorCode, Problem, ProblemFormat};

/// What the document says of one operation. Extractors have their say first: see [`Input`](super::input::Input). What
/// they can't know, the handler's `describe!` adds.
pub(in crate::api) struct Operation {
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    about: Option<&'static str>,
    bearer: bool,
    query: bool,
    parameters: Vec<Value>,
    body: Body,
    answers: Map<String, Value>,
    errors: BTreeMap<StatusCode, Vec<Problem>>,
}

/// What an operation reads.
enum Body {
    None,
    /// A JSON object, which has to be described.
    Undescribed {
        required: bool,
    },
    Described(Value),
}

impl Operation {
    pub(super) fn new() -> Self {
        Self {
            id: "",
            tag: "",
            summary: "",
            about: None,
            bearer: false,
            query: false,
            parameters: Vec::new(),
            body: Body::None,
            answers: Map::new(),
            errors: BTreeMap::new(),
        }
    }

    /// By which name programs know it, to which group it belongs, and what it does.
    pub(in crate::api) fn is(&mut self, id: &'static str, tag: &'static str, summary: &'static str) -> &mut Self {
        (self.id, self.tag, self.summary) = (id, tag, summary);
        self
    }

    /// More than its summary says.
    pub(in crate::api) fn about(&mut self, about: &'static str) -> &mut Self {
        self.about = Some(about);
        self
    }

    /// What the query may have.
    pub(in crate::api) fn query(&mut self, name: &str, schema: Value, what: &str) -> &mut Self {
        self.parameter("query", name, schema, what)
    }

    pub(super) fn parameter(&mut self, place: &str, name: &str, schema: Value, what: &str) -> &mut Self {
        self.parameters.push(json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "description": what,
            "schema": schema,
        }));
        self
    }

    /// Of the parameter that was described last.
    pub(super) fn example(&mut self, example: &str) -> &mut Self {
        if let Some(parameter) = self.parameters.last_mut() {
            parameter["example"] = example.into();
        }
        self
    }

    pub(super) fn needs_token(&mut self) -> &mut Self {
        self.bearer = true;
        self
    }

    pub(super) fn reads_query(&mut self) -> &mut Self {
        self.query = true;
        self
    }

    pub(super) fn reads_body(&mut self, required: bool) -> &mut Self {
        self.body = Body::Undescribed { required };
        self
    }

    /// What the body is.
    pub(in crate::api) fn takes(&mut self, schema: Value, example: Value) -> &mut Self {
        // Only who reads a body takes one.
        if let Body::Undescribed { required } = self.body {
            let content = json!({"schema": schema, "example": example});
            self.body = Body::Described(json!({"required": required, "content": {"application/json": content}}));
        }
        self
    }

    /// What comes when all goes well.
    pub(in crate::api) fn answers(
        &mut self,
        status: StatusCode,
        what: &str,
        schema: Value,
        example: Value,
    ) -> &mut Self {
        let content = json!({"application/json": {"schema": schema, "example": example}});
        self.answers.insert(status.as_str().to_owned(), json!({"description": what, "content": content}));
        self
    }

    /// The same as something other than JSON.
    pub(super) fn answers_with(&mut self, media_type: &str, what: &str) -> &mut Self {
        let content = json!({media_type: {"schema": {"type": "string"}}});
        self.answers.insert("200".into(), json!({"description": what, "content": content}));
        self
    }

    /// The same as text, where the client asks for it.
    #[cfg(feature = "insight")]
    pub(in crate::api) fn or_text(&mut self, media_type: &str) -> &mut Self {
        for answer in self.answers.values_mut() {
            answer["content"][media_type] = json!({"schema": {"type": "string"}});
        }
        self
    }

    /// What was described last has an `ETag`.
    pub(in crate::api) fn tagged(&mut self) -> &mut Self {
        for answer in self.answers.values_mut() {
            answer["headers"]["ETag"] = json!({
                "description": "The version of the record, to be sent back in `If-Match`.",
                "required": true,
                "schema": {"type": "string", "pattern": "^\"[0-9]+\"$"},
                "example": "\"7\"",
            });
        }
        self
    }

    /// What can be done with what it answers: operations on the same workspace, if any, whose `parameter` is what
    /// `pointer` points at.
    pub(in crate::api) fn leads_to(&mut self, operations: &[&str], parameter: &str, pointer: &str) -> &mut Self {
        let mut parameters = Map::new();
        for inherited in self.parameters.iter().filter(|parameter| parameter["in"] == "path") {
            let name = inherited["name"].as_str().unwrap_or_default();
            parameters.insert(name.to_owned(), format!("$request.path.{name}").into());
        }
        parameters.insert(parameter.to_owned(), format!("$response.body#{pointer}").into());
        for answer in self.answers.values_mut() {
            for operation in operations {
                answer["links"][*operation] = json!({"operationId": operation, "parameters": parameters});
            }
        }
        self
    }

    /// How it may fail, beside what its extractors refuse.
    pub(in crate::api) fn fails(&mut self, codes: &[ErrorCode]) -> &mut Self {
        for code in codes {
            let same = self.errors.entry(code.status()).or_default();
            if same.iter().all(|problem| problem.code() != *code) {
                same.push(example(*code));
            }
        }
        self
    }

    /// The same for one code, with an example of its own.
    pub(in crate::api) fn fails_as(&mut self, code: ErrorCode, message: &str) -> &mut Self {
        let same = self.errors.entry(code.status()).or_default();
        let problem = Problem::new(code, message);
        match same.iter_mut().find(|problem| problem.code() == code) {
            Some(usual) => *usual = problem,
            None => same.push(problem),
        }
        self
    }

    /// As the document has it.
    pub(super) fn finish(self) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "responses": self.answers,
        });
        if let Some(about) = self.about {
            operation["description"] = about.into();
        }
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if let Body::Described(body) = self.body {
            operation["requestBody"] = body;
        }
        operation["security"] = if self.bearer { json!([{"bearer": []}]) } else { json!([]) };
        for (status, problems) in self.errors {
            operation["responses"][status.as_str()] = failure(status, &problems);
        }
        operation
    }
}

/// The answers with one status of failure, of which these are examples: one of each code.
pub(super) fn failure(status: StatusCode, problems: &[Problem]) -> Value {
    let content = |schema: &str, format| {
        let names: Vec<_> = problems.iter().map(|problem| problem.code().as_str()).collect();
        let example = |problem: &Problem| {
            let value = serde_json::from_str::<Value>(&problem.to_json(format)).unwrap_or_default();
            (problem.code().as_str().to_owned(), json!({"value": value}))
        };
        let mut schema = named(schema);
        schema["properties"] = json!({"error": {"enum": names}});
        json!({"schema": schema, "examples": problems.iter().map(example).collect::<Map<_, _>>()})
    };
    let titles: Vec<_> = problems.iter().map(|problem| format!("`{}`", problem.code().as_str())).collect();
    let mut failure = json!({
        "description": titles.join(", "),
        "content": {
            "application/json": content("Problem", ProblemFormat::Json),
            "application/problem+json": content("ProblemDetails", ProblemFormat::ProblemJson),
        },
    });
    let seconds = |what, required| {
        let schema = json!({"type": "integer", "minimum": 1});
        json!({"description": what, "required": required, "schema": schema})
    };
    match status {
        StatusCode::UNAUTHORIZED => {
            failure["headers"]["WWW-Authenticate"] = json!({
                "description": "The scheme that is wanted.",
                "required": true,
                "schema": {"const": "Bearer"},
            });
        }
        StatusCode::TOO_MANY_REQUESTS => {
            failure["headers"]["Retry-After"] =
                seconds("Seconds to wait, where only requests still in flight stand in the way.", false);
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            failure["headers"]["Retry-After"] = seconds("Seconds to wait.", true);
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            failure["headers"]["Allow"] = json!({
                "description": "The methods that the path has.",
                "required": true,
                "schema": {"type": "string"},
            });
        }
        _ => {}
    }
    failure
}

/// How an operation usually fails with a code.
pub(super) fn example(code: ErrorCode) -> Problem {
    let message = match code {
        ErrorCode::QuotaExceeded => {
            return Problem::new(code, "Segment quota exceeded").with_details(json!({
                "resourceType": "segments", "currentUsage": 50, "limit": 50, "requested": 5, "remaining": 0,
            }));
        }
        ErrorCode::QuotaNotFound => "workspace acme has no quota record: set its limits to make one",
        ErrorCode::InvalidResourceType => "unknown resource type \"widgets\": write one of users, segments",
        ErrorCode::InsufficientPermissions => "this workspace is not open to the caller",
        ErrorCode::Unauthenticated => "the token is not valid",
        ErrorCode::InvalidRequest => "the field \"maxUsers\" is given twice",
        ErrorCode::WorkspaceMismatch => {
            "`workspaceId` names another workspace than the path: send the quota to its own path"
        }
        ErrorCode::PreconditionFailed => "the quota record has another version: read it again",
        ErrorCode::PayloadTooLarge => "the body is too large: at most 65536 bytes are read here",
        ErrorCode::NotFound => "there is nothing with this id",
        ErrorCode::MethodNotAllowed => "the path has no such method; `Allow` lists those it has",
        ErrorCode::QuotaUnavailable => "the quota can't be checked now; try again",
        ErrorCode::RequestTimeout => "the body has not come in time: send it without pauses",
        ErrorCode::BadGateway => "the server behind this gateway can't be reached; try again",
        ErrorCode::ServiceUnavailable => "the server behind this gateway is down; try again later",
        ErrorCode::GatewayTimeout => "the server behind this gateway has not answered in time",
    };
    Problem::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Operation {
        /// What is missing in the description.
        pub(in crate::api::openapi) fn missing(&self) -> Vec<&'static str> {
            let has_query = self.parameters.iter().any(|parameter| parameter["in"] == "query");
            let missing = [
                ("a name", self.id.is_empty() || self.tag.is_empty() || self.summary.is_empty()),
                ("an answer", self.answers.is_empty()),
                ("a body", matches!(self.body, Body::Undescribed { .. })),
                ("a query", self.query != has_query),
            ];
            missing.into_iter().filter_map(|(what, is)| is.then_some(what)).collect()
        }
    }
}
