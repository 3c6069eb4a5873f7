//! `--max-segments 100`: a flag for each limit field that the server has, which no program can know beforehand.

use std::ffi::OsString;

use tower_quota::Limit;
use tower_quota::client::Named;

use crate::failure::Failure;

/// Limits as they were written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Written(Vec<(String, Limit)>);

/// How the flags begin.
const PREFIX: &str = "--max-";

/// The flag for fields that have another name.
const FIELD: &str = "--limit-field";

fn names_field(argument: &str) -> bool {
    argument.strip_prefix(FIELD).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

impl Written {
    /// Takes the flags out of a command line.
    pub(crate) fn take(arguments: impl IntoIterator<Item = OsString>) -> Result<(Self, Vec<OsString>), Failure> {
        let (mut taken, mut rest) = (Vec::<(String, Limit)>::new(), Vec::new());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                rest.push(argument);
                rest.extend(arguments.by_ref());
                break;
            }
            let Some(flag) = argument.to_str().filter(|text| text.starts_with(PREFIX) || names_field(text)) else {
                rest.push(argument);
                continue;
            };
            let (flag, value) = match flag.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), arguments.next().map(|value| value.to_string_lossy().into_owned())),
            };
            let Some(value) = value else {
                return Err(Failure::usage(format!("{flag} needs a value: {flag} <N|unlimited>")));
            };
            let (flag, value) = match names_field(&flag) {
                false => (flag, value),
                true => value.split_once('=').map(|(field, limit)| (field.to_owned(), limit.to_owned())).ok_or_else(
                    || Failure::usage(format!("{flag} needs a field and its limit: {flag} rowsOfApes=100")),
                )?,
            };
            if taken.iter().any(|(known, _)| *known == flag) {
                return Err(Failure::usage(format!("{flag} is given twice")));
            }
            let limit = read(&value).map_err(|message| Failure::usage(format!("{flag}: {message}")))?;
            taken.push((flag, limit));
        }
        Ok((Self(taken), rest))
    }

    /// Refuses them, for a command that has none.
    pub(crate) fn none(&self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((flag, _)) => Err(Failure::usage(format!(
                "{flag} is no option of this command: `update`, `plans set` and `shadow start` take limits"
            ))),
        }
    }

    /// Refuses that there are none.
    pub(crate) fn some(&self) -> Result<(), Failure> {
        match self.0.is_empty() {
            false => Ok(()),
            true => {
                Err(Failure::usage("no limit is given: add one, such as --max-segments 100 or --max-users unlimited"))
            }
        }
    }

    /// By the limit fields that the server has.
    pub(crate) fn of(&self, fields: &[&str]) -> Result<Named<Limit>, Failure> {
        let mut limits = Vec::new();
        for (flag, limit) in &self.0 {
            let field = fields.iter().find(|field| same(flag, field)).ok_or_else(|| {
                let flags: Vec<_> = fields.iter().map(|field| flag_of(field)).collect();
                Failure::usage(format!("the server has no limit {flag}")).hint(format!("it has {}", flags.join(", ")))
            })?;
            limits.push((*field, *limit));
        }
        Ok(limits.into_iter().collect())
    }

    /// By the fields that such flags usually stand for; the server tells which of them it doesn't know.
    pub(crate) fn guessed(&self) -> Named<Limit> {
        self.0.iter().map(|(flag, limit)| (camel(flag), *limit)).collect()
    }
}

/// A limit: a number, or `unlimited`.
pub(crate) fn read(written: &str) -> Result<Limit, String> {
    if written == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    let limit = written.parse().ok().and_then(|rows| Limit::finite(rows).ok());
    limit.ok_or_else(|| format!("{written:?} is no limit: write an integer of 0 to {}, or unlimited", Limit::MAX))
}

/// Whether a flag means this field, however it is spelled: `--max-custom-metrics` means `maxCustomMetrics`.
fn same(flag: &str, field: &str) -> bool {
    let letters =
        |text: &str| text.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>().to_lowercase();
    letters(flag) == letters(field)
}

/// The flag of a field.
pub(crate) fn flag_of(field: &str) -> String {
    let mut flag = String::from("--");
    for letter in field.chars() {
        if letter.is_uppercase() {
            flag.push('-');
        }
        flag.extend(letter.to_lowercase());
    }
    flag
}

fn camel(flag: &str) -> String {
    let mut words = flag.trim_start_matches('-').split('-');
    let mut field = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        field.extend(letters.next().into_iter().flat_map(char::to_uppercase));
        field.push_str(letters.as_str());
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: &str) -> Result<(Written, Vec<OsString>), Failure> {
        Written::take(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_are_taken_wherever_they_stand() {
        let (limits, rest) =
            taken("update --max-segments 5 -w acme --max-custom-metrics=unlimited -- --max-x 1").unwrap();
        assert_eq!(rest, ["update", "-w", "acme", "--", "--max-x", "1"]);
        let fields = ["maxUsers", "maxSegments", "maxCustomMetrics", "rowsOfApes"];
        let of = limits.of(&fields).unwrap();
        assert_eq!(
            of.iter().collect::<Vec<_>>(),
            [("maxSegments", &Limit::of(5)), ("maxCustomMetrics", &Limit::Unlimited)]
        );
        assert_eq!(of, limits.guessed());
    }

    #[test]
    fn fields_of_any_name_can_be_given() {
        for line in ["--limit-field rowsOfApes=3", "--limit-field=rowsOfApes=3"] {
            let (limits, rest) = taken(line).unwrap();
            assert!(rest.is_empty());
            assert_eq!(limits.of(&["rowsOfApes"]).unwrap(), limits.guessed());
            assert_eq!(limits.guessed().get("rowsOfApes"), Some(&Limit::of(3)));
        }
        assert!(taken("--limit-field rowsOfApes").is_err());
    }

    #[test]
    fn what_is_no_limit_is_told() {
        for wrong in [
            "--max-a",
            "--max-a -1",
            "--max-a 1.5",
            "--max-a x",
            "--max-a=",
            "--max-a 9223372036854775808",
            "--max-a 1 --max-a 2",
        ] {
            assert!(taken(wrong).is_err(), "{wrong}");
        }
        let (limits, _) = taken("--max-zebras 1").unwrap();
        assert!(limits.of(&["maxUsers"]).is_err());
    }

    #[test]
    fn fields_have_flags() {
        assert_eq!(flag_of("maxEmailTemplates"), "--max-email-templates");
        assert_eq!(camel("--max-email-templates"), "maxEmailTemplates");
    }
}
