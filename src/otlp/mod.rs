//! Traces leave the house: requests that are over, in batches, to a collector by OTLP (http/protobuf).
//!
//! Whoever hands one in never waits: the queue is bounded, and what does not fit is dropped and counted. A
//! collector that is down costs its batches, which are tried a few times, and one line in the log. It is
//! looked up and connected to as any server of the configuration is, by `fetch`; who is asked for nothing
//! (`--otlp none`, the default) hears nothing, whatever OTEL_ variables say: `--otlp env` heeds those.

mod wire;

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admit::Standing;
use crate::fetch::{self, Fetcher, Patience};
use crate::metrics::{By, Counter, Family, Label, Registry};
use crate::target::{BadTarget, Base};
use crate::trace::{Collector, Finished};

/// How many requests wait to be sent; each has some two kilobytes.
const QUEUE: usize = 2048;
/// How many go in one message, and how long the first of them waits for others. As OpenTelemetry's own
/// batch processor has them (OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_SCHEDULE_DELAY).
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);
/// How often a batch is tried, and the first pause between two tries.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Patience = Patience { first_byte: Duration::from_secs(10), stall: Duration::from_secs(10) };
/// What follows the address of a collector (OTLP specification, OTLP/HTTP Request).
const PATH: &str = "/v1/traces";

/// A collector, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: Base,
    headers: HeaderMap,
    service: String,
}

impl Endpoint {
    /// The collector at this URL; `/v1/traces` follows it, unless it ends in that.
    pub fn parse(url: &str) -> Result<Endpoint, BadTarget> {
        let mut base = Base::parse(url)?;
        if !base.path.ends_with(PATH) {
            base.path.push_str(PATH);
        }
        Ok(Endpoint { base, headers: HeaderMap::new(), service: "goanyway".to_owned() })
    }

    /// What OpenTelemetry's own variables say, if they say anything.
    pub fn from_environment(around: &dyn Fn(&str) -> Option<String>) -> Result<Option<Endpoint>, BadTarget> {
        let set = |name: &str| around(name).filter(|value| !value.trim().is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut endpoint = match (set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), set("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            // As it stands, the specification says.
            (Some(whole), _) => Endpoint { base: Base::parse(&whole)?, ..Endpoint::parse(&whole)? },
            (None, Some(base)) => Endpoint::parse(&base)?,
            (None, None) => return Ok(None),
        };
        for variable in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            endpoint.headers.extend(set(variable).iter().flat_map(|list| read_headers(list)));
        }
        endpoint.service = set("OTEL_SERVICE_NAME").unwrap_or(endpoint.service);
        Ok(Some(endpoint))
    }

    fn request(&self, message: Bytes) -> Option<Request<fetch::Body>> {
        let uri = self.base.to_string();
        let mut request = Request::builder().method(Method::POST).uri(uri).body(fetch::full(message)).ok()?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Some(request)
    }
}

/// `key=value,key=value`, values percent-encoded. A header that cannot be one is left out.
fn read_headers(list: &str) -> Vec<(HeaderName, HeaderValue)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.trim()).ok()?, value))
    };
    list.split(',').filter_map(pair).collect()
}

/// What became of a request's spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Taken,
    /// There were too many at once.
    Dropped,
    /// The collector did not take them.
    Refused,
}

impl Label for Outcome {
    fn label(&self) -> &'static str {
        match self {
            Outcome::Taken => "taken",
            Outcome::Dropped => "dropped",
            Outcome::Refused => "refused",
        }
    }
}

/// The way to a collector.
pub struct Exporter {
    closing: CancellationToken,
    working: JoinHandle<()>,
}

impl Exporter {
    /// Begins to send what is handed in.
    pub fn start(endpoint: Endpoint, fetcher: Fetcher, runtime: &Handle, registry: &Registry) -> (Collector, Exporter) {
        let requests: Family<By<Outcome>, Counter> = Family::default();
        registry.room("otlp", |families| {
            families.register("requests", "Requests told to the collector, by outcome", requests.clone());
        });
        let (queue, collector) = queue(requests.clone());
        let closing = CancellationToken::new();
        let sender = Sender { endpoint, fetcher, requests, is_well: true };
        let working = runtime.spawn(sender.run(queue, closing.clone()));
        (collector, Exporter { closing, working })
    }

    /// Sends what is there, and ends.
    pub async fn finish(self) {
        self.closing.cancel();
        let _ = self.working.await;
    }
}

fn queue(requests: Family<By<Outcome>, Counter>) -> (mpsc::Receiver<Finished>, Collector) {
    let (way, queue) = mpsc::channel(QUEUE);
    let take = move |finished| {
        if way.try_send(finished).is_err() {
            requests.get_or_create(&By(Outcome::Dropped)).inc();
        }
    };
    (queue, Collector::new(take))
}

struct Sender {
    endpoint: Endpoint,
    fetcher: Fetcher,
    requests: Family<By<Outcome>, Counter>,
    is_well: bool,
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Finished>, closing: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = gather(&mut queue, &mut batch) => self.deliver(&mut batch, &closing).await,
                () = closing.cancelled() => break,
            }
        }
        queue.close();
        while let Ok(finished) = queue.try_recv() {
            batch.push(finished);
            if batch.len() == BATCH {
                self.deliver(&mut batch, &closing).await;
            }
        }
        self.deliver(&mut batch, &closing).await;
    }

    /// Sends a batch, a few times if need be; while the house closes, once.
    async fn deliver(&mut self, batch: &mut Vec<Finished>, closing: &CancellationToken) {
        if batch.is_empty() {
            return;
        }
        // Once: its phases get their ids here, and a batch that comes again is the same one.
        let message = Bytes::from(wire::encode(&self.endpoint.service, batch));
        let mut outcome = self.send(message.clone()).await;
        for tries in 1..TRIES {
            let pause = match &outcome {
                Err(Refusal { again: true, .. }) => PAUSE * 2u32.pow(tries - 1),
                _ => break,
            };
            tokio::select! {
                () = sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)) => {}
                () = closing.cancelled() => break,
            }
            outcome = self.send(message.clone()).await;
        }
        let counted = if outcome.is_ok() { Outcome::Taken } else { Outcome::Refused };
        self.requests.get_or_create(&By(counted)).inc_by(batch.len() as u64);
        self.tell(&outcome);
        batch.clear();
    }

    /// A line when it begins to fail, and one when it is well again.
    fn tell(&mut self, outcome: &Result<(), Refusal>) {
        let collector = &self.endpoint.base;
        match outcome {
            Err(refusal) if self.is_well => {
                tracing::warn!(%collector, why = %refusal.why, "the collector takes no traces: they are dropped until it does");
            }
            Ok(()) if !self.is_well => tracing::info!(%collector, "the collector takes traces again"),
            _ => {}
        }
        self.is_well = outcome.is_ok();
    }

    async fn send(&self, message: Bytes) -> Result<(), Refusal> {
        let unfit = || Refusal { why: "its URL cannot be asked".to_owned(), again: false };
        let request = self.endpoint.request(message).ok_or_else(unfit)?;
        let sent = self.fetcher.send(Standing::Configured, request, PATIENCE).await;
        let response = sent.map_err(|error| Refusal { why: error.to_string(), again: true })?;
        let status = response.status();
        // Read to its end, so that the connection can be kept; nobody waits long for that.
        let _ = timeout(PAUSE, response.into_body().collect()).await;
        // OTLP specification, Retryable Response Codes.
        let again = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if status.is_success() { Ok(()) } else { Err(Refusal { why: format!("it says {status}"), again }) }
    }
}

/// Why a batch was not taken.
struct Refusal {
    why: String,
    again: bool,
}

/// Waits for a batch: until it is full, or its first has waited long enough. Cut off, it loses nothing.
async fn gather(queue: &mut mpsc::Receiver<Finished>, batch: &mut Vec<Finished>) {
    let mut until = None;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        let come = match until {
            None => queue.recv_many(batch, room).await,
            Some(until) => match timeout_at(until, queue.recv_many(batch, room)).await {
                Ok(come) => come,
                Err(_) => return,
            },
        };
        if come == 0 {
            // Nobody is left who could hand anything in; the end is told by another way.
            return std::future::pending().await;
        }
        until.get_or_insert_with(|| Instant::now() + DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Context, Id, Trace};

    fn finished() -> Finished {
        let trace = Trace::begin(Id::of(1), Context::root());
        let (name, ended) = ("GET".to_owned(), std::time::Instant::now());
        Finished { name, trace, ended, attributes: Vec::new(), trouble: None, stretches: Vec::new() }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let requests = Family::default();
        let (_queue, collector) = queue(Family::clone(&requests));
        (0..QUEUE + 3).for_each(|_| collector.take(finished()));
        assert_eq!(requests.get_or_create(&By(Outcome::Dropped)).get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_its_first_has_waited_long_enough() {
        let (mut queue, collector) = queue(Family::default());
        let mut batch = Vec::new();
        (0..BATCH + 1).for_each(|_| collector.take(finished()));
        let begun = Instant::now();
        gather(&mut queue, &mut batch).await;
        assert_eq!((batch.len(), begun.elapsed()), (BATCH, Duration::ZERO));
        batch.clear();
        gather(&mut queue, &mut batch).await;
        assert_eq!((batch.len(), begun.elapsed()), (1, DELAY));
    }

    #[test]
    fn a_collector_is_named_by_a_url_or_by_its_own_variables() {
        let url = |url: &str| Endpoint::parse(url).unwrap().base.to_string();
        assert_eq!(url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("https://otlp.example/v1/traces"), "https://otlp.example/v1/traces");
        assert!(Endpoint::parse("grpc://127.0.0.1:4317").is_err());
        let around = |pairs: &'static [(&str, &str)]| {
            let look =
                move |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            Endpoint::from_environment(&look).unwrap()
        };
        assert_eq!(around(&[]), None);
        assert_eq!(around(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318"), ("OTEL_SDK_DISABLED", "true")]), None);
        let all = around(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/x"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, other=c"),
            ("OTEL_SERVICE_NAME", "ci"),
        ])
        .unwrap();
        assert_eq!((all.base.to_string().as_str(), all.service.as_str()), ("http://a:4318/x/v1/traces", "ci"));
        assert_eq!(
            (&all.headers["api-key"], &all.headers["other"]),
            (&HeaderValue::from_static("a b"), &HeaderValue::from_static("c"))
        );
        let whole = around(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:4318/traces")]).unwrap();
        assert_eq!(whole.base.to_string(), "http://a:4318/traces");
    }
}
