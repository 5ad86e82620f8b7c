//! TLS over a connection to a server, by rustls: the server proves by a certificate that it is who its address says, and
//! the client by its own where the server asks for one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::backend::net::config::Remote;
use crate::backend::net::wire::Wire;
use crate::error::{Error, ErrorKind, Result};

/// A connection through TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, Wire>;

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>, path: &Path) -> Error {
    Error::new(ErrorKind::InvalidOption, text).at(path)
}

/// The certificates in a PEM file.
fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|e| invalid(format!("{option} can't be read: {e}"), path))?;
    let all = all.collect::<Result<Vec<_>, _>>();
    all.map_err(|e| invalid(format!("{option} has something that is no certificate: {e}"), path))
}

/// Whom to trust, and by what to be trusted. `ca`: a PEM file of the certificates to trust, instead of those that the
/// system does; `cert` and `key`: PEM files of the client's own certificate and its key.
pub(crate) fn configure(remote: &Remote) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &remote.ca {
        for certificate in certificates("ca", path)? {
            let added = roots.add(certificate);
            added.map_err(|e| invalid(format!("ca has something that is no certificate: {e}"), path))?;
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
    let trusting = versions.with_root_certificates(roots);
    let config = match (&remote.cert, &remote.key) {
        (None, None) => trusting.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            // What is wrong with a key is told without a part of it.
            let secret = PrivateKeyDer::from_pem_file(key);
            let secret = secret.map_err(|_| invalid("key can't be read, or has no private key in PEM", key))?;
            let proven = trusting.with_client_auth_cert(certificates("cert", cert)?, secret);
            proven.map_err(|e| invalid(format!("cert and key don't fit: {e}"), cert))?
        }
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                "cert and key go together: a client proves itself by both",
            ));
        }
    };
    Ok(Arc::new(config))
}

/// Makes itself known, and the server prove itself, within the time that the wire has.
pub(crate) async fn over(wire: Wire, host: &str, trusted: &Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::clone(trusted), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, wire);
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.sock.ready(false).await.map_err(no_tls)?;
            }
            outcome => drop(outcome.map_err(no_tls)?),
        }
    }
    Ok(stream)
}

/// An error of TLS in words that say what to do.
pub(crate) fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match inner {
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::HandshakeFailure,
        )) => "the server asks for a client certificate that it trusts (cert= and key= name one)",
        Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "the server doesn't trust the client certificate of cert="
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server doesn't speak TLS (then the URL has no second s: redis://)"
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            let text = format!("the server's certificate doesn't prove it: {why} (ca= names whom to trust)");
            return io::Error::new(io::ErrorKind::InvalidData, text);
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// The same before TLS has begun.
fn no_tls(error: io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::TimedOut => "no TLS in time; the URL of a server without it has no second s: redis://",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the connection was closed before TLS began; the URL of a server without it has no second s: redis://"
        }
        _ => return explained(error),
    };
    io::Error::new(error.kind(), text)
}
