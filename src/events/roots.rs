//! Root certificates that are trusted beside the system's.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::Error;

/// The certificates in `pems`.
///
/// # Errors
///
/// [Config](Error::is_config) where one has none, or none that can be read.
pub(crate) fn certificates(pems: &[Vec<u8>]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut all = Vec::new();
    for pem in pems {
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| unreadable().with_source(error))?;
        if found.is_empty() {
            return Err(unreadable());
        }
        all.extend(found);
    }
    Ok(all)
}

/// What to say of a certificate that can't be read.
pub(crate) fn unreadable() -> Error {
    Error::config(
        "a root certificate can't be read: give it in PEM, with its BEGIN CERTIFICATE and END CERTIFICATE lines",
    )
}
