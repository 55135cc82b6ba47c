//! A first look at a connection that was not made to us: what name does its client show, if it shows
//! any? Nothing is answered, and every byte is given again.

use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::Instant;

use super::hello::{self, Opening};
use super::{Replayed, Why};
use crate::target::Name;

/// From the first byte awaited to a whole hello. Half of what go gives a handshake: what is left is for whoever
/// answers it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that was looked at.
#[derive(Debug)]
pub struct Look<S> {
    pub stream: Replayed<S>,
    /// The name in its ClientHello, or why there is none.
    pub shown: Result<Name, Why>,
}

/// Reads a ClientHello whole. A client that says nothing for `silence` waits for its server.
pub async fn look<S: AsyncRead + Unpin>(mut stream: S, silence: Duration) -> Look<S> {
    let (mut kept, now) = (Vec::new(), Instant::now());
    let shown = match hello::await_hello(&mut stream, &mut kept, now + silence, now + PATIENCE).await {
        Ok(Ok(Opening::Hello(accepted))) => {
            let shown = accepted.client_hello().server_name().map(Name::parse);
            shown.and_then(Result::ok).ok_or(Why::NoName)
        }
        Ok(Ok(Opening::Other(why))) => Err(why),
        Err(_) if kept.is_empty() => Err(Why::Silent),
        Ok(Err(_)) | Err(_) => Err(Why::Unfinished),
    };
    Look { stream: Replayed::new(kept, stream), shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// What a look at these bytes shows, sent in pieces; the client stays.
    async fn shown(bytes: &[u8], piece: usize) -> Result<Name, Why> {
        let (mut far, near) = duplex(1 << 17);
        for part in bytes.chunks(piece) {
            far.write_all(part).await.unwrap();
        }
        let looked = look(near, Duration::from_millis(300)).await;
        far.write_all(b"more").await.unwrap();
        drop(far);
        let (mut stream, mut again) = (looked.stream, Vec::new());
        stream.read_to_end(&mut again).await.unwrap();
        assert_eq!(again, [bytes, b"more"].concat(), "every byte is given again");
        looked.shown
    }

    fn hello(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut bytes = Vec::new();
        rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn the_name_is_read_however_the_hello_is_cut() {
        for piece in [1, 5, 1000, 1 << 16] {
            assert_eq!(shown(&hello("GoProxy.cn"), piece).await, Ok(Name::parse("goproxy.cn").unwrap()), "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_shows_no_name_says_why() {
        let whole = hello("goproxy.cn");
        let huge = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 16_380]].concat();
        let table = [
            (&b""[..], Why::Silent),
            (&b"SSH-2.0-x\r\n"[..], Why::NotTls),
            (&whole[..whole.len() - 1], Why::Unfinished),
            (&hello("127.0.0.1"), Why::NoName),
            (&huge.repeat(5), Why::BadHello),
        ];
        for (bytes, why) in table {
            assert_eq!(shown(bytes, 1000).await, Err(why));
        }
    }
}
