//! Clients: raw bytes for what no well-behaved one would send, and a small HTTP/1.1 one for the rest.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the connection ended before the body was whole.
    pub cut: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// Sends these bytes and returns all that comes back until the other side closes.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

/// GETs a path in origin form.
pub async fn get(from: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(from).await.unwrap();
    request(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")).await
}

/// GETs a URL in absolute form through a proxy.
pub async fn get_through(proxy: SocketAddr, url: &str) -> Answer {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let authority = url.split('/').nth(2).unwrap();
    request(&mut stream, &format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")).await
}

/// Sends a head (and what follows it) and reads one answer.
pub async fn request<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &str) -> Answer {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Reads a head, and not a byte of what follows it.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        let within = |error| std::io::Error::other(format!("{error} within {:?}", String::from_utf8_lossy(&head)));
        let byte = byte.map_err(within)?;
        head.push(byte);
    }
    String::from_utf8(head).map_err(std::io::Error::other)
}

/// Reads one answer: its head, then its body by Content-Length, chunks, or to the end.
pub async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Answer {
    let head = read_head(stream).await.unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut status = lines.next().unwrap().splitn(3, ' ').skip(1);
    let mut answer = Answer {
        status: status.next().unwrap().parse().unwrap(),
        reason: status.next().unwrap_or_default().to_owned(),
        headers: lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
        cut: false,
    };
    if let Some(length) = answer.header("content-length").map(|length| length.parse::<usize>().unwrap()) {
        answer.body.resize(length, 0);
        answer.cut = stream.read_exact(&mut answer.body).await.is_err();
    } else if answer.header("transfer-encoding") == Some("chunked") {
        answer.cut = !read_chunks(stream, &mut answer.body).await;
    } else if answer.header("connection") == Some("close") {
        answer.cut = stream.read_to_end(&mut answer.body).await.is_err();
    }
    answer
}

async fn read_chunks<S: AsyncRead + Unpin>(stream: &mut S, body: &mut Vec<u8>) -> bool {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte).await, Ok(1)) {
                return false;
            }
            line.push(byte[0]);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        if stream.read_exact(&mut chunk).await.is_err() {
            return false;
        }
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return true;
        }
    }
}

/// A CONNECT: the answer, and the stream behind it.
pub async fn connect(proxy: SocketAddr, target: &str, user: Option<&str>) -> (Answer, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let authorization = user.map(|user| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:x"));
        format!("Proxy-Authorization: Basic {encoded}\r\n")
    });
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", authorization.unwrap_or_default());
    let answer = request(&mut stream, &head).await;
    (answer, stream)
}

/// Shakes hands as a client that trusts these roots; the error is what such a client would print.
pub async fn handshake(
    stream: TcpStream,
    name: &str,
    roots: RootCertStore,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    match TlsConnector::from(Arc::new(config)).connect(name, stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            // The other side closes once it has understood the refusal: from here on it knows.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            Err(error)
        }
    }
}

/// Roots out of a PEM text.
pub fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}
