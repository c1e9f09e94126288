//! Texts with variables of nginx.

use std::fmt;

/// A text in which variables stand for parts of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template(Vec<Part>);

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// A part of a request, named as in nginx.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// `$scheme`: `http` or `https`, as the client sees it.
    Scheme,
    /// `$host`: the host in lower case, without port.
    Host,
    /// `$http_host`, `$best_http_host`: the host as the client wrote it, with its port.
    Authority,
    /// `$request_method`.
    Method,
    /// `$request_uri`: path and query as the client wrote them.
    RequestUri,
    /// `$escaped_request_uri`: the same, percent-encoded for a query parameter.
    EscapedRequestUri,
    /// `$uri`: the decoded path.
    Uri,
    /// `$args`: the query without `?`.
    Args,
    /// `$is_args`: `?` if there is a query.
    IsArgs,
    /// `$remote_addr`: the client's address.
    Client,
    /// `$arg_NAME`: a query parameter as the client wrote it.
    Parameter(String),
    /// `$http_NAME`: a header, in lower case and with dashes.
    Header(String),
    /// `$cookie_NAME`.
    Cookie(String),
    /// `$1` to `$9`: a group of the rule's path, if that is a regular expression.
    Group(usize),
}

impl Template {
    /// A text without variables.
    pub fn plain(text: impl Into<String>) -> Self {
        Self(vec![Part::Text(text.into())])
    }

    /// The same path and query at another host.
    pub(crate) fn to_host(host: &str) -> Self {
        Self(vec![
            Part::Variable(Variable::Scheme),
            Part::Text(format!("://{host}")),
            Part::Variable(Variable::RequestUri),
        ])
    }

    /// Parses a text with variables `$name` and `${name}`.
    ///
    /// # Errors
    ///
    /// Names the variable that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let (name, left) = name(after)?;
            let variable = variable(name).ok_or_else(|| format!("${name} is not supported"))?;
            parts.push(Part::Variable(variable));
            rest = left;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self(parts))
    }

    /// Returns the text with each variable replaced by what `value` appends for it.
    pub fn render(&self, mut value: impl FnMut(&Variable, &mut String)) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => value(variable, &mut out),
            }
        }
        out
    }

    /// Returns the variables.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable(variable) => Some(variable),
        })
    }

    /// Returns the scheme and authority of an address: what is before its path.
    pub(crate) fn authority(&self) -> Self {
        let mut before = Vec::new();
        let mut slashes = 0;
        for part in &self.0 {
            let mut ends = |character: char| {
                slashes += usize::from(character == '/');
                slashes == 3 || character == '?'
            };
            let end = match part {
                Part::Text(text) => text.find(&mut ends).map(|end| text.split_at(end).0),
                Part::Variable(_) => None,
            };
            match end {
                Some(text) => {
                    before.push(Part::Text(text.into()));
                    break;
                }
                None => before.push(part.clone()),
            }
        }
        Self(before)
    }

    /// Replaces `$host` by a name.
    pub(crate) fn fill_in_host(&mut self, host: &str) {
        for part in &mut self.0 {
            if *part == Part::Variable(Variable::Host) {
                *part = Part::Text(host.into());
            }
        }
    }
}

/// The name after a `$`, and the rest. Groups have one digit, so that `$1a` is the first one and `a`.
fn name(text: &str) -> Result<(&str, &str), String> {
    if let Some(text) = text.strip_prefix('{') {
        return text.split_once('}').ok_or("`${` has no `}`".into());
    }
    let end = match text.starts_with(|first: char| first.is_ascii_digit()) {
        true => 1,
        false => text.find(|other| !is_of_name(other)).unwrap_or(text.len()),
    };
    match text.split_at(end) {
        ("", _) => Err("`$` without the name of a variable".into()),
        found => Ok(found),
    }
}

/// Whether a character may be in the name of a variable.
fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn variable(name: &str) -> Option<Variable> {
    let after = |prefix| {
        let rest: &str = name.strip_prefix(prefix)?;
        (!rest.is_empty() && rest.chars().all(is_of_name)).then_some(rest)
    };
    Some(match name {
        "scheme" | "pass_access_scheme" => Variable::Scheme,
        "host" => Variable::Host,
        "http_host" | "best_http_host" => Variable::Authority,
        "request_method" => Variable::Method,
        "request_uri" => Variable::RequestUri,
        "escaped_request_uri" => Variable::EscapedRequestUri,
        "uri" | "document_uri" => Variable::Uri,
        "args" | "query_string" => Variable::Args,
        "is_args" => Variable::IsArgs,
        "remote_addr" | "the_real_ip" => Variable::Client,
        _ => {
            let header = |name: &str| name.to_ascii_lowercase().replace('_', "-");
            let parameter = after("arg_").map(|name| Variable::Parameter(name.into()));
            let header = after("http_").map(|name| Variable::Header(header(name)));
            let cookie = after("cookie_").map(|name| Variable::Cookie(name.into()));
            let group = group(name).map(Variable::Group);
            return parameter.or(header).or(cookie).or(group);
        }
    })
}

fn group(name: &str) -> Option<usize> {
    name.parse().ok().filter(|group| (1..10).contains(group))
}

/// A text that parses to the same template. Braces are where the next character would belong to a name.
impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.iter().peekable();
        while let Some(part) = parts.next() {
            match (part, parts.peek()) {
                (Part::Text(text), _) => out.write_str(text)?,
                (Part::Variable(variable), Some(Part::Text(next)))
                    if next.starts_with(is_of_name) =>
                {
                    write!(out, "${{{variable}}}")?;
                }
                (Part::Variable(variable), _) => write!(out, "${variable}")?,
            }
        }
        Ok(())
    }
}

/// The first of the names that a variable has.
impl fmt::Display for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => out.write_str("scheme"),
            Self::Host => out.write_str("host"),
            Self::Authority => out.write_str("http_host"),
            Self::Method => out.write_str("request_method"),
            Self::RequestUri => out.write_str("request_uri"),
            Self::EscapedRequestUri => out.write_str("escaped_request_uri"),
            Self::Uri => out.write_str("uri"),
            Self::Args => out.write_str("args"),
            Self::IsArgs => out.write_str("is_args"),
            Self::Client => out.write_str("remote_addr"),
            Self::Parameter(name) => write!(out, "arg_{name}"),
            Self::Header(name) => write!(out, "http_{}", name.replace('-', "_")),
            Self::Cookie(name) => write!(out, "cookie_{name}"),
            Self::Group(number) => write!(out, "{number}"),
        }
    }
}
