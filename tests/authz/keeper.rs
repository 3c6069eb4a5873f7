//! Servers that end with the tests.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Starts a server, and stops it when nobody holds the other end of its input any more: the test has ended, however that came.
const KEEPER: &str = r#"
set -eu
"$@" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true' EXIT
cat >/dev/null
"#;

/// `told`, a variable of the environment, or what is in the path, or what `test.sh` has put beside what is built.
#[track_caller]
pub(crate) fn program(name: &str, told: &str) -> PathBuf {
    let paths = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&paths).map(|folder| folder.join(name));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    let mut all = env::var_os(told).map(PathBuf::from).into_iter().chain(in_path).chain([here]);
    let found = all.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the tests need {name}: run ./test.sh, which gets it, or say where it is by {told}"))
}

/// A server that runs. It ends when this is dropped, or with the process of the tests.
pub(crate) struct Kept {
    // Its input is held open for as long as the server shall live.
    keeper: Child,
}

impl Kept {
    pub(crate) fn start(program: &Path, arguments: &[&OsStr]) -> Self {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(program).args(arguments);
        // In a group of its own, so that what ends the group of the tests leaves it the time to clean up.
        keeper.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { keeper: keeper.spawn().unwrap() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
