//! What is typed, and what comes of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use snapbox::{Assert, Data, Redactions};
use tempfile::TempDir;

/// Somebody at a shell, whose home has nothing in it.
pub(crate) struct Session {
    pub(crate) home: TempDir,
    variables: Vec<(String, String)>,
    /// Texts that differ from run to run.
    hidden: Vec<(&'static str, String)>,
    text: String,
}

/// What came of a command.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code() }
    }
}

impl Session {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let hidden = vec![("[HOME]", home.path().display().to_string())];
        Self { home, variables: Vec::new(), hidden, text: String::new() }
    }

    /// At a server's API.
    pub(crate) fn at(address: std::net::SocketAddr, token: &str) -> Self {
        let mut session = Self::new().with("QUOTA_URL", &format!("http://{address}")).with("QUOTA_TOKEN", token);
        session.hidden.push(("[ADDRESS]", address.to_string()));
        session
    }

    /// With this variable in the environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// Hides a text that differs from run to run.
    pub(crate) fn hide(&mut self, placeholder: &'static str, text: impl Into<String>) {
        self.hidden.push((placeholder, text.into()));
    }

    /// A file at home.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.home.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quotactl"));
        command.env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a line as a shell would, for which blanks separate words, and what is between single quotes is one.
    pub(crate) fn run(&mut self, line: &str) -> Ran {
        self.run_with(line, "")
    }

    /// The same, with an input.
    pub(crate) fn run_with(&mut self, line: &str, input: &str) -> Ran {
        let mut command = self.command();
        command.args(words(line)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Who doesn't read its input has closed it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let ran = Ran::from(ended(child));
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        self.text.push_str(&format!("$ quotactl {line}\n{}{}", ran.stdout.replace("\r\n", "\n"), ran.stderr));
        if ran.code != Some(0) {
            self.text.push_str(&format!("(exit code {})\n", ran.code.unwrap()));
        }
        self.text.push('\n');
        ran
    }

    /// Runs several lines.
    pub(crate) fn all(&mut self, lines: &[&str]) {
        for line in lines {
            self.run(line);
        }
    }

    /// A word on what happens between two commands.
    pub(crate) fn comment(&mut self, text: &str) {
        self.text.push_str(&format!("# {text}\n\n"));
    }

    /// Holds all that was run against a file of `transcripts`.
    #[track_caller]
    pub(crate) fn is(&self, name: &str) {
        let mut hidden = Redactions::new();
        let regex = |text| regex::Regex::new(text).unwrap();
        hidden.insert("[ID]", regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")).unwrap();
        hidden.insert("[TIME]", regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z")).unwrap();
        hidden.insert("[SECRET]", regex(r"whsec_[A-Za-z0-9+/=]+")).unwrap();
        for (placeholder, text) in &self.hidden {
            hidden.insert(placeholder, text.clone()).unwrap();
        }
        let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quotactl/transcripts").join(name);
        let check = Assert::new().action_env("SNAPSHOTS").normalize_paths(false).redact_with(hidden);
        check.eq(self.text.trim_end().to_owned() + "\n", Data::read_from(&expected, None));
    }
}

/// Waits for the end of a process, but not for ever.
fn ended(child: Child) -> Output {
    let id = child.id();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output().unwrap()));
    receive.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
        let _ = Command::new("kill").arg(id.to_string()).status();
        panic!("it doesn't end");
    })
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut some) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '\'' => (quoted, some) = (!quoted, true),
            ' ' if !quoted => {
                if some || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                some = false;
            }
            letter => word.push(letter),
        }
    }
    if some || !word.is_empty() {
        words.push(word);
    }
    words
}
