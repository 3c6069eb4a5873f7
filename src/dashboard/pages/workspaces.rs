//! All workspaces: the fullest first.

use axum::response::Response;
use maud::{Markup, html};

use super::bar::{self, Severity};
use super::layout::{Place, page};
use super::or_none;
use crate::api::open_workspace;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Visitor, encoded};
use crate::decision::Usage;
use crate::policy::RequestStatus;
use crate::principal::Workspaces;
use crate::resource::ResourceId;
use crate::store::{Fullness, Overview, Wanted, fullness};

/// How many rows a page has.
const ROWS: usize = 50;

/// How far the numbers above the list are counted.
const CROWD: usize = 1000;

/// How many resource types are named beside the fullest.
const OTHERS: usize = 2;

/// One row: a workspace, and what is known of it.
struct Row {
    workspace: String,
    known: Option<Overview>,
}

impl Row {
    fn percent(&self) -> u64 {
        self.known.as_ref().map_or(0, Overview::percent)
    }
}

/// What the query asks for.
struct Asked<'a> {
    fullness: Fullness,
    by_name: bool,
    text: Option<&'a str>,
    after: Option<(u64, String)>,
}

impl<'a> Asked<'a> {
    fn of(visitor: &'a Visitor) -> Self {
        let after = visitor.asked("after").and_then(|after| after.split_once('-'));
        Self {
            fullness: match visitor.asked("show") {
                Some("full") => Fullness::Full,
                Some("near") => Fullness::Near,
                _ => Fullness::Any,
            },
            by_name: visitor.asked("sort") == Some("name"),
            text: visitor.asked("q"),
            after: after.and_then(|(percent, id)| Some((percent.parse().ok()?, id.to_owned()))),
        }
    }

    /// The page with other answers to the same questions.
    fn link(&self, visitor: &Visitor, fullness: Fullness, by_name: bool, after: Option<&Row>) -> String {
        let mut pairs = Vec::new();
        match fullness {
            Fullness::Any => {}
            Fullness::Near => pairs.push("show=near".to_owned()),
            Fullness::Full => pairs.push("show=full".to_owned()),
        }
        pairs.extend(by_name.then(|| "sort=name".to_owned()));
        pairs.extend(self.text.map(|text| format!("q={}", encoded(text))));
        pairs.extend(after.map(|row| format!("after={}-{}", row.percent(), encoded(&row.workspace))));
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        format!("{}{query}", visitor.to("/"))
    }
}

/// The rows of a page, and one more where there are more.
async fn rows(visitor: &Visitor, asked: &Asked<'_>) -> Result<Vec<Row>, Fault> {
    let quota = visitor.quota();
    let wanted = Wanted {
        fullness: asked.fullness,
        by_name: asked.by_name,
        text: asked.text.map(str::to_owned),
        after: asked.after.clone(),
        limit: ROWS + 1,
    };
    let mine = match visitor.principal.workspaces() {
        Workspaces::All => {
            let listed = or_none(quota.overview(&wanted).await)?;
            return Ok(listed
                .into_iter()
                .map(|known| Row { workspace: known.workspace.clone(), known: Some(known) })
                .collect());
        }
        Workspaces::Only(mine) => mine,
    };
    let text = asked.text.map(str::to_ascii_lowercase);
    let ids: Vec<_> = mine.iter().map(String::as_str).collect();
    let ids: Vec<_> = ids
        .into_iter()
        .filter(|id| text.as_ref().is_none_or(|text| id.to_ascii_lowercase().contains(text.as_str())))
        .collect();
    // Without a place where it is kept there still are the names.
    let mut known = or_none(quota.overview_of(&ids).await)?;
    let row = |id: &str| Row { workspace: id.to_owned(), known: known.remove(id) };
    let mut rows: Vec<_> = ids.into_iter().map(row).collect();
    let (from, below) = asked.fullness.bounds();
    rows.retain(|row| row.percent() >= from && below.is_none_or(|below| row.percent() < below));
    let place = |percent: u64, id: &str| (if asked.by_name { 0 } else { u64::MAX - percent }, id.to_owned());
    rows.sort_by_cached_key(|row| place(row.percent(), &row.workspace));
    if let Some((percent, id)) = &asked.after {
        let after = place(*percent, id);
        rows.retain(|row| place(row.percent(), &row.workspace) > after);
    }
    rows.truncate(ROWS + 1);
    Ok(rows)
}

fn tile(visitor: &Visitor, asked: &Asked<'_>, fullness: Fullness, class: &str, of: usize, words: &str) -> Markup {
    let more = if of >= CROWD { "+" } else { "" };
    let class = if of == 0 { "tile calm".to_owned() } else { format!("tile {class}") };
    let here = asked.fullness == fullness;
    let to = if here { Fullness::Any } else { fullness };
    html! {
        a class=(class) href=(asked.link(visitor, to, false, None)) aria-current=[here.then_some("true")] {
            b { (text::number(of.try_into().unwrap_or(u64::MAX))) (more) } span { (words) }
        }
    }
}

/// The resource types of a workspace, the fullest first.
fn fullest<'a>(visitor: &Visitor, known: &'a Overview) -> Vec<(&'a str, Usage, ResourceId)> {
    let catalog = visitor.quota().catalog();
    let limited = known.usage.iter().filter(|(_, usage)| usage.limit.rows().is_some());
    let mut types: Vec<_> =
        limited.filter_map(|(name, usage)| Some((name.as_str(), *usage, catalog.by_name(name).ok()?.id()))).collect();
    types.sort_by_key(|(_, usage, id)| (std::cmp::Reverse(fullness(*usage)), *id));
    types
}

fn row(visitor: &Visitor, row: &Row) -> Markup {
    let types = row.known.as_ref().map(|known| fullest(visitor, known)).unwrap_or_default();
    let marks = |id| visitor.quota().threshold_percents(id);
    let mut others = types.iter().skip(1).map(|(name, usage, id)| (name, usage, Severity::of(*usage, marks(*id))));
    let others: Vec<_> = others.by_ref().filter(|(_, _, severity)| *severity > Severity::Calm).collect();
    html! {
        tr role="row" {
            th scope="row" role="rowheader" class="workspace" {
                a href=(visitor.to_workspace(&row.workspace)) { (row.workspace) }
            }
            @if let Some((name, usage, id)) = types.first() {
                td role="cell" class="type" { (text::title(name)) }
                td role="cell" class="level" { (bar::bar(*usage, marks(*id))) }
                td role="cell" class="number" { (bar::figures(*usage)) }
                td role="cell" class="state" { (bar::percent(*usage, marks(*id))) }
            } @else {
                td role="cell" class="type quiet" colspan="4" {
                    @if row.known.is_some() { "Nothing is limited" } @else { "Not looked at yet" }
                }
            }
            td role="cell" class="others" {
                @for (name, usage, severity) in others.iter().take(OTHERS) {
                    span class=(format!("chip {}", severity.class())) { (text::title(name)) " " (fullness(**usage)) " %" } " "
                }
                @if others.len() > OTHERS { span class="chip" { "+" (others.len() - OTHERS) } }
            }
            td role="cell" class="asof" { @if let Some(known) = &row.known { (text::ago(known.at)) } }
        }
    }
}

/// The list where there is nothing to list.
fn nothing(visitor: &Visitor, asked: &Asked<'_>) -> Markup {
    let all = visitor.principal.workspaces() == &Workspaces::All;
    html! {
        div class="empty" {
            @if let Some(text) = asked.text {
                p { b { "No workspace has “" (text) "” in its id." } }
                @if open_workspace(visitor.quota(), &visitor.principal, text).is_ok() {
                    p { a class="button" href=(visitor.to_workspace(text)) { "Open the workspace “" (text) "”" } }
                }
            } @else if asked.fullness != Fullness::Any {
                p { b { "Nobody is that full." } }
                p class="quiet" { "All workspaces have room to grow." }
            } @else if all {
                p { b { "There are no workspaces yet." } }
                p class="quiet" { "They are listed here once they have rows, or limits of their own." }
            } @else {
                p { b { "No workspace is open to you." } }
            }
        }
    }
}

pub(in crate::dashboard) async fn list(visitor: Visitor) -> Result<Response, Fault> {
    let asked = Asked::of(&visitor);
    let all = visitor.principal.workspaces() == &Workspaces::All;
    let quota = visitor.quota();
    let (full, near, waiting) = if all {
        let waiting = match visitor.is_operator() {
            true => or_none(quota.requests(None, Some(RequestStatus::Pending), None, CROWD).await)?.len(),
            false => 0,
        };
        let crowd = async |fullness| or_none(quota.crowd(fullness, CROWD).await);
        (crowd(Fullness::Full).await?, crowd(Fullness::Near).await?, waiting)
    } else {
        let mut counts = (0, 0, 0);
        let whole = Asked { fullness: Fullness::Any, by_name: true, text: None, after: None };
        for row in rows(&visitor, &whole).await? {
            match row.percent() {
                100.. => counts.0 += 1,
                90.. => counts.1 += 1,
                _ => {}
            }
        }
        counts
    };
    let mut found = rows(&visitor, &asked).await?;
    let more = found.len() > ROWS;
    found.truncate(ROWS);
    let next = found.last().filter(|_| more);
    let say = format!(
        "{} at or over a limit, {} near one",
        text::count(full.try_into().unwrap_or(u64::MAX), "workspace is", "workspaces are"),
        near
    );
    let sort = |by_name: bool, name: &str| {
        html! {
            a href=(asked.link(&visitor, asked.fullness, by_name, None)) aria-current=[(asked.by_name == by_name).then_some("true")] { (name) }
        }
    };
    let main = html! {
        h1 { "Workspaces" }
        div id="tiles" class="tiles" data-live {
            span class="unseen" data-say { (say) }
            (tile(&visitor, &asked, Fullness::Full, "full", full, "at or over a limit"))
            (tile(&visitor, &asked, Fullness::Near, "warning", near, "near a limit"))
            @if visitor.is_operator() {
                a class=(if waiting > 0 { "tile asks" } else { "tile calm" }) href=(visitor.to("/requests")) {
                    b { (waiting) @if waiting >= CROWD { "+" } } span { "requests waiting" }
                }
            }
            a class="tile calm" href=(visitor.to("/modes")) { b { (quota.mode()) } span { "enforcement mode" } }
        }
        div class="tools" {
            form class="search" method="get" action=(visitor.to("/")) role="search" {
                @if asked.fullness == Fullness::Full { input type="hidden" name="show" value="full"; }
                @if asked.fullness == Fullness::Near { input type="hidden" name="show" value="near"; }
                @if asked.by_name { input type="hidden" name="sort" value="name"; }
                label class="unseen" for="q" { "Find a workspace by its id" }
                input id="q" type="search" name="q" value=(asked.text.unwrap_or_default()) placeholder="Find a workspace" autocomplete="off" spellcheck="false" maxlength="255";
                button class="quiet" type="submit" { "Find" }
            }
            nav class="sort" aria-label="Order" { (sort(false, "Fullest first")) (sort(true, "By name")) }
        }
        div id="list" data-live {
            @if found.is_empty() {
                (nothing(&visitor, &asked))
            } @else {
                table class="workspaces" role="table" {
                    caption class="unseen" { "Workspaces, " (if asked.by_name { "by name" } else { "the fullest first" }) }
                    thead role="rowgroup" { tr role="row" {
                        th scope="col" role="columnheader" { "Workspace" }
                        th scope="col" role="columnheader" { "Fullest" }
                        th scope="col" role="columnheader" { span class="unseen" { "Level" } }
                        th scope="col" role="columnheader" class="number" { "Used / limit" }
                        th scope="col" role="columnheader" { "State" }
                        th scope="col" role="columnheader" { "Also near" }
                        th scope="col" role="columnheader" class="asof" { "As of" }
                    } }
                    tbody role="rowgroup" { @for found in &found { (row(&visitor, found)) } }
                }
            }
            @if asked.after.is_some() || next.is_some() {
                nav class="pages" aria-label="Pages" {
                    @if asked.after.is_some() {
                        a class="button quiet" href=(asked.link(&visitor, asked.fullness, asked.by_name, None)) { "First page" }
                    }
                    @if let Some(last) = next {
                        a class="button quiet" rel="next" href=(asked.link(&visitor, asked.fullness, asked.by_name, Some(last))) { "Next page" }
                    }
                }
            }
        }
    };
    Ok(page(&visitor, Place::Workspaces, "Workspaces", &main))
}
