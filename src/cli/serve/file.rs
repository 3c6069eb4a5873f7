//! The file that the configuration is in: where its values stand, and what they refer to.

use std::env;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use toml::Spanned;
use url::Url;

use crate::connect;
use crate::failure::Failure;

/// What has a meaning of its own in the path of a URL.
const RESERVED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

/// The text of a configuration, to tell where in it something is wrong.
pub(super) struct File {
    path: PathBuf,
    pub(super) text: String,
}

/// A secret, and whether it stands in the configuration itself.
pub(super) struct Secret {
    pub(super) value: String,
    pub(super) written: bool,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))?;
        Ok(Self { path: path.to_owned(), text })
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        toml::from_str(&self.text).map_err(|error| self.wrong(error.span().unwrap_or(0..0), error.message()))
    }

    /// Tells what is wrong with what stands there.
    pub(super) fn wrong(&self, at: Range<usize>, message: &str) -> Failure {
        let line = self.text.bytes().take(at.start).filter(|byte| *byte == b'\n').count() + 1;
        Failure::usage(format!("{}, line {line}: {message}", self.path.display()))
    }

    /// The same of the file as a whole.
    pub(super) fn wrong_in_all(&self, message: &str) -> Failure {
        Failure::usage(format!("{}: {message}", self.path.display()))
    }

    /// A path, beside the file where it isn't absolute.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Refuses a file that others may read, where secrets stand in it.
    pub(super) fn private(&self) -> Result<(), Failure> {
        connect::private(&self.path)
    }

    /// What `env:NAME` or `file:PATH` refers to; or the text itself.
    pub(super) fn secret(&self, written: &Spanned<String>) -> Result<Secret, Failure> {
        let text = written.get_ref();
        if let Some(name) = text.strip_prefix("env:") {
            return match env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Secret { value, written: false }),
                _ => {
                    let message =
                        format!("the environment variable {name} is not set, which is to have what stands here");
                    Err(self.wrong(written.span(), &message))
                }
            };
        }
        match text.strip_prefix("file:") {
            None => Ok(Secret { value: text.clone(), written: true }),
            Some(path) => {
                let path = self.beside(Path::new(path));
                let value = connect::private(&path).and_then(|()| connect::secret(&path));
                let value = value.map_err(|failure| failure.at(&self.wrong(written.span(), "")))?;
                Ok(Secret { value, written: false })
            }
        }
    }

    /// The same of a URL, which is a secret where it has a password.
    pub(super) fn url(&self, written: &Spanned<String>) -> Result<Secret, Failure> {
        let secret = self.secret(written)?;
        if !secret.written {
            return Ok(secret);
        }
        let has_password = Url::parse(&secret.value).is_ok_and(|url| url.password().is_some());
        Ok(Secret { written: has_password, value: self.located(secret.value) })
    }

    /// A URL as it stands here, with the path of a SQLite file beside the file like all others.
    fn located(&self, url: String) -> String {
        let path = url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match (path, folder) {
            // What begins with a colon is no file, but in memory.
            (Some(path), Some(folder)) if !path.starts_with(['/', ':']) => {
                let folder = percent_encode(folder.as_os_str().as_encoded_bytes(), RESERVED);
                format!("sqlite://{folder}/{path}")
            }
            _ => url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::SqliteConnectOptions;

    #[test]
    fn sqlite_files_are_beside_the_configuration() {
        let located = |config: &str, url: &str| {
            let file = File { path: PathBuf::from(config), text: String::new() };
            file.located(url.to_owned())
        };
        for (config, url, path) in [
            ("/etc/quota/quota.toml", "sqlite://quota.db", "/etc/quota/quota.db"),
            ("/etc/quota/quota.toml", "sqlite:data/quota.db?mode=rwc", "/etc/quota/data/quota.db"),
            ("/srv/50%25 of a?#b/quota.toml", "sqlite://100%25.db", "/srv/50%25 of a?#b/100%.db"),
            ("/etc/quota/quota.toml", "sqlite:///var/lib/quota.db", "/var/lib/quota.db"),
            ("here/quota.toml", "sqlite://quota.db", "here/quota.db"),
            ("quota.toml", "sqlite://quota.db", "quota.db"),
        ] {
            let options: SqliteConnectOptions = located(config, url).parse().unwrap();
            assert_eq!(options.get_filename(), Path::new(path), "{config} {url}");
        }
        for url in ["sqlite::memory:", "sqlite://:memory:", "postgres://host/quota", "smtp://mail.example.com"] {
            assert_eq!(located("/etc/quota/quota.toml", url), url);
        }
    }
}
