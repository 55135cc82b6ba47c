//! Reading a head that somebody else is to be asked about, or may be: for connections that were not
//! made to us, before it is known whose they are.

use http::{Request, Version};

use super::head::MAX_FIELDS;

/// The head of a request, where the bytes begin with a whole one. Nothing is checked but that it can be read.
pub fn read_head(bytes: &[u8]) -> Option<Request<()>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut read = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = read.parse(bytes) else { return None };
    let version = if read.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut request = Request::builder().method(read.method?).uri(read.path?).version(version);
    for field in read.headers {
        request = request.header(field.name, field.value);
    }
    request.body(()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Intent, intent};

    #[test]
    fn a_head_is_read_whatever_follows_it() {
        let request = read_head(b"GET /x?y HTTP/1.1\r\nHost: a.example\r\n\r\nand more").unwrap();
        assert_eq!(intent(&request), Ok(Intent::Origin { path: "/x?y".to_owned() }));
        assert_eq!(request.headers()[http::header::HOST], "a.example");
    }

    #[test]
    fn what_is_not_whole_or_no_head_is_none() {
        for bytes in [&b"GET / HTTP/1.1\r\nHost: a"[..], b"\x16\x03\x01", b"", b"SSH-2.0-x\r\n\r\n"] {
            assert!(read_head(bytes).is_none(), "{bytes:?}");
        }
    }
}
