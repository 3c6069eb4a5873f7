//! Route maps on arbitrary requests, and on arbitrary files.
//!
//! The first byte of the input chooses. `0`: what follows is a request, written as in HTTP/1 with bare line feeds.
//! `1` and `2`: it is a map in TOML or in JSON. Other bytes count modulo 3, so that every input is one of them.

#![no_main]

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::{Corpus, fuzz_target};
use tower_quota::{
    Amount, Charge, Decoding, Error, Existing, Match, Operation, PathReading, Predicate, Probe, Problem, Resolved,
    ResourceCatalog, ResourceCatalogBuilder, RouteMap, Rule, WorkspaceClaim, WorkspaceFormat, WorkspaceSource,
};

/// A rule of both maps, and beside it what [`is_path_of`] needs to tell its requests without the map.
struct Route {
    name: &'static str,
    method: Method,
    templates: &'static [&'static str],
    complete: fn(Rule) -> Rule,
}

static ROUTES: [Route; 10] = [
    Route {
        name: "path-only",
        method: Method::POST,
        templates: &["/api/{ws}/segments", "/api/admin/{ws}/segments"],
        complete: |rule| rule.workspace(WorkspaceSource::path("ws")).charge(Charge::of("segments")),
    },
    Route {
        name: "several-charges",
        method: Method::POST,
        templates: &["/api/v1-{ws}/imports/{*rest}"],
        complete: |rule| {
            rule.workspace(WorkspaceSource::path("ws"))
                .charge(Charge::of("users").amount(Amount::AtMost(100)))
                .charge(Charge::of("audiences").amount(Amount::Constant(2)))
                .charge(Charge::of("segments"))
                .charge(Charge::of("segments").amount(Amount::Constant(u64::MAX)))
        },
    },
    Route {
        name: "upsert",
        method: Method::PUT,
        templates: &["/api/segments", "/api/segments/{id}"],
        complete: |rule| {
            rule.operation(Operation::Upsert).charge(
                Charge::of("segments")
                    .when(Predicate::not_equals("/type", "Internal"))
                    .probe(Probe::body("/id", "id"))
                    .probe(Probe::query("id", "id"))
                    .probe(Probe::body("/name", "name")),
            )
        },
    },
    Route {
        name: "restore",
        method: Method::PATCH,
        templates: &["/api/journeys/{id}"],
        complete: |rule| {
            rule.operation(Operation::Restore).charge(
                Charge::of("journeys").when(Predicate::equals("/archived", false)).probe(Probe::path("id", "id")),
            )
        },
    },
    Route {
        name: "chosen",
        method: Method::POST,
        templates: &["/api/resources/duplicate"],
        complete: |rule| {
            rule.charge(Charge::chosen_by("/type", [("Segment", "segments"), ("Journey", "journeys")]))
                .charge(Charge::of("users").amount(Amount::length("/users")).when(Predicate::present("/users")))
        },
    },
    Route {
        name: "batch",
        method: Method::POST,
        templates: &["/api/batch"],
        complete: |rule| {
            rule.charge(Charge::of("users").amount(Amount::distinct_unknown("/batch", ["/userId"], "id")))
                .charge(Charge::of("audiences").amount(Amount::distinct("/batch", ["/audience"])))
                .charge(
                    Charge::of("users")
                        .when_each(Predicate::equals("/type", "group"))
                        .amount(Amount::distinct_unknown("/batch", ["/groupId"], "id")),
                )
        },
    },
    Route {
        name: "upload",
        method: Method::POST,
        templates: &["/api/upload"],
        complete: |rule| {
            rule.workspace(WorkspaceSource::header(WORKSPACE_HEADER))
                .late_rows(Duration::from_secs(10))
                .charge(Charge::of("users").amount(Amount::LinesAfter(2)))
        },
    },
    Route {
        name: "group",
        method: Method::PUT,
        templates: &["/api/groups"],
        complete: |rule| {
            rule.operation(Operation::Upsert)
                .charge(Charge::of("users").probe(Probe::body("/id", "id").uuid().or_uncounted()))
                .charge(Charge::of("users").probe(Probe::body("/groupId", "id")))
        },
    },
    Route {
        name: "grpc",
        method: Method::POST,
        templates: &["/shop.v1.Segments/Create"],
        complete: |rule| {
            rule.workspace(WorkspaceSource::Extension)
                .workspace(WorkspaceSource::header(WORKSPACE_HEADER))
                .charge(Charge::of("segments"))
        },
    },
    Route {
        name: "delete",
        method: Method::DELETE,
        templates: &["/api/{ws}/segments/{id}"],
        complete: |rule| {
            rule.operation(Operation::Delete).workspace(WorkspaceSource::path("ws")).charge(Charge::of("segments"))
        },
    },
];

const WORKSPACE_HEADER: HeaderName = HeaderName::from_static("x-workspace-id");
/// Stands for an authentication layer that vouches for the workspace.
const CLAIM_HEADER: &str = "x-claim";

struct Maps {
    raw: RouteMap,
    /// For a router that does all that there is beside decoding.
    decoded: RouteMap,
    /// For a router that decodes the whole path before it splits it, and nothing beside that.
    whole: RouteMap,
    /// For a router that does all of it.
    all: RouteMap,
}

static MAPS: LazyLock<Maps> = LazyLock::new(|| {
    let decoding = Decoding::new()
        .semicolon(true)
        .merge_slashes(true)
        .ignore_case(true)
        .ignore_trailing_slash(true)
        .dot_segments(true);
    Maps {
        raw: map(PathReading::Raw),
        decoded: map(PathReading::Decoded(decoding)),
        whole: map(PathReading::Decoded(Decoding::new().encoded_slash(true))),
        all: map(PathReading::Decoded(decoding.encoded_slash(true))),
    }
});

fn map(reading: PathReading) -> RouteMap {
    let builder = RouteMap::builder(&ResourceCatalog::default())
        .path_reading(reading)
        .strict_prefix("/api")
        .workspace(WorkspaceSource::header(WORKSPACE_HEADER))
        .workspace(WorkspaceSource::query("workspaceId"))
        .workspace(WorkspaceSource::body("/workspaceId"));
    let builder = ROUTES.iter().fold(builder, |builder, route| {
        let (first, others) = route.templates.split_first().expect("a route has a template");
        let rule = Rule::new(route.name, route.method.clone(), *first);
        builder.rule((route.complete)(others.iter().fold(rule, |rule, template| rule.path(*template))))
    });
    builder.build().expect("the routes are a map")
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((choice, rest)) = input.split_first() else { return Corpus::Reject };
    match choice % 3 {
        0 => request(rest),
        1 => file(rest, RouteMap::with_types_from_toml, RouteMap::from_toml),
        _ => file(rest, RouteMap::with_types_from_json, RouteMap::from_json),
    }
});

/// A map from a file is an error or a map that can be asked, whatever stands in the file.
///
/// One that declares types makes the same map again of the catalog that it has made.
fn file(
    text: &[u8],
    declare: fn(&str, ResourceCatalogBuilder) -> Result<RouteMap, Error>,
    read: fn(&str, &ResourceCatalog) -> Result<RouteMap, Error>,
) -> Corpus {
    let Ok(text) = str::from_utf8(text) else { return Corpus::Reject };
    match declare(text, ResourceCatalog::builder()) {
        Ok(map) => {
            let _ = map.find(&Method::POST, "/api/acme/segments", None);
            let again = read(text, map.catalog()).expect("the catalog has the types of the file");
            assert_eq!(format!("{map:?}"), format!("{again:?}"));
            let without = read(text, &ResourceCatalog::default());
            assert_eq!(without.is_ok(), map.catalog().len() == ResourceCatalog::default().len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Corpus::Keep
}

fn request(input: &[u8]) -> Corpus {
    let Some((parts, path, body)) = parse(input) else { return Corpus::Reject };
    let path = path.as_str();
    let Maps { raw, decoded, whole, all } = &*MAPS;

    let is_mapped = |path: &str| {
        let takes = |route: &Route| route.templates.iter().any(|template| is_path_of(template, path));
        ROUTES.iter().any(|route| route.method == parts.method && takes(route))
    };
    let expected = is_mapped(path);
    assert_eq!(raw.find(&parts.method, path, None).is_some(), expected, "{} {path:?}", parts.method);
    assert_eq!(
        whole.find(&parts.method, path, None).is_some(),
        is_mapped(&unescape(path)),
        "{} {path:?}",
        parts.method
    );
    if expected && is_plain(path) {
        let (tidied, split) = (disguised(path, "//"), disguised(path, "/%2F"));
        for (map, path) in [(decoded, path), (decoded, &tidied), (all, path), (all, &tidied), (all, &split)] {
            assert!(map.find(&parts.method, path, None).is_some(), "{} {path:?} goes past the map", parts.method);
        }
    }

    for map in [raw, decoded, whole, all] {
        let found = map.find(&parts.method, path, None);
        assert!(found.is_none() || map.maps(&parts.method));
        // No rule is for this route, and it leads to whatever there is.
        assert_eq!(map.find(&parts.method, path, Some("/{*path}")).is_some(), found.is_some());
        if let Some(found) = found {
            assert!(!map.is_unmapped_create(&parts.method, path, None));
            check(&found, &parts, body);
        } else {
            let _ = map.is_unmapped_create(&parts.method, path, None);
        }
    }
    Corpus::Keep
}

fn check(found: &Match<'_>, parts: &Parts, body: &[u8]) {
    for format in [WorkspaceFormat::Verbatim, WorkspaceFormat::Lowercase, WorkspaceFormat::Uuid] {
        let resolved = resolve(found, parts, Some(body), format);
        assert_eq!(resolved, resolve(found, parts, Some(body), format));
        if !found.rule().needs_body() {
            assert_eq!(resolved, resolve(found, parts, None, format));
        }
        match (found.direct(), &resolved) {
            (Some(Ok(direct)), Ok(resolved)) => {
                assert_eq!(format.parse(&direct.workspace).ok().as_ref(), Some(&resolved.workspace));
                assert_eq!(direct.charges, resolved.charges);
                assert!(direct.charges.iter().all(|charge| !charge.settle_by_count && charge.existing == Existing::No));
            }
            (Some(Ok(direct)), Err(_)) => assert!(format.parse(&direct.workspace).is_err()),
            (Some(Err(_)), resolved) => assert!(resolved.is_err()),
            (None, _) => {}
        }
        let Ok(Resolved { charges, .. }) = resolved else { continue };
        assert!(charges.is_sorted_by_key(|charge| charge.resource));
        for charge in charges {
            assert!(charge.units >= 1);
            if let Existing::Rows { values, .. } = charge.existing {
                assert_eq!(u64::try_from(values.len()), Ok(charge.units));
            }
        }
    }
}

fn resolve(
    found: &Match<'_>,
    parts: &Parts,
    body: Option<&[u8]>,
    format: WorkspaceFormat,
) -> Result<Resolved, Problem> {
    match pin!(found.resolve(parts, body, format)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(resolved) => resolved,
        Poll::Pending => panic!("without a resolver there is nothing to wait for"),
    }
}

/// What a router that compares byte for byte does, in the plainest way. As axum has it, a parameter may be empty, but not
/// at the end of the path.
fn is_path_of(template: &str, path: &str) -> bool {
    let mut rest = Some(path);
    for literal in template.split('/') {
        let Some(here) = rest else { return false };
        let (segment, behind) = here.split_once('/').map_or((here, None), |(segment, behind)| (segment, Some(behind)));
        match literal.split_once('{') {
            None if segment == literal => rest = behind,
            Some((prefix, param)) if param.starts_with('*') => {
                return here.strip_prefix(prefix).is_some_and(|value| !value.is_empty());
            }
            Some((prefix, _))
                if segment.strip_prefix(prefix).is_some_and(|value| !value.is_empty() || behind.is_some()) =>
            {
                rest = behind;
            }
            _ => return false,
        }
    }
    rest.is_none()
}

/// Whether a router that decodes and tidies paths reads this one as it stands, but for its case and a slash at its end.
fn is_plain(path: &str) -> bool {
    !path.contains(['%', ';']) && !path.contains("//") && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// The path for a router that decodes all of it. What is no text then is for parameters to complain about.
fn unescape(path: &str) -> String {
    let escaped = |rest: &str| {
        let digits = rest.strip_prefix('%')?.get(..2)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
    };
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let byte = path.get(at..).and_then(escaped);
        bytes.push(byte.unwrap_or(path.as_bytes()[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The same path for a router that decodes, ignores case and tidies slashes.
fn disguised(path: &str, slash: &str) -> String {
    let letters = path.chars().map(|letter| match letter {
        '/' => slash.to_owned(),
        _ if letter.is_ascii_alphanumeric() => format!("%{:02x}", u32::from(letter.to_ascii_uppercase())),
        _ => letter.to_string(),
    });
    letters.chain(["/".to_owned()]).collect()
}

/// The request, its path and its body. Not every string is a URI, but the map takes any string for a path.
fn parse(input: &[u8]) -> Option<(Parts, String, &[u8])> {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let start = lines.next()?;
    let space = start.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&start[..space]).ok()?;
    let target = str::from_utf8(&start[space + 1..]).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    let path = match target.parse::<Uri>() {
        Ok(uri) => {
            *request.uri_mut() = uri;
            request.uri().path().to_owned()
        }
        Err(_) => target.to_owned(),
    };
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            if let (CLAIM_HEADER, Ok(workspace)) = (name.as_str(), value.to_str()) {
                request.extensions_mut().insert(WorkspaceClaim(workspace.to_owned()));
            }
            request.headers_mut().append(name, value);
        }
    }
    Some((request.into_parts().0, path, body))
}
