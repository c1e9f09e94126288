//! Values of the variables in templates of Ingresses.

use std::net::IpAddr;

use headgate_model::edge::{PathMatch, Template, Variable, path};
use http::{HeaderMap, request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    call::Call,
    message::{cookie, raw_parameter},
};

/// Everything but the unreserved characters (RFC 3986, 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What ends or separates parts of a query, or cannot be in one.
const OUTSIDE_QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Escapes a text for a query parameter.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// What variables stand for in a request.
#[derive(Clone, Debug)]
pub(crate) struct Variables<'a> {
    pub(crate) scheme: &'static str,
    pub(crate) host: &'a str,
    pub(crate) client: IpAddr,
    /// The path in its decoded form.
    pub(crate) path: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The path of the rule, whose groups are variables.
    pub(crate) rule: &'a PathMatch,
    pub(crate) method: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> Variables<'a> {
    /// The values of a request; `target` is its path and query.
    pub(crate) fn of(call: &'a Call, parts: &'a Parts, target: &'a str) -> Self {
        Self {
            scheme: call.origin.scheme(),
            host: &call.host,
            client: call.origin.client,
            path: &call.path,
            target,
            rule: &(*call.route).as_ref().path,
            method: parts.method.as_str(),
            headers: &parts.headers,
        }
    }

    /// A text for a header, such as an address to redirect to.
    pub(crate) fn render(&self, template: &Template) -> String {
        template.render(|variable, out| self.push_encoded(variable, out))
    }

    /// A query. As in nginx, groups of a path with escapes are escaped; `&` in another one separates
    /// parameters.
    pub(crate) fn render_query(&self, template: &Template) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        if !path.contains(['%', '+']) {
            return self.render(template);
        }
        template.render(|variable, out| match variable {
            Variable::Group(number) => {
                out.extend(utf8_percent_encode(self.group(*number), OUTSIDE_QUERY));
            }
            variable => self.push_encoded(variable, out),
        })
    }

    /// A decoded path.
    pub(crate) fn render_path(&self, template: &Template) -> String {
        template.render(|variable, out| self.push(variable, out))
    }

    /// An address that the proxy itself asks. Only the path and query of the request, and its parts,
    /// are taken as they are; nothing else can add a parameter or leave the path.
    pub(crate) fn render_escaped(&self, template: &Template) -> String {
        template.render(|variable, out| match variable {
            Variable::RequestUri
            | Variable::EscapedRequestUri
            | Variable::Args
            | Variable::IsArgs
            | Variable::Parameter(_)
            | Variable::Scheme => self.push(variable, out),
            variable => {
                let mut text = String::new();
                self.push(variable, &mut text);
                out.push_str(&escape(&text));
            }
        })
    }

    fn group(&self, number: usize) -> &'a str {
        self.rule.group(self.path, number).unwrap_or_default()
    }

    /// The query without `?`.
    pub(crate) fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    fn header(&self, name: &str) -> &'a str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Appends a value; what is decoded is encoded.
    fn push_encoded(&self, variable: &Variable, out: &mut String) {
        match variable {
            Variable::Uri => out.push_str(&path::encoded(self.path)),
            Variable::Group(number) => out.push_str(&path::encoded(self.group(*number))),
            variable => self.push(variable, out),
        }
    }

    fn push(&self, variable: &Variable, out: &mut String) {
        match variable {
            Variable::Scheme => out.push_str(self.scheme),
            Variable::Host => out.push_str(self.host),
            Variable::Authority => match self.header("host") {
                "" => out.push_str(self.host),
                host => out.push_str(host),
            },
            Variable::Method => out.push_str(self.method),
            Variable::RequestUri => out.push_str(self.target),
            Variable::EscapedRequestUri => out.push_str(&escape(self.target)),
            Variable::Uri => out.push_str(self.path),
            Variable::Args => out.push_str(self.query().unwrap_or_default()),
            Variable::IsArgs => {
                let has_query = self.query().is_some_and(|query| !query.is_empty());
                out.push_str(if has_query { "?" } else { "" });
            }
            Variable::Client => out.push_str(&self.client.to_string()),
            Variable::Parameter(name) => {
                out.push_str(raw_parameter(self.query(), name).unwrap_or_default());
            }
            Variable::Header(name) => out.push_str(self.header(name)),
            Variable::Cookie(name) => {
                out.push_str(cookie(self.headers, name).unwrap_or_default());
            }
            Variable::Group(number) => out.push_str(self.group(*number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::edge::{PathMatch, Pattern, Template};
    use http::{HeaderMap, HeaderValue};

    use super::Variables;

    fn with<T>(found: impl FnOnce(&Variables<'_>) -> T) -> T {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("Shop.test:8443"));
        headers.insert("x-team", HeaderValue::from_static("a&b=c"));
        headers.insert("cookie", HeaderValue::from_static("s=1"));
        let rule = PathMatch::Regex(Pattern::of_path("/a/(.*)").unwrap());
        found(&Variables {
            scheme: "https",
            host: "shop.test",
            client: "192.0.2.1".parse().unwrap(),
            path: "/a/b c",
            target: "/a/b%20c?x=1%262&y",
            rule: &rule,
            method: "POST",
            headers: &headers,
        })
    }

    #[test]
    fn l108_variables_stand_for_parts_of_the_request() {
        for (template, expected) in [
            ("$scheme://$host", "https://shop.test"),
            (
                "$http_host|$best_http_host",
                "Shop.test:8443|Shop.test:8443",
            ),
            ("$request_method", "POST"),
            ("$request_uri", "/a/b%20c?x=1%262&y"),
            ("$escaped_request_uri", "%2Fa%2Fb%2520c%3Fx%3D1%25262%26y"),
            ("$uri$is_args$args", "/a/b%20c?x=1%262&y"),
            ("$arg_x|$arg_z|${arg_x}1", "1%262||1%2621"),
            ("$http_x_team", "a&b=c"),
            ("$cookie_s", "1"),
            ("$remote_addr", "192.0.2.1"),
            ("/new/$1", "/new/b%20c"),
            ("plain", "plain"),
        ] {
            let parsed = Template::parse(template).unwrap();
            let found = with(|variables| variables.render(&parsed));
            assert_eq!(found, expected, "{template}");
        }
        let parsed = Template::parse("/check/$1?t=$http_x_team&u=$uri&h=$host").unwrap();
        let found = with(|variables| variables.render_escaped(&parsed));
        assert_eq!(found, "/check/b%20c?t=a%26b%3Dc&u=%2Fa%2Fb%20c&h=shop.test");
    }
}
