//! Route maps as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method, Request};
use proptest::prelude::*;

use super::*;
use crate::BoxFuture;
use crate::decision::{Existing, ResolvedCharge};
use crate::error::Error;
use crate::limit::Limit;
use crate::problem::{ErrorCode, Problem};
use crate::resource::{ResourceCatalog, ResourceSpec};
use crate::workspace::WorkspaceFormat;

const WS: &str = "0190163d-8694-739b-aea5-966c26f8ad91";
const OTHER: &str = "0190163d-8694-739b-aea5-966c26f8ad92";

fn catalog() -> ResourceCatalog {
    ResourceCatalog::default()
}

fn one(rule: Rule) -> RouteMap {
    RouteMap::builder(&catalog()).rule(rule).build().unwrap()
}

fn by_path(name: &str, path: &str) -> Rule {
    Rule::new(name, Method::POST, path).workspace(WorkspaceSource::path("ws")).charge(Charge::of("segments"))
}

fn by_header(name: &str, method: Method, path: &str) -> Rule {
    Rule::new(name, method, path).workspace(WorkspaceSource::header(HeaderName::from_static("ws")))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn request(method: &Method, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn resolve_parts(map: &RouteMap, parts: &Parts, body: &str) -> Result<Resolved, Problem> {
    let format = map.workspace_format().unwrap_or_default();
    let found = map.find(&parts.method, parts.uri.path(), None).expect("a mapped request");
    let body = found.rule().needs_body().then_some(body.as_bytes());
    block_on(found.resolve(parts, body, format))
}

fn resolve(map: &RouteMap, method: &Method, uri: &str, body: &str) -> Result<Resolved, Problem> {
    resolve_parts(map, &request(method, uri, &[("ws", WS)]), body)
}

/// Resource name, units, and what to look up.
fn charges(resolved: &Resolved) -> Vec<(String, u64, Existing)> {
    let catalog = catalog();
    let shown = |charge: &ResolvedCharge| {
        (catalog.get(charge.resource).name().to_owned(), charge.units, charge.existing.clone())
    };
    resolved.charges.iter().map(shown).collect()
}

fn plain(resource: &str, units: u64) -> (String, u64, Existing) {
    (resource.into(), units, Existing::No)
}

fn row(resource: &str, column: &str, value: &str) -> (String, u64, Existing) {
    (resource.into(), 1, Existing::Row { column: column.into(), value: value.into(), uncounted: false })
}

fn rule_of<'m>(map: &'m RouteMap, method: &Method, path: &str) -> Option<&'m str> {
    map.find(method, path, None).map(|found| {
        let name = found.rule().name();
        map.rules().find(|rule| rule.name() == name).unwrap().name()
    })
}

fn build_error(rules: impl IntoIterator<Item = Rule>) -> String {
    let error = rules.into_iter().fold(RouteMap::builder(&catalog()), RouteMapBuilder::rule).build().unwrap_err();
    assert!(error.is_config());
    error.to_string()
}

fn assert_invalid(outcome: Result<Resolved, Problem>, says: &str) {
    let problem = outcome.unwrap_err();
    assert_eq!(problem.code(), ErrorCode::InvalidRequest);
    assert!(problem.message().contains(says), "{}", problem.message());
}

mod finding {
    use super::*;

    #[test]
    fn exact_beats_parameter_and_backtracks() {
        let map = RouteMap::builder(&catalog())
            .rule(by_path("any", "/{ws}/{kind}/items"))
            .rule(by_path("exact", "/{ws}/segments/new"))
            .rule(by_path("all", "/{ws}/files/{*rest}"))
            .build()
            .unwrap();
        assert_eq!(rule_of(&map, &Method::POST, "/a/segments/new"), Some("exact"));
        assert_eq!(rule_of(&map, &Method::POST, "/a/segments/items"), Some("any"));
        assert_eq!(rule_of(&map, &Method::POST, "/a/files/x/y"), Some("all"));
        assert_eq!(rule_of(&map, &Method::POST, "/a/segments"), None);
    }

    #[test]
    fn methods_do_not_hide_each_other() {
        let other = Rule::new("put", Method::PUT, "/a/new")
            .workspace(WorkspaceSource::Extension)
            .charge(Charge::of("segments"));
        let map = RouteMap::builder(&catalog()).rule(by_path("post", "/a/{ws}")).rule(other).build().unwrap();
        assert_eq!(rule_of(&map, &Method::POST, "/a/new"), Some("post"));
        assert_eq!(rule_of(&map, &Method::PUT, "/a/new"), Some("put"));
        assert_eq!(rule_of(&map, &Method::GET, "/a/new"), None);
        assert_eq!(rule_of(&map, &Method::from_bytes(b"post").unwrap(), "/a/new"), None);
    }

    #[test]
    fn the_choice_of_the_router_counts() {
        let map = RouteMap::builder(&catalog())
            .rule(by_path("any", "/{ws}/segments"))
            .rule(by_path("nested", "/in/{ws}/{kind}"))
            .build()
            .unwrap();
        let name = |path: &str, matched: &str| {
            map.find(&Method::POST, path, Some(matched)).map(|found| found.rule().name().to_owned())
        };
        assert_eq!(name("/a/segments", "/{workspace}/segments").as_deref(), Some("any"));
        // The router has a route of its own for it, which no rule maps.
        assert_eq!(name("/a/segments", "/a/segments"), None);
        assert_eq!(name("/a/segments", "/a/{kind}"), None);
        // The router's choice is another rule than the path by itself leads to.
        let found = map.find(&Method::POST, "/in/segments", Some("/in/{w}/{k}")).unwrap();
        assert_eq!(found.rule().name(), "nested");
        assert!(found.direct().unwrap().is_err(), "the template doesn't fit the path: no workspace to be had");
    }

    #[test]
    fn a_route_that_only_leads_to_the_router_decides_nothing() {
        let map = RouteMap::builder(&catalog())
            .strict_prefix("/")
            .rule(by_path("segment", "/api/{ws}/segments"))
            .rule(by_header("user", Method::POST, "/api/users").charge(Charge::of("users")))
            .rule(by_header("file", Method::POST, "/files/{*rest}").charge(Charge::of("audiences")))
            .build()
            .unwrap();
        let name = |path: &str, matched: &str| {
            map.find(&Method::POST, path, Some(matched)).map(|found| found.rule().name().to_owned())
        };
        for (path, rule) in [("/api/acme/segments", "segment"), ("/api/users", "user"), ("/files/a/b", "file")] {
            // A proxy; and services inside of one, to whose routes axum appends their own.
            for matched in ["/{*path}", "/{*path}/{*rest}", &format!("/{{*path}}{path}")] {
                assert_eq!(name(path, matched).as_deref(), Some(rule), "{matched}");
            }
            // A service at one path, inside of which a router has the same path.
            assert_eq!(name(path, &format!("{path}{path}")).as_deref(), Some(rule));
        }
        // A handler for several types.
        assert_eq!(name("/api/users", "/api/{type}").as_deref(), Some("user"));
        assert_eq!(name("/api/acme/segments", "/api/{ws}/{type}").as_deref(), Some("segment"));
        // The router's own route, and one that would be it if a rule were for it.
        assert_eq!(name("/files/new", "/files/new"), None);
        assert_eq!(name("/files/new", "/files/{id}"), None);
        assert_eq!(name("/files/new", "/files/n{id}"), None);
        assert_eq!(name("/other", "/{*path}"), None);
        assert!(map.is_unmapped_create(&Method::POST, "/files/new", Some("/files/{id}")));
        assert!(!map.is_unmapped_create(&Method::POST, "/files/new", Some("/{*path}")));
        // The path was rewritten on its way to the router.
        assert_eq!(name("/v2/users", "/api/users").as_deref(), Some("user"));
    }

    #[test]
    fn where_paths_are_decoded_axum_is_not_the_router() {
        let map = RouteMap::builder(&catalog())
            .path_reading(PathReading::Decoded(Decoding::new()))
            .rule(by_path("segment", "/api/{ws}/segments"))
            .rule(by_header("user", Method::POST, "/api/users").charge(Charge::of("users")))
            .build()
            .unwrap();
        let name = |path: &str, matched: &str| {
            map.find(&Method::POST, path, Some(matched)).map(|found| found.rule().name().to_owned())
        };
        assert_eq!(name("/api/%75sers", "/api/{type}").as_deref(), Some("user"));
        assert_eq!(name("/%61pi/acme/segments", "/%61pi/acme/segments").as_deref(), Some("segment"));
        assert_eq!(name("/other", "/api/users"), None);
    }

    #[test]
    fn the_methods_that_rules_are_for() {
        let map = RouteMap::builder(&catalog())
            .rule(by_path("create", "/{ws}").method(Method::PUT))
            .rule(Rule::new("ignore", Method::PATCH, "/x").operation(Operation::Ignore))
            .build()
            .unwrap();
        for (method, expected) in [
            (Method::POST, true),
            (Method::PUT, true),
            (Method::PATCH, true),
            (Method::GET, false),
            (Method::DELETE, false),
        ] {
            assert_eq!(map.maps(&method), expected, "{method}");
        }
    }

    #[test]
    fn unmapped_creations_under_strict_prefixes() {
        let map = RouteMap::builder(&catalog())
            .strict_prefix("/api/")
            .rule(by_path("create", "/api/{ws}/segments"))
            .rule(Rule::new("list", Method::POST, "/api/users").operation(Operation::Ignore))
            .build()
            .unwrap();
        let unmapped = |method: Method, path: &str| map.is_unmapped_create(&method, path, None);
        assert!(unmapped(Method::POST, "/api/acme/journeys"));
        assert!(unmapped(Method::PUT, "/api"));
        assert!(unmapped(Method::PUT, "/api/acme/segments"));
        assert!(!unmapped(Method::POST, "/api/acme/segments"));
        assert!(!unmapped(Method::POST, "/api/users"));
        assert!(!unmapped(Method::POST, "/apis/x"));
        assert!(!unmapped(Method::GET, "/api/acme/journeys"));
        assert!(!unmapped(Method::DELETE, "/api/acme/journeys"));
        assert!(map.is_unmapped_create(&Method::POST, "/api/acme/segments", Some("/api/acme/{x}")));
    }

    #[test]
    fn grpc_methods_are_paths() {
        let map = one(by_header("create", Method::POST, "/shop.v1.Segments/Create").charge(Charge::of("segments")));
        assert_eq!(rule_of(&map, &Method::POST, "/shop.v1.Segments/Create"), Some("create"));
        assert_eq!(rule_of(&map, &Method::POST, "/shop.v1.Segments/List"), None);
    }
}

mod readings {
    use super::*;

    const TRICKS: [&str; 9] = [
        "/api/acme/%73egments",
        "/%61pi/acme/segments",
        "/api/acme//segments",
        "/api/acme/segments/",
        "/api/acme/./segments",
        "/api/acme/x/%2e%2e/segments",
        "/api/acme/segments;x=1",
        "/API/acme/Segments",
        "/api/acme/segment\u{17f}",
    ];

    fn map(reading: PathReading) -> RouteMap {
        let rule = by_path("create", "/api/{ws}/segments");
        RouteMap::builder(&catalog()).path_reading(reading).rule(rule).build().unwrap()
    }

    #[test]
    fn raw_takes_paths_as_they_stand() {
        let map = map(PathReading::Raw);
        for trick in TRICKS {
            assert_eq!(rule_of(&map, &Method::POST, trick), None, "{trick}");
        }
    }

    #[test]
    fn decoded_takes_only_the_tricks_that_its_router_falls_for() {
        let off = Decoding::new();
        let seen = |decoding: Decoding| {
            let map = map(PathReading::Decoded(decoding));
            let hit = |(at, trick): (usize, &&str)| rule_of(&map, &Method::POST, trick).map(|_| at);
            TRICKS.iter().enumerate().filter_map(hit).collect::<Vec<_>>()
        };
        assert_eq!(seen(off), [0, 1]);
        assert_eq!(seen(off.merge_slashes(true)), [0, 1, 2]);
        assert_eq!(seen(off.ignore_trailing_slash(true)), [0, 1, 3]);
        assert_eq!(seen(off.dot_segments(true)), [0, 1, 4, 5]);
        assert_eq!(seen(off.semicolon(true)), [0, 1, 6]);
        assert_eq!(seen(off.ignore_case(true)), [0, 1, 7]);
    }

    #[test]
    fn a_parameter_is_decoded_once_in_either_reading() {
        for reading in [PathReading::Raw, PathReading::Decoded(Decoding::new())] {
            let map = map(reading);
            let workspace = |path: &str| {
                let found = map.find(&Method::POST, path, None).unwrap();
                found.direct().unwrap().map(|direct| direct.workspace.into_owned())
            };
            assert_eq!(workspace("/api/a%63me/segments").unwrap(), "acme");
            assert_eq!(workspace("/api/a%2Fb/segments").unwrap(), "a/b");
            assert_eq!(workspace("/api/%252F/segments").unwrap(), "%2F");
            assert_eq!(workspace("/api/%%32%46/segments").unwrap(), "%2F");
            assert_eq!(workspace("/api/AcMe/segments").unwrap(), "AcMe");
            assert_eq!(workspace("/api/%ff/segments").unwrap_err().code(), ErrorCode::InvalidRequest);
        }
    }

    #[test]
    fn a_whole_path_may_be_decoded_before_it_is_split() {
        let reading = PathReading::Decoded(Decoding::new().encoded_slash(true));
        let map = RouteMap::builder(&catalog())
            .path_reading(reading)
            .strict_prefix("/100%")
            .rule(by_path("create", "/api/{ws}/segments"))
            .rule(by_path("percent", "/100%/%2F-{ws}"))
            .build()
            .unwrap();
        let create = |path| rule_of(&map, &Method::POST, path);
        for path in ["/api/acme/segments", "/api%2Facme%2fsegments", "/%61pi/acme%2F%73egments"] {
            assert_eq!(create(path), Some("create"), "{path}");
        }
        // Decoded once, and what isn't text is no literal.
        assert_eq!(create("/api%252Facme/segments"), None);
        assert_eq!(create("/api/acme/%ffsegments"), None);
        assert_eq!(create("/api/acme/segments%ff"), None);
        assert_eq!(create("/100%25/%252F-acme"), Some("percent"));
        assert_eq!(create("/100%/%252F-acme"), Some("percent"));
        assert_eq!(create("/100%25/%2F-acme"), None);
        assert!(map.is_unmapped_create(&Method::POST, "/100%25/x", None));

        let workspace = |path: &str| {
            let found = map.find(&Method::POST, path, None).unwrap();
            found.direct().unwrap().map(|direct| direct.workspace.into_owned())
        };
        assert_eq!(workspace("/api/a%63me/segments").unwrap(), "acme");
        assert_eq!(workspace("/api/%2541/segments").unwrap(), "%41");
        assert_eq!(workspace("/api/%%34%31/segments").unwrap(), "%41");
        assert_eq!(workspace("/api/%25ff/segments").unwrap(), "%ff");
        assert_eq!(workspace("/api/a%3Fb%23/segments").unwrap(), "a?b#");
        assert_eq!(workspace("/api/%ff/segments").unwrap_err().code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn case_is_kept_in_parameters() {
        let map = map(PathReading::Decoded(Decoding::new().ignore_case(true)));
        let found = map.find(&Method::POST, "/API/AcMe/SEGMENTS", None).unwrap();
        assert_eq!(found.direct().unwrap().unwrap().workspace, "AcMe");
    }

    #[test]
    fn a_template_is_read_like_a_path() {
        let reading = PathReading::Decoded(Decoding::new().ignore_case(true).ignore_trailing_slash(true));
        let rules = [by_path("upper", "/API/{ws}/"), by_path("lower", "/api/{id}")];
        let clash = rules.into_iter().fold(RouteMap::builder(&catalog()).path_reading(reading), RouteMapBuilder::rule);
        assert!(clash.build().is_err());
        let map = RouteMap::builder(&catalog()).path_reading(reading).rule(by_path("upper", "/API/{ws}/"));
        assert_eq!(rule_of(&map.build().unwrap(), &Method::POST, "/Api/x"), Some("upper"));
    }

    #[test]
    fn the_query_may_begin_at_a_semicolon() {
        let reading = PathReading::Decoded(Decoding::new().semicolon(true));
        let rule = Rule::new("create", Method::POST, "/segments")
            .workspace(WorkspaceSource::query("ws"))
            .charge(Charge::of("segments"));
        let map = RouteMap::builder(&catalog()).path_reading(reading).rule(rule).build().unwrap();
        let workspace = |uri| resolve(&map, &Method::POST, uri, "").map(|resolved| resolved.workspace.to_string());
        assert_eq!(workspace("/segments;ws=a").unwrap(), "a");
        assert_eq!(workspace("/segments?ws=a").unwrap(), "a");
        assert_eq!(workspace("/segments;ws=b?ws=a").unwrap(), "b?ws=a");
    }
}

mod direct {
    use super::*;

    #[test]
    fn charges_are_merged_and_in_the_catalogs_order() {
        let map = one(by_path("many", "/{ws}")
            .charge(Charge::of("users").amount(Amount::Constant(7)))
            .charge(Charge::of("segments").amount(Amount::Constant(u64::MAX))));
        let found = map.find(&Method::POST, "/acme", None).unwrap();
        let direct = found.direct().unwrap().unwrap();
        let charges: Vec<_> = direct
            .charges
            .iter()
            .map(|charge| (charge.resource.index(), charge.units, charge.settle_by_count))
            .collect();
        assert_eq!(charges, [(0, 7, false), (1, u64::MAX, false)]);
        assert!(matches!(direct.workspace, std::borrow::Cow::Borrowed("acme")));

        let parts = request(&Method::POST, "/acme", &[]);
        let resolved = resolve_parts(&map, &parts, "").unwrap();
        assert_eq!(resolved.charges, direct.charges);
    }

    #[test]
    fn only_for_rules_that_need_no_more_than_the_path() {
        let direct = |rule: Rule| one(rule).find(&Method::POST, "/acme", None).unwrap().direct().is_some();
        assert!(direct(by_path("plain", "/{ws}")));
        assert!(!direct(by_path("two", "/{ws}").workspace(WorkspaceSource::Extension)));
        assert!(!direct(by_path("body", "/{ws}").charge(Charge::of("users").amount(Amount::length("")))));
        // It takes a count after the response.
        assert!(!direct(by_path("at-most", "/{ws}").charge(Charge::of("users").amount(Amount::AtMost(7)))));
        assert!(!direct(by_path("when", "/{ws}").charge(Charge::of("users").when(Predicate::present("/a")))));
        let probed = Rule::new("probe", Method::POST, "/{ws}")
            .operation(Operation::Upsert)
            .charge(Charge::of("users").probe(Probe::path("ws", "id")));
        assert!(!direct(probed.workspace(WorkspaceSource::path("ws"))));
        assert!(!direct(Rule::new("ignore", Method::POST, "/{ws}").operation(Operation::Ignore)));
    }

    #[test]
    fn the_future_can_be_sent() {
        fn assert_send<T: Send>(_: &T) {}
        let map = one(by_path("plain", "/{ws}"));
        let parts = request(&Method::POST, "/acme", &[]);
        let found = map.find(&Method::POST, "/acme", None).unwrap();
        assert_send(&found.resolve(&parts, None, WorkspaceFormat::Verbatim));
    }
}

mod workspaces {
    use super::*;

    fn map() -> RouteMap {
        RouteMap::builder(&catalog())
            .workspace_format(WorkspaceFormat::Uuid)
            .workspace(WorkspaceSource::Extension)
            .workspace(WorkspaceSource::header(HeaderName::from_static("ws")))
            .workspace(WorkspaceSource::query("workspaceId"))
            .workspace(WorkspaceSource::body("/workspaceId"))
            .rule(Rule::new("create", Method::PUT, "/segments").charge(Charge::of("segments")))
            .build()
            .unwrap()
    }

    fn outcome(uri: &str, headers: &[(&str, &str)], body: &str) -> Result<String, Problem> {
        let parts = request(&Method::PUT, uri, headers);
        resolve_parts(&map(), &parts, body).map(|resolved| resolved.workspace.to_string())
    }

    #[test]
    fn every_place_and_one_canonical_form() {
        let upper = WS.to_uppercase();
        let body = format!(r#"{{"workspaceId":"{upper}"}}"#);
        let query = format!("/segments?a=b&work%73paceId={upper}");
        assert_eq!(outcome("/segments", &[("ws", &upper)], "").unwrap(), WS);
        assert_eq!(outcome(&query, &[], "").unwrap(), WS);
        assert_eq!(outcome("/segments", &[], &body).unwrap(), WS);
        assert_eq!(outcome(&query, &[("ws", WS), ("ws", &upper)], &body).unwrap(), WS);
    }

    #[test]
    fn two_different_ones_are_a_mismatch() {
        let body = format!(r#"{{"workspaceId":"{OTHER}"}}"#);
        let mismatches = [
            outcome("/segments", &[("ws", WS)], &body),
            outcome("/segments", &[("ws", WS), ("ws", OTHER)], ""),
            outcome(&format!("/segments?workspaceId={WS}&workspaceId={OTHER}"), &[], ""),
            outcome(&format!("/segments?workspaceId={WS}"), &[], &body),
        ];
        for mismatch in mismatches {
            assert_eq!(mismatch.unwrap_err().code(), ErrorCode::WorkspaceMismatch);
        }
    }

    #[test]
    fn a_repeated_key_of_the_body_counts_as_its_last() {
        let body = format!(r#"{{"workspaceId":"{OTHER}","workspaceId":"{WS}"}}"#);
        assert_eq!(outcome("/segments", &[], &body).unwrap(), WS);
    }

    #[test]
    fn bad_claims_are_refused_with_the_place() {
        let refused = |uri: &str, headers: &[(&str, &str)], body: &str, says: &str| {
            let problem = outcome(uri, headers, body).unwrap_err();
            assert_eq!(problem.code(), ErrorCode::InvalidRequest);
            assert!(problem.message().contains(says), "{}", problem.message());
        };
        refused(
            "/segments",
            &[],
            "",
            "the header `ws`, the query parameter `workspaceId`, the body field `/workspaceId`",
        );
        refused("/segments", &[], r#"{"workspaceId":null}"#, "names no workspace");
        refused("/segments", &[], r#"{"workspaceId":{}}"#, "the body field `/workspaceId` is a string or a whole");
        refused("/segments", &[], r#"{"workspaceId":7}"#, "the body field `/workspaceId`: a workspace id is a UUID");
        refused("/segments?workspaceId=", &[], "", "empty");
        refused("/segments?workspaceId=%ff", &[], "", "UTF-8");
        refused("/segments", &[("ws", "\u{e4}")], "", "ASCII");
        refused("/segments", &[("ws", WS)], "{", "line 1 column 1");
    }

    #[test]
    fn a_trusted_source_wins_and_claims_are_not_looked_at() {
        let mut parts = request(&Method::PUT, "/segments", &[("ws", OTHER)]);
        parts.extensions.insert(WorkspaceClaim(WS.to_uppercase()));
        let resolved = resolve_parts(&map(), &parts, "not JSON").unwrap();
        assert_eq!(resolved.workspace.as_str(), WS);

        parts.extensions.insert(WorkspaceClaim("acme".into()));
        assert_invalid(resolve_parts(&map(), &parts, ""), "UUID");
    }

    struct ByKey;

    impl WorkspaceResolver for ByKey {
        fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Option<String>, Error>> {
            Box::pin(async move {
                match parts.headers.get("key").map(|key| key.as_bytes()) {
                    None => Ok(None),
                    Some(b"down") => Err(Error::unavailable("the key store is down")),
                    Some(_) => Ok(Some(WS.into())),
                }
            })
        }
    }

    #[test]
    fn a_resolver_answers_passes_or_fails() {
        let rule = by_header("create", Method::PUT, "/segments")
            .workspace(WorkspaceSource::resolver(ByKey))
            .charge(Charge::of("segments"));
        let map = one(rule);
        let outcome = |headers: &[(&str, &str)]| {
            let parts = request(&Method::PUT, "/segments", headers);
            resolve_parts(&map, &parts, "").map(|resolved| resolved.workspace.to_string())
        };
        assert_eq!(outcome(&[("key", "k"), ("ws", OTHER)]).unwrap(), WS);
        assert_eq!(outcome(&[("ws", OTHER)]).unwrap(), OTHER);
        assert_eq!(outcome(&[("key", "down"), ("ws", OTHER)]).unwrap_err().code(), ErrorCode::QuotaUnavailable);
    }
}

mod amounts {
    use super::*;

    fn charged(charge: Charge, body: &str) -> Result<Vec<(String, u64, Existing)>, Problem> {
        let map = one(by_header("rule", Method::POST, "/x").charge(charge));
        resolve(&map, &Method::POST, "/x", body).map(|resolved| charges(&resolved))
    }

    fn amount(amount: Amount, body: &str) -> Result<Vec<(String, u64, Existing)>, Problem> {
        charged(Charge::of("users").amount(amount), body)
    }

    #[test]
    fn of_an_array() {
        assert_eq!(amount(Amount::length("/items"), r#"{"items":[1,null,{}]}"#).unwrap(), [plain("users", 3)]);
        assert_eq!(amount(Amount::length(""), "\u{feff}[1]").unwrap(), [plain("users", 1)]);
        assert_eq!(amount(Amount::length("/items"), r#"{"items":[]}"#).unwrap(), []);
        let body = r#"[{"id":"a"},{"id":"b"},{"id":"a"},{"id":7}]"#;
        assert_eq!(amount(Amount::distinct("", ["/id"]), body).unwrap(), [plain("users", 3)]);
        let values = vec!["b".to_owned(), "a".to_owned()];
        let unknown = amount(Amount::distinct_unknown("/ids", [""], "id"), r#"{"ids":["b","a","b"]}"#).unwrap();
        assert_eq!(unknown, [("users".into(), 2, Existing::Rows { column: "id".into(), values })]);
    }

    #[test]
    fn of_lines() {
        let lines = |text: &str| {
            let charges = amount(Amount::LinesAfter(1), text).unwrap();
            charges.first().map_or(0, |(_, units, _)| *units)
        };
        for (text, units) in [
            ("", 0),
            ("id", 0),
            ("id\n", 0),
            ("id\na", 1),
            ("id\r\na\r\n", 1),
            ("id\ra\r\rb", 3),
            ("\n\n\n", 2),
            ("{", 0),
        ] {
            assert_eq!(lines(text), units, "{text:?}");
        }
        let map = one(by_header("rule", Method::POST, "/x")
            .charge(Charge::of("users").amount(Amount::LinesAfter(0)))
            .charge(Charge::of("segments")));
        assert!(map.rules().all(MappedRule::needs_body));
        let resolved = resolve(&map, &Method::POST, "/x", "no JSON").unwrap();
        let told: Vec<_> = resolved.charges.iter().map(|charge| (charge.units, charge.settle_by_count)).collect();
        assert_eq!(told, [(1, true), (1, false)]);
    }

    #[test]
    fn of_some_elements() {
        let of = |amount: Amount| Charge::of("users").amount(amount).when_each(Predicate::equals("/type", "a"));
        let body = r#"[{"type":"a","id":1},{"type":"b"},{"id":2},{"type":"a","id":1}]"#;
        assert_eq!(charged(of(Amount::length("")), body).unwrap(), [plain("users", 2)]);
        assert_eq!(charged(of(Amount::distinct("", ["/id"])), body).unwrap(), [plain("users", 1)]);
        let problem = charged(of(Amount::distinct("", ["/id"])), r#"[{"type":"b"},{"type":"a"}]"#).unwrap_err();
        assert!(problem.message().contains("`/1/id`"), "{}", problem.message());
    }

    #[test]
    fn a_row_that_two_charges_name_is_one() {
        let unknown = |pointer: &str| Charge::of("users").amount(Amount::distinct_unknown("/a", [pointer], "id"));
        let rule = by_header("rule", Method::POST, "/x")
            .charge(unknown("/x"))
            .charge(unknown("/y"))
            .charge(Charge::of("audiences").amount(Amount::distinct_unknown("/a", ["/y"], "id")));
        let resolved = resolve(&one(rule), &Method::POST, "/x", r#"{"a":[{"x":1,"y":"1"},{"x":"b","y":1}]}"#).unwrap();
        let rows = |resource: &str, values: &[&str]| {
            let values: Vec<String> = values.iter().copied().map(str::to_owned).collect();
            (resource.to_owned(), values.len() as u64, Existing::Rows { column: "id".into(), values })
        };
        let expected = [rows("users", &["1", "b"]), rows("users", &["1"]), rows("audiences", &["1", "1"])];
        assert_eq!(charges(&resolved), expected);

        let probe = |pointer: &str| Charge::of("users").probe(Probe::body(pointer, "id"));
        let rule = by_header("rule", Method::PUT, "/x").operation(Operation::Upsert);
        let map = one(rule.charge(probe("/x")).charge(probe("/y").amount(Amount::Constant(2))).charge(probe("/z")));
        let resolved = resolve(&map, &Method::PUT, "/x", r#"{"x":"a","y":"a","z":"a"}"#).unwrap();
        let units: Vec<_> = resolved.charges.iter().map(|charge| charge.units).collect();
        assert_eq!(units, [1, 2]);
        // A row that is there, and isn't counted, is free for one of them only.
        let any = Charge::of("users").probe(Probe::body("/x", "id").or_uncounted());
        let rule = by_header("rule", Method::PUT, "/x").operation(Operation::Upsert).charge(any).charge(probe("/x"));
        assert_eq!(resolve(&one(rule), &Method::PUT, "/x", r#"{"x":"a"}"#).unwrap().charges.len(), 2);
    }

    #[test]
    fn values_that_the_service_behind_may_tell_apart_are_several() {
        let distinct = |body: &str| amount(Amount::distinct("", [""]), body);
        assert_eq!(distinct(r#"[1,"1",1,"1","a","a"]"#).unwrap(), [plain("users", 3)]);
        assert_eq!(distinct("[18446744073709551615,18446744073709551614]").unwrap(), [plain("users", 2)]);
        assert_eq!(distinct("[-9223372036854775808,0]").unwrap(), [plain("users", 2)]);
        // One value to look up for each unit, though two of them are spelled alike.
        let values = vec!["1".to_owned(), "1".to_owned(), "-2".to_owned()];
        let unknown = amount(Amount::distinct_unknown("", [""], "id"), r#"[1,"1",-2,1]"#).unwrap();
        assert_eq!(unknown, [("users".into(), 3, Existing::Rows { column: "id".into(), values })]);
    }

    #[test]
    fn a_number_that_may_be_read_in_several_ways_names_nothing() {
        let probe = || Charge::of("users").probe(Probe::body("/id", "id"));
        let upsert = one(by_header("rule", Method::PUT, "/x").operation(Operation::Upsert).charge(probe()));
        let workspace = one(Rule::new("rule", Method::PUT, "/x")
            .workspace(WorkspaceSource::body("/id"))
            .charge(Charge::of("users")));
        for number in
            ["18446744073709551616", "-9223372036854775809", "1e2", "1.0", "0.5", "123456789012345678901234567890"]
        {
            for of in [Amount::distinct("", ["/id"]), Amount::distinct_unknown("", ["/id"], "id")] {
                let problem = amount(of, &format!(r#"[{{"id":"a"}},{{"id":{number}}}]"#)).unwrap_err();
                assert_eq!(problem.code(), ErrorCode::InvalidRequest);
                assert!(problem.message().contains("`/1/id` is a string or a whole number"), "{}", problem.message());
            }
            let body = format!(r#"{{"id":{number}}}"#);
            assert_invalid(resolve(&upsert, &Method::PUT, "/x", &body), "`/id` is a string or a whole number");
            assert_invalid(resolve(&workspace, &Method::PUT, "/x", &body), "`/id` is a string or a whole number");
        }
        let body = r#"{"id":18446744073709551615}"#;
        assert_eq!(
            charges(&resolve(&upsert, &Method::PUT, "/x", body).unwrap()),
            [row("users", "id", "18446744073709551615")]
        );
        assert_eq!(resolve(&workspace, &Method::PUT, "/x", body).unwrap().workspace.as_str(), "18446744073709551615");
    }

    #[test]
    fn a_number_that_a_double_rounds_names_nothing_where_numbers_are_doubles() {
        let upsert = by_header("upsert", Method::PUT, "/x").operation(Operation::Upsert);
        let create = Rule::new("create", Method::POST, "/x").workspace(WorkspaceSource::body("/0"));
        let map = RouteMap::builder(&catalog())
            .numbers_are_doubles()
            .rule(upsert.charge(Charge::of("users").probe(Probe::body("/0", "id"))))
            .rule(create.charge(Charge::of("users").amount(Amount::distinct("", ["/0", ""]))))
            .build()
            .unwrap();
        for method in [Method::PUT, Method::POST] {
            for number in ["9007199254740991", "-9007199254740991", "7", r#""9007199254740992""#] {
                assert_eq!(resolve(&map, &method, "/x", &format!("[{number}]")).unwrap().charges.len(), 1, "{number}");
            }
            for number in ["9007199254740992", "-9007199254740992", "18446744073709551615", "-9223372036854775808"] {
                let says = "`/0` is a string or a whole number of at most 2^53 - 1";
                assert_invalid(resolve(&map, &method, "/x", &format!("[{number}]")), says);
            }
        }
        let problem = resolve(&map, &Method::POST, "/x", r#"["ws", 9007199254740993]"#).unwrap_err();
        assert!(problem.message().contains("`/1/0` or `/1` is a string"), "{}", problem.message());
    }

    #[test]
    fn null_is_the_empty_text_to_a_charge_that_says_so() {
        let unknown = |charge: Charge| charge.amount(Amount::distinct_unknown("/a", ["/x", "/y"], "id"));
        let body = r#"{"a":[{"x":null,"y":"b"},{"x":"","y":"c"},{"y":null}]}"#;
        let rows = |values: &[&str]| {
            let values: Vec<String> = values.iter().copied().map(str::to_owned).collect();
            ("users".to_owned(), values.len() as u64, Existing::Rows { column: "id".into(), values })
        };
        assert_eq!(charged(unknown(Charge::of("users").null_is_empty()), body).unwrap(), [rows(&[""])]);
        let absent = charged(unknown(Charge::of("users")), body).unwrap_err();
        assert!(absent.message().contains("`/a/2/x` or `/a/2/y`"), "{}", absent.message());

        let probes = |charge: Charge| charge.probe(Probe::body("/x", "id")).probe(Probe::body("/y", "id"));
        let map =
            |charge: Charge| one(by_header("rule", Method::PUT, "/x").operation(Operation::Upsert).charge(charge));
        let empty = map(probes(Charge::of("users").null_is_empty()));
        let told = |map: &RouteMap, body: &str| charges(&resolve(map, &Method::PUT, "/x", body).unwrap());
        for (body, value) in [(r#"{"x":null,"y":"b"}"#, ""), (r#"{"y":"b"}"#, "b"), (r#"{"x":"a","y":null}"#, "a")] {
            assert_eq!(told(&empty, body), [row("users", "id", value)]);
        }
        assert_eq!(told(&map(probes(Charge::of("users"))), r#"{"x":null,"y":"b"}"#), [row("users", "id", "b")]);
    }

    #[test]
    fn of_what_is_not_there() {
        let refused = |of: Amount, body: &str, says: &str| {
            let problem = amount(of, body).unwrap_err();
            assert_eq!(problem.code(), ErrorCode::InvalidRequest);
            assert!(problem.message().contains(says), "{}", problem.message());
        };
        refused(Amount::length("/items"), "", "`/items` is missing");
        refused(Amount::length("/items"), r#"{"items":null}"#, "`/items` is missing");
        refused(Amount::length("/items"), r#"{"items":{}}"#, "`/items` is an array");
        refused(Amount::length(""), "{}", "the body is an array");
        refused(Amount::distinct("/a", ["/id"]), r#"{"a":[{"id":"x"},{}]}"#, "`/a/1/id` is a string");
        refused(Amount::distinct("/a", ["/id", "/no"]), r#"{"a":[{}]}"#, "`/a/0/id` or `/a/0/no` is a string");
        refused(Amount::length("/items"), "items=1", "not valid JSON");
        refused(Amount::length("/items"), &"[".repeat(200), "recursion limit");
        refused(Amount::length("/items"), r#"{"items":[1]} x"#, "line 1 column 15");
    }

    #[test]
    fn a_compressed_body_is_refused_and_not_guessed_at() {
        let map = one(by_header("rule", Method::POST, "/x").charge(Charge::of("users").amount(Amount::length(""))));
        let sent = |coding| {
            resolve_parts(&map, &request(&Method::POST, "/x", &[("ws", WS), ("content-encoding", coding)]), "[1]")
        };
        assert_invalid(sent("gzip"), "uncompressed");
        assert_invalid(sent("identity, br"), "uncompressed");
        assert_eq!(sent("Identity").unwrap().charges.len(), 1);
        let blind = one(by_header("rule", Method::POST, "/x").charge(Charge::of("users")));
        let parts = request(&Method::POST, "/x", &[("ws", WS), ("content-encoding", "gzip")]);
        assert_eq!(resolve_parts(&blind, &parts, "").unwrap().charges.len(), 1);
    }

    #[test]
    fn sums_saturate() {
        let map = one(by_header("rule", Method::POST, "/x")
            .charge(Charge::of("users").amount(Amount::Constant(u64::MAX)))
            .charge(Charge::of("users").amount(Amount::length(""))));
        let resolved = resolve(&map, &Method::POST, "/x", "[1]").unwrap();
        assert_eq!(charges(&resolved), [plain("users", u64::MAX)]);
    }

    #[test]
    fn predicates() {
        let holds =
            |predicate: Predicate, body: &str| !charged(Charge::of("users").when(predicate), body).unwrap().is_empty();
        let typed = r#"{"type":"Internal","n":1,"gone":null}"#;
        assert!(holds(Predicate::equals("/type", "Internal"), typed));
        assert!(!holds(Predicate::equals("/type", "internal"), typed));
        assert!(!holds(Predicate::not_equals("/type", "Internal"), typed));
        assert!(holds(Predicate::not_equals("/other", "Internal"), typed));
        assert!(holds(Predicate::not_equals("/type", "Internal"), ""));
        assert!(holds(Predicate::equals("/n", 1.0), typed));
        assert!(!holds(Predicate::equals("/n", "1"), typed));
        assert!(!holds(Predicate::equals("", 9_007_199_254_740_993_u64), "9007199254740992"));
        assert!(holds(Predicate::present("/type"), typed) && !holds(Predicate::absent("/type"), typed));
        assert!(holds(Predicate::absent("/gone"), typed) && !holds(Predicate::present("/gone"), typed));
        let both = Charge::of("users").when(Predicate::present("/type")).when(Predicate::present("/other"));
        assert!(charged(both, typed).unwrap().is_empty());
    }

    #[test]
    fn the_type_that_the_body_chooses() {
        let charge = || Charge::chosen_by("/type", [("Segment", "segments"), ("Journey", "journeys")]);
        assert_eq!(charged(charge(), r#"{"type":"Journey"}"#).unwrap(), [plain("journeys", 1)]);
        let unknown = charged(charge(), r#"{"type":"Broadcast"}"#).unwrap_err();
        assert_eq!(unknown.code(), ErrorCode::InvalidResourceType);
        assert!(unknown.message().contains("Journey, Segment"));
        assert_eq!(charged(charge(), r#"{"type":1}"#).unwrap_err().code(), ErrorCode::InvalidRequest);
        assert_eq!(charged(charge(), "").unwrap_err().code(), ErrorCode::InvalidRequest);
    }
}

mod probes {
    use super::*;

    fn map() -> RouteMap {
        let rule = by_header("upsert", Method::PUT, "/x/{id}").operation(Operation::Upsert).charge(
            Charge::of("segments")
                .probe(Probe::body("/id", "id"))
                .probe(Probe::query("key", "key"))
                .probe(Probe::path("id", "name")),
        );
        one(rule)
    }

    #[test]
    fn the_first_value_that_is_there_is_used() {
        let probed = |uri: &str, body: &str| charges(&resolve(&map(), &Method::PUT, uri, body).unwrap());
        assert_eq!(probed("/x/a%20b", ""), [row("segments", "name", "a b")]);
        assert_eq!(probed("/x/a?key=k+1", r#"{"id":null}"#), [row("segments", "key", "k 1")]);
        assert_eq!(probed("/x/a?key=k", r#"{"id":"i"}"#), [row("segments", "id", "i")]);
        assert_eq!(probed("/x/a", r#"{"id":12}"#), [row("segments", "id", "12")]);
        assert_eq!(probed("/x/a", r#"{"id":""}"#), [row("segments", "id", "")]);
    }

    #[test]
    fn an_ambiguous_value_is_refused() {
        assert_invalid(resolve(&map(), &Method::PUT, "/x/a?key=1&key=2", ""), "twice");
        assert!(resolve(&map(), &Method::PUT, "/x/a?key=1&key=1", "").is_ok());
        assert_invalid(resolve(&map(), &Method::PUT, "/x/a", r#"{"id":["i"]}"#), "`/id`");
        assert_invalid(resolve(&map(), &Method::PUT, "/x/%ff", ""), "UTF-8");
    }

    #[test]
    fn a_uuid_is_looked_up_in_one_form() {
        let rule = by_header("upsert", Method::PUT, "/x/{id}").operation(Operation::Upsert);
        let probes = [Probe::query("id", "id"), Probe::path("id", "id")];
        let map = one(rule.charge(probes.map(Probe::uuid).into_iter().fold(Charge::of("segments"), Charge::probe)));
        let upper = WS.to_ascii_uppercase();
        for uri in [format!("/x/{upper}"), format!("/x/a?id={upper}")] {
            assert_eq!(charges(&resolve(&map, &Method::PUT, &uri, "").unwrap()), [row("segments", "id", WS)]);
        }
        assert_invalid(resolve(&map, &Method::PUT, "/x/a", ""), "the path parameter `id` is \"a\": write a UUID");
        assert_invalid(resolve(&map, &Method::PUT, "/x/a?id=", ""), "the query parameter `id` is \"\"");
    }

    #[test]
    fn none_means_a_new_row() {
        let rule = by_header("upsert", Method::PUT, "/x")
            .operation(Operation::Restore)
            .charge(Charge::of("segments").probe(Probe::body("/id", "id")));
        assert_eq!(charges(&resolve(&one(rule), &Method::PUT, "/x", "").unwrap()), [plain("segments", 1)]);
    }
}

mod building {
    use super::*;

    #[test]
    fn clashes_name_both_rules_and_the_path() {
        let rules = || [by_path("first", "/api/{ws}/x"), by_path("second", "/api/{id}/x")];
        let [first, second] = rules();
        let second = Rule { workspace: vec![WorkspaceSource::Extension], ..second };
        let error = build_error([first, second]);
        assert_eq!(error, r#"rule "second": POST "/api/{id}/x" is already claimed by rule "first", as "/api/{ws}/x""#);
        let [first, second] = rules();
        let second = Rule { methods: vec![Method::DELETE], ..second.workspace(WorkspaceSource::Extension) };
        let second = Rule { workspace: vec![WorkspaceSource::Extension], ..second };
        assert!(RouteMap::builder(&catalog()).rule(first).rule(second).build().is_ok());

        let catch_all = build_error([by_path("one", "/{ws}"), by_path("rest", "/{*ws}")]);
        assert!(catch_all.contains(r#"rule "one""#) && catch_all.contains(r#"rule "rest""#), "{catch_all}");
        assert!(build_error([by_path("self", "/{ws}").path("/{ws}")]).contains("already claimed"));
        assert!(build_error([by_path("self", "/{ws}/a"), by_path("self", "/{ws}/b")]).contains("same name"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let of = |charge: Charge| by_header("bad", Method::POST, "/x").charge(charge);
        let upsert = |charge: Charge| of(charge).operation(Operation::Upsert);
        let users = || Charge::of("users");
        for (rule, says) in [
            (of(Charge::of("user")), "users, segments"),
            (of(users()).method(Method::HEAD), "HEAD"),
            (of(users()).method(Method::OPTIONS), "OPTIONS"),
            (by_header("", Method::POST, "/x").charge(users()), "name"),
            (by_header("bad", Method::POST, "x").charge(users()), "slash"),
            (by_header("bad", Method::POST, "/x"), "no charge"),
            (Rule::new("bad", Method::POST, "/x").charge(users()), "workspace"),
            (of(users()).workspace(WorkspaceSource::path("ws")), "no parameter `{ws}`"),
            (by_path("bad", "/{ws}").path("/x"), r#""/x" has no parameter"#),
            (of(users()).workspace(WorkspaceSource::body("id")), "not a JSON pointer"),
            (of(users().amount(Amount::Constant(0))), "1 or more"),
            (of(users().amount(Amount::AtMost(0))), "1 or more"),
            (of(users().amount(Amount::length("items"))), "not a JSON pointer"),
            (of(users().amount(Amount::distinct("", ["/~2"]))), "not a JSON pointer"),
            (of(users().amount(Amount::distinct_unknown("", [""], "a b"))), "column"),
            (of(users().amount(Amount::distinct("", [""; 0]))), "nothing says where"),
            (of(users().when(Predicate::present("a"))), "not a JSON pointer"),
            (of(users().when_each(Predicate::present("/a"))), "elements of an array"),
            (of(users().amount(Amount::length("")).when_each(Predicate::present("a"))), "not a JSON pointer"),
            (of(users().amount(Amount::LinesAfter(1))).workspace(WorkspaceSource::body("/w")), "is no JSON"),
            (of(users().amount(Amount::LinesAfter(1)).when(Predicate::present("/a"))), "is no JSON"),
            (of(users()).late_rows(Duration::ZERO), "a second or more"),
            (of(users()).body_cap(0), "body_cap"),
            (of(users()).operation(Operation::Ignore), "ignore"),
            (of(users().probe(Probe::body("/id", "id"))), "upsert"),
            (upsert(users()), "probe"),
            (upsert(users().probe(Probe::path("id", "id"))), "no parameter `{id}`"),
            (upsert(users().probe(Probe::body("/id", "a\"b"))), "column"),
            (
                upsert(users().probe(Probe::body("/id", "id")).amount(Amount::distinct_unknown("", [""], "id"))),
                "no probe",
            ),
            (of(Charge::chosen_by("/type", [("a", "nope")])), "nope"),
            (of(Charge::chosen_by("/type", BTreeMap::<String, String>::new())), "at least one"),
        ] {
            let error = build_error([rule]);
            assert!(error.starts_with("rule ") && error.contains(says), "{error}");
        }
        let prefix = RouteMap::builder(&catalog()).strict_prefix("api").build().unwrap_err();
        assert!(prefix.to_string().contains("strict prefix"));
        let pointer = RouteMap::builder(&catalog()).workspace(WorkspaceSource::body("x")).build().unwrap_err();
        assert!(pointer.to_string().contains("JSON pointer"));
    }

    #[test]
    fn a_map_knows_its_catalog() {
        let catalog = ResourceCatalog::builder()
            .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(1)))
            .build()
            .unwrap();
        let map = RouteMap::from_json(r#"{ "rule": [] }"#, &catalog).unwrap();
        assert!(map.catalog().by_name("customMetrics").is_ok());
        assert!(map.catalog().same_types(&catalog));
    }

    #[test]
    fn rules_override_the_map() {
        let map = RouteMap::builder(&catalog())
            .workspace(WorkspaceSource::body("/workspaceId"))
            .body_cap(10)
            .rule(Rule::new("inherits", Method::POST, "/a").charge(Charge::of("users")))
            .rule(by_path("overrides", "/{ws}/b").body_cap(20).on_failure(OnFailure::Closed))
            .build()
            .unwrap();
        let told: Vec<_> =
            map.rules().map(|rule| (rule.name(), rule.needs_body(), rule.body_cap(), rule.on_failure())).collect();
        assert_eq!(told, [("inherits", true, 10, OnFailure::Inherit), ("overrides", false, 20, OnFailure::Closed)]);
    }
}

mod files {
    use super::*;

    const JSON: &str = r#"{
        "path_reading": { "decoded": { "encoded_slash": true, "semicolon": true, "ignore_case": true } },
        "workspace_format": "lowercase",
        "workspace": ["extension", { "header": "ws" }, { "query": "w" }, { "body": "/w" }],
        "body_cap": 4096,
        "strict_prefixes": ["/api"],
        "rule": [
            {
                "name": "upsert", "methods": ["PUT", "PATCH"], "paths": ["/api/{id}", "/x/{id}"],
                "operation": "upsert", "on_failure": "open", "body_cap": 10, "workspace": [{ "path": "id" }],
                "charge": [
                    {
                        "resource": "segments",
                        "when": [
                            { "field": "/a", "equals": 1 }, { "field": "/b", "not_equals": "x" },
                            { "field": "/c", "present": true }, { "field": "/d", "present": false }
                        ],
                        "probe": [
                            { "body": "/id", "column": "id", "uuid": true, "uncounted": true },
                            { "path": "id", "column": "name" },
                            { "query": "q", "column": "q" }
                        ]
                    },
                    {
                        "resource": "users", "when_each": [{ "field": "/id", "present": true }],
                        "amount": { "distinct_unknown": { "array": "/u", "element": "/id", "column": "id" } }
                    }
                ]
            },
            {
                "name": "create", "methods": ["POST"], "paths": ["/api"],
                "charge": [
                    { "resource": { "field": "/t", "values": { "A": "audiences" } }, "amount": 3 },
                    { "resource": "users", "amount": { "length": "/u" } },
                    { "resource": "users", "amount": { "distinct": { "array": "/u" } } },
                    { "resource": "journeys", "amount": { "at_most": 9 } }
                ]
            },
            {
                "name": "upload", "methods": ["POST"], "paths": ["/csv"], "workspace": ["extension"],
                "late_rows_seconds": 9, "charge": [{ "resource": "users", "amount": { "lines_after": 4 } }]
            },
            { "name": "ignore", "methods": ["POST"], "paths": ["/api/list"], "operation": "ignore" }
        ]
    }"#;

    fn in_code() -> RouteMap {
        let upsert = Rule::new("upsert", Method::PUT, "/api/{id}")
            .method(Method::PATCH)
            .path("/x/{id}")
            .operation(Operation::Upsert)
            .on_failure(OnFailure::Open)
            .body_cap(10)
            .workspace(WorkspaceSource::path("id"))
            .charge(
                Charge::of("segments")
                    .when(Predicate::equals("/a", 1))
                    .when(Predicate::not_equals("/b", "x"))
                    .when(Predicate::present("/c"))
                    .when(Predicate::absent("/d"))
                    .probe(Probe::body("/id", "id").uuid().or_uncounted())
                    .probe(Probe::path("id", "name"))
                    .probe(Probe::query("q", "q")),
            )
            .charge(Charge::of("users").when_each(Predicate::present("/id")).amount(Amount::distinct_unknown(
                "/u",
                ["/id"],
                "id",
            )));
        let upload = Rule::new("upload", Method::POST, "/csv")
            .workspace(WorkspaceSource::Extension)
            .late_rows(Duration::from_secs(9))
            .charge(Charge::of("users").amount(Amount::LinesAfter(4)));
        let create = Rule::new("create", Method::POST, "/api")
            .charge(Charge::chosen_by("/t", [("A", "audiences")]).amount(Amount::Constant(3)))
            .charge(Charge::of("users").amount(Amount::length("/u")))
            .charge(Charge::of("users").amount(Amount::distinct("/u", [""])))
            .charge(Charge::of("journeys").amount(Amount::AtMost(9)));
        RouteMap::builder(&catalog())
            .path_reading(PathReading::Decoded(Decoding::new().encoded_slash(true).semicolon(true).ignore_case(true)))
            .workspace_format(WorkspaceFormat::Lowercase)
            .workspace(WorkspaceSource::Extension)
            .workspace(WorkspaceSource::header(HeaderName::from_static("ws")))
            .workspace(WorkspaceSource::query("w"))
            .workspace(WorkspaceSource::body("/w"))
            .body_cap(4096)
            .strict_prefix("/api")
            .rule(upsert)
            .rule(create)
            .rule(upload)
            .rule(Rule::new("ignore", Method::POST, "/api/list").operation(Operation::Ignore))
            .build()
            .unwrap()
    }

    fn assert_same(from_file: &RouteMap) {
        let code = in_code();
        assert_eq!(format!("{code:?}"), format!("{from_file:?}"));
        for (method, uri, body) in [
            (Method::PUT, "/API/Acme", r#"{"a":1,"c":1,"u":[{"id":"x"}]}"#),
            (Method::PATCH, "/x/Acme;q=1", r#"{"b":"x","u":[]}"#),
            (Method::POST, "/api", r#"{"t":"A","u":["a","b","a"]}"#),
            (Method::POST, "/api", r#"{"t":"B"}"#),
        ] {
            assert_eq!(resolve(&code, &method, uri, body), resolve(from_file, &method, uri, body));
        }
        assert!(from_file.is_unmapped_create(&Method::POST, "/Api/other", None));
    }

    #[test]
    fn json_builds_what_code_builds() {
        assert_same(&RouteMap::from_json(JSON, &catalog()).unwrap());
    }

    #[cfg(feature = "toml")]
    #[test]
    fn toml_builds_what_code_builds() {
        let toml = r#"
            path_reading = { decoded = { encoded_slash = true, semicolon = true, ignore_case = true } }
            workspace_format = "lowercase"
            workspace = ["extension", { header = "ws" }, { query = "w" }, { body = "/w" }]
            body_cap = 4096
            strict_prefixes = ["/api"]

            [[rule]]
            name = "upsert"
            methods = ["PUT", "PATCH"]
            paths = ["/api/{id}", "/x/{id}"]
            operation = "upsert"
            on_failure = "open"
            body_cap = 10
            workspace = [{ path = "id" }]

            [[rule.charge]]
            resource = "segments"
            when = [
                { field = "/a", equals = 1 },
                { field = "/b", not_equals = "x" },
                { field = "/c", present = true },
                { field = "/d", present = false },
            ]
            probe = [
                { body = "/id", column = "id", uuid = true, uncounted = true },
                { path = "id", column = "name" },
                { query = "q", column = "q" },
            ]

            [[rule.charge]]
            resource = "users"
            when_each = [{ field = "/id", present = true }]
            amount.distinct_unknown = { array = "/u", element = "/id", column = "id" }

            [[rule]]
            name = "create"
            methods = ["POST"]
            paths = ["/api"]
            charge = [
                { resource = { field = "/t", values = { A = "audiences" } }, amount = 3 },
                { resource = "users", amount = { length = "/u" } },
                { resource = "users", amount = { distinct = { array = "/u" } } },
                { resource = "journeys", amount = { at_most = 9 } },
            ]

            [[rule]]
            name = "upload"
            methods = ["POST"]
            paths = ["/csv"]
            workspace = ["extension"]
            late_rows_seconds = 9
            charge = [{ resource = "users", amount = { lines_after = 4 } }]

            [[rule]]
            name = "ignore"
            methods = ["POST"]
            paths = ["/api/list"]
            operation = "ignore"
        "#;
        assert_same(&RouteMap::from_toml(toml, &catalog()).unwrap());
    }

    /// A change to line `line` of a good file, and what the error then says.
    pub(super) type Mistake = (usize, &'static str, &'static str);

    pub(super) fn assert_told(good: &str, mistakes: &[Mistake], read: impl Fn(&str) -> Result<RouteMap, Error>) {
        read(good).unwrap();
        for (line, wrong, says) in mistakes {
            let mut lines: Vec<&str> = good.lines().collect();
            lines[line - 1] = wrong;
            let error = read(&lines.join("\n")).unwrap_err();
            assert!(error.is_config());
            assert!(error.to_string().contains(says), "{wrong}\n{error}");
            assert!(error.to_string().starts_with("line "), "{error}");
        }
    }

    #[cfg(feature = "toml")]
    #[test]
    fn mistakes_in_toml_are_told_by_line_and_rule() {
        let good = r#"workspace = [{ header = "ws" }]
strict_prefixes = []

[[rule]]
name = "first"
methods = ["POST"]
paths = ["/a"]
[[rule.charge]]
resource = "users"

[[rule]]
name = "second"
methods = ["PUT"]
paths = ["/a"]
[[rule.charge]]
resource = "segments"
amount = 1
"#;
        let mistakes = [
            (1, "workspace = [{ header = \"w s\" }]", "line 1: \"w s\" is not the name of a header"),
            (1, "workspace = [{ body = \"w\" }]", "line 1: \"w\" is not a JSON pointer"),
            (2, "strict = true", "line 2: unknown field `strict`"),
            (2, "body_cap = 0", "line 2: "),
            (2, "path_reading = \"decode\"", "line 2: unknown variant `decode`"),
            (2, "workspace_format = \"guid\"", "line 2: unknown variant `guid`"),
            (2, "strict_prefixes = [\"api\"]", "line 2: the strict prefix \"api\" is not a plain path"),
            (4, "[[rule]", "line 4: "),
            (5, "nmae = \"first\"", "line 5: unknown field `nmae`"),
            (7, "", "line 4, rule \"first\": missing field `paths`"),
            (7, "paths = [\"a\"]", "line 4, rule \"first\": the path \"a\""),
            (7, "paths = []", "line 7, rule \"first\": `paths`"),
            (13, "methods = [\"put\"]", "line 13, rule \"second\": \"put\" is not a method"),
            (13, "methods = [\"POST\"]", "line 11, rule \"second\": POST \"/a\" is already claimed by rule \"first\""),
            (13, "methods = 3", "line 13, rule \"second\": invalid type: integer `3`"),
            (
                16,
                "resource = \"segment\"",
                "line 11, rule \"second\": unknown resource type \"segment\": write one of users",
            ),
            (
                16,
                "resource = 3",
                "line 16, rule \"second\": invalid type: integer `3`, expected the name of a resource type",
            ),
            (17, "amount = 0", "line 17, rule \"second\": an amount is 1 or more"),
            (17, "amount = -1", "line 17, rule \"second\": an amount is 1 or more"),
            (17, "amount = { length = \"x\" }", "line 17, rule \"second\": \"x\" is not a JSON pointer"),
            (17, "amount = { size = \"/x\" }", "line 17, rule \"second\": unknown variant `size`"),
            (17, "when = [{ field = \"/a\" }]", "line 17, rule \"second\": a condition has one of"),
            (
                17,
                "when = [{ field = \"/a\", equals = 1, present = true }]",
                "line 17, rule \"second\": a condition has one of",
            ),
            (
                17,
                "amount = { distinct = { array = \"/a\", element = [\"/b\", \"c\"] } }",
                "line 17, rule \"second\": \"c\" is not a JSON pointer",
            ),
            (17, "probe = [{ column = \"id\" }]", "line 17, rule \"second\": a probe has one of"),
            (17, "probe = [{ body = \"/id\", column = \"id\" }]", "line 11, rule \"second\": a `create` has no probe"),
        ];
        assert_told(good, &mistakes, |text| RouteMap::from_toml(text, &catalog()));
    }

    #[test]
    fn mistakes_in_json_are_told_by_line_and_rule() {
        let good = r#"{
  "workspace": [{ "header": "ws" }],
  "strict_prefixes": [],
  "rule": [
    { "name": "first", "methods": ["POST"], "paths": ["/a"], "charge": [{ "resource": "users" }] },
    {
      "name": "second",
      "methods": ["PUT"],
      "paths": ["/a"],
      "charge": [{ "resource": "segments",
        "amount": 1 }]
    }
  ]
}"#;
        let mistakes = [
            (2, r#""workspace": [{ "header": "w s" }],"#, "line 2: \"w s\" is not the name of a header"),
            (3, r#""strict": [],"#, "line 3: unknown field `strict`"),
            (5, r#"{ "name": "first", "methods": ["POST"] },"#, "line 5, rule \"first\": missing field `paths`"),
            (6, "", "line 7: "),
            (8, r#""method": ["PUT"],"#, "line 8, rule \"second\": unknown field `method`"),
            (8, r#""methods": ["POST"],"#, "line 6, rule \"second\": POST \"/a\" is already claimed by rule \"first\""),
            (10, r#""charge": [{ "resource": "segment","#, "line 6, rule \"second\": unknown resource type"),
            (11, r#""amount": 1.5 }]"#, "line 11, rule \"second\": invalid type: floating point `1.5`"),
            (11, r#""amount": { "length": "x" } }]"#, "line 11, rule \"second\": \"x\" is not a JSON pointer"),
        ];
        assert_told(good, &mistakes, |text| RouteMap::from_json(text, &catalog()));
    }
}

mod declared_types {
    use super::files::{Mistake, assert_told};
    use super::*;
    use crate::{Limit, ResourceCatalogBuilder, ResourceSpec};

    const JSON: &str = r#"{
  "resource": [
    { "name": "customMetrics", "limit_field": "maxCustomMetrics", "default": 50, "table": "CustomMetric" },
    {
      "name": "hooks",
      "limit_field": "maxHooks",
      "default": null,
      "label": "Webhook"
    }
  ],
  "rule": [{ "name": "a", "methods": ["POST"], "paths": ["/a"], "workspace": ["extension"], "charge": [{ "resource": "hooks" }] }]
}"#;

    fn base() -> ResourceCatalogBuilder {
        ResourceCatalog::builder()
    }

    fn metrics() -> ResourceSpec {
        ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)).table("CustomMetric")
    }

    fn hooks() -> ResourceSpec {
        ResourceSpec::new("hooks", "maxHooks", Limit::Unlimited).label("Webhook")
    }

    fn types(map: &RouteMap) -> Vec<String> {
        map.catalog().iter().map(|resource| format!("{resource:?}")).collect()
    }

    fn in_code() -> Vec<String> {
        let catalog = base().resource(metrics()).resource(hooks()).build().unwrap();
        catalog.iter().map(|resource| format!("{resource:?}")).collect()
    }

    #[test]
    fn json_declares_what_code_declares() {
        let map = RouteMap::with_types_from_json(JSON, base()).unwrap();
        assert_eq!(types(&map), in_code());
        let word = JSON.replace("null", "\"unlimited\"");
        assert_eq!(types(&RouteMap::with_types_from_json(&word, base()).unwrap()), in_code());
        // The map is one for its own catalog, and rules may charge what the file declares.
        let again = RouteMap::from_json(JSON, map.catalog()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{map:?}"));
        let found = map.find(&Method::POST, "/a", None).unwrap().rule().name().to_owned();
        assert_eq!(found, "a");
    }

    #[cfg(feature = "toml")]
    const TOML: &str = r#"[[resource]]
name = "customMetrics"
limit_field = "maxCustomMetrics"
default = 50
table = "CustomMetric"

[[resource]]
name = "hooks"
limit_field = "maxHooks"
default = "unlimited"
label = "Webhook"

[[rule]]
name = "a"
methods = ["POST"]
paths = ["/a"]
workspace = ["extension"]
charge = [{ resource = "hooks" }]
"#;

    #[cfg(feature = "toml")]
    #[test]
    fn toml_declares_what_code_declares() {
        let map = RouteMap::with_types_from_toml(TOML, base()).unwrap();
        assert_eq!(types(&map), in_code());
        assert_eq!(types(&RouteMap::from_toml(TOML, map.catalog()).unwrap()), in_code());
    }

    #[test]
    fn a_base_that_has_them_is_left_as_it_is() {
        // The order is the base's, and what the file doesn't tell is no contradiction.
        let base = ResourceCatalog::empty().resource(hooks().table("Hook")).resource(metrics());
        let map = RouteMap::with_types_from_json(JSON, base).unwrap();
        let told: Vec<_> = map.catalog().iter().map(|resource| (resource.name(), resource.table())).collect();
        assert_eq!(told, [("hooks", Some("Hook")), ("customMetrics", Some("CustomMetric"))]);
    }

    #[test]
    fn types_alone_are_a_catalog() {
        let map = RouteMap::with_types_from_json(JSON, ResourceCatalog::empty()).unwrap();
        assert_eq!(map.catalog().names(), "customMetrics, hooks");
        let error = RouteMap::with_types_from_json("{}", ResourceCatalog::empty()).unwrap_err();
        assert!(error.message().contains("at least one"), "{error}");
    }

    #[test]
    fn a_catalog_that_lacks_or_contradicts_a_type_is_told() {
        let own = |label: &str, table: &str, metrics: ResourceSpec| {
            let hooks = ResourceSpec::new("hooks", "maxHooks", Limit::Unlimited).label(label);
            let hooks = if table.is_empty() { hooks } else { hooks.table(table) };
            base().resource(metrics).resource(hooks)
        };
        let lacks = RouteMap::from_json(JSON, &base().resource(metrics()).build().unwrap()).unwrap_err();
        let says = "line 4, resource \"hooks\": the catalog doesn't have it, which has users, segments, journeys";
        assert!(lacks.is_config() && lacks.message().starts_with(says), "{lacks}");
        assert!(lacks.message().contains("with_types_from_json"), "{lacks}");
        for (base, says) in [
            (
                own(
                    "Webhook",
                    "",
                    ResourceSpec::new("customMetrics", "mostMetrics", Limit::of(50)).table("CustomMetric"),
                ),
                "line 3, resource \"customMetrics\": the limit field is \"maxCustomMetrics\" in the file and \"mostMetrics\" \
                 in the catalog",
            ),
            (
                own("Webhook", "", ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(40))),
                "line 3, resource \"customMetrics\": the default is 50 in the file and 40 in the catalog, the table is \
                 \"CustomMetric\" in the file and none in the catalog",
            ),
            (
                own("Hook", "Hook", metrics()),
                "line 4, resource \"hooks\": the label is \"Webhook\" in the file and \"Hook\" in the catalog",
            ),
        ] {
            let catalog = base.clone().build().unwrap();
            for error in [
                RouteMap::from_json(JSON, &catalog).unwrap_err(),
                RouteMap::with_types_from_json(JSON, base).unwrap_err(),
            ] {
                assert_eq!(error.message(), says);
                assert!(error.is_config());
            }
        }
        // Also where the base leaves the label to the name.
        let unnamed = ResourceSpec::new("hooks", "maxHooks", Limit::Unlimited);
        let error = RouteMap::with_types_from_json(JSON, base().resource(unnamed)).unwrap_err();
        assert!(
            error.message().contains("the label is \"Webhook\" in the file and \"Hook\" in the catalog"),
            "{error}"
        );
    }

    #[cfg(feature = "toml")]
    #[test]
    fn mistakes_in_toml_are_told_by_line_and_type() {
        let mistakes: [Mistake; 16] = [
            (
                2,
                "name = \"custom metrics\"",
                "line 1, resource \"custom metrics\": the resource type \"custom metrics\" is not",
            ),
            (
                3,
                "limit_field = \"max;\"",
                "line 1, resource \"customMetrics\": the limit field \"max;\" is not an identifier",
            ),
            (3, "limit_field = \"maxUsers\"", "line 1, resource \"customMetrics\": the limit field \"maxUsers\" of"),
            (3, "limit_field = \"version\"", "line 1, resource \"customMetrics\": the limit field \"version\" of"),
            (3, "", "line 1, resource \"customMetrics\": missing field `limit_field`"),
            (4, "", "line 1, resource \"customMetrics\": missing field `default`"),
            (5, "table = \"a b\"", "line 1, resource \"customMetrics\": the table \"a b\" is not an identifier"),
            (5, "tabel = \"a\"", "line 5, resource \"customMetrics\": unknown field `tabel`"),
            (8, "name = \"customMetrics\"", "line 7, resource \"customMetrics\": it is declared twice in the file"),
            (
                8,
                "name = \"Segments\"",
                "line 7, resource \"Segments\": the resource type \"Segments\" is declared twice",
            ),
            (
                8,
                "name = \"users\"",
                "line 7, resource \"users\": the limit field is \"maxHooks\" in the file and \"maxUsers\"",
            ),
            (
                10,
                "default = -1",
                "line 10, resource \"hooks\": a default is a whole number of 0 to 9223372036854775807, or \"unlimited\"",
            ),
            (
                10,
                "default = 1.5",
                "line 10, resource \"hooks\": invalid type: floating point `1.5`, expected a whole number of 0 to 9223372036854775807, or \"unlimited\"",
            ),
            (
                10,
                "default = \"many\"",
                "line 10, resource \"hooks\": invalid value: string \"many\", expected a whole number of 0 to 9223372036854775807, or \"unlimited\"",
            ),
            (
                18,
                "charge = [{ resource = \"hook\" }]",
                "line 13, rule \"a\": unknown resource type \"hook\": write one of users",
            ),
            (18, "charge = [{ resource = 1 }]", "line 18, rule \"a\": invalid type"),
        ];
        assert_told(TOML, &mistakes, |text| RouteMap::with_types_from_toml(text, base()));
    }

    #[test]
    fn mistakes_in_json_are_told_by_line_and_type() {
        let mistakes: [Mistake; 7] = [
            (
                3,
                r#"{ "name": "customMetrics", "default": 50 },"#,
                "line 3, resource \"customMetrics\": missing field `limit_field`",
            ),
            (
                3,
                r#"{ "name": "hooks", "limit_field": "maxH", "default": 50 },"#,
                "line 4, resource \"hooks\": it is declared twice",
            ),
            (
                6,
                r#""limit_field": "maxUsers","#,
                "line 4, resource \"hooks\": the limit field \"maxUsers\" of \"hooks\" is taken",
            ),
            (7, r#""default": -1,"#, "line 7, resource \"hooks\": a default is a whole number of 0 to"),
            (
                7,
                r#""default": 9223372036854775808,"#,
                "line 7, resource \"hooks\": a default is a whole number of 0 to",
            ),
            (7, "", "line 9, resource \"hooks\": missing field `default`"),
            (8, r#""lable": "Webhook""#, "line 8, resource \"hooks\": unknown field `lable`"),
        ];
        assert_told(JSON, &mistakes, |text| RouteMap::with_types_from_json(text, base()));
    }
}

#[cfg(feature = "toml")]
mod dittofeed {
    use super::*;

    /// Dittofeed's API: its mounts, its look-alikes, and a router that decodes before it matches.
    const MAP: &str = include_str!("../../maps/dittofeed.toml");

    const ID: &str = "6e9f5a1c-0d3b-4c5e-9b7a-2f1e8d4c6b0a";

    fn map() -> RouteMap {
        RouteMap::from_toml(MAP, &catalog()).unwrap()
    }

    fn told(method: &Method, uri: &str, body: &str) -> Vec<(String, u64, Existing)> {
        let mut parts = request(method, uri, &[("df-workspace-id", WS)]);
        if uri.starts_with("/api/public") {
            parts.extensions.insert(WorkspaceClaim(WS.into()));
        }
        let resolved = resolve_parts(&map(), &parts, body).unwrap();
        assert_eq!(resolved.workspace.as_str(), WS);
        charges(&resolved)
    }

    fn row_of_any(resource: &str, column: &str, value: &str) -> (String, u64, Existing) {
        (resource.into(), 1, Existing::Row { column: column.into(), value: value.into(), uncounted: true })
    }

    fn users(values: &[&str]) -> (String, u64, Existing) {
        let values: Vec<String> = values.iter().copied().map(str::to_owned).collect();
        ("users".to_owned(), values.len() as u64, Existing::Rows { column: "userId".into(), values })
    }

    #[test]
    fn rows_that_may_be_internal() {
        for (path, resource) in [("/api/segments", "segments"), ("/api/content/templates", "emailTemplates")] {
            let told = |body: String| told(&Method::PUT, path, &body);
            // The flip from Internal to Declarative: the probe finds only rows that count, so it charges 1.
            let body = format!(r#"{{"id":"{}","name":"n","resourceType":"Declarative"}}"#, ID.to_ascii_uppercase());
            assert_eq!(told(body), [row(resource, "id", ID)]);
            assert_eq!(told(r#"{"name":"n","resourceType":"Declarative"}"#.into()), [row(resource, "name", "n")]);
            // Of what it is, nothing is said: a row that is there stays what it is.
            assert_eq!(told(r#"{"name":"n"}"#.into()), [row_of_any(resource, "name", "n")]);
            assert_eq!(told(r#"{"name":"n","resourceType":null}"#.into()), [row_of_any(resource, "name", "n")]);
            assert_eq!(told(r#"{"name":"n","resourceType":"Internal"}"#.into()), []);
        }
        let only = |of: &str| told(&Method::PUT, "/api/segments/", &format!(r#"{{"name":"n","createOnly":{of}}}"#));
        assert_eq!(only("true"), [row_of_any("segments", "name", "n")]);
        assert_eq!(only(r#"true,"resourceType":"Declarative""#), [row_of_any("segments", "name", "n")]);
        assert_eq!(only(r#"false,"resourceType":"Declarative""#), [row("segments", "name", "n")]);
        assert_eq!(only(r#"true,"resourceType":"Internal""#), []);
        let parts = request(&Method::PUT, "/api/segments", &[("df-workspace-id", WS)]);
        assert_invalid(resolve_parts(&map(), &parts, r#"{"id":"i"}"#), "`/id` is \"i\": write a UUID");
    }

    #[test]
    fn the_router_behind_decodes() {
        for path in ["/api/%73egments", "/api/segments;x", "/%61pi/admin/segments", "https://df.example/api/segments"] {
            assert_eq!(told(&Method::PUT, path, r#"{"name":"n"}"#), [row_of_any("segments", "name", "n")]);
        }
        for path in ["/api/segments/Segments", "/api/segments//", "/api/broadcasts/v2/", "/api/segments/%2F"] {
            assert_eq!(rule_of(&map(), &Method::PUT, path), None, "{path}");
            assert!(map().is_unmapped_create(&Method::PUT, path, None), "{path}");
        }
    }

    #[test]
    fn others() {
        for (path, resource) in [
            ("/api/journeys", "journeys"),
            ("/api/admin/broadcasts/v2", "broadcasts"),
            ("/api/user-properties/", "computedProperties"),
            ("/api/content/templates/reset", "emailTemplates"),
        ] {
            assert_eq!(told(&Method::PUT, path, r#"{"name":"n"}"#), [row_of_any(resource, "name", "n")]);
        }
        let group = told(&Method::PUT, "/api/admin/subscription-groups", r#"{"name":"n"}"#);
        assert_eq!(group, [row("subscriptionGroups", "name", "n")]);
        assert_eq!(told(&Method::POST, "/api/broadcasts/execute", "{}"), [plain("broadcasts", 1)]);
        for (kind, resource) in [("Journey", "journeys"), ("MessageTemplate", "emailTemplates")] {
            let body = format!(r#"{{"name":"n","resourceType":"{kind}"}}"#);
            assert_eq!(told(&Method::POST, "/api/resources/duplicate", &body), [plain(resource, 1)]);
        }
        let archive = |archived: &str| {
            let body = format!(r#"{{"broadcastId":"{ID}"{archived}}}"#);
            told(&Method::PUT, "/api/broadcasts/archive", &body)
        };
        assert_eq!(archive(r#","archived":true"#), []);
        assert_eq!(archive(r#","archived":false"#), [row("broadcasts", "id", ID)]);
        assert_eq!(archive(""), [row("broadcasts", "id", ID)]);
        for (path, resource) in [
            ("/api/segments", "segments"),
            ("/api/journeys/v2?id=i", "journeys"),
            ("/api/user-properties", "computedProperties"),
            ("/api/content/templates/v2?id=i", "emailTemplates"),
            ("/api/admin/subscription-groups/", "subscriptionGroups"),
            ("/api/users/v2?userIds=u", "users"),
        ] {
            assert_eq!(told(&Method::DELETE, path, r#"{"id":"i"}"#), [plain(resource, 1)]);
        }
        assert_eq!(told(&Method::DELETE, "/api/users", r#"{"userIds":["a","b"]}"#), [plain("users", 2)]);
    }

    #[test]
    fn events() {
        let event = |kind: &str, body: &str| told(&Method::POST, &format!("/api/public/apps/{kind}"), body);
        assert_eq!(event("track", r#"{"userId":"u"}"#), [row("users", "userId", "u")]);
        assert_eq!(event("track", r#"{"anonymousId":"u"}"#), [row("users", "userId", "u")]);
        // Upstream makes a text of it.
        assert_eq!(event("track", r#"{"userId":null,"anonymousId":"u"}"#), [row("users", "userId", "")]);
        assert_eq!(event("track", r#"{"userId":"u","groupId":"g"}"#), [row("users", "userId", "u")]);
        let both = [row("users", "userId", "u"), row("users", "userId", "g")];
        assert_eq!(event("group", r#"{"userId":"u","groupId":"g"}"#), both);
        assert_eq!(event("group", r#"{"userId":"u","groupId":"u"}"#), [row("users", "userId", "u")]);
        let batch = r#"{"batch":[{"type":"track","userId":"a","groupId":"x"},{"anonymousId":"b"},
            {"type":"group","userId":"a","groupId":"b"},{"type":"group","userId":"a","groupId":"g"},
            {"type":"group","userId":"a"},{"type":["group"],"userId":"a","groupId":"h"}]}"#;
        assert_eq!(event("batch", batch), [users(&["a", "b"]), users(&["g", "h"])]);
        for mount in ["/api", "/api/public"] {
            let webhook = |body: &str| told(&Method::POST, &format!("{mount}/webhooks/segment"), body);
            assert_eq!(webhook(r#"{"type":"group","userId":"u","groupId":"g"}"#), both);
            assert_eq!(webhook(r#"{"userId":null,"anonymousId":"u"}"#), [row("users", "userId", "u")]);
        }
        let update = told(&Method::POST, "/api/segments/manual-segment/update", r#"{"userIds":["a","b","a"]}"#);
        assert_eq!(update, [users(&["a", "b"])]);
        let assigned = r#"{"userUpdates":[{"userId":"a","changes":{}},{"userId":"b","changes":{}}]}"#;
        assert_eq!(told(&Method::PUT, "/api/subscription-groups/assignments", assigned), [users(&["a", "b"])]);
        let parts = request(&Method::POST, "/api/public/apps/track", &[("df-workspace-id", WS)]);
        assert_invalid(resolve_parts(&map(), &parts, r#"{"userId":"u"}"#), "looked in the authentication");
    }

    #[test]
    fn uploads() {
        let file = "--b\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\nid\r\nann\r\nben\r\n--b--\r\n";
        let parts = request(&Method::POST, "/api/segments/upload-csv", &[("df-workspace-id", WS)]);
        let resolved = resolve_parts(&map(), &parts, file).unwrap();
        assert_eq!(charges(&resolved), [plain("users", 3)]);
        assert!(resolved.charges[0].settle_by_count);
        let map = map();
        let found = map.find(&Method::POST, "/api/subscription-groups/upload-csv", None).unwrap();
        assert_eq!(found.rule().late_rows(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn look_alikes() {
        let map = map();
        for path in ["/api/users", "/api/users/count", "/api/broadcasts/trigger", "/api/computed-properties/trigger"] {
            let found = map.find(&Method::POST, path, None).unwrap();
            assert_eq!(found.rule().operation(), Operation::Ignore, "{path}");
            assert!(!found.rule().needs_body() && found.direct().is_none());
        }
        assert_eq!(rule_of(&map, &Method::PUT, "/api/broadcasts"), Some("update-broadcast"));
        assert_eq!(rule_of(&map, &Method::PATCH, "/api/segments/status"), Some("update-status"));
        assert_eq!(rule_of(&map, &Method::GET, "/api/segments"), None);
        for (method, path) in [(Method::PUT, "/api/users"), (Method::POST, "/api/admin/journeys")] {
            assert!(map.is_unmapped_create(&method, path, None), "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_and_no_body_panics(path in "/?(api|segments|%[0-9a-f]{0,2}|[;./%{}?ſK*]|\\PC){0,12}", body in any::<Vec<u8>>()) {
            let map = map();
            for method in [Method::PUT, Method::POST, Method::DELETE] {
                let _ = map.find(&method, &path, None).map(|found| found.direct().map(|direct| direct.is_ok()));
                let _ = map.is_unmapped_create(&method, &path, None);
            }
            let parts = request(&Method::PUT, "/api/segments", &[("df-workspace-id", WS)]);
            let found = map.find(&Method::PUT, "/api/segments", None).unwrap();
            let _ = block_on(found.resolve(&parts, Some(&body), WorkspaceFormat::Uuid)).is_ok();
        }

        #[test]
        fn no_json_panics(body in r#"[\[\]{}:,"]{0,8}|\{("(id|name|resourceType|workspaceId|batch|userIds)":("[a-z]{0,2}"|\[("a",?){0,3}\]|null|1e?9),?){0,4}\}"#) {
            let map = map();
            for (method, path) in [(Method::PUT, "/api/segments"), (Method::DELETE, "/api/users"), (Method::POST, "/api/resources/duplicate")] {
                let parts = request(&method, path, &[]);
                let found = map.find(&method, path, None).unwrap();
                let _ = block_on(found.resolve(&parts, Some(body.as_bytes()), WorkspaceFormat::Uuid)).is_ok();
            }
        }

        #[test]
        fn no_file_panics(text in "(\\[\\[(rule|resource)\\]\\]\n|limit_field = \"b\"\n|default = -?[0-9]{1,20}\n|name = \"a\"\n|paths = \\[\"/[a{}*]{0,4}\"\\]\n|methods = \\[\"POST\"\\]\n|\\PC){0,8}") {
            let _ = RouteMap::from_toml(&text, &catalog()).is_ok();
            let _ = RouteMap::from_json(&text, &catalog()).is_ok();
            let _ = RouteMap::with_types_from_toml(&text, ResourceCatalog::builder()).is_ok();
        }
    }
}

mod against_a_model {
    use super::*;

    /// Whether `template` takes `path`, segment by segment; an empty segment is a parameter only inside a path.
    fn takes(template: &[&str], path: &[&str]) -> bool {
        match (template, path) {
            ([], []) => true,
            ([last], [_, ..]) if last.starts_with("{*") => !path.join("/").is_empty(),
            ([first, rest @ ..], [segment, others @ ..]) => {
                let fits = match first.split_once('{') {
                    None => first == segment,
                    Some((prefix, _)) => {
                        let value = segment.strip_prefix(prefix);
                        value.is_some_and(|value| !value.is_empty() || !others.is_empty())
                    }
                };
                fits && takes(rest, others)
            }
            _ => false,
        }
    }

    fn segments(path: &str) -> Vec<&str> {
        path.split('/').skip(1).collect()
    }

    proptest! {
        #[test]
        fn no_choice_of_the_router_panics(path in "/?([ab/%{}*]|\\PC){0,8}", matched in "/?([ab/%{}*]|\\PC){0,8}") {
            let map = RouteMap::builder(&catalog())
                .strict_prefix("/a")
                .rule(by_path("one", "/a/{ws}"))
                .rule(by_path("two", "/a/{ws}/b{{/{*rest}"));
            let _ = map.build().unwrap().is_unmapped_create(&Method::POST, &path, Some(&matched));
        }

        /// No request goes past a template that takes its path, whatever the other templates are.
        #[test]
        fn what_a_template_takes_is_found(
            templates in prop::collection::btree_set("(/(a|b|ab|a\\{x\\}|\\{x\\})){1,3}(/\\{\\*r\\})?", 1..6),
            path in "(/(a|b|ab|abc|)){1,4}",
        ) {
            let mut map = RouteMap::builder(&catalog());
            let mut kept: Vec<String> = Vec::new();
            for template in templates {
                // One parameter name may stand only once.
                let named: String = template.split("{x}").enumerate().map(|(at, part)| match at {
                    0 => part.to_owned(),
                    _ => format!("{{x{at}}}{part}"),
                }).collect();
                let rule = Rule::new(named.clone(), Method::POST, named.clone()).operation(Operation::Ignore);
                let with = map.clone().rule(rule);
                if with.clone().build().is_ok() {
                    map = with;
                    kept.push(named);
                }
            }
            let map = map.build().unwrap();
            let takers: Vec<&String> = kept.iter().filter(|template| takes(&segments(template), &segments(&path))).collect();
            prop_assert!(takers.iter().all(|taker| path::takes(taker, &path)));
            let chosen = |matched| map.find(&Method::POST, &path, matched).map(|found| found.rule().name().to_owned());
            prop_assert_eq!(chosen(Some("/{*rest}")), chosen(None));
            match map.find(&Method::POST, &path, None) {
                Some(found) => {
                    let rule = found.rule().name();
                    prop_assert!(takers.iter().any(|taker| *taker == rule));
                    prop_assert_eq!(chosen(Some(rule)), Some(rule.to_owned()));
                }
                None => prop_assert!(takers.is_empty(), "{:?} takes {path}", takers),
            }
        }
    }
}

#[test]
fn a_map_tells_what_it_is_made_of() {
    let both = by_path("both", "/{ws}/segments").method(Method::PUT).path("/v2/{ws}/segments");
    let chosen =
        by_path("chosen", "/{ws}/things").charge(Charge::chosen_by("/kind", [("a", "users"), ("b", "journeys")]));
    let map = RouteMap::builder(&catalog()).rule(both).rule(chosen).build().unwrap();
    let rules: Vec<_> = map.rules().collect();
    let mut routes: Vec<_> = map.routes_of(rules[0]).map(|(method, path)| format!("{method} {path}")).collect();
    routes.sort();
    assert_eq!(
        routes,
        ["POST /v2/{ws}/segments", "POST /{ws}/segments", "PUT /v2/{ws}/segments", "PUT /{ws}/segments"]
    );
    let resources: Vec<_> = rules[1].resources().map(|id| map.catalog().get(id).name()).collect();
    assert_eq!(resources, ["segments", "users", "journeys"]);
    assert_eq!(map.find(&Method::PUT, "/v2/acme/segments", None).unwrap().template(), "/v2/{ws}/segments");
    // A rule of another map is none of this one's.
    let other = one(by_path("both", "/{ws}/segments"));
    assert_eq!(map.routes_of(other.rules().next().unwrap()).count(), 0);
}
