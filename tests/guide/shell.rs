//! Somebody at a shell, beside a server that says it listens on port 3000.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::quickstart::Quickstart;
use crate::support::until;

/// Where pages say that the server is, and the service that they start.
const SAID: &str = "127.0.0.1:3000";
const SERVICE: &str = "127.0.0.1:8080";
/// What no command prints.
const END: &str = "\u{1}ended ";

pub(crate) struct Shell {
    shell: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    address: String,
    home: TempDir,
}

impl Shell {
    /// Beside a quickstart, whose database is that of the product.
    pub(crate) fn start(server: &Quickstart) -> Self {
        let home = tempfile::tempdir().unwrap();
        let programs = Path::new(env!("CARGO_BIN_EXE_quotactl")).parent().unwrap().to_owned();
        let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
        let mut shell = Command::new("bash");
        shell.args(["--noprofile", "--norc"]).env_clear().env("HOME", home.path()).env("PATH", path.unwrap());
        shell.env("PRODUCT_DATABASE_URL", &server.url);
        // In a group with all that it starts, which ends with it.
        shell.process_group(0).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        writeln!(input, "exec 2>&1").unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || output.lines().try_for_each(|line| send.send(line.unwrap())));
        Self { shell, input, lines, address: server.address.to_string(), home }
    }

    /// Makes a file in its home. What listens on the port that pages name takes one that is free.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text.replace(SERVICE, "127.0.0.1:0")).unwrap();
    }

    /// Where the service is that was started: it has been told to say so in the file `served`.
    fn service(&self) -> String {
        let mut told = String::new();
        until("the service listens", || {
            told = fs::read_to_string(self.home.path().join("served")).unwrap_or_default();
            told.ends_with('\n')
        });
        told.trim_end().rsplit('/').next().unwrap().to_owned()
    }

    /// Types what stands after each `$` of a session, and answers with the session as it has happened.
    pub(crate) fn session(&mut self, session: &str) -> String {
        let (mut happened, mut lines) = (String::new(), session.lines());
        while let Some(line) = lines.next() {
            let Some(begin) = line.strip_prefix("$ ") else { continue };
            let (mut command, mut shown) = (begin.to_owned(), format!("{line}\n"));
            while command.ends_with('\\') {
                let more = lines.next().unwrap();
                command = format!("{command}\n{more}");
                shown.push_str(&format!("{more}\n"));
            }
            happened.push_str(&shown);
            happened.push_str(&self.run(&command));
            // A blank line before the next one, where the page has one.
            if lines.clone().take_while(|line| !line.starts_with("$ ")).last() == Some("") {
                happened.push('\n');
            }
        }
        happened
    }

    fn run(&mut self, command: &str) -> String {
        let service = command.contains(SERVICE).then(|| self.service());
        let command = command.replace(SAID, &self.address).replace(SERVICE, service.as_deref().unwrap_or_default());
        // What a command reads must not be what is typed next.
        writeln!(self.input, "{{ {command}\n}} </dev/null; printf '\\n{END}%d\\n' $?").unwrap();
        let mut output = String::new();
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|error| panic!("{command}: {error}, after\n{output}"));
            if let Some(code) = line.strip_prefix(END) {
                // The line break before it is not the command's own.
                output.pop();
                if !output.is_empty() && !output.ends_with('\n') {
                    output.push('\n');
                }
                if code != "0" {
                    output.push_str(&format!("(exit code {code})\n"));
                }
                let output = output.replace(&self.address, SAID);
                return match service {
                    Some(service) => output.replace(&service, SERVICE),
                    None => output,
                };
            }
            output.push_str(&line);
            output.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ =
            Command::new("sh").args(["-c", r#"kill -s KILL -- "-$1""#, "kill", &self.shell.id().to_string()]).status();
        let _ = self.shell.wait();
    }
}
