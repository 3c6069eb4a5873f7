//! With TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::host::{Folder, Service};
use crate::support::quickstart::Server;
use crate::support::until;

/// Writes a new certificate, and answers it.
fn renew(folder: &Folder) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.private("key.pem", &made.signing_key.serialize_pem());
    folder.write("certificate.pem", &made.cert.pem());
    made.cert.pem()
}

/// What somebody is answered who trusts this certificate alone.
fn answer(service: &Service, trusted: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(service.address)?);
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_ready(service: &Service, trusted: &str) -> bool {
    answer(service, trusted).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[test]
fn it_speaks_tls_and_takes_another_certificate_while_it_runs() {
    let folder = Folder::new(Server::Sqlite);
    let first = renew(&folder);
    folder.append("[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n");
    let mut service = folder.start_unready();
    until("it is ready", || is_ready(&service, &first));
    // Who says nothing, or something else, keeps nobody else from it.
    let _silent = TcpStream::connect(service.address).unwrap();
    assert_eq!(service.probe("/readyz"), None);
    assert!(is_ready(&service, &first));

    let second = renew(&folder);
    assert!(!is_ready(&service, &second), "nobody has told it yet");
    service.reload();
    assert!(is_ready(&service, &second) && !is_ready(&service, &first));

    // One that can't be used changes nothing.
    folder.write("certificate.pem", "nonsense");
    service.reload();
    service.logs("certificate.pem can't be used");
    assert!(is_ready(&service, &second));
    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
    assert!(!service.log().contains("cut off"), "{}", service.log());
}
