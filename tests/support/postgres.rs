//! A Postgres server of the tests' own, whatever else runs on the machine.

use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::database::Database;

/// Starts the server, says so, and stops it when nobody holds the other end of its input any more: the test process
/// has ended, however that came.
const KEEPER: &str = r#"
set -eu
bin=$1 folder=$2
shift 2
trap '"$bin/pg_ctl" stop -D "$folder/data" -m immediate >/dev/null 2>&1 || true; rm -rf -- "$folder"' EXIT
"$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C -N >"$folder/initdb.log" 2>&1
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$folder'" 'max_connections = 400' "$@" \
  >>"$folder/data/postgresql.conf"
"$bin/pg_ctl" start -w -D "$folder/data" -l "$folder/server.log" >"$folder/start.log" 2>&1
touch -- "$folder/started"
cat >/dev/null
"#;

/// A running server. It ends when it is dropped, or with the process of the tests, even if that is killed.
pub(crate) struct Server {
    // Its input is held open for as long as the server shall live.
    keeper: Child,
    folder: PathBuf,
    bin: PathBuf,
    databases: AtomicUsize,
}

/// How it stands to a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Fast: what was committed may be lost when the server, or the machine, crashes.
    None,
    /// What was committed stays.
    Full,
}

/// The server that the tests of one binary share. Each takes a database of its own.
pub(crate) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Durability::None))
}

impl Server {
    pub(crate) fn start(durability: Durability) -> Self {
        let bin = binaries();
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap().keep();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&bin).arg(&folder);
        if durability == Durability::None {
            keeper.args(["fsync = off", "synchronous_commit = off", "full_page_writes = off"]);
        }
        if let Some((user, group)) = somebody_else() {
            chown(&folder, Some(user), Some(group)).unwrap();
            keeper.uid(user).gid(group);
        }
        // In a group of its own, so that what ends the group of the tests leaves it the time to clean up.
        keeper.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().unwrap();
        let mut server = Self { keeper, folder, bin, databases: AtomicUsize::new(0) };
        server.wait_for_the_start();
        server
    }

    fn wait_for_the_start(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.folder.join("started").exists() {
            let logs = ["initdb.log", "start.log", "server.log"].map(|log| {
                let log = fs::read_to_string(self.folder.join(log));
                log.unwrap_or_default()
            });
            assert!(self.keeper.try_wait().unwrap().is_none(), "Postgres did not start: {}", logs.concat());
            assert!(Instant::now() < deadline, "Postgres takes too long to start: {}", logs.concat());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where its socket is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL of a database that the server has.
    pub(crate) fn url_of(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.folder.display())
    }

    /// The URL of a new database, as the superuser.
    pub(crate) fn database(&self) -> String {
        self.database_with("")
    }

    /// The same with options of `CREATE DATABASE`.
    pub(crate) fn database_with(&self, options: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} {options}");
        let make = || Database::postgres(&self.url_of("postgres", "postgres")).run(create);
        // In a thread of its own: the caller may be in a runtime.
        thread::scope(|scope| scope.spawn(make).join()).unwrap();
        self.url_of("postgres", &name)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Kills all sessions and what they were doing, as a crash would, and starts again.
    pub(crate) fn restart_immediate(&self) {
        self.control(&["restart", "-w", "-m", "immediate"]);
    }

    /// Stops until `start_again`; sessions are cut off.
    pub(crate) fn stop(&self) {
        self.control(&["stop", "-w", "-m", "fast"]);
    }

    pub(crate) fn start_again(&self) {
        self.control(&["start", "-w"]);
    }

    /// Copies the server as it is, for `fail_over`.
    pub(crate) fn copy(&self) {
        self.run("pg_basebackup", &["-U", "postgres", "-h", &self.folder.display().to_string(), "-c", "fast"], "copy");
    }

    /// The copy takes the server's place: what was committed since is lost, as on a replica that lagged behind.
    pub(crate) fn fail_over(&self) {
        self.control(&["stop", "-w", "-m", "immediate"]);
        let [data, copy] = ["data", "copy"].map(|name| self.folder.join(name));
        fs::remove_dir_all(&data).unwrap();
        fs::rename(copy, &data).unwrap();
        fs::write(data.join("standby.signal"), "").unwrap();
        if let Some((user, group)) = somebody_else() {
            chown(data.join("standby.signal"), Some(user), Some(group)).unwrap();
        }
        self.start_again();
        self.control(&["promote", "-w"]);
    }

    /// The process id of the postmaster, to pause or to kill it.
    pub(crate) fn pid(&self) -> u32 {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().trim().parse().unwrap()
    }

    fn control(&self, arguments: &[&str]) {
        let log = self.folder.join("server.log").display().to_string();
        // A server that crashed writes all its files to disk first, which takes its time where others do so, too.
        self.run("pg_ctl", &[arguments, &["-t", "300", "-l", &log]].concat(), "data");
    }

    /// Runs one of the server's programs on a folder of its own.
    fn run(&self, program: &str, arguments: &[&str], folder: &str) {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).arg("-D").arg(self.folder.join(folder));
        if let Some((user, group)) = somebody_else() {
            command.uid(user).gid(group);
        }
        let done = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        assert!(done.unwrap().success(), "{program} {arguments:?} failed: {log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Where `initdb`, `pg_ctl` and `postgres` are: `TEST_POSTGRES_BIN`, or what `pg_config` tells, or Debian's place for
/// the newest version.
fn binaries() -> PathBuf {
    let told = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output();
    let told = told.ok().map(|told| PathBuf::from(String::from_utf8_lossy(&told.stdout).trim()));
    let mut debians: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    debians.sort();
    let debians = debians.into_iter().rev().map(|(_, bin)| bin);
    let found = env::var_os("TEST_POSTGRES_BIN").map(PathBuf::from).into_iter().chain(told).chain(debians);
    let found = found.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.expect("Postgres is missing: install it (Debian: postgresql), or set TEST_POSTGRES_BIN to its bin directory")
}

/// Postgres and its pooler refuse to run as root. Whom they run as then: user and group.
pub(super) fn somebody_else() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        return None;
    }
    let users = fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let id_of = |name: &str| {
        let user = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = user.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(id_of("postgres").or_else(|| id_of("nobody")).expect("a user postgres or nobody"))
}
