//! What the log and the collector hear of a request: one record, when it is over.
//!
//! At debug every request has one; at info those that failed, were denied (the first of a client and reason in a
//! minute, and then how many there were), or were rescued. It says how long
//! each phase took, whence the answer came and how the cache stood to it, in the same fields always (what
//! there was not is left out). No query string and no credential is in it: of a URL only host and path are
//! told, and of a private instance's path not the secret that it begins with.
//!
//! An answer that nobody watches costs nothing here: no clock is read and nothing is put into words.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Buf;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::{Modules, Trouble};
use crate::admit::{Admission, Refusal};
use crate::fetch::{self, Body, Seen};
use crate::goproxy::Served;
use crate::metrics::Label;
use crate::trace::{Attribute, Collector, Context, Finished, Id, Phase, Restraint, Running, Trace};

/// One request as it came.
pub struct Line {
    id: Id,
    peer: SocketAddr,
    method: Method,
    uri: Uri,
    /// Begun where somebody is sure to read it.
    watched: Option<Trace>,
    collector: Option<Collector>,
}

impl Line {
    /// Of a request, which a collector may want to hear of.
    pub fn of<B>(request: &Request<B>, peer: SocketAddr, collector: Option<&Collector>) -> Line {
        let id = Id::draw();
        let context = collector.map(|_| parent(request.headers()));
        // Whoever began the trace says whether it is wanted.
        let collector = collector.filter(|_| context.as_ref().is_some_and(|context| context.sampled)).cloned();
        let is_watched = collector.is_some() || tracing::enabled!(tracing::Level::DEBUG);
        let watched = is_watched.then(|| Trace::begin(id, context.unwrap_or_else(Context::root)));
        Line { id, peer, method: request.method().clone(), uri: request.uri().clone(), watched, collector }
    }

    /// What the request is called.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What it asks for, for a person: host and path, without queries and secrets.
    pub fn what(&self, admission: &Admission) -> String {
        let (host, path) = self.place(admission);
        format!("{host}{path}")
    }

    fn place(&self, admission: &Admission) -> (String, String) {
        let authority = self.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default().to_owned();
        let path = if self.method == Method::CONNECT { "" } else { admission.shown(self.uri.path()) }.to_owned();
        (host, path)
    }

    /// Its trace, where one is begun.
    pub fn trace(&self) -> Option<Trace> {
        self.watched.clone()
    }

    /// Has the record written when this answer is over, or when what it became is ([`Later`]).
    pub fn answered(
        self,
        response: Response<Body>,
        trace: Option<Trace>,
        modules: &Modules,
        admission: &Admission,
    ) -> Response<Body> {
        let trace = trace.filter(|trace| self.watched.is_some() || !trace.close_unmended());
        let Some(trace) = trace else { return response };
        let cache = modules.served(&response);
        let record = Arc::new(self.record(trace, response.status(), cache, None, admission));
        if let Some(later) = response.extensions().get::<Later>() {
            let _ = later.0.set(record);
            return response;
        }
        // The body's end is the end of its request: the record goes with what counts its bytes.
        let count = move |piece: &Seen| {
            if let Some(Ok(frame)) = piece {
                let length = frame.data_ref().map_or(0, Buf::remaining);
                record.down.fetch_add(length as u64, Ordering::Relaxed);
            }
        };
        response.map(|body| fetch::watched(body, count))
    }

    /// Has the record written of a request that came to nothing.
    pub fn failed(self, trouble: &Trouble, trace: Option<Trace>, admission: &Admission, restraint: &Restraint) {
        let may_say = |refusal: &Refusal| restraint.may_say(self.peer.ip(), refusal.decision().label());
        let is_quiet = trouble.is_the_clients() || !trouble.refusal().is_none_or(may_say);
        if self.watched.is_none() && is_quiet {
            return;
        }
        let trace = trace.unwrap_or_else(|| Trace::begin(self.id, Context::root()));
        let news = if is_quiet { News::Refused } else { News::Failed };
        drop(self.record(trace, trouble.status(), None, Some((news, trouble.told())), admission));
    }

    fn record(
        self,
        trace: Trace,
        status: StatusCode,
        cache: Option<Served>,
        trouble: Option<(News, String)>,
        admission: &Admission,
    ) -> Record {
        let (host, path) = self.place(admission);
        let body = trouble.is_none().then(|| trace.start(Phase::Body, String::new()));
        Record {
            peer: self.peer,
            method: self.method,
            host,
            path,
            status,
            cache,
            trouble,
            trace,
            collector: self.collector,
            body,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }
}

/// What went wrong may quote what was asked for: the path as it came, or where somebody sent us.
pub(super) fn without_queries(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut is_query = false;
    for char in text.chars() {
        let is_end = char.is_whitespace() || matches!(char, '"' | '\'' | '\\' | '<' | '>');
        is_query = !is_end && is_query;
        if !is_query {
            shown.push(char);
        }
        is_query |= char == '?';
    }
    shown
}

fn parent(headers: &HeaderMap) -> Context {
    let mut told = headers.get_all("traceparent").iter();
    // Two of them contradict each other (section 3.2.1 wants one).
    match (told.next(), told.next()) {
        (one, None) => Context::of(one.map(|value| value.as_bytes())),
        _ => Context::root(),
    }
}

/// What there is to say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Answered,
    /// Answered in spite of something that would have failed a build.
    Rescued,
    /// No, and the client's own doing; or a denial like one that was told of a moment ago.
    Refused,
    Failed,
}

/// Where the record is put of a request that turns into something longer than its answer.
#[derive(Clone, Debug, Default)]
pub struct Later(Arc<OnceLock<Arc<Record>>>);

impl Later {
    /// It is over, and carried so many bytes from the client and to it.
    pub fn over(self, up: u64, down: u64) {
        if let Some(record) = self.0.get() {
            record.up.store(up, Ordering::Relaxed);
            record.down.store(down, Ordering::Relaxed);
        }
    }
}

/// What is written when it is dropped.
#[derive(Debug)]
struct Record {
    peer: SocketAddr,
    method: Method,
    host: String,
    path: String,
    status: StatusCode,
    cache: Option<Served>,
    trouble: Option<(News, String)>,
    trace: Trace,
    collector: Option<Collector>,
    body: Option<Running>,
    up: AtomicU64,
    down: AtomicU64,
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            body.end(&Ok::<(), ()>(()));
        }
        let mended = self.trace.close();
        self.log(mended.as_deref());
        self.collect(mended);
    }
}

impl Record {
    fn news(&self, mended: Option<&str>) -> News {
        match &self.trouble {
            Some((news, _)) => *news,
            None if mended.is_some() => News::Rescued,
            None => News::Answered,
        }
    }

    /// Whence the answer came, and who gave the address of that.
    fn source(&self) -> (Option<String>, Option<String>) {
        match (self.trace.peer(), self.cache) {
            (Some(peer), _) => (Some(peer.address.to_string()), Some(peer.heard_from)),
            (None, Some(_)) => (Some("cache".to_owned()), None),
            (None, None) => (None, None),
        }
    }

    fn log(&self, mended: Option<&str>) {
        // One list of fields for all four. What every record has comes first: so text lines up.
        macro_rules! tell {
            ($level:ident, $message:literal) => {{
                let ms = |phase| self.trace.spent(phase).map(|spent| u64::try_from(spent.as_millis()).unwrap_or(u64::MAX));
                let (source, resolver) = self.source();
                let what = format!("{}{}", self.host, self.path);
                tracing::$level!(
                    id = %self.trace.id(),
                    status = self.status.as_u16(),
                    method = %self.method,
                    ms = u64::try_from(self.trace.begun().1.elapsed().as_millis()).unwrap_or(u64::MAX),
                    cache = self.cache.map(tracing::field::display),
                    resolve_ms = ms(Phase::Resolve),
                    connect_ms = ms(Phase::Connect),
                    tls_ms = ms(Phase::Tls),
                    first_byte_ms = ms(Phase::FirstByte),
                    body_ms = ms(Phase::Body),
                    up = self.count(&self.up),
                    down = self.count(&self.down),
                    what,
                    peer = %self.peer,
                    source,
                    resolver,
                    mended,
                    trouble = self.trouble.as_ref().map(|(_, trouble)| trouble.as_str()),
                    $message
                )
            }};
        }
        match self.news(mended) {
            News::Answered => tell!(debug, "answered"),
            News::Rescued => tell!(info, "rescued"),
            News::Refused => tell!(debug, "refused"),
            News::Failed => tell!(info, "failed"),
        }
    }

    fn count(&self, bytes: &AtomicU64) -> Option<u64> {
        let bytes = bytes.load(Ordering::Relaxed);
        (bytes > 0).then_some(bytes)
    }

    fn collect(&mut self, mended: Option<String>) {
        let Some(collector) = self.collector.take() else { return };
        let (source, resolver) = self.source();
        let text = |value: &str| Some(Attribute::Text(value.to_owned()));
        let number = |bytes: &AtomicU64| self.count(bytes).map(Attribute::Number);
        let path = Some(self.path.as_str()).filter(|path| !path.is_empty());
        let (server, port) = split_port(&self.host);
        let attributes = [
            ("goanyway.request_id", text(&self.trace.id().to_string())),
            ("http.request.method", text(self.method.as_str())),
            ("http.response.status_code", Some(Attribute::Number(self.status.as_u16().into()))),
            ("server.address", Some(server).filter(|host| !host.is_empty()).and_then(text)),
            ("server.port", port.map(Attribute::Number)),
            ("url.path", path.and_then(text)),
            ("client.address", text(&self.peer.ip().to_string())),
            ("goanyway.cache", self.cache.and_then(|cache| text(&cache.to_string()))),
            ("goanyway.source", source.as_deref().and_then(text)),
            ("goanyway.resolver", resolver.as_deref().and_then(text)),
            ("goanyway.mended", mended.as_deref().and_then(text)),
            ("goanyway.bytes_up", number(&self.up)),
            ("goanyway.bytes_down", number(&self.down)),
        ];
        let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let trouble = self.trouble.take().map(|(_, trouble)| trouble);
        let stretches = self.trace.tell();
        let (name, trace) = (self.method.as_str().to_owned(), self.trace.clone());
        collector.take(Finished { name, trace, ended: Instant::now(), attributes, trouble, stretches });
    }
}

/// A host and its port, if it has one, apart, as collectors want them.
fn split_port(host: &str) -> (&str, Option<u64>) {
    let bare = |host| str::trim_end_matches(str::trim_start_matches(host, '['), ']');
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (bare(name), port.parse().ok()),
        _ => (bare(host), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_its_port_are_two_attributes() {
        let table = [
            ("goproxy.cn:443", "goproxy.cn", Some(443)),
            ("goproxy.cn", "goproxy.cn", None),
            ("[2001:db8::1]:8080", "2001:db8::1", Some(8080)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("", "", None),
        ];
        for (host, address, port) in table {
            assert_eq!(split_port(host), (address, port), "{host}");
        }
    }

    #[test]
    fn of_what_is_quoted_the_query_is_left_out() {
        let table = [
            ("\"a/@v/x?token=s&t?=u\" is no module request", "\"a/@v/x?\" is no module request"),
            ("GET https://a.example/x?X-Signature=s: 503", "GET https://a.example/x? 503"),
            ("did you mean x? y", "did you mean x? y"),
        ];
        for (text, shown) in table {
            assert_eq!(without_queries(text), shown);
        }
    }
}
