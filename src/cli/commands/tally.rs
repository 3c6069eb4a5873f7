//! Rows of resource types that the ledger alone counts.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use csv::{ReaderBuilder, Trim};
use serde::Deserialize;
use serde_json::json;

use super::{Context, Progress};
use crate::args::Tally;
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown};

/// How many types of one workspace are set in one call: what a body has room for.
const AT_ONCE: usize = 500;

/// A line of an import.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    workspace: String,
    #[serde(rename = "type")]
    resource: String,
    count: u64,
}

pub(super) async fn run(context: &Context, tally: Tally) -> Result<Outcome, Failure> {
    match tally {
        Tally::Set { of, resource, rows, reason } => {
            let rows = [(resource, rows)].into_iter().collect();
            let set = context.client.set_tally(&of.workspace, &rows, reason.as_deref()).await?;
            let mut shown = Shown::table(&set, ["resource", "before", "now"])?;
            for (resource, rows) in set.rows.iter() {
                let before = set.before.get(resource).copied().unwrap_or_default();
                shown.row([Cell::text(resource), Cell::number(before), Cell::number(rows)]);
            }
            context.show(&shown)
        }
        Tally::Import { file, after, reason } => import(context, &file, after, reason.as_deref()).await,
    }
}

async fn import(context: &Context, file: &Path, after: u64, reason: Option<&str>) -> Result<Outcome, Failure> {
    // All of it is read before anything is set.
    let lines = parse(file, &text(file)?)?;
    let mut lines: &[(u64, Line)] = &lines[lines.partition_point(|(number, _)| *number <= after)..];
    let progress = Progress::new();
    let (all, mut corrected, mut done) = (lines.len(), 0_u64, after);
    while let [(_, first), ..] = lines {
        let same = lines.iter().take(AT_ONCE).take_while(|(_, line)| line.workspace == first.workspace).count();
        let (batch, rest) = lines.split_at(same);
        let rows = batch.iter().map(|(_, line)| (line.resource.as_str(), line.count)).collect();
        let set = context.client.set_tally(&first.workspace, &rows, reason).await.map_err(|error| {
            let wrong = Failure::usage(format!("{}, line {}: ", file.display(), batch[0].0));
            let failure = Failure::from(error).at(&wrong);
            // What the error itself says is next stays, where there is nothing to go on behind.
            if done == 0 {
                failure
            } else {
                failure.hint(format!("what is before is set: go on with `--after {done}`"))
            }
        })?;
        corrected += set.rows.iter().filter(|(name, rows)| set.before.get(name) != Some(*rows)).count() as u64;
        done = batch.last().map_or(done, |(number, _)| *number);
        lines = rest;
        progress.tell(&format!("{} of {all} lines", all - lines.len()));
    }
    drop(progress);
    context.done(
        &json!({"lines": all, "corrected": corrected}),
        format!("tallies set: {all}, of which {corrected} were others before"),
    )
}

fn text(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(file).map(|read| text = read),
    };
    read.map(|()| text).map_err(|error| Failure::unreadable(file, &error))
}

/// Lines with their numbers. What begins with a brace is JSON.
fn parse(file: &Path, text: &str) -> Result<Vec<(u64, Line)>, Failure> {
    let wrong = |number: u64, problem: &dyn std::fmt::Display| {
        let message = format!("{}, line {number}: {problem}", file.display());
        Failure::usage(message).hint(
            "write lines such as acme,segments,45, or {\"workspace\": \"acme\", \"type\": \"segments\", \"count\": 45}",
        )
    };
    let mut lines: Vec<(u64, Line)> = Vec::new();
    if text.trim_start().starts_with('{') {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            lines.push((number, serde_json::from_str(line).map_err(|error| wrong(number, &error))?));
        }
    } else {
        let mut reader = ReaderBuilder::new().has_headers(false).trim(Trim::All).from_reader(text.as_bytes());
        for record in reader.records() {
            let record = record.map_err(|error| wrong(error.position().map_or(0, csv::Position::line), &error))?;
            let number = record.position().map_or(0, csv::Position::line);
            let is_header = lines.is_empty() && record.iter().eq(["workspace", "type", "count"]);
            if !is_header {
                lines.push((number, record.deserialize(None).map_err(|error| wrong(number, &error))?));
            }
        }
    }
    let mut named = HashSet::new();
    for (number, line) in &lines {
        if !named.insert((&line.workspace, &line.resource)) {
            return Err(wrong(*number, &format_args!("{} of {} is there twice", line.resource, line.workspace)));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(u64, String, String, u64)>, String> {
        let lines = parse(Path::new("file"), text).map_err(|failure| format!("{failure:?}"))?;
        Ok(lines.into_iter().map(|(number, line)| (number, line.workspace, line.resource, line.count)).collect())
    }

    #[test]
    fn lines_are_csv_or_json() {
        let lines =
            vec![(2, "acme".to_owned(), "segments".to_owned(), 45), (3, "a,b".to_owned(), "users".to_owned(), 0)];
        assert_eq!(read("workspace,type,count\nacme, segments ,45\n\"a,b\",users,0\n"), Ok(lines.clone()));
        let json = "\n{\"workspace\": \"acme\", \"type\": \"segments\", \"count\": 45}\n{\"workspace\":\"a,b\",\"type\":\"users\",\"count\":0}";
        assert_eq!(read(json), Ok(lines));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            ("acme,segments,45\nacme,users", "line 2: "),
            ("acme,segments,-1", "line 1: "),
            ("acme,segments,1.5", "line 1: "),
            ("acme,segments,1\nother,segments,1\nacme,segments,2", "line 3: segments of acme is there twice"),
            ("{\"workspace\": \"acme\", \"type\": \"segments\", \"count\": 1}\n{\"workspace\": \"acme\"}", "line 2: "),
            ("{\"workspace\": \"acme\", \"type\": \"segments\", \"count\": 1, \"more\": 2}", "unknown field"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
