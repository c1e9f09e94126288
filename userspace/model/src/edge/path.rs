//! Forms of a path. Rules and requests are compared in the decoded form, as in nginx: `%2F` separates
//! segments as `/` does, dot segments are resolved, and repeated slashes count as one.

use std::{borrow::Cow, collections::BTreeSet};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters that are escaped in a path (RFC 3986, 3.3). `%` stays: in the decoded form it only begins
/// an escape.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// How a server reads a path.
#[derive(Clone, Copy)]
struct Reading {
    /// `%2F` separates segments.
    decodes_slashes: bool,
    /// `\` and `%5C` separate segments.
    splits_at_backslashes: bool,
    /// Segments end at `;`.
    cuts_parameters: bool,
    /// Empty segments are removed.
    merges_slashes: bool,
    /// `.` and `..` are resolved.
    resolves_dots: bool,
}

/// The reading that selects a route.
const NGINX: Reading = Reading {
    decodes_slashes: true,
    splits_at_backslashes: false,
    cuts_parameters: false,
    merges_slashes: true,
    resolves_dots: true,
};

/// Returns the decoded form of a request's path: without escapes, except `%25` and bytes that are not
/// UTF-8; without dot segments and empty segments. Escapes are decoded once. `None` if the path does not
/// begin with `/`, leaves the root, or contains a control character or an invalid escape.
pub fn decoded(path: &str) -> Option<Cow<'_, str>> {
    if is_plain(path) {
        return Some(path.into());
    }
    let text = unescaped(path, NGINX.decodes_slashes, false)?;
    resolved(&text, NGINX).map(Cow::Owned)
}

/// Returns the decoded form of a rule's path. A `%` that begins no escape is a `%`.
///
/// # Errors
///
/// If the path does not begin with `/`, leaves the root, or contains a control character: no request has
/// such a path.
pub fn of_rule(path: &str) -> Result<String, String> {
    let text = unescaped(path, NGINX.decodes_slashes, true);
    let text = text.ok_or("it contains a control character, so that no request matches")?;
    let form = resolved(&text, NGINX);
    form.ok_or_else(|| "it must begin with `/` and stay below `/`".into())
}

/// Whether decoded paths can contain a text. A `%` that begins no escape may be the start of one.
pub(super) fn is_part(text: &str) -> bool {
    // `%` stays escaped, as do bytes that are not UTF-8.
    let percents = |text: &str| text.replace("%25", "%");
    let is_same = |form: String| percents(&form).eq_ignore_ascii_case(&percents(text));
    let mut segments = ["//", "/./", "/../"].into_iter();
    let is_resolved = !segments.any(|segment| text.contains(segment));
    is_resolved && unescaped(text, NGINX.decodes_slashes, true).is_some_and(is_same)
}

/// Returns a decoded path as it is sent: other characters than those of RFC 3986, 3.3, are escaped.
pub fn encoded(decoded: &str) -> Cow<'_, str> {
    utf8_percent_encode(decoded, ESCAPED).into()
}

/// Returns all decoded forms in which servers may read a path: they differ about `%2F`, backslashes, dot
/// segments, empty segments, and parameters after `;`.
pub fn readings(path: &str) -> BTreeSet<String> {
    let has = |bits: u8, bit: u8| bits & 1 << bit != 0;
    let all = (0..1 << 5).filter_map(|bits| {
        let reading = Reading {
            decodes_slashes: has(bits, 0),
            splits_at_backslashes: has(bits, 1),
            cuts_parameters: has(bits, 2),
            merges_slashes: has(bits, 3),
            resolves_dots: has(bits, 4),
        };
        resolved(&unescaped(path, reading.decodes_slashes, false)?, reading)
    });
    all.collect()
}

/// Whether servers agree about the segments of a path, except about `%2F` and about parameters after `;`:
/// it has no dot segments, no empty segments and no backslashes.
pub fn is_unambiguous(path: &str) -> bool {
    let Some(text) = unescaped(path, false, false) else {
        return false;
    };
    let is_empty = text.contains("//");
    let mut segments = text.split("%2F").flat_map(|text| text.split('/'));
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !is_empty && !text.contains('\\') && !segments.any(is_dots)
}

/// Whether a path is its own decoded form, in every reading.
pub fn is_plain(path: &str) -> bool {
    let is_plain = |byte: u8| !byte.is_ascii_control() && !b"%\\;".contains(&byte);
    path.starts_with('/')
        && path.bytes().all(is_plain)
        && !path.contains("//")
        && !path.contains("/.")
}

/// Replaces escapes. `%` and bytes that are not UTF-8 stay escaped, so that no two paths become the same.
fn unescaped(path: &str, decodes_slashes: bool, is_rule: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escape = (first == b'%').then(|| escape(after));
        let byte = match escape {
            Some(Some(byte)) => {
                rest = after.get(2..).unwrap_or_default();
                byte
            }
            Some(None) if !is_rule => return None,
            Some(None) | None => first,
        };
        match byte {
            b'%' => bytes.extend(b"%25"),
            b'/' if first == b'%' && !decodes_slashes => bytes.extend(b"%2F"),
            byte if byte.is_ascii_control() => return None,
            byte => bytes.push(byte),
        }
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(text)
}

/// Returns the byte of an escape, which begins after its `%`.
fn escape(after: &[u8]) -> Option<u8> {
    let digits = after.get(..2)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let text = str::from_utf8(digits).ok().filter(|_| is_hex)?;
    u8::from_str_radix(text, 16).ok()
}

/// Resolves segments. `None` if the text does not begin with `/`, or leaves the root.
fn resolved(text: &str, reading: Reading) -> Option<String> {
    let text: Cow<'_, str> = match reading.splits_at_backslashes {
        true => text.replace('\\', "/").into(),
        false => text.into(),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = rest.next() {
        let is_last = rest.peek().is_none();
        let segment = match reading.cuts_parameters {
            true => segment.split(';').next().unwrap_or_default(),
            false => segment,
        };
        let is_dropped = match segment {
            "" => reading.merges_slashes,
            "." => reading.resolves_dots,
            ".." if reading.resolves_dots => {
                segments.pop()?;
                true
            }
            _ => false,
        };
        match (is_dropped, is_last) {
            (false, _) => segments.push(segment),
            (true, true) => segments.push(""),
            (true, false) => {}
        }
    }
    Some(format!("/{}", segments.join("/")))
}

#[cfg(test)]
mod tests {
    use super::{decoded, encoded, is_unambiguous, of_rule, readings};

    /// Path, decoded form, and that form as it is sent, all as in nginx 1.22 (`$uri`, and the target after
    /// `rewrite ^ $uri`).
    const FORMS: [(&str, &str, &str); 27] = [
        ("/", "/", "/"),
        ("/a/b/", "/a/b/", "/a/b/"),
        ("//a///b", "/a/b", "/a/b"),
        ("/a/./b", "/a/b", "/a/b"),
        ("/a/../b", "/b", "/b"),
        ("/a/..", "/", "/"),
        ("/a/b/..", "/a/", "/a/"),
        ("/a/.", "/a/", "/a/"),
        ("/a//../b", "/b", "/b"),
        ("/%61%2e%2E/b", "/a../b", "/a../b"),
        ("/a/%2e%2e/b", "/b", "/b"),
        ("/a%2fb", "/a/b", "/a/b"),
        ("/a%2F%2e%2e%2Fb", "/b", "/b"),
        ("/%2fa%2F", "/a/", "/a/"),
        ("/a%5cb", "/a\\b", "/a%5Cb"),
        ("/a\\..\\b", "/a\\..\\b", "/a%5C..%5Cb"),
        ("/%40a@;x=1", "/@a@;x=1", "/@a@;x=1"),
        ("/caf%c3%a9", "/café", "/caf%C3%A9"),
        ("/café", "/café", "/caf%C3%A9"),
        ("/caf%e9", "/caf%E9", "/caf%E9"),
        ("/%c0%ae%C0%Ae/", "/%C0%AE%C0%AE/", "/%C0%AE%C0%AE/"),
        ("/a%20b%3Fc%23", "/a b?c#", "/a%20b%3Fc%23"),
        (
            "/%2561%252f%252e%252e",
            "/%2561%252f%252e%252e",
            "/%2561%252f%252e%252e",
        ),
        ("/100%25", "/100%25", "/100%25"),
        ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
        ("/a/..;/b", "/a/..;/b", "/a/..;/b"),
        (
            "/a\"<>`{|}^b",
            "/a\"<>`{|}^b",
            "/a%22%3C%3E%60%7B%7C%7D%5Eb",
        ),
    ];

    #[test]
    fn l20_paths_have_one_decoded_form() {
        for (path, form, sent) in FORMS {
            assert_eq!(decoded(path).as_deref(), Some(form), "{path}");
            assert_eq!(encoded(form), sent, "{path}");
            assert_eq!(decoded(sent).as_deref(), Some(form), "{path}: again");
            assert_eq!(of_rule(path).as_deref(), Ok(form), "{path}");
            assert!(readings(path).contains(form), "{path}");
        }
        for path in [
            "",
            "a",
            "*",
            "/..",
            "/../a",
            "/a/../../b",
            "/%2e%2E/a",
            "/a%00b",
            "/a%0d%0aX: y",
            "/a%",
            "/a%2",
            "/a%+1",
            "/a%zz",
            "/\r",
        ] {
            assert_eq!(decoded(path), None, "{path:?}");
        }
        assert_eq!(of_rule("/100%").as_deref(), Ok("/100%25"));
        assert_eq!(of_rule("/%zz").as_deref(), Ok("/%25zz"));
        for path in ["a", "/../a", "/a%0a"] {
            of_rule(path).unwrap_err();
        }
    }

    #[test]
    fn l20_servers_read_a_path_in_different_forms() {
        for (path, forms) in [
            ("/a", &["/a"][..]),
            ("/a%20b", &["/a b"]),
            ("/a%2fb", &["/a%2Fb", "/a/b"]),
            ("/a\\b", &["/a/b", "/a\\b"]),
            ("//a", &["//a", "/a"]),
            ("/a/../b", &["/a/../b", "/b"]),
            ("/a;x/b", &["/a/b", "/a;x/b"]),
            ("/a%2f..%2fb", &["/a%2F..%2Fb", "/a/../b", "/b"]),
        ] {
            let found = readings(path);
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), forms);
        }
        for path in ["/a", "/a%2fb", "/a;b", "/.a", "/%2e.a", "/a/"] {
            assert!(is_unambiguous(path), "{path}");
        }
        for path in [
            "/a//b",
            "/a/../b",
            "/a/%2e",
            "/a%2f..%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a/..;x/b",
            "/.",
        ] {
            assert!(!is_unambiguous(path), "{path}");
        }
    }
}
