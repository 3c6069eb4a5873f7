//! Programs that are written in Python.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of programs of the virtual environment `name`, which has what `requirements` lists. It is made once, and again when
/// that changes.
pub(crate) fn environment(name: &str, requirements: &Path) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tmp.join(name);
    let installed = folder.join("installed.txt");
    // Tests run at the same time.
    let lock = File::create(tmp.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if fs::read(&installed).ok() != Some(fs::read(requirements).unwrap()) {
        let python = env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
        run(Command::new(folder.join("bin/python")).args(pip).arg(requirements));
        fs::copy(requirements, &installed).unwrap();
    }
    folder.join("bin")
}

/// What it prints, once it has succeeded.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?} has failed:\n{printed}\n{errors}");
    printed
}
