//! The map: rules by method and path.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::Method;
use matchit::Router;

use super::compile::{Defaults, MappedRule};
use super::path::{PathReading, Template, equivalent, rules_out, tail, takes};
use super::quick::{QuickRoutes, Quickly};
use super::resolve::Match;
use super::rule::{Rule, WorkspaceSource};
use crate::body::check_pointer;
use crate::error::Error;
use crate::resource::ResourceCatalog;
use crate::workspace::WorkspaceFormat;

#[doc = include_str!("route-map.md")]
#[derive(Clone)]
pub struct RouteMap(Arc<Inner>);

struct Inner {
    catalog: ResourceCatalog,
    rules: Vec<MappedRule>,
    /// One per method that any rule is for: a handful, which is faster to go through than to hash.
    methods: Vec<MethodRoutes>,
    reading: PathReading,
    strict_prefixes: Vec<String>,
    workspace_format: Option<WorkspaceFormat>,
}

/// The routes of one method.
///
/// A router per method, not one for all: with one, `PUT /a/new` would hide `POST /a/{id}` from `POST /a/new`, which some
/// routers serve by the latter.
struct MethodRoutes {
    method: Method,
    /// Leads to `routes`.
    router: Router<usize>,
    /// Leads there too, where all templates are plain ones.
    quick: Option<QuickRoutes>,
    routes: Vec<RouteAt>,
    /// The routes by the [`tail`] of their templates.
    by_tail: HashMap<Box<str>, Vec<usize>, RandomState>,
}

struct RouteAt {
    rule: usize,
    template: usize,
}

/// A rule, and the one of its templates that is for the request.
type Route<'r> = (&'r MappedRule, &'r Template);

impl RouteMap {
    /// The body cap of rules that don't have their own, unless the map sets another: 1 MiB.
    pub const DEFAULT_BODY_CAP: usize = 1 << 20;

    /// Starts a map for the resource types of `catalog`.
    pub fn builder(catalog: &ResourceCatalog) -> RouteMapBuilder {
        RouteMapBuilder {
            catalog: catalog.clone(),
            defaults: Defaults {
                reading: PathReading::default(),
                workspace: Vec::new(),
                body_cap: Self::DEFAULT_BODY_CAP,
                doubles: false,
            },
            rules: Vec::new(),
            strict_prefixes: Vec::new(),
            workspace_format: None,
        }
    }

    /// Whether any rule is for `method`. If not, [`find`](Self::find) has none, whatever the path.
    ///
    /// It takes no more than a few comparisons, for callers to ask before they look up what `find` wants to know.
    #[inline]
    pub fn maps(&self, method: &Method) -> bool {
        self.0.methods.iter().any(|routes| routes.method == *method)
    }

    /// The rule for a request, or `None` where no rule maps it.
    ///
    /// `path` is the path of the original request, not of one that a nested router has shortened. `matched` is the
    /// template by which the router around or behind the layer has chosen its route, where the router tells it before the
    /// layer runs (axum's `MatchedPath`). With [`PathReading::Raw`], that choice counts: a route of the router's own for
    /// which there is no rule is not mapped, though a rule with a wider template is for the same path. A route that has a
    /// catch-all, or that is wider than the rule, doesn't count, since what it leads to decides by itself: a proxy, a
    /// service with a router of its own, a handler for several types. With [`PathReading::Decoded`], another router
    /// decides, and `matched` is not looked at.
    #[inline]
    pub fn find<'r>(&'r self, method: &Method, path: &'r str, matched: Option<&str>) -> Option<Match<'r>> {
        let Inner { methods, reading, .. } = &*self.0;
        let routes = methods.iter().find(|routes| routes.method == *method)?;
        let read = reading.read(path);
        let (by_path, first) = match (*reading, &routes.quick) {
            (PathReading::Raw, Some(quick)) => self.by_path(routes, quick, path),
            _ => (self.by_router(routes, &reading.fold(&read.path)), None),
        };
        let route = match matched.filter(|_| *reading == PathReading::Raw) {
            None => by_path?,
            Some(matched) => self.by_choice(routes, by_path, path, matched)?,
        };
        let first = first.filter(|_| by_path.is_some_and(|(_, template)| std::ptr::eq(template, route.1)));
        Some(Match::new(route, read, *reading, first))
    }

    /// The rule that the path by itself leads to, and the value of its first parameter where that is known already.
    #[inline]
    fn by_path<'r>(
        &'r self,
        routes: &'r MethodRoutes,
        quick: &QuickRoutes,
        path: &'r str,
    ) -> (Option<Route<'r>>, Option<&'r str>) {
        match quick.find(path, |at| self.route(routes, at).map(|(_, template)| template)) {
            Quickly::Found(at, first) => (self.route(routes, at), first),
            Quickly::Nothing => (None, None),
            Quickly::AskRouter => (self.by_router(routes, path), None),
        }
    }

    fn by_router<'r>(&'r self, routes: &'r MethodRoutes, path: &str) -> Option<Route<'r>> {
        self.route(routes, *routes.router.at(path).ok()?.value)
    }

    /// The rule where the router has chosen the route `matched`, and the path by itself leads to `by_path`.
    fn by_choice<'r>(
        &'r self,
        routes: &'r MethodRoutes,
        by_path: Option<Route<'r>>,
        path: &str,
        matched: &str,
    ) -> Option<Route<'r>> {
        match by_path {
            Some((_, template)) if equivalent(template.written(), matched) => by_path,
            Some((_, template)) if rules_out(matched, template.written(), path) => None,
            // A rule for a route that takes the path would have been found by the path. But the path may have been rewritten
            // on its way to the router.
            None => self.by_template(routes, matched).filter(|_| !takes(matched, path)),
            _ => self.by_template(routes, matched).or(by_path),
        }
    }

    #[inline]
    fn route(&self, routes: &MethodRoutes, at: usize) -> Option<Route<'_>> {
        let route = routes.routes.get(at)?;
        let rule = self.0.rules.get(route.rule)?;
        Some((rule, rule.templates.get(route.template)?))
    }

    fn by_template(&self, routes: &MethodRoutes, matched: &str) -> Option<Route<'_>> {
        let alike = routes.by_tail.get(tail(matched))?;
        let mut alike = alike.iter().filter_map(|at| self.route(routes, *at));
        alike.find(|(_, template)| equivalent(template.written(), matched))
    }

    /// Whether a request looks like a creation that the map has forgotten: a POST or PUT under one of the
    /// [declared prefixes](RouteMapBuilder::strict_prefix) for which [`find`](Self::find) has no rule.
    pub fn is_unmapped_create(&self, method: &Method, path: &str, matched: Option<&str>) -> bool {
        if !matches!(*method, Method::POST | Method::PUT) || self.0.strict_prefixes.is_empty() {
            return false;
        }
        let read = self.0.reading.read(path);
        let folded = self.0.reading.fold(&read.path);
        let is_under = |prefix: &String| {
            folded.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.strict_prefixes.iter().any(is_under) && self.find(method, path, matched).is_none()
    }

    /// The catalog that the map was built for, whose ids its charges have.
    pub fn catalog(&self) -> &ResourceCatalog {
        &self.0.catalog
    }

    /// The spelling of workspace ids that the map declares; `None` where that is left to the engine.
    pub fn workspace_format(&self) -> Option<WorkspaceFormat> {
        self.0.workspace_format
    }

    /// The rules, in the order in which they were added.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &MappedRule> {
        self.0.rules.iter()
    }

    /// What `rule`, which is one of this map's, is for: methods, and templates as they were written.
    pub fn routes_of<'r>(&'r self, rule: &'r MappedRule) -> impl Iterator<Item = (&'r Method, &'r str)> {
        self.0.methods.iter().flat_map(move |routes| {
            let own = (0..routes.routes.len()).filter_map(move |at| self.route(routes, at));
            let own = own.filter(move |(of, _)| std::ptr::eq(*of, rule));
            own.map(move |(_, template)| (&routes.method, template.written()))
        })
    }
}

impl fmt::Debug for RouteMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = self.0.methods.iter().map(|routes| &routes.method);
        f.debug_struct("RouteMap")
            .field("reading", &self.0.reading)
            .field("workspace_format", &self.0.workspace_format)
            .field("strict_prefixes", &self.0.strict_prefixes)
            .field("methods", &methods.collect::<Vec<_>>())
            .field("rules", &self.0.rules)
            .finish()
    }
}

/// Builds a [`RouteMap`].
#[derive(Debug, Clone)]
pub struct RouteMapBuilder {
    catalog: ResourceCatalog,
    defaults: Defaults,
    rules: Vec<Rule>,
    strict_prefixes: Vec<String>,
    workspace_format: Option<WorkspaceFormat>,
}

/// Why a map can't be built.
#[derive(Debug)]
pub(super) struct BuildError {
    /// Which rule is at fault, by position and name; `None` where it is the map itself.
    pub(super) rule: Option<(usize, String)>,
    pub(super) message: String,
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        match error.rule {
            Some((_, name)) => Self::config(format!("rule {name:?}: {}", error.message)),
            None => Self::config(error.message),
        }
    }
}

impl RouteMapBuilder {
    /// How the router behind the layer reads paths; [`PathReading::Raw`] where nothing else is said.
    #[must_use]
    pub fn path_reading(mut self, reading: PathReading) -> Self {
        self.defaults.reading = reading;
        self
    }

    /// Adds a place that names the workspace, for all rules that have none of their own.
    #[must_use]
    pub fn workspace(mut self, source: WorkspaceSource) -> Self {
        self.defaults.workspace.push(source);
        self
    }

    /// How workspace ids are spelled, where that differs from the engine's setting.
    #[must_use]
    pub fn workspace_format(mut self, format: WorkspaceFormat) -> Self {
        self.workspace_format = Some(format);
        self
    }

    /// The longest body that is read, in bytes, for all rules that don't have their own cap.
    #[must_use]
    pub fn body_cap(mut self, bytes: usize) -> Self {
        self.defaults.body_cap = bytes;
        self
    }

    /// The service behind reads numbers as doubles, as all JavaScript does: one beyond 2^53 - 1 would be another there, so
    /// that it names nothing, and is refused with 400.
    #[must_use]
    pub fn numbers_are_doubles(mut self) -> Self {
        self.defaults.doubles = true;
        self
    }

    /// Declares that every creation under `prefix`, such as `/api`, has a rule: in the mode `strict`, others are refused.
    #[must_use]
    pub fn strict_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.strict_prefixes.push(prefix.into());
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Checks the rules and builds the map.
    ///
    /// # Errors
    ///
    /// When a rule can't work, or two rules claim the same method and path. Names of parameters make no difference, and
    /// as in axum, a parameter and a catch-all can't be had at the same place. The message names the rules.
    pub fn build(self) -> Result<RouteMap, Error> {
        self.assemble().map_err(Error::from)
    }

    pub(super) fn assemble(self) -> Result<RouteMap, BuildError> {
        let Self { catalog, defaults, rules: written, strict_prefixes, workspace_format } = self;
        let of_map = |message: String| BuildError { rule: None, message };
        for source in &defaults.workspace {
            if let WorkspaceSource::Body(pointer) = source {
                check_pointer(pointer).map_err(of_map)?;
            }
        }
        for prefix in &strict_prefixes {
            check_prefix(prefix).map_err(of_map)?;
        }
        let folded = |prefix: &String| defaults.reading.literal(prefix.trim_end_matches('/')).into_owned();
        let strict_prefixes = strict_prefixes.iter().map(folded).collect();
        let mut methods: Vec<MethodRoutes> = Vec::new();
        let mut names: HashSet<String> = HashSet::new();
        let mut rules: Vec<MappedRule> = Vec::with_capacity(written.len());
        for (at, rule) in written.into_iter().enumerate() {
            let name = rule.name.clone();
            let of_rule = |message: String| BuildError { rule: Some((at, name.clone())), message };
            if !names.insert(name.clone()) {
                return Err(of_rule("another rule has the same name".into()));
            }
            let rule_methods = rule.methods.clone();
            rules.push(MappedRule::compile(rule, &catalog, &defaults).map_err(of_rule)?);
            for method in rule_methods {
                add_routes(&mut methods, &method, &rules).map_err(of_rule)?;
            }
        }
        let reading = defaults.reading;
        Ok(RouteMap(Arc::new(Inner { catalog, rules, methods, reading, strict_prefixes, workspace_format })))
    }
}

/// Refuses what is no plain path.
pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
    match prefix.starts_with('/') && !prefix.contains(['{', '}', '?', '#']) {
        true => Ok(()),
        false => Err(format!("the strict prefix {prefix:?} is not a plain path such as \"/api\"")),
    }
}

/// Adds the routes that the last of `rules` has for `method`.
fn add_routes(methods: &mut Vec<MethodRoutes>, method: &Method, rules: &[MappedRule]) -> Result<(), String> {
    let at = match methods.iter().position(|routes| routes.method == *method) {
        Some(at) => at,
        None => {
            methods.push(MethodRoutes {
                method: method.clone(),
                router: Router::new(),
                quick: Some(QuickRoutes::default()),
                routes: Vec::new(),
                by_tail: HashMap::default(),
            });
            methods.len() - 1
        }
    };
    let (Some(routes), Some((rule, earlier))) = (methods.get_mut(at), rules.split_last()) else { return Ok(()) };
    for (template_at, template) in rule.templates.iter().enumerate() {
        let route_at = routes.routes.len();
        if let Err(error) = routes.router.insert(template.pattern(), route_at) {
            return Err(clash(routes, method, rules, template)
                .unwrap_or_else(|| format!("the path {:?} can't be matched: {error}", template.written())));
        }
        routes.routes.push(RouteAt { rule: earlier.len(), template: template_at });
        routes.by_tail.entry(tail(template.written()).into()).or_default().push(route_at);
        if routes.quick.as_mut().is_some_and(|quick| !quick.add(template, route_at)) {
            routes.quick = None;
        }
    }
    Ok(())
}

/// Names the route that stands in the way of `template`: the one that a router of its own can't have beside it.
fn clash(routes: &MethodRoutes, method: &Method, rules: &[MappedRule], template: &Template) -> Option<String> {
    routes.routes.iter().find_map(|route| {
        let rule = rules.get(route.rule)?;
        let other = rule.templates.get(route.template)?;
        let mut router = Router::new();
        router.insert(other.pattern(), ()).ok()?;
        router.insert(template.pattern(), ()).err()?;
        let also = match other.written() == template.written() {
            true => Cow::Borrowed(""),
            false => Cow::Owned(format!(", as {:?}", other.written())),
        };
        Some(format!("{method} {:?} is already claimed by rule {:?}{also}", template.written(), rule.name()))
    })
}
