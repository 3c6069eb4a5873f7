//! Path templates, and how the router behind the layer reads a path.

use std::borrow::Cow;
use std::iter;

use memchr::{memchr, memrchr};
use serde::Deserialize;

/// How the router behind the layer reads a path before it matches it.
///
/// A layer that reads a path in another way than the router lets requests past: where the router decodes first,
/// `POST /api/%73egments` creates a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PathReading {
    /// As it stands: nothing is decoded, case matters, and so does every slash. axum, tonic and hyper match like this.
    #[default]
    Raw,
    /// Percent-decoded first. How far, and what is done beside that, differs between routers: [`Decoding`] says it.
    Decoded(Decoding),
}

/// What a router that decodes paths does beside that. Nothing of it is on by default.
///
/// By default, characters with a meaning in URLs (`%`, `/`, `?`, `#`, `;`, `:`, `@`, `&`, `=`, `+`, `$` and `,`) stay encoded
/// until a parameter is taken out, as with JavaScript's `decodeURI`: `%2F` doesn't separate segments. Other routers decode
/// the whole path and split it then: they need [`encoded_slash`](Self::encoded_slash). Either way, a parameter is decoded
/// once, and refused with 400 if it is not UTF-8 then.
///
/// | router | options |
/// |---|---|
/// | Fastify (find-my-way) | those of its own that are on: [`semicolon`](Self::semicolon) for `useSemicolonDelimiter`, [`merge_slashes`](Self::merge_slashes) for `ignoreDuplicateSlashes`, [`ignore_trailing_slash`](Self::ignore_trailing_slash) for the option of that name, [`ignore_case`](Self::ignore_case) for `caseSensitive: false` |
/// | FastAPI and Starlette, gin without `UseRawPath` | [`encoded_slash`](Self::encoded_slash) |
/// | Flask (Werkzeug), Django | [`encoded_slash`](Self::encoded_slash), and [`merge_slashes`](Self::merge_slashes) with their development servers, which merge the slashes that a path begins with |
///
/// A router that answers an untidy path with a redirect needs no option for that: the request comes again, tidied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decoding {
    encoded_slash: bool,
    semicolon: bool,
    merge_slashes: bool,
    ignore_case: bool,
    ignore_trailing_slash: bool,
    dot_segments: bool,
}

impl Decoding {
    /// Decoding, and nothing beside it.
    pub const fn new() -> Self {
        Self {
            encoded_slash: false,
            semicolon: false,
            merge_slashes: false,
            ignore_case: false,
            ignore_trailing_slash: false,
            dot_segments: false,
        }
    }

    /// The whole path is decoded before it is split, so that `%2F` separates segments, and nothing is decoded after that.
    ///
    /// Text in templates stands for itself: `100%` is what a client sends as `100%25`.
    #[must_use]
    pub const fn encoded_slash(mut self, on: bool) -> Self {
        self.encoded_slash = on;
        self
    }

    /// A `;` ends the path, and the query follows it, as Fastify has it with `useSemicolonDelimiter`.
    #[must_use]
    pub const fn semicolon(mut self, on: bool) -> Self {
        self.semicolon = on;
        self
    }

    /// Several slashes in a row are one.
    #[must_use]
    pub const fn merge_slashes(mut self, on: bool) -> Self {
        self.merge_slashes = on;
        self
    }

    /// Case doesn't matter, outside parameters.
    #[must_use]
    pub const fn ignore_case(mut self, on: bool) -> Self {
        self.ignore_case = on;
        self
    }

    /// A slash at the end doesn't matter.
    #[must_use]
    pub const fn ignore_trailing_slash(mut self, on: bool) -> Self {
        self.ignore_trailing_slash = on;
        self
    }

    /// The segments `.` and `..` are resolved (RFC 3986, 5.2.4).
    #[must_use]
    pub const fn dot_segments(mut self, on: bool) -> Self {
        self.dot_segments = on;
        self
    }

    /// The characters that stay encoded until a parameter is taken out.
    ///
    /// `%` always does. Where all else is decoded at once, that only tells it from the escapes of what is no text.
    fn kept(self) -> &'static [u8] {
        match self.encoded_slash {
            true => b"%",
            // What `decodeURI` leaves encoded (ECMA-262).
            false => b"%/?#;:@&=+$,",
        }
    }

    /// Whether `path` is already what [`Self::decode`] and [`Self::tidy`] would make of it.
    fn is_tidy(self, path: &str) -> bool {
        !(path.contains('%')
            || (self.merge_slashes && path.contains("//"))
            || (self.dot_segments && path.contains("/."))
            || (self.ignore_trailing_slash && path.len() > 1 && path.ends_with('/')))
    }

    fn tidy(self, path: &str) -> String {
        let Some(inner) = path.strip_prefix('/') else { return path.to_owned() };
        let mut kept: Vec<&str> = Vec::new();
        let mut segments = inner.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            match segment {
                "" if self.merge_slashes && !last => {}
                "." | ".." if self.dot_segments => {
                    if segment == ".." {
                        kept.pop();
                    }
                    if last {
                        kept.push("");
                    }
                }
                _ => kept.push(segment),
            }
        }
        if self.ignore_trailing_slash && kept.len() > 1 && kept.last().is_some_and(|last| last.is_empty()) {
            kept.pop();
        }
        format!("/{}", kept.join("/"))
    }
}

/// A path as the router reads it.
#[derive(Debug)]
pub(super) struct ReadPath<'r> {
    pub(super) path: Cow<'r, str>,
    /// What stood behind the semicolon that ended the path: the router takes it for the start of the query.
    pub(super) tail: Option<&'r str>,
}

impl PathReading {
    pub(super) fn read(self, raw: &str) -> ReadPath<'_> {
        let Self::Decoded(decoding) = self else { return ReadPath { path: Cow::Borrowed(raw), tail: None } };
        let (raw, tail) = match raw.split_once(';') {
            Some((path, tail)) if decoding.semicolon => (path, Some(tail)),
            _ => (raw, None),
        };
        let path = match decoding.is_tidy(raw) {
            true => Cow::Borrowed(raw),
            false => Cow::Owned(decoding.tidy(&decode(raw, decoding.kept()))),
        };
        ReadPath { path, tail }
    }

    pub(super) fn ignores_case(self) -> bool {
        matches!(self, Self::Decoded(decoding) if decoding.ignore_case)
    }

    /// Text of a template as a path that was read has it.
    pub(super) fn literal(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Decoded(decoding) if decoding.encoded_slash && text.contains('%') => {
                Cow::Owned(self.fold(&text.replace('%', "%25")).into_owned())
            }
            _ => self.fold(text),
        }
    }

    /// `text` in the case in which templates are compared.
    pub(super) fn fold(self, text: &str) -> Cow<'_, str> {
        match self.ignores_case() && text.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
            // Beyond ASCII too: the Kelvin sign is a `k` for a router that lowers the case of what it decoded.
            true => Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
            false => Cow::Borrowed(text),
        }
    }
}

/// Decodes once, and leaves encoded what is in `kept`.
fn decode(path: &str, kept: &[u8]) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    let mut beyond_ascii: Vec<u8> = Vec::new();
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let start = path.len() - rest.len() + at;
        let mut next = start;
        while let Some(byte) = escaped_byte(bytes, next).filter(|byte| !byte.is_ascii()) {
            beyond_ascii.push(byte);
            next += 3;
        }
        if next == start {
            next += match escaped_byte(bytes, start) {
                Some(byte) if kept.contains(&byte) => {
                    decoded.push_str(&path[start..start + 3]);
                    3
                }
                Some(byte) => {
                    decoded.push(char::from(byte));
                    3
                }
                // A stray `%` is a `%`; left as it is, it could make an escape together with what is decoded after it.
                None => {
                    decoded.push_str("%25");
                    1
                }
            };
        } else {
            for chunk in beyond_ascii.utf8_chunks() {
                decoded.push_str(chunk.valid());
                // What is no text stays encoded, so that the rule still matches and the parameter is refused.
                decoded.extend(chunk.invalid().iter().copied().map(percent_encoding::percent_encode_byte));
            }
            beyond_ascii.clear();
        }
        rest = &path[next..];
    }
    decoded.push_str(rest);
    decoded
}

fn escaped_byte(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| {
        let digit = char::from(*bytes.get(at + offset)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    match bytes.get(at) {
        Some(b'%') => Some(digit(1)? * 16 + digit(2)?),
        _ => None,
    }
}

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    written: String,
    segments: Vec<Segment>,
    plain: Option<Plain>,
}

/// A template whose parameters are whole segments, as the texts before, between and behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    /// Begins with a slash.
    first: String,
    /// What follows each parameter: empty, or a text that begins with a slash.
    behind: Vec<String>,
}

/// Whether a template is for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// A parameter would be empty: routers have rules of their own for that.
    Unsure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Static(String),
    Param { prefix: String, name: String },
    CatchAll { prefix: String, name: String },
}

/// The router numbers parameters by letter, and has no more letters than that.
const MOST_PARAMS: usize = 25;

impl Template {
    /// Parses `written`, with its literal parts in the form that paths have after `reading`.
    pub(super) fn parse(written: &str, reading: PathReading) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("the path {written:?} {why}"));
        if !written.starts_with('/') {
            return wrong("doesn't start with a slash");
        }
        if written.contains(['?', '#']) {
            return wrong("has a `?` or `#`: write only the path");
        }
        let tidy = match reading {
            PathReading::Raw => Cow::Borrowed(written),
            PathReading::Decoded(decoding) => Cow::Owned(decoding.tidy(written)),
        };
        let mut segments = Vec::new();
        let mut texts = tidy.split('/').skip(1).peekable();
        while let Some(text) = texts.next() {
            let segment = match parse_segment(text, reading) {
                Ok(segment) => segment,
                Err(why) => return wrong(why),
            };
            if matches!(segment, Segment::CatchAll { .. }) && texts.peek().is_some() {
                return wrong("goes on behind `{*…}`, which takes all that is left");
            }
            if let Some(name) = segment.param()
                && segments.iter().any(|earlier: &Segment| earlier.param() == Some(name))
            {
                return wrong("has two parameters of one name");
            }
            segments.push(segment);
        }
        let plain = if reading == PathReading::Raw { Plain::of(&segments) } else { None };
        let template = Self { written: written.to_owned(), segments, plain };
        if template.params().count() > MOST_PARAMS {
            return wrong("has more than 25 parameters");
        }
        Ok(template)
    }

    pub(super) fn written(&self) -> &str {
        &self.written
    }

    fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::param)
    }

    pub(super) fn has_param(&self, name: &str) -> bool {
        self.params().any(|param| param == name)
    }

    /// The template for the router, with parameters named by position: equal for equivalent templates.
    pub(super) fn pattern(&self) -> String {
        let escaped = |text: &str| text.replace('{', "{{").replace('}', "}}");
        let mut pattern = String::with_capacity(self.written.len());
        for (at, segment) in self.segments.iter().enumerate() {
            pattern.push('/');
            match segment {
                Segment::Static(text) => pattern.push_str(&escaped(text)),
                Segment::Param { prefix, .. } => pattern.push_str(&format!("{}{{p{at}}}", escaped(prefix))),
                Segment::CatchAll { prefix, .. } => pattern.push_str(&format!("{}{{*p{at}}}", escaped(prefix))),
            }
        }
        pattern
    }

    /// The last segment of a plain template, which is empty where that is a parameter; `None` for any other template.
    pub(super) fn plain_end(&self) -> Option<&str> {
        let plain = self.plain.as_ref()?;
        let text = plain.behind.last().unwrap_or(&plain.first);
        Some(text.rsplit_once('/').map_or("", |(_, last)| last))
    }

    /// Whether a plain template is for `path`, and what its first parameter is then; of others nothing is known.
    #[inline]
    pub(super) fn fits<'p>(&self, path: &'p str) -> (Fit, Option<&'p str>) {
        let Some(plain) = &self.plain else { return (Fit::Unsure, None) };
        let mut first = None;
        let fit = plain.walk(path, |_, value| {
            first.get_or_insert(value);
        });
        (fit, first)
    }

    #[inline]
    pub(super) fn first_param(&self) -> Option<&str> {
        self.params().next()
    }

    /// The parameter `name` of `path`, still encoded; `None` too where the template as a whole doesn't match the path.
    pub(super) fn param<'p>(&self, path: &'p str, name: &str, reading: PathReading) -> Option<&'p str> {
        if let Some(plain) = &self.plain {
            let wanted = self.params().position(|param| param == name)?;
            let mut found = None;
            let fit = plain.walk(path, |at, value| {
                if at == wanted {
                    found = Some(value);
                }
            });
            if fit != Fit::Unsure {
                return found.filter(|_| fit == Fit::Yes);
            }
        }
        let mut found = None;
        let mut rest = Some(path.strip_prefix('/')?);
        for segment in &self.segments {
            let here = rest?;
            let (head, tail) = match here.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (here, None),
            };
            rest = tail;
            let value = match segment {
                Segment::Static(text) if reading.fold(head) == *text => continue,
                Segment::Static(_) => return None,
                Segment::Param { prefix, .. } => strip_folded(head, prefix, reading)?,
                Segment::CatchAll { prefix, .. } => {
                    rest = None;
                    strip_folded(here, prefix, reading)?
                }
            };
            if segment.param() == Some(name) {
                found = Some(value);
            }
        }
        found.filter(|_| rest.is_none())
    }
}

impl Plain {
    fn of(segments: &[Segment]) -> Option<Self> {
        let mut plain = Self { first: String::new(), behind: Vec::new() };
        for segment in segments {
            let text = plain.behind.last_mut().unwrap_or(&mut plain.first);
            text.push('/');
            match segment {
                Segment::Static(segment) => text.push_str(segment),
                Segment::Param { prefix, .. } if prefix.is_empty() => plain.behind.push(String::new()),
                Segment::Param { .. } | Segment::CatchAll { .. } => return None,
            }
        }
        Some(plain)
    }

    /// Goes through `path`, and hands out the parameters in their order.
    #[inline]
    fn walk<'p>(&self, path: &'p str, mut param: impl FnMut(usize, &'p str)) -> Fit {
        let Some(mut rest) = path.strip_prefix(self.first.as_str()) else { return Fit::No };
        for (at, text) in self.behind.iter().enumerate() {
            let (value, behind) = rest.split_at(memchr(b'/', rest.as_bytes()).unwrap_or(rest.len()));
            if value.is_empty() {
                return Fit::Unsure;
            }
            param(at, value);
            match behind.strip_prefix(text.as_str()) {
                Some(behind) => rest = behind,
                None => return Fit::No,
            }
        }
        if rest.is_empty() { Fit::Yes } else { Fit::No }
    }
}

impl Segment {
    fn param(&self) -> Option<&str> {
        match self {
            Self::Static(_) => None,
            Self::Param { name, .. } | Self::CatchAll { name, .. } => Some(name),
        }
    }
}

fn parse_segment(text: &str, reading: PathReading) -> Result<Segment, &'static str> {
    const UNBALANCED: &str = "has a brace without its other half: write `{{` or `}}` for a literal one";
    let mut literal = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '{' | '}' if letters.next_if(|(_, next)| *next == letter).is_some() => literal.push(letter),
            '}' => return Err(UNBALANCED),
            '{' => {
                let (name, behind) = text[at + 1..].split_once('}').ok_or(UNBALANCED)?;
                let prefix = reading.literal(&literal).into_owned();
                let (name, catch_all) = match name.strip_prefix('*') {
                    Some(name) => (name, true),
                    None => (name, false),
                };
                if name.is_empty() {
                    return Err("has a parameter without a name");
                }
                if name.contains(['{', '*']) {
                    return Err("has a parameter with a `{` or `*` in its name");
                }
                if !behind.is_empty() {
                    return Err("has text behind a parameter in the same segment");
                }
                let name = name.to_owned();
                return Ok(match catch_all {
                    true => Segment::CatchAll { prefix, name },
                    false => Segment::Param { prefix, name },
                });
            }
            _ => literal.push(letter),
        }
    }
    Ok(Segment::Static(reading.literal(&literal).into_owned()))
}

/// What follows `prefix`, which is in folded case, in `text`, which is not.
fn strip_folded<'p>(text: &'p str, prefix: &str, reading: PathReading) -> Option<&'p str> {
    if prefix.is_empty() {
        return Some(text);
    }
    if !reading.ignores_case() {
        return text.strip_prefix(prefix);
    }
    let mut wanted = prefix.chars();
    for (at, letter) in text.char_indices() {
        if wanted.as_str().is_empty() {
            return Some(&text[at..]);
        }
        if !letter.to_lowercase().all(|folded| wanted.next() == Some(folded)) {
            return None;
        }
    }
    wanted.as_str().is_empty().then_some("")
}

/// Bytes that no text has, for the braces of parameters.
const OPEN: u8 = 0xfe;
const CLOSE: u8 = 0xff;

/// A template without the names of its parameters, byte by byte: two templates are equivalent when these are equal.
///
/// An iterator rather than a string, because it runs on axum's `MatchedPath` of every request.
fn shape(template: &str) -> impl Iterator<Item = u8> {
    let mut bytes = template.bytes().peekable();
    let mut in_name = false;
    iter::from_fn(move || {
        loop {
            match bytes.next()? {
                b'}' if in_name => {
                    in_name = false;
                    return Some(CLOSE);
                }
                b'*' if in_name => return Some(b'*'),
                _ if in_name => {}
                brace @ (b'{' | b'}') => {
                    if bytes.next_if_eq(&brace).is_some() || brace == b'}' {
                        return Some(brace);
                    }
                    in_name = true;
                    return Some(OPEN);
                }
                byte => return Some(byte),
            }
        }
    })
}

pub(super) fn equivalent(left: &str, right: &str) -> bool {
    left == right || shape(left).eq(shape(right))
}

/// Whether the route `template` is for `path`. A parameter may be empty: that it isn't is for the router to see to.
pub(super) fn takes(template: &str, path: &str) -> bool {
    let mut shape = shape(template);
    let mut rest = path.as_bytes();
    while let Some(byte) = shape.next() {
        if byte == OPEN {
            if shape.next() == Some(b'*') {
                return shape.eq([CLOSE]);
            }
            rest = &rest[rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())..];
        } else {
            match rest.split_first() {
                Some((first, behind)) if *first == byte => rest = behind,
                _ => return false,
            }
        }
    }
    rest.is_empty()
}

/// Whether a router whose route is `matched` has thereby decided against `template`, where both are for `path`.
///
/// It has not where its route is the wider one, or has a catch-all: then what it has is a way to the router that
/// decides, or to a handler that does. axum joins the routes on such a way, so that what it tells need not be a template
/// for the path at all.
pub(super) fn rules_out(matched: &str, template: &str, path: &str) -> bool {
    if matched.contains("{*") || !takes(matched, path) {
        return false;
    }
    let difference = shape(matched).zip(shape(template)).find(|(of_route, of_rule)| of_route != of_rule);
    difference.is_some_and(|(of_route, of_rule)| match of_rule {
        OPEN => true,
        b'*' => of_route == CLOSE,
        _ => false,
    })
}

/// The text behind the last parameter, or all of it: the same for equivalent templates, and found at once.
pub(super) fn tail(template: &str) -> &str {
    memrchr(b'}', template.as_bytes()).map_or(template, |at| &template[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Decoding = Decoding::new()
        .semicolon(true)
        .merge_slashes(true)
        .ignore_case(true)
        .ignore_trailing_slash(true)
        .dot_segments(true);

    fn read(decoding: Decoding, path: &str) -> String {
        PathReading::Decoded(decoding).read(path).path.into_owned()
    }

    #[test]
    fn decodes_once_and_keeps_what_is_reserved() {
        let plain = Decoding::new();
        assert_eq!(read(plain, "/api/%73egments"), "/api/segments");
        assert_eq!(read(plain, "/a%2Fb/%3f%23%25"), "/a%2Fb/%3f%23%25");
        assert_eq!(read(plain, "/%2573"), "/%2573");
        assert_eq!(read(plain, "/%C3%A4%E2%82%AC"), "/ä€");
        assert_eq!(read(plain, "/%ff%C3%A4%E2%82"), "/%FFä%E2%82");
    }

    #[test]
    fn a_whole_path_is_decoded_before_it_is_split() {
        let whole = Decoding::new().encoded_slash(true);
        assert_eq!(read(whole, "/a%2Fb%2f%3f%23%3B/%40"), "/a/b/?#;/@");
        assert_eq!(read(whole, "/%252F%25"), "/%252F%25");
        assert_eq!(read(whole, "/%ff%C3%A4"), "/%FFä");
        assert_eq!(read(whole.dot_segments(true).merge_slashes(true), "/a%2F%2e%2E%2F%2Fb"), "/b");
        assert_eq!(read(whole.semicolon(true), "/a%3Bb;c"), "/a;b");
    }

    #[test]
    fn a_stray_percent_sign_makes_no_escape_with_what_follows() {
        let path = read(Decoding::new(), "/%%37%33/%zz/%4");
        assert_eq!(path, "/%2573/%25zz/%254");
        assert_eq!(percent_encoding::percent_decode_str(&path).decode_utf8_lossy(), "/%73/%zz/%4");
    }

    #[test]
    fn does_only_what_is_on() {
        for path in ["//a/./../b//", "/a;x", "/A/"] {
            assert_eq!(read(Decoding::new(), path), path);
        }
        assert_eq!(read(Decoding::new().merge_slashes(true), "//a///b//"), "/a/b/");
        assert_eq!(read(Decoding::new().ignore_trailing_slash(true), "/a//"), "/a/");
        assert_eq!(read(Decoding::new().ignore_trailing_slash(true), "/"), "/");
        assert_eq!(read(Decoding::new().dot_segments(true), "/a/./b/%2e%2E/../c/.."), "/");
        assert_eq!(read(Decoding::new().dot_segments(true), "/../../a/."), "/a/");
        assert_eq!(read(Decoding::new().semicolon(true), "/a%3Bb;c/d"), "/a%3Bb");
    }

    #[test]
    fn a_tidy_path_is_not_copied() {
        for path in ["/", "/api/segments", "/api/acme/segments;x=1", ""] {
            assert!(matches!(PathReading::Decoded(ALL).read(path).path, Cow::Borrowed(_)), "{path}");
        }
    }

    #[test]
    fn what_follows_the_semicolon_is_kept_for_the_query() {
        assert_eq!(PathReading::Decoded(ALL).read("/a;b=1;c").tail, Some("b=1;c"));
        assert_eq!(PathReading::Raw.read("/a;b=1").tail, None);
    }

    #[test]
    fn equivalence_is_blind_to_names_and_nothing_else() {
        for (left, right) in [("/a/{x}/b", "/a/{other}/b"), ("/{*x}", "/{*rest}"), ("/{{x}}", "/{{x}}")] {
            assert!(equivalent(left, right), "{left} {right}");
            assert_eq!(tail(left), tail(right));
        }
        for (left, right) in
            [("/a/{x}", "/a/{*x}"), ("/a/{x}", "/a/{{x}}"), ("/a{x}", "/b{x}"), ("/a", "/a/"), ("/{x}", "/{x}/")]
        {
            assert!(!equivalent(left, right), "{left} {right}");
        }
    }

    #[test]
    fn the_paths_of_a_route() {
        for (template, path) in [
            ("/", "/"),
            ("/a/{x}/b", "/a/y/b"),
            ("/v-{x}", "/v-1"),
            ("/{{x}}/{y}", "/{x}/1"),
            ("/{*x}", "/a/b"),
            ("/a/v{*x}", "/a/vb/c"),
            ("/{x}/b", "//b"),
        ] {
            assert!(takes(template, path), "{template} {path}");
        }
        for (template, path) in [
            ("/a", "/"),
            ("/a", "/a/"),
            ("/a/{x}", "/a/y/b"),
            ("/a/{x}/b", "/a/y"),
            ("/v-{x}", "/v"),
            ("/{*x}/a", "/b/a"),
            ("/{{x}}", "/x"),
            ("/a/{*x}", "/b/c"),
        ] {
            assert!(!takes(template, path), "{template} {path}");
        }
    }

    #[test]
    fn the_narrower_route_decides() {
        for (matched, template) in [
            ("/a/b", "/a/{x}"),
            ("/a/b", "/{x}/b"),
            ("/a/b", "/{*x}"),
            ("/a/{x}", "/{x}/b"),
            ("/{x}/b", "/{*x}"),
            ("/a/{x}", "/a/{*x}"),
            ("/{x}/b", "/{x}/{y}"),
        ] {
            assert!(rules_out(matched, template, "/a/b"), "{matched} {template}");
        }
        for (matched, template) in [
            ("/a/{x}", "/a/b"),
            ("/{x}/b", "/a/{x}"),
            ("/{x}/{y}", "/{x}/b"),
            ("/{*x}", "/{x}/b"),
            ("/a/{*x}", "/{x}/b"),
            ("/a/b/a/b", "/{x}/b"),
            ("/c/d", "/{x}/b"),
        ] {
            assert!(!rules_out(matched, template, "/a/b"), "{matched} {template}");
        }
    }

    #[test]
    fn parameters_by_name() {
        let template = Template::parse("/v-{tag}/{{x}}/{*rest}", PathReading::Raw).unwrap();
        let param = |path, name| template.param(path, name, PathReading::Raw);
        assert_eq!(param("/v-1/{x}/a/b", "tag"), Some("1"));
        assert_eq!(param("/v-1/{x}/a/b", "rest"), Some("a/b"));
        assert_eq!(param("/v-1/{x}", "tag"), None);
        assert_eq!(param("/v-1/{y}/a", "tag"), None);
        assert_eq!(param("/V-1/{x}/a", "tag"), None);
        assert_eq!(param("/v-1/{x}/a", "other"), None);
        let template = Template::parse("/v/{ws}", PathReading::Raw).unwrap();
        assert_eq!(template.param("/v/a/b", "ws", PathReading::Raw), None);

        let folding = PathReading::Decoded(ALL);
        let template = Template::parse("/API/K-{ws}/", folding).unwrap();
        assert_eq!(template.param("/aPi/k-Acme", "ws", folding), Some("Acme"));
        assert_eq!(template.param("/api/\u{212a}-Acme", "ws", folding), Some("Acme"));
        assert_eq!(template.param("/api/k", "ws", folding), None);
    }

    #[test]
    fn bad_templates() {
        for (template, why) in [
            ("a", "slash"),
            ("", "slash"),
            ("/a?x", "only the path"),
            ("/{", "other half"),
            ("/}", "other half"),
            ("/{}", "without a name"),
            ("/{*}", "without a name"),
            ("/{a}b", "text behind"),
            ("/{a}{b}", "text behind"),
            ("/{a/b}", "other half"),
            ("/{a*}", "`*` in its name"),
            ("/{*a}/b", "takes all"),
            ("/{a}/{a}", "of one name"),
        ] {
            let error = Template::parse(template, PathReading::Raw).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let many: String = (0..26).map(|at| format!("/{{p{at}}}")).collect();
        assert!(Template::parse(&many, PathReading::Raw).unwrap_err().contains("25"));
    }
}
