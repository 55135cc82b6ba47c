//! The listener over TLS: our certificate, and the authority of the clients' where they must have one.
//!
//! HTTP/1.1 is all that is offered: go offers h2 to a proxy and then speaks HTTP/1.1 whatever was
//! chosen (net/http, transport.go, dialConn). Files are read again when they change; connections
//! that stand keep what they shook hands with.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::kept::Kept;

/// How long a client may take over its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The files of a listener over TLS (`listen_tls.*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The chain, our own certificate first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who must have signed a client's certificate, where clients must have one.
    pub client_ca: Option<PathBuf>,
}

/// What we show, and whom we let in.
#[derive(Clone)]
pub(super) struct Certificates {
    kept: Arc<Kept<TlsAcceptor, Error>>,
    pub(super) asks: bool,
}

impl Certificates {
    pub(super) fn open(config: TlsConfig) -> Result<Certificates, Error> {
        let files = [&config.cert, &config.key].into_iter().chain(&config.client_ca).cloned().collect();
        let asks = config.client_ca.is_some();
        let read = move || server(&config).map(|server| TlsAcceptor::from(Arc::new(server)));
        Ok(Certificates { kept: Arc::new(Kept::open("the listener's certificate", files, read)?), asks })
    }

    /// Shakes hands with a client, unless it speaks plain HTTP; the error is for the log.
    pub(super) async fn greet(&self, stream: TcpStream) -> Result<Greeted, String> {
        let shaking = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            // A method begins with a letter, a ClientHello with 22 (RFC 8446 section 5.1).
            if first[0].is_ascii_alphabetic() {
                return Ok(Greeted::Plain(stream));
            }
            let acceptor = self.kept.current(Instant::now());
            acceptor.accept(stream).await.map(|stream| Greeted::Tls(Box::new(stream)))
        };
        match timeout(HANDSHAKE, shaking).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no handshake within {} s", HANDSHAKE.as_secs())),
        }
    }
}

/// How a client began.
pub(super) enum Greeted {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

fn server(config: &TlsConfig) -> Result<ServerConfig, Error> {
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|why| Error::of("a private key", &config.key, why))?;
    let chain = read_chain("a certificate", &config.cert)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = match &config.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for root in read_chain("a root certificate", file)? {
                roots.add(root).map_err(|why| Error::of("a root certificate", file, why))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|why| Error::of("a root certificate", file, why))?
        }
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("the provider speaks TLS 1.2 and 1.3: {error}"));
    let mut server = builder
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|why| Error::of("the certificate of that key", &config.cert, why))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

fn read_chain(what: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|why| Error::of(what, file, why))?;
    if chain.is_empty() { Err(Error::of(what, file, "there is none in it")) } else { Ok(chain) }
}

/// Why there is no listener over TLS.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} was to be {what} in PEM: {why}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    why: String,
}

impl Error {
    fn of(what: &'static str, path: &Path, why: impl Display) -> Error {
        Error { what, path: path.to_owned(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_file_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let made = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let ((cert, key), (_, other)) = (made("a.example"), made("b.example"));
        for (name, text) in [("cert", &cert), ("key", &key), ("other", &other), ("empty", &String::new())] {
            std::fs::write(at(name), text).unwrap();
        }
        let table = [
            ("cert", "key", None, ""),
            ("absent", "key", None, "absent was to be a certificate"),
            ("cert", "absent", None, "absent was to be a private key"),
            ("empty", "key", None, "empty was to be a certificate in PEM: there is none in it"),
            ("cert", "cert", None, "cert was to be a private key"),
            ("cert", "other", None, "cert was to be the certificate of that key"),
            ("cert", "key", Some("empty"), "empty was to be a root certificate in PEM: there is none in it"),
            ("cert", "key", Some("cert"), ""),
        ];
        for (cert, key, client_ca, words) in table {
            let config = TlsConfig { cert: at(cert), key: at(key), client_ca: client_ca.map(at) };
            let said = Certificates::open(config).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{cert} {key} {client_ca:?}: {said}");
        }
    }
}
