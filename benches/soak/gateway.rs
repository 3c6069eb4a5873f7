//! Gateways: `quotactl serve` in processes of their own.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Connection;

pub(crate) const TOKEN: &str = "soak-s3cret";

const RULES: &str = r#"
[[resource]]
name = "segments"
limit_field = "maxSegments"
default = 100
table = "Segment"

[[rule]]
name = "create"
methods = ["POST"]
paths = ["/workspaces/{ws}/segments"]
workspace = [{ path = "ws" }]
charge = [{ resource = "segments" }]

[[rule]]
name = "delete"
methods = ["DELETE"]
paths = ["/workspaces/{ws}/segments"]
operation = "delete"
workspace = [{ path = "ws" }]
charge = [{ resource = "segments" }]
"#;

/// One gateway, which keeps its addresses when it is started anew.
pub(crate) struct Gateway {
    config: PathBuf,
    child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) front: SocketAddr,
}

impl Gateway {
    pub(crate) fn start(folder: &Path, number: usize, database: &str, upstream: SocketAddr) -> Self {
        let (api, front) = (free(), free());
        fs::write(folder.join("rules.toml"), RULES).unwrap();
        let config = folder.join(format!("gateway-{number}.toml"));
        let text = format!(
            r#"
            listen = "{api}"
            mode = "enforce"
            rules = "rules.toml"
            standard_types = false

            [database]
            url = "{database}"

            [[token]]
            name = "soak"
            secret = "env:SOAK_TOKEN"
            role = "admin"

            [log]
            level = "error"

            [shutdown]
            patience_seconds = 10

            [gateway]
            upstream = "http://{upstream}"
            listen = "{front}"
            on_failure = "closed"
            response_timeout_seconds = 5
            longest_request_seconds = 10
            "#
        );
        fs::write(&config, text).unwrap();
        let child = spawn(&config);
        let gateway = Self { config, child, api, front };
        gateway.wait_until_ready();
        gateway
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let asked = Connection::open(self.api).and_then(|mut connection| connection.try_send("GET", "/readyz", ""));
            if asked.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "a gateway is not ready after a minute");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as it asks to be ended, or at once, and starts it again.
    pub(crate) fn restart(&mut self, kill: bool) {
        if kill {
            self.child.kill().unwrap();
        } else {
            let ended = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
            assert!(ended.success());
        }
        self.child.wait().unwrap();
        self.child = spawn(&self.config);
        self.wait_until_ready();
    }

    /// The memory that it has in RAM, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn admin(&self) -> Connection {
        Connection::open(self.api).unwrap().with_token(TOKEN)
    }

    /// The sum of a metric over its series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = Connection::open(self.api).unwrap().send("GET", "/metrics", "").text();
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Path) -> Child {
    let program = env::var("QUOTACTL").expect("QUOTACTL names the program: run benches/soak.sh");
    let mut child = Command::new(program)
        .args(["serve", "--config"])
        .arg(config)
        .env("SOAK_TOKEN", TOKEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    // Nobody else reads what it prints; it must not wait for that.
    let printed = child.stdout.take().unwrap();
    thread::spawn(move || BufReader::new(printed).lines().for_each(drop));
    child
}

/// An address that nobody listens on now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
