//! Files of rules, read by the same code that a layer reads them with.

use std::fs;
use std::io::Read;
use std::path::Path;

use http::Request;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tower_quota::{
    Existing, Limit, Match, Operation, ResolvedCharge, ResourceCatalog, ResourceCatalogBuilder, ResourceSpec, RouteMap,
    WorkspaceClaim, WorkspaceFormat,
};

use crate::args::{Routes, Rules};
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Output, Shown, Tone, warn};

pub(super) async fn run(output: Output, routes: Routes) -> Result<Outcome, Failure> {
    match routes {
        Routes::Check { rules } => check(output, &whole(&rules)?, &rules),
        Routes::Explain { rules, method, path, body, headers, claim } => {
            let map = whole(&rules)?;
            let mut request = Request::builder().method(method).uri(&path);
            for header in &headers {
                let (name, value) = header
                    .split_once(':')
                    .ok_or_else(|| Failure::usage(format!("{header:?} is no header: write `name: value`")))?;
                let name = name.trim().parse::<HeaderName>().map_err(|error| wrong_header(header, &error))?;
                let value = value.trim().parse::<HeaderValue>().map_err(|error| wrong_header(header, &error))?;
                request = request.header(name, value);
            }
            let mut request = request.body(()).map_err(|error| {
                Failure::usage(format!("{path:?} is no path: {error}"))
                    .hint("write one such as /api/workspaces/acme/users")
            })?;
            if !path.starts_with('/') {
                return Err(Failure::usage(format!("{path:?} is no path: it begins with /")));
            }
            if let Some(claim) = claim {
                request.extensions_mut().insert(WorkspaceClaim(claim));
            }
            let body = body.as_deref().map(read_body).transpose()?;
            explain(output, &map, request, body.as_deref()).await
        }
    }
}

fn wrong_header(header: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{header:?} is no header: {error}"))
}

fn read_body(written: &str) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    match (written, written.strip_prefix('@')) {
        ("-", _) => std::io::stdin().read_to_end(&mut body).map(drop),
        (_, Some(file)) => fs::read(file).map(|read| body = read),
        (literal, None) => {
            body = literal.into();
            Ok(())
        }
    }
    .map_err(|error| Failure::not_read(&format!("the body {written:?}"), &error))?;
    Ok(body)
}

/// Reads a file of rules by itself, where it declares all types that its rules name; else beside the eight.
fn whole(rules: &Rules) -> Result<RouteMap, Failure> {
    let by_itself = || read(&rules.file, ResourceCatalog::empty()).ok();
    match rules.resources.is_empty().then(by_itself).flatten() {
        Some(map) => Ok(map),
        None => load(&rules.file, &rules.resources),
    }
}

/// Reads a file of rules; `declared` are the types that the program has beside the eight.
pub(super) fn load(file: &Path, declared: &[String]) -> Result<RouteMap, Failure> {
    let mut types = ResourceCatalog::builder();
    for name in declared {
        let mut letters = name.chars();
        let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        // Only the name counts here.
        types = types.resource(ResourceSpec::new(name, format!("max{first}{}", letters.as_str()), Limit::Unlimited));
    }
    read(file, types)
}

/// The same with types that are known.
pub(crate) fn read(file: &Path, types: ResourceCatalogBuilder) -> Result<RouteMap, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::unreadable(file, &error))?;
    let json = file.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("json"));
    let read = if json { RouteMap::with_types_from_json } else { RouteMap::with_types_from_toml };
    read(&text, types).map_err(|error| {
        let failure = Failure::usage(format!("{}, {}", file.display(), error.message()));
        match error.message().contains("unknown resource type") {
            true => failure.hint("a type that the program declares itself is told by `--resource TYPE`"),
            false => failure,
        }
    })
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "create",
        Operation::Upsert => "upsert",
        Operation::Delete => "delete",
        Operation::Restore => "restore",
        Operation::Ignore => "ignore",
        _ => "another",
    }
}

/// The resource types that no rule makes rows of.
pub(super) fn uncreated(map: &RouteMap) -> Vec<&str> {
    let makes = |operation| matches!(operation, Operation::Create | Operation::Upsert | Operation::Restore);
    let made: Vec<_> = map.rules().filter(|rule| makes(rule.operation())).flat_map(|rule| rule.resources()).collect();
    let types = map.catalog().iter();
    types.filter(|of| !made.contains(&of.id())).map(|of| of.name()).collect()
}

fn check(output: Output, map: &RouteMap, rules: &Rules) -> Result<Outcome, Failure> {
    let mut listed = Vec::new();
    for rule in map.rules() {
        let mut resources: Vec<_> = rule.resources().map(|resource| map.catalog().get(resource).name()).collect();
        resources.dedup();
        for (method, path) in map.routes_of(rule) {
            listed.push((rule.name(), operation(rule.operation()), method.as_str(), path, resources.join(", ")));
        }
    }
    let object = |(rule, operation, method, path, resources): &(&str, &str, &str, &str, String)| json!({"rule": rule, "operation": operation, "method": method, "path": path, "resources": resources});
    let missing = uncreated(map);
    let json = json!({"routes": listed.iter().map(object).collect::<Vec<_>>(), "uncreated": missing});
    let mut shown = Shown::table(&json, ["rule", "operation", "method", "path", "resources"])?;
    for (rule, operation, method, path, resources) in &listed {
        shown.row([
            Cell::text(rule),
            Cell::text(operation),
            Cell::text(method),
            Cell::text(path),
            Cell::text(resources),
        ]);
    }
    shown.note(format!("{}: {} rules, {} routes", rules.file.display(), map.rules().len(), listed.len()));
    output.show(&shown)?;
    if !missing.is_empty() {
        warn(&format!("no rule makes rows of {}: what creates those is not limited", missing.join(", ")));
    }
    Ok(Outcome::Done)
}

async fn explain(
    output: Output,
    map: &RouteMap,
    request: Request<()>,
    body: Option<&[u8]>,
) -> Result<Outcome, Failure> {
    let (parts, ()) = request.into_parts();
    let path = parts.uri.path();
    let Some(found) = map.find(&parts.method, path, None) else {
        let strict = map.is_unmapped_create(&parts.method, path, None);
        let mut shown = Shown::table(&json!({"mapped": false, "refusedInStrict": strict}), [])?;
        shown.note(format!("no rule is for {} {path}: it passes, and is charged nothing", parts.method));
        if strict {
            shown.note("in mode `strict` it is refused: it is under a strict prefix, and looks like a creation");
        }
        return output.show(&shown).map(|()| Outcome::Done);
    };
    let rule = found.rule();
    if rule.operation() == Operation::Ignore {
        let mut shown = Shown::table(&json!({"mapped": true, "rule": rule.name(), "operation": "ignore"}), [])?;
        shown.note(format!(
            "rule {:?} exempts it, by its path {}: it passes, and is charged nothing",
            rule.name(),
            found.template()
        ));
        return output.show(&shown).map(|()| Outcome::Done);
    }
    let format = map.workspace_format().unwrap_or(WorkspaceFormat::Verbatim);
    match found.resolve(&parts, body, format).await {
        Ok(resolved) => {
            let charges: Vec<_> = resolved.charges.iter().map(|charge| described(map, charge)).collect();
            let json = json!({
                "mapped": true,
                "rule": rule.name(),
                "operation": operation(rule.operation()),
                "template": found.template(),
                "workspaceId": resolved.workspace.as_str(),
                "charges": charges.iter().map(|(json, _)| json).collect::<Vec<_>>(),
            });
            let mut shown = Shown::fields(
                &json,
                [
                    ("rule", Cell::text(rule.name())),
                    ("because", Cell::text(format!("the rule is for {} {}", parts.method, found.template()))),
                    ("operation", Cell::text(operation(rule.operation()))),
                    ("workspace", Cell::text(resolved.workspace.as_str())),
                ],
            )?;
            for (_, charge) in &charges {
                shown.row([Cell::text("charge"), Cell::text(charge)]);
            }
            if charges.is_empty() {
                shown.row([Cell::text("charge"), Cell::text("nothing")]);
            }
            notes(&mut shown, map, &found, &resolved.charges);
            output.show(&shown).map(|()| Outcome::Done)
        }
        Err(problem) => {
            let json = json!({"mapped": true, "rule": rule.name(), "error": problem.code().as_str(), "message": problem.message()});
            let mut shown = Shown::fields(
                &json,
                [
                    ("rule", Cell::text(rule.name())),
                    ("because", Cell::text(format!("the rule is for {} {}", parts.method, found.template()))),
                    (
                        "answer",
                        Cell::text(format!("{} {}", problem.code().status().as_u16(), problem.code().as_str()))
                            .tone(Tone::Bad),
                    ),
                    ("message", Cell::text(problem.message())),
                ],
            )?;
            shown.note("in every mode but `off` the request is refused so: the rule can't make sense of it");
            output.show(&shown).map(|()| Outcome::Refused)
        }
    }
}

/// A charge, for programs and for people.
fn described(map: &RouteMap, charge: &ResolvedCharge) -> (Value, String) {
    let name = map.catalog().get(charge.resource).name();
    let units = charge.units;
    let mut told = format!("{units} of {name}");
    let existing = match &charge.existing {
        Existing::Row { column, value, uncounted } => {
            let uncounted_too = if *uncounted { ", counted or not," } else { "" };
            told.push_str(&format!(", unless there is a row{uncounted_too} whose {column} is {value:?}"));
            json!({"column": &**column, "values": [value], "uncounted": uncounted})
        }
        Existing::Rows { column, values } => {
            told.push_str(&format!(", less those whose {column} is there: {}", values.join(", ")));
            json!({"column": &**column, "values": values})
        }
        _ => Value::Null,
    };
    if charge.settle_by_count {
        told.push_str(" at most: a count after the response tells");
    }
    let json = json!({
        "resourceType": name, "units": units, "existing": existing, "settledByCount": charge.settle_by_count,
    });
    (json, told)
}

fn notes(shown: &mut Shown, map: &RouteMap, found: &Match<'_>, charges: &[ResolvedCharge]) {
    let rule = found.rule();
    if let Some(late) = rule.late_rows().filter(|_| !charges.is_empty()) {
        shown.note(format!(
            "rows may come up to {} s after the response: until then its units are held",
            late.as_secs()
        ));
    }
    if rule.operation() == Operation::Delete {
        shown.note("it makes no rows: the rows are counted anew after it");
    }
    let mut spared: Vec<_> = rule
        .resources()
        .filter(|resource| charges.iter().all(|charge| charge.resource != *resource))
        .map(|resource| map.catalog().get(resource).name())
        .collect();
    spared.dedup();
    if !spared.is_empty() {
        shown.note(format!("not charged: {}; the body doesn't fulfil what the charge depends on", spared.join(", ")));
    }
}
