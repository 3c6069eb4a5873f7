//! Which server, and with which token: flags, then the environment, then a profile.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tower_quota::client::QuotaClient;

use crate::args::Server;
use crate::failure::Failure;

/// The longest file that has a token, in bytes.
const LONGEST: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Profile {
    url: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    root_certificate: Option<PathBuf>,
}

/// A client of the server that is meant.
pub(crate) fn client(server: &Server) -> Result<QuotaClient, Failure> {
    let url = server.url.clone().or_else(|| variable("QUOTA_URL"));
    let token = match (&server.token, &server.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(secret(file)?),
        (None, None) => variable("QUOTA_TOKEN"),
    };
    let profile = match (&server.profile, &server.config) {
        // Nothing is left to ask for.
        (None, None) if url.is_some() && token.is_some() => Profile::default(),
        _ => profile(server)?,
    };
    let url = url.or(profile.url).ok_or_else(|| {
        Failure::usage("no server is named")
            .hint("give the API's URL: `--url https://example.com/api`, QUOTA_URL, or a profile (`quotactl --help`)")
    })?;
    let token = match (token, profile.token, profile.token_file) {
        (Some(token), _, _) | (None, Some(token), _) => Some(token),
        (None, None, Some(file)) => Some(secret(&file)?),
        (None, None, None) => None,
    };
    let mut builder = QuotaClient::builder(url).timeout(server.timeout);
    if let Some(token) = token {
        builder = builder.token(token);
    }
    if let Some(file) = server.root_certificate.as_ref().or(profile.root_certificate.as_ref()) {
        builder = builder.root_certificate_pem(fs::read(file).map_err(|error| Failure::unreadable(file, &error))?);
    }
    Ok(builder.build()?)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first line of a file, or of the standard input.
pub(crate) fn secret(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().take(LONGEST).read_to_string(&mut text),
        false => fs::File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::unreadable(file, &error))?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(Failure::usage(format!("{} is empty: its first line is what is looked for", file.display()))
            .hint("write the token, or whatever secret it is for, into its first line")),
    }
}

fn default_config() -> Option<PathBuf> {
    let folder = env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(folder.join("quotactl").join("config.toml"))
}

fn profile(server: &Server) -> Result<Profile, Failure> {
    let asked = server.profile.is_some() || server.config.is_some();
    let Some(file) = server.config.clone().or_else(default_config) else { return Ok(Profile::default()) };
    let text = match fs::read_to_string(&file) {
        // Nobody has to have one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !asked => return Ok(Profile::default()),
        read => read.map_err(|error| Failure::unreadable(&file, &error))?,
    };
    private(&file)?;
    let mut config: Config = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        Failure::usage(format!("{}, line {line}: {}", file.display(), error.message()))
            .hint("a profile has `url`, `token` or `token_file`, and `root_certificate`: see `quotactl --help`")
    })?;
    let name = server.profile.as_deref().unwrap_or("default");
    match config.profile.remove(name) {
        Some(profile) => Ok(profile),
        None if server.profile.is_none() => Ok(Profile::default()),
        None => {
            let names: Vec<_> = config.profile.keys().map(String::as_str).collect();
            Err(Failure::usage(format!("{} has no profile {name:?}", file.display())).hint(match names.is_empty() {
                true => format!("add one: [profile.{name}]"),
                false => format!("it has {}", names.join(", ")),
            }))
        }
    }
}

/// Refuses a file that others may read: it has tokens.
#[cfg(unix)]
pub(crate) fn private(file: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(file).map_err(|error| Failure::unreadable(file, &error))?.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => {
            Err(Failure::usage(format!("others may read {}, which has tokens: its mode is {mode:04o}", file.display()))
                .hint(format!("chmod 0600 {}", file.display())))
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn private(_: &Path) -> Result<(), Failure> {
    Ok(())
}
