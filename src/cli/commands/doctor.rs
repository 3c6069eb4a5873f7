//! What may keep limits from being enforced.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tower_quota::client::ClientError;
use tower_quota::{EnforcementMode, Promise, ReplicaConfig, ReplicaStatus, RouteMap, SchemaVersions, TypeConfig};

use super::quota::rows;
use super::{Context, routes};
use crate::args::Doctor;
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone};

/// How far apart clocks may be: answers take their time, and `Date` has whole seconds.
const APART: SignedDuration = SignedDuration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
    /// Nobody has asked for it.
    Skipped,
}

/// What was looked at.
#[derive(Default)]
struct Findings(Vec<(Verdict, &'static str, String, String)>);

impl Findings {
    fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push((Verdict::Ok, what, found.into(), String::new()));
    }

    fn warn(&mut self, what: &'static str, found: impl Into<String>, next: impl Into<String>) {
        self.0.push((Verdict::Warn, what, found.into(), next.into()));
    }

    fn fail(&mut self, what: &'static str, found: impl Into<String>, next: impl Into<String>) {
        self.0.push((Verdict::Fail, what, found.into(), next.into()));
    }

    fn skipped(&mut self, what: &'static str, next: &str) {
        self.0.push((Verdict::Skipped, what, "not looked at".to_owned(), next.to_owned()));
    }

    fn failed(&self) -> bool {
        self.0.iter().any(|(verdict, ..)| *verdict == Verdict::Fail)
    }

    fn shown(&self) -> Result<Shown, Failure> {
        let word = |verdict: &Verdict| match verdict {
            Verdict::Ok => ("ok", Tone::Good),
            Verdict::Warn => ("warn", Tone::Warning),
            Verdict::Fail => ("fail", Tone::Bad),
            Verdict::Skipped => ("-", Tone::Plain),
        };
        let object = |(verdict, what, found, next): &(Verdict, &str, String, String)| -> Value {
            json!({"result": word(verdict).0, "check": what, "found": found, "next": next})
        };
        let json: Vec<_> = self.0.iter().map(object).collect();
        let mut shown = Shown::table(&json, ["result", "check", "found", "next step"])?;
        for (verdict, what, found, next) in &self.0 {
            let (word, tone) = word(verdict);
            shown.row([Cell::text(word).tone(tone), Cell::text(what), Cell::text(found), Cell::text(next)]);
        }
        Ok(shown)
    }
}

pub(super) async fn run(context: &Context, asked: Doctor) -> Result<Outcome, Failure> {
    let mut findings = Findings::default();
    let map = match &asked.routes {
        Some(file) => Some(routes::load(file, &asked.resources)?),
        None => None,
    };
    // Where there is no server, or nothing that it lets see, there is nothing more to ask.
    if server(context, &mut findings).await && enforcement(context, &mut findings).await {
        set_up(context, &mut findings).await;
        match &asked.workspace {
            Some(workspace) => self::workspace(context, workspace, map.as_ref(), &mut findings).await,
            None => ["record", "limits", "counts"].iter().for_each(|what| findings.skipped(what, "`--workspace W`")),
        }
    }
    match &map {
        Some(map) => rules(map, &mut findings),
        None => findings.skipped("rules", "`--routes FILE`"),
    }
    context.output.show(&findings.shown()?)?;
    Ok(if findings.failed() { Outcome::Refused } else { Outcome::Done })
}

/// Whether each resource type has a rule that creates it. Which other routes create one nobody knows.
fn rules(map: &RouteMap, findings: &mut Findings) {
    match routes::uncreated(map).as_slice() {
        [] => findings.0.push((
            Verdict::Ok,
            "rules",
            format!("each of {} resource types has a rule that creates it", map.catalog().len()),
            "for routes that no rule maps: mode `strict`, or `quotactl routes explain`".to_owned(),
        )),
        missing => findings.warn(
            "rules",
            format!("no rule creates {}", missing.join(", ")),
            "add rules, or what creates those is not limited",
        ),
    }
}

/// Whether there is a server to ask more.
async fn server(context: &Context, findings: &mut Findings) -> bool {
    let health = match context.client.health().await {
        Ok(health) => health,
        Err(error) => {
            let next = "check that it runs, and `--url` (QUOTA_URL) with the path where the API is mounted";
            findings.fail("server", error.to_string(), next);
            return false;
        }
    };
    findings.ok("server", format!("{} answers", context.client.url()));
    match health.ok {
        true => findings.ok("store", "it answers"),
        false => findings.fail("store", "it doesn't answer", "look at the server's log and its database"),
    }
    if let Some(theirs) = health.date {
        let apart = theirs.duration_since(Timestamp::now()).abs();
        match apart <= APART {
            true => findings.ok("clock", "as here"),
            false => findings.warn(
                "clock",
                format!("{} s apart from the one here", apart.as_secs()),
                "set the clocks by NTP: overrides and grace end by the server's",
            ),
        }
    }
    true
}

/// What a call that came to nothing means.
fn refused(findings: &mut Findings, what: &'static str, error: &ClientError) {
    if error.is_unauthenticated() {
        findings.fail(
            what,
            "the server doesn't know the token",
            "give another: `--token-file FILE`, QUOTA_TOKEN or a profile",
        );
    } else if error.is_forbidden() {
        findings.warn(what, format!("not looked at: {}", error.message()), "use a token of an admin");
    } else {
        findings.fail(what, error.to_string(), "look at the server's log");
    }
}

/// Whether the token is one that the server knows.
async fn enforcement(context: &Context, findings: &mut Findings) -> bool {
    let enforcement = match context.client.enforcement().await {
        Ok(enforcement) => enforcement,
        Err(error) => {
            refused(findings, "token", &error);
            return false;
        }
    };
    findings.ok("token", "the server knows it");
    let mode = enforcement.mode;
    let found = format!("mode {mode}");
    match mode {
        EnforcementMode::Off => findings.fail("enforcement", found, "`quotactl mode set enforce`"),
        EnforcementMode::Warn => {
            findings.warn("enforcement", found, "what is over the limit passes: `quotactl mode set enforce`");
        }
        _ => findings.ok("enforcement", found),
    }
    for (resource, of) in enforcement.types.iter().filter(|(_, of)| !of.refuses()) {
        let next = format!("`quotactl mode set inherit --resource {resource}`");
        findings.warn("enforcement", format!("mode {of} for {resource}"), next);
    }
    match enforcement.promise {
        Some(Promise::Exact) => findings.ok("promise", "exact"),
        Some(Promise::Bounded) => findings.warn(
            "promise",
            "bounded: replicas that stand still may make rows too many",
            "hold a `Fence` in every transaction that makes rows",
        ),
        _ => {}
    }
    true
}

/// Whether the tables are those that the program needs, and all processes enforce the same.
async fn set_up(context: &Context, findings: &mut Findings) {
    let status = match context.client.status().await {
        Ok(status) => status,
        Err(error) => return refused(findings, "replicas", &error),
    };
    if let Some(SchemaVersions { applied, known, .. }) = status.store.schema {
        match applied.cmp(&known) {
            Ordering::Equal => findings.ok("schema", "up to date"),
            Ordering::Greater => findings.warn(
                "schema",
                format!("version {applied}, and the program knows up to {known}"),
                "upgrade the program: it would not start again",
            ),
            Ordering::Less => findings.fail(
                "schema",
                format!("version {applied}, and the program needs {known}"),
                "start the program again, as the owner of the tables: it applies what is missing",
            ),
        }
    }
    replicas(&status.replicas, findings);
}

fn replicas(all: &[ReplicaStatus], findings: &mut Findings) {
    let before = findings.0.len();
    let Some(ours) = all.iter().find(|of| of.this).and_then(|of| of.config.as_ref()) else {
        return findings.fail("replicas", "the one that answers is none of them any more", "ask again");
    };
    for other in all.iter().filter(|of| !of.this) {
        let who = other.id.map_or_else(|| "another".to_owned(), |id| id.to_string());
        match &other.config {
            Some(theirs) => differences(&who, ours, theirs, findings),
            None => findings.warn(
                "replicas",
                format!("{who}: doesn't tell what it enforces"),
                "it is of another version: replace it",
            ),
        }
    }
    if findings.0.len() == before {
        findings.ok(
            "replicas",
            match all.len() {
                1 => "1, which answers".to_owned(),
                some => format!("{some}, which enforce the same"),
            },
        );
    }
}

/// In what another process differs from the one that answers.
fn differences(who: &str, ours: &ReplicaConfig, theirs: &ReplicaConfig, findings: &mut Findings) {
    let mut differ = |what: &str, (theirs, ours): (&str, &str), next: &str| {
        if theirs != ours {
            findings.fail("replicas", format!("{who}: {what} {theirs}; the one that answers: {ours}"), next);
        }
    };
    let mode = "each process has its own: `quotactl mode set` at each, or start all with the same";
    differ("mode", (theirs.mode.as_str(), ours.mode.as_str()), mode);
    for resource in both(&theirs.modes, &ours.modes) {
        let of =
            |modes: &BTreeMap<String, EnforcementMode>| modes.get(resource).map_or("that of all", |mode| mode.as_str());
        differ(&format!("mode of {resource}"), (of(&theirs.modes), of(&ours.modes)), mode);
    }
    let format = "start all with the same `workspace_format`";
    differ("workspace ids", (theirs.workspace_format.as_str(), ours.workspace_format.as_str()), format);
    let types = "start all with the same resource types and default limits";
    for resource in both(&theirs.types, &ours.types) {
        let of = |types: &BTreeMap<String, TypeConfig>| {
            let known = types.get(resource);
            known.map_or_else(|| "(no such type)".to_owned(), |of| format!("{} ({})", of.default_limit, of.limit_field))
        };
        differ(&format!("default of {resource}"), (&of(&theirs.types), &of(&ours.types)), types);
    }
    if theirs.version != ours.version {
        let found = format!("{who}: version {}; the one that answers: {}", theirs.version, ours.version);
        findings.warn("replicas", found, "end the upgrade: replace those of the older version");
    }
}

/// The names that are in either.
fn both<'a, T>(one: &'a BTreeMap<String, T>, other: &'a BTreeMap<String, T>) -> BTreeSet<&'a String> {
    one.keys().chain(other.keys()).collect()
}

async fn workspace(context: &Context, workspace: &str, map: Option<&RouteMap>, findings: &mut Findings) {
    let status = match context.client.quota(workspace).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => {
            let next = format!("make it: `quotactl update --workspace {workspace} --max-…`");
            return findings.fail("record", error.to_string(), next);
        }
        Err(error) => return refused(findings, "record", &error),
    };
    findings.ok("record", format!("workspace {} has one", status.quota.workspace_id));
    let over: Vec<_> = rows(&status)
        .filter(|row| row.usage.remaining().is_some_and(|left| left == 0))
        .map(|row| format!("{} ({} of {})", row.resource, row.usage.current, row.usage.limit))
        .collect();
    match over.is_empty() {
        true => findings.ok("limits", "none is reached"),
        false => findings.warn(
            "limits",
            format!("reached: {}", over.join(", ")),
            format!("`quotactl update --workspace {workspace} --max-…`, if that is too few"),
        ),
    }
    match context.client.settings(workspace).await {
        Ok(settings) => {
            let modes = settings.settings.mode.iter().map(|mode| ("the workspace".to_owned(), *mode));
            let modes = modes.chain(settings.settings.modes.iter().map(|(resource, mode)| (resource.clone(), *mode)));
            for (of, mode) in modes.filter(|(_, mode)| !mode.refuses()) {
                let next =
                    format!("`quotactl mode set inherit --workspace {workspace}`, with `--resource` for a type's");
                findings.warn("enforcement", format!("mode {mode} for {of}"), next);
            }
        }
        Err(error) => refused(findings, "settings", &error),
    }
    match context.client.recalculate(workspace, true).await {
        Ok(recount) if recount.corrections.is_empty() => findings.ok("counts", "as believed"),
        Ok(recount) => {
            let drift = |of: &tower_quota::client::CountDrift| format!("{} by {}", of.resource_type, of.drift);
            let drifts: Vec<_> = recount.corrections.iter().map(drift).collect();
            findings.warn(
                "counts",
                format!("are off: {}", drifts.join(", ")),
                format!(
                    "`quotactl recalculate --workspace {workspace}`; why it is so, see \"Rows written around the layer\" in \
                     the README"
                ),
            );
        }
        Err(error) => refused(findings, "counts", &error),
    }
    if let Some(map) = map {
        let types = |known: &dyn Fn(&str) -> bool, of: Vec<&str>| -> Vec<String> {
            of.into_iter().filter(|name| !known(name)).map(str::to_owned).collect()
        };
        let in_file: Vec<_> = map.catalog().iter().map(|of| of.name()).collect();
        let unknown = types(&|name| in_file.contains(&name), status.usage.names().collect());
        if !unknown.is_empty() {
            let found = format!("the file has no type {}, which the server limits", unknown.join(", "));
            findings.warn("rules", found, "add rules for it, or it is not limited");
        }
        let unserved = types(&|name| status.usage.get(name).is_some(), in_file);
        if !unserved.is_empty() {
            let found = format!("the server has no type {}, which the file has", unserved.join(", "));
            findings.warn("rules", found, "start the server with this file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(format: &str, modes: &Value) -> ReplicaConfig {
        let types = json!({"segments": {"limitField": "maxSegments", "defaultLimit": null}});
        let config = json!({
            "version": "1.0.0", "schema": null, "mode": "enforce", "modes": modes, "workspaceFormat": format, "types": types,
        });
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn each_difference_is_told() {
        let found = |theirs: &ReplicaConfig| {
            let mut findings = Findings::default();
            differences("b", &config("verbatim", &json!({"users": "off"})), theirs, &mut findings);
            findings.0.into_iter().map(|(_, _, found, _)| found).collect::<Vec<_>>()
        };
        assert!(found(&config("verbatim", &json!({"users": "off"}))).is_empty());
        assert_eq!(
            found(&config("uuid", &json!({"segments": "warn"}))),
            [
                "b: mode of segments warn; the one that answers: that of all",
                "b: mode of users that of all; the one that answers: off",
                "b: workspace ids uuid; the one that answers: verbatim",
            ]
        );
    }
}
