//! `maps/dittofeed.toml` and its configuration, as they are put into force: two gateways on one Postgres, in front of a
//! stand-in for Dittofeed that checks nothing and has races of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod host;
mod paths;
mod routes;
mod rows;
mod storms;
mod users;

#[test]
fn the_configuration_is_good_as_it_stands() {
    let mut quotactl = std::process::Command::new(env!("CARGO_BIN_EXE_quotactl"));
    quotactl.args(["serve", "--config", "maps/dittofeed.quota.toml", "--check"]);
    quotactl.current_dir(env!("CARGO_MANIFEST_DIR")).env("QUOTA_ADMIN_TOKEN", "s3cret");
    let output = quotactl.env("DATABASE_URL", "postgres://quota@localhost/dittofeed").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(include_str!("../../maps/README.md").contains(&told), "{told}");
}
