//! How a command ends.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use http::StatusCode;
use tower_quota::client::ClientError;

use crate::output::{plain, to_stderr};

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// The answer is no: over the limit, or a check has failed.
    Refused,
}

impl Outcome {
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Refused => ExitCode::from(1),
        }
    }
}

/// The exit code where there is no such thing, or where it is in another state.
const ABSENT: u8 = 5;

/// Why a command could not be carried out, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// What was written on the command line, or in a file that it names, makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    /// A file that can't be read.
    pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self::not_read(&file.display().to_string(), error)
    }

    /// The same of what is called so.
    pub(crate) fn not_read(what: &str, error: &io::Error) -> Self {
        let failure = Self::usage(format!("{what} can't be read: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("check its name, and the folder that it is looked for in"),
            io::ErrorKind::PermissionDenied => failure.hint("have its owner let this user read it"),
            io::ErrorKind::IsADirectory => failure.hint("name a file in it"),
            io::ErrorKind::InvalidData => failure.hint("it has to be a text in UTF-8"),
            _ => failure,
        }
    }

    /// A server or a database doesn't answer.
    #[cfg(feature = "serve")]
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(3, message)
    }

    /// None of the others.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(6, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same; where there is no such thing, with what tells which there are.
    pub(crate) fn look_up(self, there: Option<String>) -> Self {
        match there {
            Some(there) if self.code == ABSENT && self.hint.is_none() => self.hint(there),
            _ => self,
        }
    }

    /// The same, of what stands at a place that `place` names.
    pub(crate) fn at(mut self, place: &Self) -> Self {
        self.message.insert_str(0, &place.message);
        self
    }

    /// Tells it, and how the process ends.
    pub(crate) fn tell(&self) -> ExitCode {
        to_stderr(&format!("error: {}", plain(&self.message)));
        if let Some(hint) = &self.hint {
            to_stderr(&format!("hint: {}", plain(hint)));
        }
        ExitCode::from(self.code)
    }
}

#[cfg(feature = "serve")]
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&plain(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", plain(hint)),
            None => Ok(()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        if error.is_quota_exceeded() {
            let hint = match error.retry_after() {
                Some(after) => format!("only requests in flight stand in the way: try again in {} s", after.as_secs()),
                None => "raise the limit with `quotactl update`, or ask for more with `quotactl requests make`".into(),
            };
            return Self::new(1, message).hint(hint);
        }
        if error.is_invalid() {
            return Self::new(2, message);
        }
        if error.is_unreachable() {
            let hint = match message.contains("certificate") {
                true => {
                    "`--root-certificate FILE` makes another root trusted; a certificate is for the name in `--url` alone"
                }
                false => {
                    "check that the server runs, and `--url` (QUOTA_URL): it ends in the path where the API is mounted"
                }
            };
            return Self::new(3, message).hint(hint);
        }
        if error.is_unreadable() {
            return Self::new(6, message);
        }
        let unknown_path = error.code().is_none();
        match error.status() {
            Some(StatusCode::UNAUTHORIZED) => Self::new(4, message).hint(
                "give a token that the server knows: `--token-file FILE`, QUOTA_TOKEN, or a profile (`quotactl --help`)",
            ),
            Some(StatusCode::FORBIDDEN) => Self::new(4, message).hint(right_asked_for(error.message())),
            Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) if unknown_path => Self::new(ABSENT, message).hint(
                "no quota API has answered: either `--url` lacks the path where it is mounted, or this server has no such \
                 operation",
            ),
            Some(StatusCode::NOT_FOUND) if error.code() == Some("QUOTA_NOT_FOUND") => {
                Self::new(ABSENT, message).hint("`quotactl update --workspace W --max-…` makes one")
            }
            Some(StatusCode::NOT_FOUND) => Self::new(ABSENT, message),
            Some(StatusCode::PRECONDITION_FAILED) => {
                Self::new(ABSENT, message).hint("look at what there is now, and call again if it still makes sense")
            }
            Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => {
                Self::new(3, message).hint("try again; `quotactl doctor` tells whether the server's store answers")
            }
            Some(StatusCode::TOO_MANY_REQUESTS) => Self::new(3, message).hint("try again later"),
            Some(status) if status.is_client_error() => Self::new(2, message),
            _ => Self::new(6, message),
        }
    }
}

/// Whose token has the right that the server misses: only its words tell.
fn right_asked_for(message: &str) -> &'static str {
    if message.contains("admin of all workspaces") {
        "use a token of an admin of all workspaces"
    } else if message.contains("admin of the workspace") {
        "use a token of an admin: of this workspace, or of all"
    } else {
        "use a token that is for this workspace, or one of an admin of all"
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::other(format!("the output can't be written: {error}"))
    }
}
