//! A PgBouncer in front of a server, which hands out a connection per transaction.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::postgres::{Server, somebody_else};
use super::until;

/// A running pooler. It ends when it is dropped; when the process of the tests is killed, with its process group.
pub(crate) struct Pooler {
    child: Child,
    folder: TempDir,
}

impl Pooler {
    /// With fewer connections to the server than its clients have to it, so that they take turns.
    pub(crate) fn start(server: &Server) -> Self {
        const CONNECTIONS: usize = 8;
        let folder = tempfile::Builder::new().prefix("pooler-").tempdir().unwrap();
        let [settings, users, log] = ["settings.ini", "users.txt", "log"].map(|name| folder.path().join(name));
        fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let text = format!(
            "[databases]\n* = host={}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {}\nauth_type = trust\n\
             auth_file = {}\nignore_startup_parameters = extra_float_digits\npool_mode = transaction\ndefault_pool_size = {CONNECTIONS}\nmax_client_conn = 200\n",
            server.folder().display(),
            folder.path().display(),
            users.display()
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        // Debian has it where only root looks.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        if let Some((user, group)) = somebody_else() {
            for path in [folder.path(), &settings, &users, &log] {
                chown(path, Some(user), Some(group)).unwrap();
            }
            command.uid(user).gid(group);
        }
        let child = command.spawn().expect("PgBouncer is missing: install it (Debian: pgbouncer)");
        let mut pooler = Self { child, folder };
        let socket = pooler.folder.path().join(".s.PGSQL.6432");
        until("the pooler has started", || {
            let ended = pooler.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
            socket.exists()
        });
        pooler
    }

    /// The URL by which a database of the server is reached through the pooler.
    pub(crate) fn url(&self, direct: &str) -> String {
        let (database, _) = direct.split_once('?').unwrap();
        // Prepared statements are the server session's.
        format!("{database}?host={}&port=6432&statement-cache-capacity=0", self.folder.path().display())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
