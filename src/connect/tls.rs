//! TLS to origins and mirrors: always verified, against the platform's roots and those that the
//! configuration adds. No switch turns that off, and no session of one host is resumed for another.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::SignatureScheme;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::target::{Host, Name};

/// Which HTTP a server may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Any,
    /// For what only HTTP/1.1 can do: switching to another protocol.
    Http1,
}

impl Offer {
    fn protocols(self) -> Vec<Vec<u8>> {
        let all = [b"h2".as_slice(), b"http/1.1"];
        all[usize::from(self == Offer::Http1)..].iter().map(|name| name.to_vec()).collect()
    }
}

/// The one TLS client of the process.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// Who wants to hear of hosts that ask for client certificates.
    told: Arc<OnceLock<Arc<Tell>>>,
}

type Tell = dyn Fn(&Name) + Send + Sync;

impl Tls {
    /// Loads the roots. What cannot be read is said and left out; a named file that cannot is an error.
    pub fn new(extra_roots: &[PathBuf]) -> Result<Tls, Error> {
        let loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.certs);
        roots.add_parsable_certificates(read_roots(extra_roots)?);
        if roots.is_empty() {
            tracing::warn!("{NO_ROOTS}");
        } else {
            for error in &loaded.errors {
                tracing::warn!(%error, "a root certificate store could not be read");
            }
        }
        Ok(Tls::trusting(roots))
    }

    /// A client that trusts exactly these roots.
    pub fn trusting(roots: RootCertStore) -> Tls {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|error| unreachable!("the provider speaks TLS 1.2 and 1.3: {error}"));
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = Offer::Any.protocols();
        // A mirror is dialled seldom and kept; what resumption saves is not worth sessions to guard.
        config.resumption = Resumption::disabled();
        Tls { config: Arc::new(config), told: Arc::default() }
    }

    /// Has somebody told of each host that asks for a client certificate; the first who says so is.
    pub fn on_certificate_wanted(&self, tell: Arc<Tell>) {
        let _ = self.told.set(tell);
    }

    /// Shakes hands with a parent proxy, which is spoken to in HTTP/1.1 alone.
    pub async fn handshake_with_parent<S>(&self, stream: S, host: &Host) -> Result<TlsStream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = Offer::Http1.protocols();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(server_name(host)?, stream).await.map_err(Error::from_io)
    }

    /// Shakes hands over a connected stream, as whoever `host` is.
    pub async fn handshake<S>(&self, stream: S, host: &Host, offer: Offer) -> Result<TlsStream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server = server_name(host)?;
        let mut config = Arc::clone(&self.config);
        if offer != Offer::Any {
            Arc::make_mut(&mut config).alpn_protocols = offer.protocols();
        }
        if let (Some(tell), Host::Name(name)) = (self.told.get(), host) {
            let asked = NoCertificate { name: name.clone(), tell: Arc::clone(tell) };
            Arc::make_mut(&mut config).client_auth_cert_resolver = Arc::new(asked);
        }
        TlsConnector::from(config).connect(server, stream).await.map_err(Error::from_io)
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, Error> {
    match host {
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(|_| Error::Name),
        Host::Addr(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

/// Shows no certificate, and tells that one was asked for (RFC 8446 section 4.3.2).
struct NoCertificate {
    name: Name,
    tell: Arc<Tell>,
}

impl std::fmt::Debug for NoCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no certificate for {}", self.name)
    }
}

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        (self.tell)(&self.name);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The certificates in files of roots.
pub fn read_roots(files: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut roots = Vec::new();
    for path in files {
        roots.extend(read_pem(path)?);
    }
    Ok(roots)
}

fn read_pem(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |why: String| Error::Roots { path: path.clone(), why };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// Whether ALPN settled on HTTP/2.
pub fn speaks_h2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// Why TLS did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate is not good for its name: the address may be a lie.
    #[error("certificate refused: {0}")]
    Untrusted(CertificateError),
    /// Anything else: an alert, nonsense, a connection that ended.
    #[error("TLS failed: {0}")]
    Broken(String),
    #[error("not a name that a certificate can have")]
    Name,
    #[error("roots in {}: {why}", path.display())]
    Roots { path: PathBuf, why: String },
}

/// Said once, in the place of each store that is missing: what comes of it, and what mends it.
const NO_ROOTS: &str = "there are no root certificates here, so no mirror's certificate is believed and nothing is \
                        fetched over https://; install ca-certificates, or name a bundle with SSL_CERT_FILE";

impl Error {
    fn from_io(error: std::io::Error) -> Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Error::Untrusted(why.clone()),
            _ => Error::Broken(error.to_string()),
        }
    }
}
