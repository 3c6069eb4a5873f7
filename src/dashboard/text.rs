//! Numbers, times and names, as people read them.

use jiff::Timestamp;
use jiff::tz::Offset;
use maud::{Markup, html};
use serde_json::Value;

use crate::limit::Limit;
use crate::policy::AuditAction;

/// 1234567 as 1,234,567.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things.
pub(super) fn count(of: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(of), if of == 1 { one } else { many })
}

pub(super) fn limit(limit: Limit) -> String {
    limit.rows().map_or_else(|| "unlimited".to_owned(), number)
}

/// `computedProperties` as `Computed properties`.
pub(super) fn title(name: &str) -> String {
    let mut title = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if title.is_empty() {
            title.extend(letter.to_uppercase());
        } else if letter.is_uppercase() {
            title.push(' ');
            title.extend(letter.to_lowercase());
        } else if matches!(letter, '_' | '-') {
            title.push(' ');
        } else {
            title.push(letter);
        }
    }
    title
}

/// How long ago, in words.
fn since(at: Timestamp, now: Timestamp) -> String {
    let gone = now.duration_since(at);
    let ahead = gone.is_negative();
    let seconds = gone.unsigned_abs().as_secs();
    let (of, unit) = match seconds {
        0..10 => return "just now".to_owned(),
        10..60 => (seconds / 10 * 10, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, if seconds < 2 * 86_400 { "day" } else { "days" }),
    };
    if ahead { format!("in {of} {unit}") } else { format!("{of} {unit} ago") }
}

/// A time, as far away as it is.
pub(super) fn ago(at: Timestamp) -> Markup {
    html! { time datetime=(format!("{at:.0}")) title=(moment(at)) { (since(at, Timestamp::now())) } }
}

/// A time to the minute, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    Offset::UTC.to_datetime(at).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `limit_set` as `Limit set`.
pub(super) fn action(action: AuditAction) -> String {
    let name = serde_json::to_value(action).ok();
    title(name.as_ref().and_then(Value::as_str).unwrap_or_default())
}

/// What there was or is, as the audit log has it.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(of) => of.as_u64().map_or_else(|| of.to_string(), number),
        Value::Object(fields) => {
            let field = |(name, of): (&String, &Value)| format!("{name}: {}", self::value(of));
            // Ids tell people nothing.
            let told = fields.iter().filter(|(name, of)| !of.is_null() && *name != "id");
            told.map(field).collect::<Vec<_>>().join(", ")
        }
        Value::Array(all) => all.iter().map(self::value).collect::<Vec<_>>().join(", "),
        Value::Bool(_) => value.to_string(),
    }
}

/// What stands in a field for a limit.
pub(super) fn parse_limit(text: &str) -> Result<Limit, crate::error::Error> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(Limit::Unlimited);
    }
    let digits: String = text.chars().filter(|letter| !matches!(letter, ',' | ' ' | '\u{a0}' | '\u{202f}')).collect();
    match digits.parse::<u64>() {
        Ok(rows) => Limit::finite(rows),
        Err(_) => Err(crate::error::Error::invalid(format!(
            "a limit is a whole number of 0 or more, or the word unlimited; got {:?}",
            text.chars().take(40).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (of, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")] {
            assert_eq!(number(of), text);
        }
        assert_eq!((count(1, "row", "rows").as_str(), count(2, "row", "rows").as_str()), ("1 row", "2 rows"));
    }

    #[test]
    fn names_become_words() {
        assert_eq!(title("computedProperties"), "Computed properties");
        assert_eq!(title("limit_set"), "Limit set");
        assert_eq!(action(AuditAction::RequestApproved), "Request approved");
    }

    #[test]
    fn times_are_told_by_how_far_away_they_are() {
        let now: Timestamp = "2026-01-31T10:00:00Z".parse().unwrap();
        let at = |seconds: i64| since(Timestamp::from_second(now.as_second() - seconds).unwrap(), now);
        assert_eq!(
            [at(3), at(45), at(60), at(7300), at(86_400)],
            ["just now", "40 s ago", "1 min ago", "2 h ago", "1 day ago"]
        );
        assert_eq!([at(-120), at(-3 * 86_400)], ["in 2 min", "in 3 days"]);
    }

    #[test]
    fn what_the_audit_log_has_is_told_in_words() {
        assert_eq!(value(&json!(1200)), "1,200");
        assert_eq!(value(&json!({"limit": 5, "until": null, "id": "0190"})), "limit: 5");
        assert_eq!(value(&json!(["a", true])), "a, true");
    }

    #[test]
    fn limits_as_people_write_them() {
        assert_eq!(parse_limit("1,200").unwrap(), Limit::of(1200));
        assert_eq!(parse_limit("Unlimited").unwrap(), Limit::Unlimited);
        for wrong in ["", "-1", "1.5", "many", "9223372036854775808"] {
            assert!(parse_limit(wrong).unwrap_err().is_invalid(), "{wrong}");
        }
    }
}
