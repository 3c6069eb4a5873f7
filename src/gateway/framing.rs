//! Where requests of HTTP/1.1 begin and end (RFC 9112), as the strictest reader has it: where others might have it otherwise is
//! found here, before any of them has read it.

use std::mem;

use memchr::{memchr, memchr2};

/// With what HTTP/2 begins, and no request of HTTP/1.1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a line is looked at, in bytes: more than a length takes.
const KEPT: usize = 128;

/// What may become of bytes that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of them may go on.
    Passed,
    /// So many may, with which a request ends that asks for another protocol. What the others are, its answer tells.
    Asks(usize),
    /// So many may. At the next one, two readers might part.
    Refused(usize),
}

/// Follows the bytes that come on a connection, from the first one on.
#[derive(Debug)]
pub(super) struct Framing {
    next: Next,
    line: Line,
    head: Head,
    /// How many heads there were.
    requests: u64,
    /// What is to come yet of HTTP/2's first bytes; nothing, once others have come.
    preface: &'static [u8],
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The first line of a request.
    Request,
    /// A field of its head, or the line that ends it.
    Field,
    /// A body, of which so much is left.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// A chunk, of which so much is left.
    Chunk(u64),
    /// What ends a chunk.
    ChunkEnd,
    /// A field behind the last chunk, or the line that ends them.
    Trailer,
    /// What the answer to the last request tells.
    Asked,
    /// Another protocol.
    Other,
}

/// As much of a line as has come.
#[derive(Debug, Default)]
struct Line {
    kept: Vec<u8>,
    /// Whether it is longer than that.
    is_cut: bool,
    /// Whether its last byte was a carriage return.
    is_ending: bool,
}

/// What a head has said so far.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    has_coding: bool,
    asks: bool,
}

/// Two readers might part here.
struct Unclear;

impl Framing {
    pub(super) fn new() -> Self {
        let (line, head) = (Line::default(), Head::default());
        Self { next: Next::Request, line, head, requests: 0, preface: PREFACE }
    }

    /// Goes on with the next bytes. After a refusal there are none.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Verdict {
        if self.begins_http2(bytes) {
            self.next = Next::Other;
        }
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.next {
                Next::Body(left) => {
                    let (taken, left) = take(left, rest);
                    at += taken;
                    self.next = if left > 0 { Next::Body(left) } else { self.request_ends() };
                }
                Next::Chunk(left) => {
                    let (taken, left) = take(left, rest);
                    at += taken;
                    self.next = if left > 0 { Next::Chunk(left) } else { Next::ChunkEnd };
                }
                Next::Asked | Next::Other => break,
                Next::Request | Next::Field | Next::Size | Next::ChunkEnd | Next::Trailer => {
                    let (taken, ends) = match self.line.take(rest) {
                        Ok(taken) => taken,
                        Err(unclear) => return Verdict::Refused(at + unclear),
                    };
                    if ends {
                        match self.line_ends() {
                            Ok(next) => self.next = next,
                            // Without its last byte, nobody takes the line for one.
                            Err(Unclear) => return Verdict::Refused(at + taken - 1),
                        }
                        self.line.clear();
                    }
                    at += taken;
                }
            }
        }
        if self.next == Next::Asked { Verdict::Asks(at) } else { Verdict::Passed }
    }

    /// Where the last request asks for another protocol, its number.
    pub(super) fn asked(&self) -> Option<u64> {
        (self.next == Next::Asked).then_some(self.requests)
    }

    /// What has become of that: another protocol begins, or another request.
    pub(super) fn answered(&mut self, switches: bool) {
        self.next = if switches { Next::Other } else { Next::Request };
    }

    /// Whether with these bytes all have come that HTTP/2 begins with.
    fn begins_http2(&mut self, bytes: &[u8]) -> bool {
        let length = self.preface.len().min(bytes.len());
        let (expected, left) = self.preface.split_at(length);
        let same = bytes.starts_with(expected);
        self.preface = if same { left } else { &[] };
        same && length > 0 && left.is_empty()
    }

    /// What comes after the line that has ended.
    fn line_ends(&mut self) -> Result<Next, Unclear> {
        let is_empty = self.line.kept.is_empty();
        match self.next {
            // Some clients end bodies with a line that is no part of them (RFC 9112, 2.2).
            Next::Request if is_empty => Ok(Next::Request),
            Next::Request => Ok(Next::Field),
            Next::Field if is_empty => {
                self.requests += 1;
                Ok(match self.head {
                    Head { has_coding: true, .. } => Next::Size,
                    Head { length: Some(length @ 1..), .. } => Next::Body(length),
                    Head { .. } => self.request_ends(),
                })
            }
            Next::Field => self.head.add(&self.line).map(|()| Next::Field),
            Next::Size => self.line.size().map(|size| if size > 0 { Next::Chunk(size) } else { Next::Trailer }),
            Next::ChunkEnd if is_empty => Ok(Next::Size),
            Next::Trailer if is_empty => Ok(self.request_ends()),
            Next::Trailer => Ok(Next::Trailer),
            Next::ChunkEnd | Next::Body(_) | Next::Chunk(_) | Next::Asked | Next::Other => Err(Unclear),
        }
    }

    /// What comes after the request that has ended.
    fn request_ends(&mut self) -> Next {
        if mem::take(&mut self.head).asks { Next::Asked } else { Next::Request }
    }
}

/// How many of the bytes belong to something of which so much was left, and what is left of it then.
fn take(left: u64, bytes: &[u8]) -> (usize, u64) {
    let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (taken, left - taken as u64)
}

impl Line {
    /// Takes the bytes of this line; answers how many they are, and whether the line ends with them.
    ///
    /// # Errors
    ///
    /// Where one of them stands that ends lines for some: a line feed or a carriage return without the other.
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), usize> {
        if self.is_ending {
            return if bytes.first() == Some(&b'\n') { Ok((1, true)) } else { Err(0) };
        }
        let end = memchr2(b'\r', b'\n', bytes);
        let text = &bytes[..end.unwrap_or(bytes.len())];
        let room = KEPT - self.kept.len();
        self.is_cut |= text.len() > room;
        self.kept.extend_from_slice(&text[..text.len().min(room)]);
        match end {
            Some(end) if bytes[end] == b'\n' => Err(end),
            Some(end) => {
                self.is_ending = true;
                Ok((end + 1, false))
            }
            None => Ok((bytes.len(), false)),
        }
    }

    fn clear(&mut self) {
        self.kept.clear();
        (self.is_cut, self.is_ending) = (false, false);
    }

    /// The size that this tells of a chunk, whatever is said behind it.
    fn size(&self) -> Result<u64, Unclear> {
        match self.kept.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t')) {
            None if self.is_cut => Err(Unclear),
            end => number(&self.kept[..end.unwrap_or(self.kept.len())], 16),
        }
    }
}

impl Head {
    /// Adds a field. What is none the server refuses, and the gateway codings that it doesn't know: here, only such count that
    /// tell where the body ends.
    fn add(&mut self, line: &Line) -> Result<(), Unclear> {
        let Some(colon) = memchr(b':', &line.kept) else { return Ok(()) };
        let (name, value) = (&line.kept[..colon], &line.kept[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.has_coding || self.length.is_some() || line.is_cut {
                return Err(Unclear);
            }
            self.length = Some(number(value.trim_ascii(), 10)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.has_coding || self.length.is_some() {
                return Err(Unclear);
            }
            self.has_coding = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.asks = true;
        }
        Ok(())
    }
}

/// A number of digits alone.
fn number(digits: &[u8], radix: u32) -> Result<u64, Unclear> {
    let digits = str::from_utf8(digits).map_err(|_| Unclear)?;
    // A sign is none, which Rust would take.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(Unclear);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Unclear)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is made of bytes that come in these pieces: how many heads, and how many bytes up to what is refused. No request
    /// gets the protocol that it asks for.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (u64, Option<usize>) {
        let mut framing = Framing::new();
        let mut passed = 0;
        for mut piece in pieces {
            loop {
                match framing.follow(piece) {
                    Verdict::Passed => {
                        passed += piece.len();
                        break;
                    }
                    Verdict::Asks(end) => {
                        assert_eq!(framing.asked(), Some(framing.requests));
                        framing.answered(false);
                        passed += end;
                        piece = &piece[end..];
                    }
                    Verdict::Refused(at) => return (framing.requests, Some(passed + at)),
                }
            }
        }
        (framing.requests, None)
    }

    /// What is made of a text, in whatever pieces it comes.
    #[track_caller]
    fn told(text: &str) -> (u64, Option<&str>) {
        let bytes = text.as_bytes();
        let whole = read([bytes]);
        assert_eq!(read(bytes.chunks(1)), whole, "{text:?}");
        for at in 0..=bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]]), whole, "{text:?} in two at {at}");
        }
        (whole.0, whole.1.map(|at| &text[at..]))
    }

    #[test]
    fn requests_end_where_they_say() {
        let head = "POST /a HTTP/1.1\r\nhost: a\r\n";
        for (fields, body) in [
            ("", ""),
            ("Content-Length:3\r\n", "a\nb"),
            ("content-length: \t 003 \t\r\n", "\r\n\r"),
            ("content-length: 0\r\n", ""),
            ("x-content-length: 9\r\ncontent-length-x: 9\r\nx: content-length: 9\r\n", ""),
            ("transfer-encoding: chunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: Chunked\r\n", "3\r\na\nb\r\n00A;x=\"y z\"\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked\r\n", "1 \t;x\r\n\n\r\n0\t\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\n"),
            // Whatever else may be wrong with them is for others to say.
            ("transfer-encoding: gzip\r\nno field\r\n y: z\r\n", "0\r\n\r\n"),
            ("connection: upgrade\r\nupgrade: websocket\r\n", ""),
            ("upgrade: websocket\r\ncontent-length: 2\r\n", "ab"),
            ("upgrade: websocket\r\ntransfer-encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n"),
        ] {
            let request = format!("{head}{fields}\r\n{body}");
            assert_eq!(told(&request.repeat(3)), (3, None), "{request:?}");
            assert_eq!(told(&format!("{request}\r\n\r\n{request}")), (2, None), "{request:?}");
            // Behind its last byte another request begins.
            assert_eq!(told(&format!("{request}\nx")), (1, Some("\nx")), "{request:?}");
        }
        let long = "y".repeat(KEPT);
        assert_eq!(told(&format!("{head}x: {long}\r\n{long}: x\r\ncontent-length: 1\r\n\r\n\nGET\n")), (1, Some("\n")));
        assert_eq!(
            told(&format!("{head}transfer-encoding: chunked\r\n\r\n1;{long}\r\n\n\r\n0\r\n\r\n\n")),
            (1, Some("\n"))
        );
    }

    #[test]
    fn where_two_readers_might_part_it_ends() {
        let long = " ".repeat(KEPT);
        for (text, refused) in [
            ("\nGET / HTTP/1.1\r\n\r\n", "\nGET / HTTP/1.1\r\n\r\n"),
            ("GET / HTTP/1.1\n\n", "\n\n"),
            ("GET / HTTP/1.1\r\nx: y\nz: 1\r\n\r\n", "\nz: 1\r\n\r\n"),
            ("GET / HTTP/1.1\r\nx: y\r\n\nz", "\nz"),
            ("GET / HTTP/1.1\r\nx: y\rz: 1\r\n\r\n", "z: 1\r\n\r\n"),
            ("GET / HTTP/1.1\r\nx: y\r\r\n\r\n", "\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\rx", "x"),
            ("GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: 1\r\nCONTENT-LENGTH: 2\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nx: y\r\nContent-Length: 1\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length:\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length:\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: 0x1\r\n\r\n", "\n\r\n"),
            ("GET / HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n", "\n\r\n"),
            (&format!("GET / HTTP/1.1\r\ncontent-length: 1{long}\r\n\r\n"), "\n\r\n"),
        ] {
            assert_eq!(told(text).1, Some(refused), "{text:?}");
            // No more of the one before it, nor less.
            let before = format!("POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n\n\n{text}");
            assert_eq!(told(&before), (1, Some(refused)), "{text:?}");
        }
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, refused) in [
            ("1\na\r\n0\r\n\r\n", "\na\r\n0\r\n\r\n"),
            ("1;x\na\r\n0\r\n\r\n", "\na\r\n0\r\n\r\n"),
            ("1;x\ry\r\na\r\n", "y\r\na\r\n"),
            ("1\r\na\n0\r\n\r\n", "\n0\r\n\r\n"),
            ("1\r\nab\r\n0\r\n\r\n", "\n0\r\n\r\n"),
            ("1\r\na0\r\n\r\n", "\n\r\n"),
            ("0\r\n\n", "\n"),
            ("0\r\nx: y\n\r\n", "\n\r\n"),
            ("0\r\nx: y\r\n\n", "\n"),
            ("0\r\nx: y\rz: 1\r\n\r\n", "z: 1\r\n\r\n"),
            ("\r\na\r\n", "\na\r\n"),
            ("+1\r\na\r\n", "\na\r\n"),
            ("0x1\r\na\r\n", "\na\r\n"),
            ("10000000000000000\r\na\r\n", "\na\r\n"),
            (&format!("{}1\r\na\r\n", "0".repeat(KEPT)), "\na\r\n"),
        ] {
            assert_eq!(told(&format!("{head}{body}")), (1, Some(refused)), "{body:?}");
        }
    }

    #[test]
    fn another_protocol_is_nobodys_business() {
        for text in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\r\r\0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let text = text.as_bytes();
            for at in 0..=text.len() {
                assert_eq!(read([&text[..at], &text[at..]]).1, None, "in two at {at}");
            }
            assert_eq!(read(text.chunks(1)).1, None);
        }
        // What only begins like it is a request, as is what comes later.
        assert_eq!(told("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r").1, Some("\r"));
        assert_eq!(told("GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n").1, Some("\n"));
        let asks = b"GET / HTTP/1.1\r\nupgrade: x\r\n\r\n";
        let mut framing = Framing::new();
        assert_eq!(framing.follow(&[&asks[..], b"\n"].concat()), Verdict::Asks(asks.len()));
        framing.answered(true);
        assert_eq!((framing.follow(b"\n\r\r"), framing.asked()), (Verdict::Passed, None));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "content-length: ", "transfer-encoding: chunked", "upgrade: x", "\r\n", "\r\n\r\n",
                "\r", "\n", "0", "3", "a", ";", " ", "PRI * HTTP/2.0\r\n\r\n", "SM\r\n\r\n",
            ]), 0..30),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text = parts.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &text.as_bytes()[ends[0]..ends[1]]);
            // HTTP/2 is found with its last byte, when its first were already taken for a request.
            let of_http2 = text.as_bytes().starts_with(PREFACE);
            let (whole, pieces) = (read([text.as_bytes()]), read(pieces));
            prop_assert_eq!(whole.1, pieces.1);
            prop_assert!(of_http2 || whole.0 == pieces.0);
        }
    }
}
