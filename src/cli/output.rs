//! What a command shows: a table for people, JSON and CSV for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Color, ContentArrangement, Table};
use serde::Serialize;

use crate::failure::Failure;

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// As the server answered.
    Json,
    /// The table as RFC 4180 has it.
    Csv,
}

/// How a cell is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    number: bool,
    /// Whether people see only its beginning.
    cut: bool,
    /// What people see behind it.
    unit: &'static str,
}

/// How much of a text that is cut is shown, in characters.
const CUT: usize = 40;

impl Cell {
    #[expect(clippy::needless_pass_by_value, reason = "most of it is made for a cell")]
    pub(crate) fn text(text: impl ToString) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain, number: false, cut: false, unit: "" }
    }

    /// What may be long, and is cut in a table.
    pub(crate) fn long(text: impl ToString) -> Self {
        Self { cut: true, ..Self::text(text) }
    }

    /// What stands on the right of its column.
    pub(crate) fn number(number: impl ToString) -> Self {
        Self { number: true, ..Self::text(number) }
    }

    /// A number of hundredths.
    pub(crate) fn percent(number: impl ToString) -> Self {
        Self { unit: "%", ..Self::number(number) }
    }

    /// Nothing, where there is none.
    pub(crate) fn maybe(text: Option<impl ToString>) -> Self {
        Self::text(text.map(|text| text.to_string()).unwrap_or_default())
    }

    pub(crate) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// A result: what programs read, and what people do.
pub(crate) struct Shown {
    json: serde_json::Value,
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

impl Shown {
    /// A table with this header.
    pub(crate) fn table(json: &impl Serialize, header: impl Into<Vec<&'static str>>) -> Result<Self, Failure> {
        let json = serde_json::to_value(json)
            .map_err(|error| Failure::other(format!("the answer has no JSON form: {error}")))?;
        Ok(Self { json, header: header.into(), rows: Vec::new(), notes: Vec::new() })
    }

    /// A table of one thing: names and what they stand for.
    pub(crate) fn fields<const N: usize>(json: &impl Serialize, fields: [(&str, Cell); N]) -> Result<Self, Failure> {
        let mut shown = Self::table(json, ["field", "value"])?;
        for (name, value) in fields {
            shown.row([Cell::text(name), value]);
        }
        Ok(shown)
    }

    pub(crate) fn row<const N: usize>(&mut self, row: [Cell; N]) {
        self.rows.push(row.into());
    }

    /// What is told below the table, and only there.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    pub(crate) fn show(self, shown: &Shown) -> Result<(), Failure> {
        let mut text = Vec::new();
        match self.format {
            Format::Table => {
                if !shown.header.is_empty() && !shown.rows.is_empty() {
                    text.extend_from_slice(drawn(shown).as_bytes());
                    text.push(b'\n');
                }
                for note in &shown.notes {
                    writeln!(text, "{}", plain(note))?;
                }
            }
            Format::Json => {
                serde_json::to_writer_pretty(&mut text, &shown.json).map_err(io::Error::from)?;
                text.push(b'\n');
            }
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(&mut text);
                let written = csv.write_record(&shown.header).and_then(|()| {
                    let cells = |row: &Vec<Cell>| row.iter().map(|cell| harmless(&cell.text).into_owned()).collect();
                    shown.rows.iter().map(cells).try_for_each(|row: Vec<String>| csv.write_record(row))
                });
                written.map_err(io::Error::from)?;
                csv.flush()?;
            }
        }
        to_stdout(&text)
    }
}

fn drawn(shown: &Shown) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(shown.header.iter().map(|name| name.to_uppercase()));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    if colours() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in &shown.rows {
        table.add_row(row.iter().map(|cell| {
            let text = match cell.text.char_indices().nth(CUT).filter(|_| cell.cut) {
                Some((end, _)) => format!("{}…", &cell.text[..end]),
                None => cell.text.clone(),
            };
            let drawn = comfy_table::Cell::new(format!("{}{}", plain(&text), cell.unit));
            match cell.tone {
                Tone::Plain => drawn,
                Tone::Good => drawn.fg(Color::Green),
                Tone::Warning => drawn.fg(Color::Yellow),
                Tone::Bad => drawn.fg(Color::Red),
            }
        }));
    }
    let numbers: Vec<bool> =
        (0..shown.header.len()).map(|at| shown.rows.iter().all(|row| row.get(at).is_some_and(|c| c.number))).collect();
    for (column, number) in table.column_iter_mut().zip(numbers) {
        column.set_padding((0, 2));
        if number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Whether colours are wanted: on a terminal, unless the user says otherwise (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A text on one line that tells a terminal nothing but letters: what a server hands on may be anybody's.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let hides = |letter: char| {
        letter.is_control()
            // These change the order in which letters are shown.
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(hides) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if hides(letter) { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    Cow::Owned(shown)
}

/// A text that no spreadsheet takes for a formula: reasons are written by whoever asks.
fn harmless(text: &str) -> Cow<'_, str> {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r', '\n', '\0'])
        // A negative number is what it looks like, and a dash alone stands for nothing.
        || (text.starts_with('-') && text != "-" && text.parse::<i128>().is_err());
    if formula { format!("'{text}").into() } else { text.into() }
}

/// Writes to the standard output. Whoever reads it may have seen enough: that is no failure.
pub(crate) fn to_stdout(text: &[u8]) -> Result<(), Failure> {
    is_read(text).map(drop)
}

/// The same; whether somebody still reads it.
pub(crate) fn is_read(text: &[u8]) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(Failure::from),
    }
}

/// Writes a line to the standard error output; where that is closed, nobody is there to be told.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A word on something that is as asked for, but perhaps not as meant.
pub(crate) fn warn(message: &str) {
    to_stderr(&format!("warning: {}", plain(message)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(plain("Größe 5"), "Größe 5");
        assert_eq!(plain("a\x1b[2Jb\r\nc\u{202e}d"), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d");
    }

    #[test]
    fn formulas_are_texts() {
        assert_eq!(harmless("=1+1"), "'=1+1");
        assert_eq!(harmless("-cmd"), "'-cmd");
        assert_eq!(harmless("-5"), "-5");
        assert_eq!(harmless("5"), "5");
    }
}
