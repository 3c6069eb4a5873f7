//! What the screen shows, at any size.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};
use tower_quota::client::{ClientError, TypeForecast};
use tower_quota::{AuditEntry, Usage};

use super::{Refused, Sample};
use crate::commands::{action, rows, tone};
use crate::output::{Tone, plain};

/// How many readings are kept for a resource type: as many as a wide screen has columns.
const KEPT: usize = 400;

/// How many refusals are shown at most: below them come the changes.
const REFUSALS: usize = 10;

/// From how many columns on there is room for bars, and for sparklines and forecasts.
const BARS: u16 = 40;
const ALL: u16 = 72;

/// What is shown.
pub(super) struct View {
    url: String,
    refresh: Duration,
    sample: Sample,
    taken: Instant,
    trouble: Option<String>,
    history: HashMap<String, Vec<u64>>,
    /// How many resource types are above the screen.
    above: usize,
}

impl View {
    pub(super) fn new(url: String, refresh: Duration, first: Sample) -> Self {
        let mut history = HashMap::<String, Vec<u64>>::new();
        // What the server remembers comes before what is seen from here.
        for trend in first.analytics.iter().flat_map(|analytics| &analytics.trends) {
            for (resource, used) in trend.usage.iter() {
                history.entry(resource.to_owned()).or_default().extend(used);
            }
        }
        let mut view = Self { url, refresh, sample: first, taken: Instant::now(), trouble: None, history, above: 0 };
        view.remember();
        view
    }

    /// A new reading, or why there is none: what was known stays on the screen.
    pub(super) fn take(&mut self, sample: Result<Sample, ClientError>) {
        match sample {
            Ok(sample) => {
                self.sample = sample;
                self.taken = Instant::now();
                self.trouble = None;
                self.remember();
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    fn remember(&mut self) {
        for (resource, used) in self.sample.status.usage.iter() {
            let kept = self.history.entry(resource.to_owned()).or_default();
            kept.push(*used);
            let over = kept.len().saturating_sub(KEPT);
            kept.drain(..over);
        }
    }

    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.sample.status.usage.len().saturating_sub(1);
        self.above = self.above.saturating_add_signed(by).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let types = u16::try_from(self.sample.status.usage.len()).unwrap_or(u16::MAX);
        let parts = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Max(types),
            Constraint::Min(0),
            Constraint::Length(1),
        ]);
        let [title, _, list, log, foot] = parts.areas(frame.area());
        frame.render_widget(self.title(), title);
        self.list(frame, list);
        self.log(frame, log);
        frame.render_widget(self.foot(), foot);
    }

    fn title(&self) -> Line<'_> {
        let mode = self.sample.enforcement.mode;
        let colour = if mode.refuses() { Color::Green } else { Color::Yellow };
        Line::from(vec![
            Span::styled(plain(&self.sample.status.quota.workspace_id), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw("  "),
            Span::styled(mode.as_str(), Style::new().fg(colour)),
            Span::raw("  "),
            Span::styled(self.url.as_str(), Style::new().add_modifier(Modifier::DIM)),
        ])
    }

    fn list(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = rows(&self.sample.status).skip(self.above).zip(area.rows());
        for (row, line) in lines {
            let style = Style::new().fg(colour(row.usage.percent()));
            let percent = Span::styled(format!("{:>4}%", row.usage.percent()), style);
            let name = Span::raw(plain(row.resource));
            let used = format!("{} / {}", row.usage.current, row.usage.limit);
            if area.width < BARS {
                let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(5)]).areas(line);
                frame.render_widget(name, left);
                frame.render_widget(Line::from(percent).right_aligned(), right);
                continue;
            }
            let widths = match area.width >= ALL {
                true => [18, 13, 5, 10, 11],
                false => [14, 13, 5, 0, 0],
            };
            let [names, numbers, percents, sparks, forecasts] = widths.map(Constraint::Length);
            let columns = Layout::horizontal([names, Constraint::Min(0), numbers, percents, sparks, forecasts]);
            let [names, bars, numbers, percents, sparks, forecasts] = columns.spacing(1).areas(line);
            frame.render_widget(name, names);
            frame.render_widget(Span::styled(bar(row.usage, bars.width), style), bars);
            frame.render_widget(Line::raw(used).right_aligned(), numbers);
            frame.render_widget(Line::from(percent).right_aligned(), percents);
            if let Some(history) = self.history.get(row.resource) {
                let newest = history.len().saturating_sub(usize::from(sparks.width));
                let spark = Sparkline::default().data(&history[newest..]).style(Style::new().fg(Color::Cyan));
                frame.render_widget(spark, sparks);
            }
            let analytics = self.sample.analytics.as_ref();
            let forecast = analytics.and_then(|analytics| analytics.forecast.get(row.resource));
            frame.render_widget(Line::raw(forecast.map(foreseen).unwrap_or_default()), forecasts);
        }
    }

    fn log(&self, frame: &mut Frame<'_>, area: Rect) {
        let head = Style::new().add_modifier(Modifier::DIM);
        // Where there is not room for all, they come first.
        let mut lines = vec![Line::default(), Line::styled("refused in the last 24 hours (UTC)", head)];
        match &self.sample.refusals {
            None => lines.push(Line::styled("the server doesn't keep that", head)),
            Some(refusals) if refusals.is_empty() => lines.push(Line::styled("none", head)),
            Some(refusals) => lines.extend(refusals.iter().take(REFUSALS).map(|of| Line::raw(refused(of)))),
        }
        lines.extend([Line::default(), Line::styled("recent changes", head)]);
        match &self.sample.entries {
            None => lines.push(Line::styled("to see them takes an admin's token", head)),
            Some(entries) if entries.is_empty() => lines.push(Line::styled("none", head)),
            Some(entries) => lines.extend(entries.iter().map(|entry| Line::raw(changed(entry)))),
        }
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn foot(&self) -> Line<'_> {
        match &self.trouble {
            Some(trouble) => Line::styled(plain(trouble), Style::new().fg(Color::Red)),
            None => {
                let (age, refresh) = (self.taken.elapsed().as_secs(), self.refresh.as_secs_f64());
                let told = format!("q quit  r refresh  ↑↓ scroll  read {age} s ago, every {refresh} s");
                Line::styled(told, Style::new().add_modifier(Modifier::DIM))
            }
        }
    }
}

fn colour(percent: u64) -> Color {
    match tone(percent) {
        Tone::Good | Tone::Plain => Color::Green,
        Tone::Warning => Color::Yellow,
        Tone::Bad => Color::Red,
    }
}

/// A bar of usage, in eighths of a column.
fn bar(usage: Usage, width: u16) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    if usage.limit.rows().is_none() {
        return String::new();
    }
    let eighths = u64::from(width) * 8 * usage.percent().min(100) / 100;
    let (full, rest) = (eighths / 8, eighths % 8);
    let mut bar: String = (0..full).map(|_| '█').collect();
    if rest > 0 {
        bar.extend(usize::try_from(rest).ok().and_then(|rest| EIGHTHS.get(rest)));
    }
    bar.extend((bar.chars().count()..usize::from(width)).map(|_| '·'));
    bar
}

fn foreseen(forecast: &TypeForecast) -> String {
    match (forecast.days_until_limit, &forecast.reason) {
        (Some(0), _) => "full".to_owned(),
        (Some(days), _) => format!("full in {days} d"),
        (None, Some(reason)) if reason == "noGrowth" => "no growth".to_owned(),
        _ => String::new(),
    }
}

fn refused(of: &Refused) -> String {
    let (hour, resource, many) = (of.hour.strftime("%H:%M").to_string(), plain(&of.resource), of.many);
    format!("{hour:>6}  {resource}  {many}")
}

fn changed(entry: &AuditEntry) -> String {
    let ago = Timestamp::now().duration_since(entry.at).max(SignedDuration::ZERO);
    let ago = match ago.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    };
    let of = entry.resource_type.as_deref().unwrap_or_default();
    let told = format!("{ago:>6}  {}  {of}  {} → {}  {}", action(entry), entry.old, entry.new, entry.actor);
    plain(&told).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_quota::Limit;

    #[test]
    fn bars_are_as_long_as_usage() {
        let bar = |current, limit, width| bar(Usage { current, limit: Limit::of(limit) }, width);
        assert_eq!(bar(45, 50, 10), "█████████·");
        assert_eq!(bar(1, 16, 10), "▌·········");
        assert_eq!(bar(0, 50, 3), "···");
        assert_eq!(bar(500, 50, 3), "███");
        assert_eq!(bar(0, 0, 2), "██");
        assert_eq!(bar(1, 2, 0), "");
        assert_eq!(super::bar(Usage { current: 5, limit: Limit::Unlimited }, 9), "");
    }
}
