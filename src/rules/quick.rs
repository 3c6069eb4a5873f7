//! The way past the router that most requests take.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use memchr::memrchr;

use super::path::{Fit, Template};

/// Finds a route by the last segment of the path, and then by comparing texts.
///
/// It finds what the router would find, at a fraction of the cost, and most of all finds soon that there is nothing. It
/// is for templates whose segments are texts or parameters as a whole. Where two of them fit one path, or a segment is
/// empty, the router has rules of its own, and is asked.
#[derive(Debug, Default)]
pub(super) struct QuickRoutes {
    by_last: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// Those that end with a parameter.
    open: Vec<usize>,
}

/// What the quick way leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Quickly<'p> {
    /// A route, and the value of its first parameter.
    Found(usize, Option<&'p str>),
    Nothing,
    AskRouter,
}

impl QuickRoutes {
    /// Adds a route; `false` where its template is none of the plain ones.
    pub(super) fn add(&mut self, template: &Template, route: usize) -> bool {
        let Some(last) = template.plain_end() else { return false };
        match last {
            "" => self.open.push(route),
            last => self.by_last.entry(last.into()).or_default().push(route),
        }
        true
    }

    #[inline]
    pub(super) fn find<'p, 't>(&self, path: &'p str, template: impl Fn(usize) -> Option<&'t Template>) -> Quickly<'p> {
        let last = memrchr(b'/', path.as_bytes()).map_or(path, |at| &path[at + 1..]);
        let mut found = Quickly::Nothing;
        for route in self.by_last.get(last).into_iter().flatten().chain(&self.open) {
            match template(*route).map_or((Fit::Unsure, None), |template| template.fits(path)) {
                (Fit::No, _) => {}
                (Fit::Yes, first) if found == Quickly::Nothing => found = Quickly::Found(*route, first),
                (Fit::Yes | Fit::Unsure, _) => return Quickly::AskRouter,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use matchit::Router;
    use proptest::prelude::*;

    use super::*;
    use crate::rules::PathReading;

    fn joined(segments: &[&str]) -> String {
        segments.iter().map(|segment| format!("/{segment}")).collect()
    }

    proptest! {
        #[test]
        fn it_leads_where_the_router_leads(
            templates in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "", "{}"]), 1..5),
                1..6,
            ),
            paths in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "c", ""]), 0..5),
                1..10,
            ),
        ) {
            let (mut router, mut quick, mut added) = (Router::new(), QuickRoutes::default(), Vec::new());
            for segments in &templates {
                let mut names = ["{p}", "{q}", "{r}", "{s}"].into_iter();
                let named: Vec<&str> =
                    segments.iter().map(|segment| if *segment == "{}" { names.next().unwrap() } else { segment }).collect();
                let template = Template::parse(&joined(&named), PathReading::Raw).unwrap();
                if router.insert(template.pattern(), added.len()).is_ok() {
                    prop_assert!(quick.add(&template, added.len()));
                    added.push(template);
                }
            }
            for segments in &paths {
                let path = joined(segments);
                let expected = router.at(&path).ok().map(|found| *found.value);
                match quick.find(&path, |at| added.get(at)) {
                    Quickly::Found(at, _) => prop_assert_eq!(expected, Some(at), "{}", path),
                    Quickly::Nothing => prop_assert_eq!(expected, None, "{}", path),
                    Quickly::AskRouter => {}
                }
            }
        }
    }

    #[test]
    fn it_answers_the_usual_questions_by_itself() {
        let mut quick = QuickRoutes::default();
        let templates = ["/api/{ws}/segments", "/api/{ws}/users", "/api/{ws}/users/{id}", "/health"];
        let templates = templates.map(|template| Template::parse(template, PathReading::Raw).unwrap());
        for (at, template) in templates.iter().enumerate() {
            assert!(quick.add(template, at));
        }
        let find = |path| quick.find(path, |at| templates.get(at));
        assert_eq!(find("/api/acme/segments"), Quickly::Found(0, Some("acme")));
        assert_eq!(find("/api/acme/users/segments"), Quickly::Found(2, Some("acme")));
        assert_eq!(find("/health"), Quickly::Found(3, None));
        for path in ["/api/acme/exports", "/api/acme/exports/1", "/segments", "/api/segments/", "", "*"] {
            assert_eq!(find(path), Quickly::Nothing, "{path}");
        }
        assert_eq!(find("/api//segments"), Quickly::AskRouter);
    }

    #[test]
    fn other_templates_are_for_the_router() {
        for template in ["/v1-{tag}/segments", "/files/{*rest}"] {
            let template = Template::parse(template, PathReading::Raw).unwrap();
            assert!(!QuickRoutes::default().add(&template, 0));
        }
    }
}
