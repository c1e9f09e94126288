//! The position of a request in its trace: `traceparent` (W3C Trace Context, section 3.2).
//!
//! The propagator of the OpenTelemetry SDK accepts ids that are too short and repeated headers, which
//! the standard requires to ignore.

use http::HeaderMap;

use super::TRACEPARENT;
use crate::headers;

/// Length of a header of version 0, in bytes.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// Defined flags: bit 0 is sampled, bit 1 is a random trace id (level 2).
const FLAGS: u8 = 0b11;

/// A span and its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanContext {
    /// Not 0.
    pub(super) trace: u128,
    /// Not 0.
    pub(super) span: u64,
    pub(super) flags: u8,
}

impl SpanContext {
    /// Begins a trace with its first span.
    pub(super) fn new(trace: u128, is_sampled: bool) -> Self {
        Self {
            trace,
            span: fastrand::u64(1..),
            flags: if is_sampled { SAMPLED } else { 0 },
        }
    }

    /// Reads the context of a client. `None` if the header is missing, repeated or invalid.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let field = fields.next()?;
        match fields.next() {
            Some(_) => None,
            None => Self::parse(field.as_bytes()),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let is_dashed = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        let version = hex(known.get(..2)?)?;
        let has_valid_end = match version {
            0 => rest.is_empty(),
            0xff => false,
            // Later versions may append fields.
            _ => rest.first().is_none_or(|next| *next == b'-'),
        };
        let context = Self {
            trace: hex(known.get(3..35)?)?,
            span: hex(known.get(36..52)?)? as u64,
            flags: hex(known.get(53..)?)? as u8 & FLAGS,
        };
        (is_dashed && has_valid_end && context.trace != 0 && context.span != 0).then_some(context)
    }

    pub(super) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Returns a new span of the same trace.
    pub(super) fn next(self) -> Self {
        Self {
            span: fastrand::u64(1..),
            ..self
        }
    }

    /// Sets `traceparent`, so that the receiver of these headers becomes a child of the span.
    pub(super) fn inject(self, headers: &mut HeaderMap) {
        let Self { trace, span, flags } = self;
        let value = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        headers::insert(headers, TRACEPARENT, &value);
    }
}

/// Parses hexadecimal digits in lower case.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{SpanContext, TRACEPARENT};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn of(values: &[&str]) -> Option<SpanContext> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        SpanContext::from_headers(&headers)
    }

    #[test]
    fn l90_parent_is_parsed_as_the_standard_says() {
        let parent = |flags| {
            Some(SpanContext {
                trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
                span: 0xb7ad_6b71_6920_3331,
                flags,
            })
        };
        let of = |text: &str| of(&[&text.replace("TRACE", TRACE)]);
        for (text, flags) in [
            ("00-TRACE-b7ad6b7169203331-01", 1),
            ("00-TRACE-b7ad6b7169203331-00", 0),
            ("00-TRACE-b7ad6b7169203331-03", 3),
            // Undefined flags.
            ("00-TRACE-b7ad6b7169203331-fd", 1),
            // Later versions may append fields.
            ("cc-TRACE-b7ad6b7169203331-01", 1),
            ("cc-TRACE-b7ad6b7169203331-01-what-comes", 1),
        ] {
            assert_eq!(of(text), parent(flags), "{text}");
        }
        for text in [
            "",
            "00",
            "ff-TRACE-b7ad6b7169203331-01",
            "00-TRACE-b7ad6b7169203331-01-more",
            "00-TRACE-b7ad6b7169203331-01.",
            "cc-TRACE-b7ad6b7169203331-01.",
            "00-TRACE-b7ad6b7169203331-1",
            "0-TRACE-b7ad6b7169203331-001",
            "00-TRACE-b7ad6b716920333-001",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-001",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-TRACE-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-TRACE-B7AD6B7169203331-01",
            "00-TRACE-b7ad6b7169203331-0A",
            "0x-TRACE-b7ad6b7169203331-01",
            "00-TRACE-+7ad6b7169203331-01",
            "00_TRACE_b7ad6b7169203331_01",
            "é0-TRACE-b7ad6b7169203331-0",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn l90_repeated_parent_is_ignored() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        assert!(of(&[&parent]).is_some());
        assert_eq!(of(&[&parent, &parent]), None);
    }

    #[test]
    fn l90_injected_context_is_read_back() {
        let context = SpanContext::new(1, true);
        let mut headers = HeaderMap::new();
        context.inject(&mut headers);
        assert_eq!(SpanContext::from_headers(&headers), Some(context));
        let next = SpanContext {
            flags: 3,
            ..context
        }
        .next();
        assert_eq!((next.trace, next.flags), (1, 3));
        assert_ne!(next.span, context.span);
    }
}
