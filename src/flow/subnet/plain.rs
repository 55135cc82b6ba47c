//! Plain http that a gateway brought here: module requests for a mirror that is configured by an
//! `http://` URL are answered; everything else goes on to where it was going, byte for byte.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::super::{Side, Worker, http1};
use super::{Caller, Shown, Tunnel, Went};
use crate::admit::Client;
use crate::classify::{self, Guarded, Intent};
use crate::fetch::Body;
use crate::goproxy::{Place, Reading};
use crate::intercept::{Replayed, Why};
use crate::respond::{self, Line, Trouble};
use crate::socket::Conduit;
use crate::target::{Base, Name, Scheme, Target};
use crate::trace;

impl Worker {
    /// 80: module requests are answered one by one, each judged by its own Host; the first that is none, or
    /// whose Host does not fit, goes on to the destination with all that follows it.
    pub(super) async fn read_http(self: Arc<Self>, caller: Caller, stream: TcpStream) -> Option<Tunnel> {
        if let Some(dialed) = self.unless_spoken_to(&caller, &stream).await {
            self.rooms.subnet.count_shown(Shown::Unread(Why::Silent));
            return self.join(caller, Bytes::new(), stream.into(), None, dialed);
        }
        let (mut early, mut stream) = (Bytes::new(), Conduit::from(stream));
        let mut honoured = None;
        loop {
            let rest = self.serve_honoured(&caller, honoured.as_ref(), Replayed::new(early, stream)).await;
            (early, stream) = rest.filter(|(early, _)| !early.is_empty())?;
            let head = classify::read_head(&early);
            let Some(shown) = head.as_ref().and_then(shown_host) else {
                self.rooms.subnet.count_shown(Shown::Unread(if head.is_some() { Why::NoName } else { Why::BadHello }));
                return self.tunnel(caller, early, stream, None).await;
            };
            let is_ours = head.is_some_and(|head| self.module_in(&caller.client, &head).is_some());
            if !is_ours || honoured.as_ref() == Some(&shown) {
                self.rooms.subnet.count_shown(Shown::Unasked);
                return self.tunnel(caller, early, stream, Some(shown)).await;
            }
            if !self.is_honoured(&caller, &shown).await {
                return self.tunnel(caller, early, stream, Some(shown)).await;
            }
            self.rooms.subnet.count(Went::Served);
            honoured = Some(shown);
        }
    }

    /// Answers module requests for this name until something else comes: that, and the connection. Nothing
    /// where the connection is over.
    async fn serve_honoured(
        self: &Arc<Self>,
        caller: &Caller,
        name: Option<&Name>,
        stream: Replayed<Conduit>,
    ) -> Option<(Bytes, Conduit)> {
        let Some(name) = name.cloned() else {
            let mut guarded = Guarded::behind(stream, |_| false);
            // Nothing passes: it returns when a head is there, or clearly none.
            guarded.read_u8().await.err()?;
            return Some(left_over(guarded));
        };
        let (worker, client) = (Arc::clone(self), caller.client.clone());
        let guarded = Guarded::behind(stream, move |head| {
            let head = classify::read_head(head);
            head.is_some_and(|head| {
                shown_host(&head).as_ref() == Some(&name) && worker.module_in(&client, &head).is_some()
            })
        });
        let side = Side { keeper: Some(guarded.keeper()), cut: None, place: Arc::clone(&caller.place) };
        let (worker, client, peer) = (Arc::clone(self), caller.client.clone(), caller.peer);
        let service = service_fn(move |request| {
            let (worker, client, side) = (Arc::clone(&worker), client.clone(), side.clone());
            Box::pin(async move { Ok::<_, Infallible>(worker.answer_named(&client, peer, &side, &request).await) })
        });
        let mut serving = http1().serve_connection(TokioIo::new(guarded), service);
        let ended = tokio::select! {
            ended = poll_fn(|cx| serving.poll_without_shutdown(cx)) => ended,
            () = self.drain.cancelled() => {
                std::pin::Pin::new(&mut serving).graceful_shutdown();
                poll_fn(|cx| serving.poll_without_shutdown(cx)).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
            return None;
        }
        let parts = serving.into_parts();
        // What hyper took and did not use is the rest of a request that it had enough of.
        parts.read_buf.is_empty().then(|| left_over(parts.io.into_inner()))
    }

    async fn answer_named(
        &self,
        client: &Client,
        peer: SocketAddr,
        side: &Side,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let line = Line::of(request, peer, self.rooms.collector.as_ref());
        let id = line.id();
        let answering = std::pin::pin!(async {
            let (place, wanted) = self.module_in(client, request).ok_or(Trouble::Misdirected)?;
            self.module(&wanted, &place, request).await
        });
        let (outcome, trace) = trace::within(id, line.trace(), side.unless_left(answering)).await;
        let recorded = self.rooms.record(line, outcome, trace);
        recorded.unwrap_or_else(|trouble| respond::refuse(&trouble, id, self.rooms.identity.pseudonym()))
    }

    /// The module request in a plain http one, if it is for a mirror that we know. HTTP/1.0, where the
    /// connection's end is the answer's, is left to the origin.
    fn module_in<B>(&self, client: &Client, request: &Request<B>) -> Option<(Place, Arc<Reading>)> {
        let (base, path) = match classify::intent(request).ok()? {
            Intent::Forward { base, path } => (base, path),
            Intent::Origin { path } => (base_of(request)?, path),
            Intent::Connect(_) => return None,
        };
        let (base, rest) = self.rooms.goproxy.listed(&base, &path).filter(|_| request.version() == Version::HTTP_11)?;
        let place = Place::Host { base, standing: client.standing };
        let wanted = self.module_request(request, &place, rest)?;
        Some((place, wanted))
    }
}

/// The name in a plain http request: of its absolute form, else in its Host.
fn shown_host<B>(request: &Request<B>) -> Option<Name> {
    match classify::intent(request).ok()? {
        Intent::Forward { base, .. } => base.target.host.name().cloned(),
        Intent::Origin { .. } => base_of(request)?.target.host.name().cloned(),
        Intent::Connect(_) => None,
    }
}

fn base_of<B>(request: &Request<B>) -> Option<Base> {
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    let target = Target::parse_authority(host, 80).ok()?;
    Some(Base { scheme: Scheme::Http, target, path: String::new() })
}

/// What was read and not used, and the connection.
fn left_over(guarded: Guarded<Replayed<Conduit>>) -> (Bytes, Conduit) {
    let (replayed, held) = guarded.into_parts();
    let (unread, stream) = replayed.into_parts();
    (if unread.is_empty() { held } else { [held, unread].concat().into() }, stream)
}
