//! Entity tags of quota records, and the `If-Match` that names them (RFC 9110, 8.8.3 and 13.1.1).

use http::{HeaderMap, HeaderValue, header};

use crate::problem::{ErrorCode, Problem};
use crate::store::Expect;

/// The tag of a record: its version, quoted.
pub(super) fn of_version(version: u64) -> String {
    format!("\"{version}\"")
}

/// The condition that the request puts on the record.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Expect, Problem> {
    let mut lines = headers.get_all(header::IF_MATCH).iter().map(HeaderValue::as_bytes);
    let Some(first) = lines.next() else {
        return Ok(Expect::Anything);
    };
    // Several lines of a list header are one list (RFC 9110, 5.3).
    let list = lines.fold(first.to_vec(), |mut list, line| {
        list.push(b',');
        list.extend_from_slice(line);
        list
    });
    if list.trim_ascii() == b"*" {
        return Ok(Expect::Existing);
    }
    match versions(&list) {
        Some(versions) => Ok(Expect::Versions(versions)),
        None => Err(Problem::new(
            ErrorCode::InvalidRequest,
            "`If-Match` is malformed: write *, or entity tags as they came in `ETag`, for example \"7\"",
        )),
    }
}

/// The versions that a list of entity tags names, or `None` when it is not such a list.
fn versions(list: &[u8]) -> Option<Vec<u64>> {
    let mut versions = Vec::new();
    let mut tags = 0_usize;
    let mut rest = list;
    loop {
        // Empty elements are to be ignored (RFC 9110, 5.6.1.2).
        rest = rest.trim_ascii_start();
        while let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return (tags > 0).then_some(versions);
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        let (tag, after) = (&opaque[..end], &opaque[end + 1..]);
        if !tag.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)) {
            return None;
        }
        rest = after.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
        tags += 1;
        // `If-Match` compares strongly, so that a weak tag is well-formed but never matches.
        if !weak {
            versions.extend(version_of(tag));
        }
    }
}

/// The version that a tag stands for; `None` for a tag that this API never gave out, which therefore matches nothing.
fn version_of(tag: &[u8]) -> Option<u64> {
    let version: u64 = std::str::from_utf8(tag).ok()?.parse().ok()?;
    // `007` and `+7` parse too, yet are other tags than `7`.
    (version.to_string().as_bytes() == tag).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static [u8]]) -> Result<Expect, Problem> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_MATCH, HeaderValue::from_bytes(line).unwrap());
        }
        if_match(&headers)
    }

    #[test]
    fn what_is_given_out_is_taken_back() {
        let tag = HeaderValue::try_from(of_version(u64::MAX)).unwrap();
        let headers = HeaderMap::from_iter([(header::IF_MATCH, tag)]);
        assert_eq!(if_match(&headers), Ok(Expect::Versions(vec![u64::MAX])));
    }

    #[test]
    fn forms_of_the_header() {
        assert_eq!(read(&[]), Ok(Expect::Anything));
        assert_eq!(read(&[b"*"]), Ok(Expect::Existing));
        assert_eq!(read(&[b" * "]), Ok(Expect::Existing));
        assert_eq!(read(&[b"\"7\""]), Ok(Expect::Versions(vec![7])));
        assert_eq!(read(&[b"\"7\", ,\"8\","]), Ok(Expect::Versions(vec![7, 8])));
        assert_eq!(read(&[b"\"7\"", b"\"8\""]), Ok(Expect::Versions(vec![7, 8])));
    }

    #[test]
    fn tags_that_never_match() {
        for tag in
            [&b"W/\"7\""[..], b"\"007\"", b"\"+7\"", b"\"\"", b"\"a,b\"", b"\"\xff\"", b"\"18446744073709551616\""]
        {
            assert_eq!(read(&[tag]), Ok(Expect::Versions(vec![])), "{tag:?}");
        }
        assert_eq!(read(&[b"W/\"7\", \"8\""]), Ok(Expect::Versions(vec![8])));
    }

    #[test]
    fn malformed_headers_are_refused() {
        for list in
            [&b""[..], b",", b"7", b"\"7", b"7\"", b"\"7\" \"8\"", b"*, \"7\"", b"w/\"7\"", b"\"7 8\"", b"\"7\"x"]
        {
            let problem = read(&[list]).unwrap_err();
            assert_eq!(problem.code(), ErrorCode::InvalidRequest, "{list:?}");
        }
    }
}
