//! The normal form of a path (RFC 3986, 6.2.2). It selects the route, and the backend gets it.

use std::borrow::Cow;

/// Returns the normal form: unreserved characters are not escaped, other escapes are in upper case,
/// and there are no dot segments and no empty segments. `%2F` stays: it does not separate segments.
/// `None` if the path does not begin with `/`, or contains a backslash, a control character or an
/// invalid escape.
pub(crate) fn normal(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/')
        || path
            .bytes()
            .any(|byte| byte.is_ascii_control() || byte == b'\\')
    {
        return None;
    }
    let is_plain = !path.contains('%') && !path.contains("//") && !path.contains("/.");
    if is_plain {
        return Some(path.into());
    }
    let unescaped = unescape(path)?;
    Some(without_dots(&unescaped).into())
}

fn unescape(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2)?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || byte.is_ascii_control() {
            return None;
        }
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into());
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(out)
}

fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if is_folder || out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn l20_paths_have_one_normal_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%61%2e%2E/b", "/a../b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F%2e%2e%2Fb", "/a%2F..%2Fb"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%20b", "/a%20b"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
            let again = normal(expected);
            assert_eq!(again.as_deref(), Some(expected), "{expected} is normal");
        }
        for path in [
            "",
            "a",
            "*",
            "/a\\b",
            "/a%00b",
            "/a%0d%0aX: y",
            "/a%",
            "/a%2",
            "/a%+1",
            "/\r",
        ] {
            assert_eq!(normal(path), None, "{path:?}");
        }
    }
}
