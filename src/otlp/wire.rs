//! Finished requests as OTLP has them: an ExportTraceServiceRequest in protobuf (opentelemetry-proto 1.x,
//! collector/trace/v1/trace_service.proto, trace/v1/trace.proto, common/v1/common.proto).
//!
//! Ten kinds of field are all that is written, so they are written here by hand. Each request is a span of
//! kind SERVER, each of its phases one of kind INTERNAL beneath it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::trace::{Attribute, Ending, Finished, Stretch};

/// Span.SpanKind.
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
/// Status.StatusCode.
const ERROR: u64 = 2;

/// The message for a batch, in the name of a service.
pub fn encode(service: &str, batch: &[Finished]) -> Vec<u8> {
    let mut resource = Message::default();
    resource.message(1, &key_value("service.name", &Attribute::Text(service.to_owned())));
    resource.message(1, &key_value("service.version", &Attribute::Text(env!("CARGO_PKG_VERSION").to_owned())));
    let mut scope = Message::default();
    scope.text(1, "goanyway");
    scope.text(2, env!("CARGO_PKG_VERSION"));
    let mut of_scope = Message::default();
    of_scope.message(1, &scope);
    for finished in batch {
        of_scope.message(2, &request(finished));
        finished.stretches.iter().for_each(|stretch| of_scope.message(2, &phase(finished, stretch)));
    }
    let mut of_resource = Message::default();
    of_resource.message(1, &resource);
    of_resource.message(2, &of_scope);
    let mut all = Message::default();
    all.message(1, &of_resource);
    all.0
}

fn request(finished: &Finished) -> Message {
    let context = finished.trace.context();
    let begun = finished.trace.begun().1;
    let mut span = span(finished, context.span, context.parent, &finished.name, SERVER, (begun, finished.ended));
    finished.attributes.iter().for_each(|(name, value)| span.message(9, &key_value(name, value)));
    if let Some(trouble) = &finished.trouble {
        let mut status = Message::default();
        status.text(2, trouble);
        status.varint(3, ERROR);
        span.message(15, &status);
    }
    span
}

fn phase(finished: &Finished, stretch: &Stretch) -> Message {
    let parent = Some(finished.trace.context().span);
    let (id, name) = (fastrand::u64(1..), stretch.phase.label());
    let mut span = span(finished, id, parent, name, INTERNAL, (stretch.begun, stretch.ended));
    if !stretch.what.is_empty() {
        span.message(9, &key_value("goanyway.at", &Attribute::Text(stretch.what.clone())));
    }
    match stretch.ending {
        Ending::Done => {}
        Ending::Abandoned => span.message(9, &key_value("goanyway.ending", &Attribute::Text("abandoned".to_owned()))),
        Ending::Failed => {
            let mut status = Message::default();
            status.varint(3, ERROR);
            span.message(15, &status);
        }
    }
    span
}

fn span(
    finished: &Finished,
    id: u64,
    parent: Option<u64>,
    name: &str,
    kind: u64,
    (begun, ended): (Instant, Instant),
) -> Message {
    let mut span = Message::default();
    span.bytes(1, &finished.trace.context().trace.to_be_bytes());
    span.bytes(2, &id.to_be_bytes());
    parent.iter().for_each(|parent| span.bytes(4, &parent.to_be_bytes()));
    span.text(5, name);
    span.varint(6, kind);
    span.fixed64(7, nanos(finished, begun));
    span.fixed64(8, nanos(finished, ended));
    span
}

/// A moment by the clock on the wall, in nanoseconds since 1970.
fn nanos(finished: &Finished, moment: Instant) -> u64 {
    let (at, begun) = finished.trace.begun();
    let at: SystemTime = at + moment.saturating_duration_since(begun);
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn key_value(name: &str, value: &Attribute) -> Message {
    let mut any = Message::default();
    match value {
        Attribute::Text(text) => any.text(1, text),
        Attribute::Number(number) => any.varint(3, *number),
    }
    let mut pair = Message::default();
    pair.text(1, name);
    pair.message(2, &any);
    pair
}

/// A protobuf message in the making (protobuf.dev, Encoding).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.tag(field, 0);
        self.raw_varint(value);
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of protobuf.dev, Encoding.
    #[test]
    fn fields_are_written_as_protobuf_has_them() {
        let mut message = Message::default();
        message.varint(1, 150);
        message.text(2, "testing");
        message.fixed64(3, 1);
        let text = [&[0x12, 7][..], b"testing"].concat();
        assert_eq!(message.0, [&[0x08, 0x96, 0x01][..], &text, &[0x19, 1, 0, 0, 0, 0, 0, 0, 0]].concat());
    }
}
