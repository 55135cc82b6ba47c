//! A stream whose first bytes were already read: they are given again, then the stream goes on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was read of a stream, and the rest of it. Writing goes straight through.
#[derive(Debug)]
pub struct Replayed<S> {
    early: Bytes,
    stream: S,
}

impl<S> Replayed<S> {
    /// `early` was read of `stream` already.
    pub fn new(early: impl Into<Bytes>, stream: S) -> Replayed<S> {
        Replayed { early: early.into(), stream }
    }

    /// The bytes not yet given again and the bare stream, for a tunnel that splices.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.early, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Conduit;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn early_bytes_come_first_and_the_stream_follows() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b" and late").await.unwrap();
        let mut replayed = Replayed::new(b"early".to_vec(), near);
        let mut piece = [0; 3];
        replayed.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"ear");
        replayed.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut rest = String::new();
        replayed.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "ly and late");
        let mut answer = [0; 6];
        far.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }

    /// A large answer left one TLS record at a time.
    #[tokio::test]
    async fn several_pieces_are_written_together() {
        let (mut far, near) = pair().await;
        let mut replayed = Replayed::new(Bytes::new(), Conduit::from(near));
        assert!(replayed.is_write_vectored());
        let pieces = [[1; 2048], [2; 2048]];
        let slices = pieces.each_ref().map(|piece| io::IoSlice::new(piece));
        assert_eq!(replayed.write_vectored(&slices).await.unwrap(), 4096);
        let mut heard = vec![0; 4096];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, pieces.concat());
    }

    #[tokio::test]
    async fn what_was_not_given_again_can_be_taken() {
        let (_far, near) = tokio::io::duplex(64);
        let mut replayed = Replayed::new(b"hello".to_vec(), near);
        replayed.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(&replayed.into_parts().0[..], b"llo");
    }
}
