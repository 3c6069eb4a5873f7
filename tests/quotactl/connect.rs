//! Which server, which token; and servers and readers that aren't there.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;

use crate::support::quickstart::{ACME, ADMIN, Quickstart, Server};
use crate::transcript::Session;

/// Makes a file one that only its owner may read, or another.
#[cfg(unix)]
fn permit(file: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn servers_that_are_not_there() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut session = Session::at(address, ADMIN);
    session.all(&["status -w acme", "update -w acme --max-segments 1", "doctor", "monitor -w acme"]);
    session.comment("a server that accepts and says nothing");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    session.hide("[SILENT]", silent.local_addr().unwrap().to_string());
    session.run(&format!("status -w acme --url http://{} --timeout 0.3", silent.local_addr().unwrap()));
    session.comment("no TLS where TLS is asked for");
    let server = Quickstart::start(Server::Sqlite);
    session.hide("[SERVER]", server.address.to_string());
    let wrong = session.run(&format!("mode show --url https://{}", server.address));
    assert!(wrong.stderr.contains("can't be reached") && wrong.code == Some(3), "{}", wrong.stderr);
    session.comment("a path at which there is no API");
    session.run(&format!("mode show --url http://{}/nowhere", server.address));
    session.run(&format!("doctor --url http://{}/nowhere", server.address));
    session.all(&[
        "mode show --url localhost",
        "mode show --url ftp://example.com/api",
        "mode show --url https://me:secret@example.com",
        "mode show --timeout 0",
        "mode show --root-certificate absent.pem",
    ]);
    session.is("unreachable.txt");
}

/// A quickstart behind a proxy that speaks TLS, with a certificate that no system knows.
#[test]
fn tls() {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    let server = Quickstart::start(Server::Sqlite);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![key.cert.der().clone()], private).unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = server.address;
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that doesn't trust the certificate goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(behind).await.unwrap();
                tokio::io::copy_bidirectional(&mut stream, &mut server).await
            });
        }
    });
    let mut session = Session::new().with("QUOTA_TOKEN", ADMIN);
    session.hide("[PORT]", port.to_string());
    session.file("root.pem", &key.cert.pem());
    session.file("token.pem", "no certificate");
    session.run(&format!("mode show --url https://localhost:{port} --output csv --root-certificate root.pem"));
    session.run(&format!("mode show --url https://localhost:{port} --output csv"));
    session.run(&format!("mode show --url https://127.0.0.1:{port} --output csv --root-certificate root.pem"));
    session.run(&format!("mode show --url https://localhost:{port} --root-certificate token.pem"));
    session.is("tls.txt");
}

#[test]
fn tokens_and_urls() {
    let server = Quickstart::start(Server::Sqlite);
    let mut session = Session::at(server.address, ADMIN);
    session.file("token", "acme-token\nnothing else counts\n");
    session.all(&["mode set warn", "mode set warn --token acme-token", "mode set warn --token-file token"]);
    session.run_with("mode set warn --token-file -", "acme-token\n");
    session.all(&[
        "mode show --token unknown-token",
        "mode show --token ''",
        "mode show --token 'two words'",
        "mode show --token-file absent",
        "mode show --token a --token-file token",
    ]);
    session.file("empty", "\n");
    session.run("mode show --token-file empty");
    session.unset("QUOTA_TOKEN");
    session.run("mode show");
    session.unset("QUOTA_URL");
    session.run("mode show");
    session.is("tokens.txt");
    for secret in ["unknown-token", ACME] {
        let told = session
            .command()
            .args(["mode", "show", "--token", secret, "--url", "http://127.0.0.1:1"])
            .output()
            .unwrap();
        assert!(!String::from_utf8_lossy(&told.stderr).contains(secret));
    }
}

#[cfg(unix)]
#[test]
fn profiles() {
    let server = Quickstart::start(Server::Sqlite);
    let mut session = Session::at(server.address, ADMIN);
    session.unset("QUOTA_URL");
    session.unset("QUOTA_TOKEN");
    let url = format!("http://{}/api", server.address);
    session.file("tokens/member", ACME);
    let text = format!(
        "[profile.default]\nurl = \"{url}\"\ntoken = \"{ADMIN}\"\n\n[profile.member]\nurl = \"{url}\"\ntoken_file = \"tokens/member\"\n\n\
         [profile.nowhere]\nurl = \"http://127.0.0.1:1\"\n"
    );
    let file = session.file(".config/quotactl/config.toml", &text);
    permit(&file, 0o644);
    session.run("mode show");
    permit(&file, 0o600);
    session.all(&[
        "mode set warn --output csv",
        "mode set enforce --profile member",
        "mode set enforce --profile member --token admin-token --output csv",
        "mode show --profile absent",
        "mode show --profile nowhere",
    ]);
    session.comment("QUOTA_URL counts more than the profile, and --url more than that");
    session.set("QUOTA_URL", "http://127.0.0.1:1/environment");
    session.run("mode show --profile member");
    session.run(&format!("mode show --profile member --url {url} --output csv"));
    session.unset("QUOTA_URL");
    session.comment("another file");
    for (name, text) in [
        ("unknown.toml", "[profile.default]\nurl = \"http://127.0.0.1:1\"\ntokn = \"x\"\n"),
        ("syntax.toml", "[profile.default]\n\nurl = \n"),
        ("value.toml", "[profile.default]\nurl = 5\n"),
        ("empty.toml", ""),
    ] {
        permit(&session.file(name, text), 0o600);
        session.run(&format!("mode show --config {name}"));
    }
    session.all(&["mode show --config empty.toml --profile x", "mode show --config absent.toml"]);
    session.set("XDG_CONFIG_HOME", session.home.path().join("elsewhere").to_str().unwrap());
    session.run("mode show");
    session.is("profiles.txt");
}

#[test]
fn who_has_read_enough_closes_the_pipe() {
    let server = Quickstart::start(Server::Sqlite);
    let session = Session::at(server.address, ADMIN);
    for line in [
        &["status", "-w", "acme"][..],
        &["monitor", "-w", "acme", "--refresh", "0.1"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = session
            .command()
            .args(line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        if line[0] == "monitor" {
            // It goes on until nobody reads.
            stdout.read_exact(&mut [0; 10]).unwrap();
        }
        drop(stdout);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{line:?}");
        assert!(ended.status.success(), "{line:?}: {:?}", ended.status);
    }
}
