//! Guards that are not read: snippets of nginx.

/// Directives of nginx that keep requests out, by the start of their names.
const DENYING: [&str; 14] = [
    "access_by_lua",
    "allow",
    "auth_",
    "deny",
    "internal",
    "limit_conn",
    "limit_except",
    "limit_req",
    "modsecurity",
    // What the file does is not known.
    "rewrite_by_lua_file",
    "satisfy",
    "secure_link",
    "ssl_verify_client",
    "valid_referers",
];

/// Ends a request in Lua.
const EXIT: &str = "ngx.exit";

/// Returns the directive of a snippet that keeps requests out, if it has one.
pub(super) fn denies(snippet: &str) -> Option<&str> {
    let mut rest = snippet;
    while let Some((text, words)) = statement(&mut rest) {
        let directive = words.first().map_or("", String::as_str);
        let is_lua = directive.contains("_by_lua");
        let exits = is_lua && (text.contains(EXIT) || rest.contains(EXIT));
        if exits || is_denying(&words) {
            return Some(text);
        }
        if is_lua && directive.ends_with("_block") {
            return denies_after_lua(rest);
        }
    }
    None
}

/// Reads a snippet from the start of a block of Lua, which has other quotes and comments. Whatever could be a
/// directive is one.
fn denies_after_lua(text: &str) -> Option<&str> {
    let lines = text.lines().map(str::trim);
    let code = lines.filter(|line| !line.starts_with('#'));
    let statements = code.flat_map(|line| line.split([';', '{', '}']).map(str::trim));
    statements.into_iter().find(|statement| {
        let words: Vec<String> = statement.split_whitespace().map(unquoted).collect();
        is_denying(&words)
    })
}

fn unquoted(word: &str) -> String {
    word.trim_matches(['"', '\'']).into()
}

fn is_denying(words: &[String]) -> bool {
    let Some(directive) = words.first() else {
        return false;
    };
    // 444 closes the connection. A variable may be such a code, but for the scheme of an address.
    let is_error = |code: &String| {
        code.starts_with(['4', '5']) || code.starts_with('$') && !code.starts_with("$scheme")
    };
    DENYING.iter().any(|start| directive.starts_with(start))
        || directive == "return" && words.get(1).is_some_and(is_error)
}

/// Reads the next statement up to its `;` or `{`, as it is written and in words.
fn statement<'a>(rest: &mut &'a str) -> Option<(&'a str, Vec<String>)> {
    let mut words = Vec::new();
    let mut whole = *rest;
    loop {
        *rest = rest.trim_start();
        let first = rest.chars().next();
        match first {
            Some('#') => *rest = rest.split_once('\n').map_or("", |(_, after)| after),
            None | Some(';' | '{' | '}') if !words.is_empty() => {
                let length = whole.len() - rest.len();
                return Some((whole.get(..length).unwrap_or(whole).trim_end(), words));
            }
            None => return None,
            Some(';' | '{' | '}') => *rest = rest.get(1..).unwrap_or_default(),
            Some(_) => {
                if words.is_empty() {
                    whole = rest;
                }
                words.push(word(rest));
            }
        }
    }
}

/// Reads a word as nginx does: quotes and `#` have a meaning only where a word begins.
fn word(rest: &mut &str) -> String {
    let mut word = String::new();
    let mut chars = rest.chars();
    let quote = rest
        .chars()
        .next()
        .filter(|first| ['"', '\''].contains(first));
    if quote.is_some() {
        chars.next();
    }
    let mut previous = None;
    loop {
        *rest = chars.as_str();
        let Some(next) = chars.next() else {
            return word;
        };
        let is_end = match quote {
            Some(quote) => next == quote,
            None if next == '{' => previous != Some('$'),
            None => next == ';' || next.is_whitespace(),
        };
        if is_end {
            if quote.is_some() {
                *rest = chars.as_str();
            }
            return word;
        }
        previous = Some(next);
        match next {
            '\\' => word.extend(chars.next()),
            next => word.push(next),
        }
    }
}
