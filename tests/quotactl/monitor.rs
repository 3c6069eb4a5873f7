//! On a real terminal: the screen that is seen there, and the terminal that is left behind.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use pty_process::Size;
use pty_process::blocking::{Pts, Pty, open};
use vt100::{Color, Parser};

use crate::support::quickstart::{ACME, ADMIN, Quickstart, Server, create, create_all, signal};
use crate::support::until;
use crate::transcript::Session;

/// A terminal with a process on it.
struct Terminal {
    pty: Arc<Pty>,
    pts: Pts,
    screen: Arc<Mutex<Parser>>,
    /// All that was ever written to it.
    written: Arc<Mutex<Vec<u8>>>,
    child: Child,
    /// What `stty` said before.
    before: String,
}

fn cells(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// The settings of the terminal.
fn settings(pts: &Pts) -> String {
    let stdin = Stdio::from(pts.as_fd().try_clone_to_owned().unwrap());
    let said = Command::new("stty").arg("-g").stdin(stdin).output().unwrap();
    assert!(said.status.success());
    String::from_utf8(said.stdout).unwrap()
}

impl Terminal {
    fn start(command: Command, (rows, columns): (u16, u16)) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let before = settings(&pts);
        let mut command = pty_process::blocking::Command::from(command).env("TERM", "xterm-256color");
        let child = command.spawn_borrowed(&pts).unwrap();
        let (pty, screen) = (Arc::new(pty), Arc::new(Mutex::new(Parser::new(cells(rows), cells(columns), 0))));
        let written = Arc::default();
        let (read, seen, log) = (Arc::clone(&pty), Arc::clone(&screen), Arc::clone(&written));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(many) = (&*read).read(&mut bytes) {
                let log: &Mutex<Vec<u8>> = &log;
                log.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..many]);
                seen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..many]);
            }
        });
        Self { pty, pts, screen, written, child, before }
    }

    fn monitor(session: &Session, size: (u16, u16)) -> Self {
        let mut command = session.command();
        command.args(["monitor", "-w", "acme", "--refresh", "0.2"]);
        Self::start(command, size)
    }

    fn on_screen<T>(&self, look: impl FnOnce(&vt100::Screen) -> T) -> T {
        look(self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen())
    }

    fn text(&self) -> String {
        self.on_screen(vt100::Screen::contents)
    }

    #[track_caller]
    fn shows(&self, words: &[&str]) {
        let begun = std::time::Instant::now();
        while !words.iter().all(|word| self.text().contains(word)) {
            assert!(begun.elapsed().as_secs() < 60, "never {words:?}:\n{}", self.text());
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Whether this was ever written, if only to be taken back.
    fn has_shown(&self, text: &str) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// The line that begins so; nothing as long as there is none.
    fn line(&self, begins: &str) -> String {
        self.text().lines().find(|line| line.starts_with(begins)).unwrap_or_default().to_owned()
    }

    /// The colour of the last letter in the line that begins so.
    fn colour(&self, begins: &str) -> Color {
        let text = self.text();
        let row = text.lines().position(|line| line.starts_with(begins)).unwrap();
        self.on_screen(|screen| {
            let width = screen.size().1.get();
            let last = (0..width).rev().filter_map(|column| screen.cell(u16::try_from(row).unwrap(), column));
            let mut last = last.filter(|cell| cell.contents().contains('%'));
            last.next().unwrap().fgcolor()
        })
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(cells(rows), cells(columns));
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    fn press(&self, keys: &[u8]) {
        (&*self.pty).write_all(keys).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The process has ended well, and the terminal is as it was.
    #[track_caller]
    fn is_given_back(&mut self) {
        let status = self.ended();
        assert!(status.success(), "{status:?}\n{}", self.text());
        assert_eq!(settings(&self.pts), self.before);
        // What it wrote last may still be on its way.
        until("the screen is the one of before", || {
            self.on_screen(|screen| !screen.alternate_screen() && !screen.hide_cursor())
        });
        assert_eq!(self.text().trim(), "");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server() -> (Quickstart, Session) {
    let server = Quickstart::start(Server::Sqlite);
    create_all(&mut server.connect(), "acme", (1..=45).map(|number| format!("number {number}")));
    let session = Session::at(server.address, ADMIN);
    (server, session)
}

#[test]
fn the_screen_is_live() {
    let (mut server, session) = server();
    session.command().args(["update", "-w", "acme", "--max-users", "70", "--reason", "fewer"]).output().unwrap();
    let mut terminal = Terminal::monitor(&session, (24, 80));
    terminal.shows(&["acme  enforce", "segments", "45 / 50", "90%", "limit_set  users  \"unset\" → 70", "q quit"]);
    assert!(terminal.on_screen(|screen| screen.alternate_screen() && screen.hide_cursor()));
    assert_ne!(settings(&terminal.pts), terminal.before);
    assert_eq!(terminal.colour("segments"), Color::Idx(3));
    assert_eq!(terminal.colour("users"), Color::Idx(2));
    // All that there is, but for what differs from run to run.
    let drawn = terminal.text();
    let stable = |text: &str| {
        let ago = regex::Regex::new(r"read [0-9]+ s ago").unwrap().replace_all(text, "read N s ago").into_owned();
        let ago = regex::Regex::new(r"(?m)^ +[0-9]+ s ").unwrap().replace_all(&ago, "   N s ").into_owned();
        // How many readings there were by now.
        let spark = regex::Regex::new(r"% [▁▂▃▄▅▆▇█ ]+").unwrap().replace_all(&ago, "%").into_owned();
        let lines: Vec<_> = spark.lines().map(str::trim_end).collect();
        lines.join("\n").replace(&server.address.to_string(), "[ADDRESS]")
    };
    let expected = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quotactl/transcripts/monitor.txt");
    let check = snapbox::Assert::new().action_env("SNAPSHOTS").normalize_paths(false);
    check.eq(stable(&drawn) + "\n", snapbox::Data::read_from(&expected, None));
    assert!(terminal.line("segments").contains('█'), "a sparkline: {drawn}");

    create_all(&mut server.connect(), "acme", (46..=50).map(|number| format!("number {number}")));
    terminal.shows(&["50 / 50", "100%", "refused in the last 24 hours (UTC)\nnone"]);
    assert_eq!(terminal.colour("segments"), Color::Idx(1));
    for number in 51..=53 {
        create(&mut server.connect(), "acme", &format!("number {number}")).refused(429, "QUOTA_EXCEEDED");
    }
    // Of this hour, or of the one before.
    let refused = regex::Regex::new(r"refused in the last 24 hours \(UTC\)\n +[0-9]{2}:00  segments  [123]\n").unwrap();
    until("refusals are on the screen", || refused.is_match(&terminal.text()));
    session.command().args(["mode", "set", "warn"]).output().unwrap();
    terminal.shows(&["acme  warn"]);

    terminal.press(b"j");
    until("the first type is above the screen", || !terminal.text().contains("0 / 70"));
    terminal.press(b"k");
    terminal.shows(&["0 / 70"]);

    terminal.resize(24, 20);
    until("it fits", || terminal.line("segments") == "segments        100%");
    terminal.resize(3, 20);
    until("it fits", || terminal.text().lines().count() <= 3 && terminal.text().starts_with("acme"));
    terminal.resize(30, 120);
    terminal.shows(&["50 / 50", "  segments  ", "recent changes"]);
    // Where there is not room for both, refusals are what is seen.
    terminal.resize(17, 80);
    until("there is room for one", || {
        !terminal.text().contains("recent changes") && refused.is_match(&terminal.text())
    });
    terminal.resize(30, 120);
    terminal.shows(&["recent changes"]);

    server.kill();
    terminal.shows(&["can't be reached"]);
    terminal.shows(&["50 / 50"]);
    terminal.press(b"q");
    terminal.is_given_back();
}

#[test]
fn it_tells_when_a_limit_is_reached() {
    let (server, session) = server();
    // One more each day, up to the 44 of yesterday.
    let history = r#"WITH RECURSIVE n(age) AS (SELECT 1 UNION ALL SELECT age + 1 FROM n WHERE age < 30)
        INSERT INTO "QuotaSnapshot"
            ("workspaceId", "resourceType", "start", "granularity", "at", "last", "min", "max", "limit", "refusals")
        SELECT 'acme', 'segments', day, 'day', day, 45 - age, 45 - age, 45 - age, 50, 0
        FROM (SELECT age, (unixepoch('now', 'start of day') - age * 86400) * 1000 AS day FROM n)"#;
    server.database().run(history.to_owned());
    let mut terminal = Terminal::monitor(&session, (24, 120));
    // In five days, or one more or less should the day end meanwhile.
    let foreseen = regex::Regex::new(r"^segments .* 45 / 50 .* full in [456] d *$").unwrap();
    until("a forecast is on the screen", || foreseen.is_match(&terminal.line("segments")));
    terminal.press(b"q");
    terminal.is_given_back();
}

#[test]
fn it_gives_the_terminal_back_however_it_ends() {
    let (_server, session) = server();
    for keys in [&b"q"[..], b"\x03", b"\x1b"] {
        let mut terminal = Terminal::monitor(&session, (24, 80));
        terminal.shows(&["q quit"]);
        terminal.press(keys);
        terminal.is_given_back();
    }
    for name in ["TERM", "HUP", "INT"] {
        let mut terminal = Terminal::monitor(&session, (24, 80));
        terminal.shows(&["q quit"]);
        signal(&terminal.child, name);
        terminal.is_given_back();
    }
}

#[test]
fn twenty_columns_are_enough() {
    let (_server, mut session) = server();
    session.set("QUOTA_TOKEN", ACME);
    let mut terminal = Terminal::monitor(&session, (24, 20));
    terminal.shows(&["segments         90%", "computedPropert"]);
    // Another's changes are not for a member to see.
    terminal.shows(&["to see them takes an"]);
    terminal.press(b"q");
    terminal.is_given_back();

    let mut terminal = Terminal::monitor(&session, (1, 1));
    until("it has drawn", || terminal.on_screen(vt100::Screen::alternate_screen));
    terminal.press(b"q");
    assert!(terminal.ended().success());

    session.set("QUOTA_TOKEN", ADMIN);
    session.command().args(["plans", "set", "pro", "--max-segments", "100"]).output().unwrap();
    for line in [
        "status -w acme",
        "audit --all",
        "doctor -w acme",
        "plans list",
        "recalculate -w acme",
        "mode show",
        "--help",
        "migrate analyze",
        "update --help",
        "nonsense",
    ] {
        let mut command = session.command();
        command.args(line.split(' '));
        let mut terminal = Terminal::start(command, (200, 20));
        let code = terminal.ended().code().unwrap();
        assert_eq!(code, if line == "nonsense" { 2 } else { 0 }, "{line}:\n{}", terminal.text());
        until("it is on the screen", || !terminal.text().trim().is_empty());
        assert!(!terminal.text().contains("panicked"), "{}", terminal.text());
    }
}

#[test]
fn colours_are_for_terminals() {
    let (_server, mut session) = server();
    let coloured = |session: &Session| {
        let mut command = session.command();
        command.args(["status", "-w", "acme"]);
        let mut terminal = Terminal::start(command, (24, 100));
        assert!(terminal.ended().success());
        terminal.shows(&["segments", "90%", "workspace acme, changed"]);
        terminal.colour("segments")
    };
    assert_eq!(coloured(&session), Color::Idx(11));
    session.set("NO_COLOR", "1");
    assert_eq!(coloured(&session), Color::Default);
    let mut terminal = Terminal::monitor(&session, (24, 80));
    terminal.shows(&["q quit"]);
    assert_eq!(terminal.colour("segments"), Color::Default);
    terminal.press(b"q");
    terminal.is_given_back();
    // A pipe gets none.
    session.unset("NO_COLOR");
    assert!(!session.run("status -w acme").stdout.contains('\x1b'));
}

#[test]
fn long_work_tells_how_far_it_is() {
    let (server, session) = server();
    create_all(&mut server.connect(), "globex", ["one".to_owned()]);
    for (line, told, result) in [
        ("migrate analyze", "2 workspaces looked at", "2 workspaces; limits: "),
        ("migrate apply", "2 workspaces done", "2 workspaces; limits: "),
    ] {
        let mut command = session.command();
        command.args(line.split(' '));
        let mut terminal = Terminal::start(command, (60, 100));
        assert!(terminal.ended().success(), "{}", terminal.text());
        terminal.shows(&[result]);
        assert!(terminal.has_shown(told), "{}", terminal.text());
        assert!(!terminal.text().contains(told), "it is taken back: {}", terminal.text());
        // Nobody looks on at a pipe.
        let piped = session.command().args(line.split(' ')).output().unwrap();
        assert!(!String::from_utf8_lossy(&piped.stderr).contains("workspaces"), "{piped:?}");
    }
}

#[test]
fn a_pipe_gets_plain_lines() {
    let (mut server, session) = server();
    let mut command = session.command();
    command.args(["monitor", "-w", "acme", "--refresh", "0.1"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut segments = || lines.by_ref().map(Result::unwrap).find(|line| line.contains(" segments ")).unwrap();
    let first = segments();
    let expected =
        regex::Regex::new("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z segments 45/50 90% warning 0 refused$").unwrap();
    assert!(expected.is_match(&first), "{first}");
    create_all(&mut server.connect(), "acme", (46..=50).map(|number| format!("number {number}")));
    while !segments().ends_with("segments 50/50 100% exceeded 0 refused") {}
    create(&mut server.connect(), "acme", "one too many").refused(429, "QUOTA_EXCEEDED");
    while !segments().ends_with("segments 50/50 100% exceeded 1 refused") {}
    // It goes on, and says so.
    server.kill();
    let mut told = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stderr.take().unwrap()), &mut told).unwrap();
    assert!(told.starts_with("warning: ") && told.contains("can't be reached"), "{told}");
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}
