//! TLS over a connection to a server, by rustls: the server proves by a certificate that it is who its address says.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::backend::net::wire::Wire;
use crate::error::{Error, ErrorKind, Result};

/// A connection through TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, Wire>;

/// Whom to trust. `ca`: a PEM file of the certificates to trust, instead of those that the system does.
pub(crate) fn trust(ca: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let invalid = |text| Error::new(ErrorKind::InvalidOption, text).at(path);
        let all = CertificateDer::pem_file_iter(path).map_err(|e| invalid(format!("ca can't be read: {e}")))?;
        for certificate in all {
            let added = certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
            added.map_err(|e| invalid(format!("ca has something that is no certificate: {e}")))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        let text = "there is no certificate to trust: the system has none, or ca names a file without one";
        return Err(Error::new(ErrorKind::InvalidOption, text));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|e| Error::io("can't begin with TLS", io::Error::other(e)))?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

/// Makes itself known, and the server prove itself, within the time that the wire has.
pub(crate) async fn over(wire: Wire, host: &str, trusted: &Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::clone(trusted), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, wire);
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.sock.ready(false).await?,
            outcome => drop(outcome?),
        }
    }
    Ok(stream)
}
