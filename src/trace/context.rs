//! Which larger trace a request is part of: `traceparent` (W3C Trace Context, section 3.2).

/// The place of a request within a distributed trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The whole trace.
    pub trace: u128,
    /// The client's span, where it told one.
    pub parent: Option<u64>,
    /// Ours, for this request.
    pub span: u64,
    /// Whether whoever began it wants it recorded.
    pub sampled: bool,
}

/// The flag of section 3.2.2.5.1.
const SAMPLED: u8 = 1;

impl Context {
    /// The beginning of a trace of its own.
    pub fn root() -> Context {
        Context { trace: fastrand::u128(1..), parent: None, span: fastrand::u64(1..), sampled: true }
    }

    /// What a client's header says; one that says nothing sound begins anew, as the section demands.
    pub fn of(header: Option<&[u8]>) -> Context {
        header.and_then(continued).unwrap_or_else(Context::root)
    }
}

/// `VERSION-TRACE-PARENT-FLAGS` in lower-case hexadecimal; a later version may have more behind a dash.
fn continued(header: &[u8]) -> Option<Context> {
    let text = std::str::from_utf8(header).ok()?;
    let (version, rest) = (hex(text.get(..2)?)?, text.get(2..)?.strip_prefix('-')?);
    let (trace, rest) = (hex(rest.get(..32)?)?, rest.get(32..)?.strip_prefix('-')?);
    let (parent, rest) = (hex(rest.get(..16)?)?, rest.get(16..)?.strip_prefix('-')?);
    let (flags, more) = (hex(rest.get(..2)?)?, rest.get(2..)?);
    let is_sound = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    if !is_sound || trace == 0 || parent == 0 {
        return None;
    }
    let sampled = u8::try_from(flags).ok()? & SAMPLED != 0;
    Some(Context { trace, parent: u64::try_from(parent).ok(), span: fastrand::u64(1..), sampled })
}

fn hex(text: &str) -> Option<u128> {
    let is_lower = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    if is_lower { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_header_is_continued_and_any_other_begins_anew() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |header: &str| {
            let context = Context::of(Some(header.as_bytes()));
            (format!("{:032x}", context.trace) == trace).then_some((context.parent, context.sampled))
        };
        let parent = Some(0x00f0_67aa_0ba9_02b7);
        assert_eq!(read(&format!("00-{trace}-00f067aa0ba902b7-01")), Some((parent, true)));
        assert_eq!(read(&format!("00-{trace}-00f067aa0ba902b7-00")), Some((parent, false)));
        assert_eq!(read(&format!("cc-{trace}-00f067aa0ba902b7-03-what-comes")), Some((parent, true)));
        let unsound = [
            String::new(),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("cc-{trace}-00f067aa0ba902b7-01x"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902bé-1"),
            format!("00-+{}-00f067aa0ba902b7-01", &trace[1..]),
        ];
        for header in unsound {
            assert_eq!(read(&header), None, "{header:?}");
        }
        let nothing = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        assert_ne!(Context::of(Some(nothing.as_bytes())).trace, 0);
        assert_eq!(Context::of(None).parent, None);
    }
}
