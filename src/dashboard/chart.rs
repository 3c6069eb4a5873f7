//! A chart of usage over time, its limit, and what is expected. SVG without styles of its own: it stands in a page whose
//! policy allows none, and takes its colours from the page's stylesheet.

use std::fmt::Write;

use jiff::civil::Date;
use maud::{Markup, PreEscaped, html};

use super::text;
use crate::insight::Predicted;

/// What is drawn.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    /// Usage at the end of each day.
    pub(super) history: Vec<(Date, u64)>,
    /// The limit of each of these days; `None` where there was none.
    pub(super) limits: Vec<(Date, Option<u64>)>,
    /// What is expected of the days to come.
    pub(super) predicted: Vec<Predicted>,
    /// The limit that is in force now.
    pub(super) limit: Option<u64>,
}

/// Where the lines are, in pixels of the SVG.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    first: Date,
    days: f64,
    most: f64,
}

impl Frame {
    fn x(&self, date: Date) -> f64 {
        let days = f64::from((date - self.first).get_days());
        self.left + (self.width - self.left - self.right) * days / self.days
    }

    fn y(&self, rows: f64) -> f64 {
        let share = (rows / self.most).clamp(0.0, 1.0);
        self.height - self.bottom - (self.height - self.top - self.bottom) * share
    }

    fn path(&self, points: impl Iterator<Item = (Date, f64)>) -> String {
        let mut path = String::new();
        for (date, rows) in points {
            let word = if path.is_empty() { 'M' } else { 'L' };
            // A string takes all that is written to it.
            let _ = write!(path, "{word}{:.1} {:.1}", self.x(date), self.y(rows));
        }
        path
    }
}

/// A round number of at least that much, and the steps up to it.
fn scale(most: f64) -> (f64, f64) {
    let raw = (most / 4.0).max(1.0);
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= raw && step.fract() == 0.0);
    let step = step.unwrap_or(10.0 * power);
    ((most / step).ceil().max(1.0) * step, step)
}

/// 12500 as 12.5k.
fn short(rows: f64) -> String {
    let (rows, unit) = match rows {
        r if r >= 1e9 => (r / 1e9, "G"),
        r if r >= 1e6 => (r / 1e6, "M"),
        r if r >= 10_000.0 => (r / 1e3, "k"),
        r => (r, ""),
    };
    if rows.fract() < 0.05 { format!("{rows:.0}{unit}") } else { format!("{rows:.1}{unit}") }
}

impl Chart {
    /// How far up the chart has to go.
    fn most(&self) -> f64 {
        let used = self.history.iter().map(|(_, rows)| *rows as f64);
        let limits = self.limits.iter().filter_map(|(_, limit)| *limit).chain(self.limit).map(|limit| limit as f64);
        let usage = used.chain(self.predicted.iter().map(|day| day.point)).fold(1.0, f64::max);
        // A limit far above all usage would leave nothing to be seen of it; so would a wide interval.
        let limit = limits.fold(0.0, f64::max);
        let upper = self.predicted.iter().map(|day| day.upper).fold(0.0, f64::max).min(usage * 1.5);
        let most = usage.max(upper);
        if limit <= most * 4.0 { most.max(limit) * 1.05 } else { most * 1.1 }
    }

    fn frame(&self, width: f64, height: f64) -> Option<Frame> {
        let first = self.history.first()?.0;
        let last = self.predicted.last().map_or(self.history.last()?.0, |day| day.date);
        let days = f64::from((last - first).get_days()).max(1.0);
        let (most, _) = scale(self.most());
        Some(Frame { width, height, left: 46.0, right: 12.0, top: 12.0, bottom: 26.0, first, days, most })
    }

    /// The chart in one size; nothing where there is no history.
    fn svg(&self, class: &str, width: u16, height: u16, title: &str) -> Option<Markup> {
        let frame = self.frame(width.into(), height.into())?;
        let (_, step) = scale(self.most());
        let mut svg = format!(
            r#"<svg class="chart {class}" viewBox="0 0 {width} {height}" role="img" aria-label="{}">"#,
            escaped(title)
        );
        let mut draw = |element: std::fmt::Arguments<'_>| {
            let _ = svg.write_fmt(element);
        };
        let (left, right) = (frame.left, frame.width - frame.right);
        let mut rows = 0.0;
        while rows <= frame.most + step / 2.0 {
            let y = frame.y(rows);
            draw(format_args!(r#"<line class="rule" x1="{left}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"#));
            draw(format_args!(
                r#"<text class="tick" x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                left - 8.0,
                y + 4.0,
                short(rows)
            ));
            rows += step;
        }
        for (date, anchor) in self.ticks(&frame) {
            let label = date.strftime("%-d %b");
            draw(format_args!(
                r#"<text class="tick" x="{:.1}" y="{}" text-anchor="{anchor}">{label}</text>"#,
                frame.x(date),
                frame.height - 8.0
            ));
        }
        if let Some((today, _)) = self.history.last()
            && !self.predicted.is_empty()
        {
            let x = frame.x(*today);
            draw(format_args!(
                r#"<line class="today" x1="{x:.1}" x2="{x:.1}" y1="{}" y2="{}"/>"#,
                frame.top,
                frame.height - frame.bottom
            ));
        }
        if let Some((today, now)) = self.history.last().filter(|_| !self.predicted.is_empty()) {
            let up = self.predicted.iter().map(|day| (day.date, day.upper));
            let down = self.predicted.iter().rev().map(|day| (day.date, day.lower));
            let band = frame.path(std::iter::once((*today, *now as f64)).chain(up).chain(down));
            draw(format_args!(r#"<path class="band" d="{band}Z"/>"#));
            let points = self.predicted.iter().map(|day| (day.date, day.point));
            let line = frame.path(std::iter::once((*today, *now as f64)).chain(points));
            draw(format_args!(r#"<path class="expected" d="{line}"/>"#));
        }
        let usage = frame.path(self.history.iter().map(|(date, rows)| (*date, *rows as f64)));
        let (from, to) = (frame.x(frame.first), frame.x(self.history.last()?.0));
        let ground = frame.y(0.0);
        draw(format_args!(r#"<path class="area" d="{usage}L{to:.1} {ground:.1}L{from:.1} {ground:.1}Z"/>"#));
        draw(format_args!(r#"<path class="usage" d="{usage}"/>"#));
        for line in self.limit_lines(&frame) {
            draw(format_args!(r#"<path class="limit" d="{line}"/>"#));
        }
        svg.push_str("</svg>");
        Some(PreEscaped(svg))
    }

    /// The limit as steps, where there was one; that of now goes on to the end.
    fn limit_lines(&self, frame: &Frame) -> Vec<String> {
        let mut lines = Vec::new();
        let mut steps: Vec<(Date, f64)> = Vec::new();
        let mut end = |steps: &mut Vec<(Date, f64)>| {
            if !steps.is_empty() {
                lines.push(frame.path(steps.drain(..)));
            }
        };
        for (date, limit) in &self.limits {
            match limit.map(|limit| limit as f64).filter(|limit| *limit <= frame.most) {
                Some(limit) => {
                    if let Some((_, before)) = steps.last().copied() {
                        steps.push((*date, before));
                    }
                    steps.push((*date, limit));
                }
                None => end(&mut steps),
            }
        }
        if let (Some((last, _)), Some(limit)) = (self.history.last(), self.limit.map(|limit| limit as f64))
            && limit <= frame.most
        {
            if let Some((_, before)) = steps.last().copied() {
                steps.push((*last, before));
            }
            steps.push((*last, limit));
            steps.extend(self.predicted.last().map(|day| (day.date, limit)));
        }
        end(&mut steps);
        lines
    }

    /// Days that are named below the chart.
    fn ticks(&self, frame: &Frame) -> Vec<(Date, &'static str)> {
        let parts = if frame.width > 500.0 { 6 } else { 3 };
        let day = |part: i32| {
            let days = (frame.days * f64::from(part) / f64::from(parts)).round();
            #[expect(clippy::cast_possible_truncation, reason = "a number of days that is part of one")]
            let date = frame.first.checked_add(jiff::Span::new().days(days as i64));
            let anchor = match part {
                0 => "start",
                part if part == parts => "end",
                _ => "middle",
            };
            date.ok().map(|date| (date, anchor))
        };
        let mut ticks: Vec<_> = (0..=parts).filter_map(day).collect();
        ticks.dedup_by_key(|(date, _)| *date);
        ticks
    }

    /// The chart in two sizes, of which the stylesheet shows one, and the same as a table. `None` where there is no history.
    pub(super) fn markup(&self, title: &str) -> Option<Markup> {
        let (wide, narrow) = (self.svg("wide", 860, 260, title)?, self.svg("narrow", 360, 230, title)?);
        let past = self.history.iter().rev().step_by(7).take(13);
        let to_come = self.predicted.iter().skip(6).step_by(7);
        Some(html! {
            (wide) (narrow)
            ul class="legend" {
                li { span class="key usage" aria-hidden="true" {} "Usage" }
                @if !self.predicted.is_empty() {
                    li { span class="key expected" aria-hidden="true" {} "Forecast" }
                    li { span class="key band" aria-hidden="true" {} "80 % interval" }
                }
                @if self.limit.is_some() { li { span class="key limit" aria-hidden="true" {} "Limit" } }
            }
            details class="numbers" {
                summary { "The same as a table" }
                div class="scroll" tabindex="0" role="region" aria-label=(format!("{title}, as a table")) {
                    table {
                        thead { tr {
                            th scope="col" { "Day" } th scope="col" class="number" { "Usage" }
                            th scope="col" class="number" { "80 % interval" }
                        } }
                        tbody {
                            @for day in to_come.rev() {
                                tr {
                                    th scope="row" { (day.date) " (forecast)" }
                                    td class="number" { (text::number(whole(day.point))) }
                                    td class="number" { (text::number(whole(day.lower))) " – " (text::number(whole(day.upper))) }
                                }
                            }
                            @for (date, rows) in past {
                                tr { th scope="row" { (date) } td class="number" { (text::number(*rows)) } td {} }
                            }
                        }
                    }
                }
            }
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers that aren't rows become the nearest"
)]
fn whole(rows: f64) -> u64 {
    rows.round() as u64
}

fn escaped(text: &str) -> String {
    html! { (text) }.into_string()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn chart() -> Chart {
        let days = date(2026, 1, 1).series(jiff::Span::new().days(1));
        let history: Vec<_> = days.zip(16..56).collect();
        let limits = history.iter().map(|(day, _)| (*day, Some(if day.month() == 1 { 50 } else { 80 }))).collect();
        let predicted = crate::insight::predict(&history, 30);
        Chart { history, limits, predicted, limit: Some(80) }
    }

    #[test]
    fn lines_stay_within_the_chart() {
        let svg = chart().svg("wide", 860, 260, "Segments \"<b>\"").unwrap().into_string();
        assert!(svg.contains(r#"aria-label="Segments &quot;&lt;b&gt;&quot;""#) && !svg.contains("style"), "{svg}");
        for class in ["usage", "expected", "band", "limit"] {
            let path = svg.split(&format!(r#"class="{class}" d=""#)).nth(1).unwrap().split('"').next().unwrap();
            let points = path.trim_end_matches('Z').split(['M', 'L']).filter(|point| !point.is_empty());
            for point in points {
                let (x, y) = point.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((46.0..=848.0).contains(&x) && (12.0..=234.0).contains(&y), "{class}: {point}");
            }
        }
    }

    #[test]
    fn a_raised_limit_is_a_step() {
        let chart = chart();
        let frame = chart.frame(860.0, 260.0).unwrap();
        let [line] = &chart.limit_lines(&frame)[..] else { panic!() };
        let y = |rows| format!(" {:.1}", frame.y(rows));
        assert!(line.contains(&y(50.0)) && line.ends_with(&y(80.0)), "{line}");
    }

    #[test]
    fn without_history_there_is_no_chart_and_one_day_is_enough_for_one() {
        assert!(Chart::default().markup("Users").is_none());
        let one = Chart { history: vec![(date(2026, 1, 1), 0)], ..Chart::default() };
        let svg = one.markup("Users").unwrap().into_string();
        assert!(svg.contains("class=\"usage\"") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn scales_are_round_and_high_enough() {
        for (most, to, step) in
            [(1.0, 1.0, 1.0), (4.0, 4.0, 1.0), (52.0, 60.0, 20.0), (110.0, 150.0, 50.0), (9.9e6, 1e7, 2.5e6)]
        {
            assert_eq!(scale(most), (to, step), "{most}");
        }
        assert_eq!([short(950.0), short(12_500.0), short(2e6)], ["950", "12.5k", "2M"]);
    }
}
