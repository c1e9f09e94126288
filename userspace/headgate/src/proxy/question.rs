//! A request to be explained, as parameters of a URL.

use std::net::{IpAddr, Ipv4Addr};

use headgate_model::{NamespacedName, edge::GatewayPort};
use headgate_proxy::ExplainRequest;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    uri::{PathAndQuery, Scheme},
};

pub(crate) const URL: &str = "url";
pub(crate) const METHOD: &str = "method";
pub(crate) const HEADER: &str = "header";
pub(crate) const CLIENT: &str = "client";
pub(crate) const GATEWAY: &str = "gateway";

/// Parses the parameters, or returns a line that names the wrong one. Empty parameters are ignored.
pub(super) fn parse(words: &[(String, String)]) -> Result<ExplainRequest, String> {
    let words = || words.iter().filter(|(_, text)| !text.trim().is_empty());
    for (name, _) in words() {
        if ![URL, METHOD, HEADER, CLIENT, GATEWAY].contains(&name.as_str()) {
            return Err(format!(
                "{name} is not a parameter: there are url, method, header, client and gateway"
            ));
        }
    }
    let one = |name: &str| {
        let mut all = words().filter(|(other, _)| other == name);
        let first = all.next().map(|(_, text)| text.trim());
        match all.next() {
            Some(_) => Err(format!("{name} is given twice")),
            None => Ok(first),
        }
    };
    let (is_tls, host, path) = url(one(URL)?)?;
    Ok(ExplainRequest {
        host,
        path,
        is_tls,
        gateway: one(GATEWAY)?.map(gateway).transpose()?,
        method: one(METHOD)?.map_or(Ok(Method::GET), method)?,
        headers: headers(words().filter(|(name, _)| name == HEADER))?,
        client: one(CLIENT)?.map_or(Ok(Ipv4Addr::LOCALHOST.into()), client)?,
    })
}

fn url(text: Option<&str>) -> Result<(bool, String, PathAndQuery), String> {
    const FORM: &str = "https://HOST/PATH or http://HOST/PATH";
    let text = text.ok_or_else(|| format!("{URL} is missing: write {FORM}"))?;
    let wrong = || format!("{URL} {text:?} is not {FORM}");
    let parts = text.parse::<Uri>().map_err(|_why| wrong())?.into_parts();
    let scheme = parts.scheme.ok_or_else(wrong)?;
    if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
        return Err(wrong());
    }
    let host = parts.authority.ok_or_else(wrong)?;
    let root = PathAndQuery::from_static("/");
    let path = parts.path_and_query.unwrap_or(root);
    Ok((scheme == Scheme::HTTPS, host.as_str().into(), path))
}

fn method(text: &str) -> Result<Method, String> {
    let parsed = text.to_ascii_uppercase().parse();
    parsed.map_err(|_why| format!("{METHOD} {text:?} is not GET, POST or another method"))
}

fn client(text: &str) -> Result<IpAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_why| format!("{CLIENT} {text:?} is not an address, for example 192.0.2.7"))
}

fn gateway(text: &str) -> Result<GatewayPort, String> {
    let parsed = || {
        let (gateway, port) = text.rsplit_once(':')?;
        let (namespace, name) = gateway.split_once('/')?;
        Some(GatewayPort {
            gateway: NamespacedName::new(namespace, name),
            port: port.parse().ok()?,
        })
    };
    parsed().ok_or_else(|| format!("{GATEWAY} {text:?} is not NAMESPACE/NAME:PORT"))
}

fn headers<'a>(words: impl Iterator<Item = &'a (String, String)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (_, text) in words {
        let wrong = || format!("{HEADER} {text:?} is not NAME: VALUE");
        let (name, value) = text.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_why| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_why| wrong())?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn l79_errors_name_the_wrong_parameter() {
        let ask = |words: &[(&str, &str)]| {
            let words = words
                .iter()
                .map(|(name, text)| ((*name).into(), (*text).into()));
            parse(&words.collect::<Vec<_>>())
        };
        let url = ("url", " https://shop.example.com:8443/cart?id=7 ");
        let headers = [("header", "X-A: 1"), ("header", "x-a:2"), ("method", "")];
        let question = ask(&[&[url, ("method", "put"), ("client", "::1")], &headers[..2]].concat());
        let question = question.unwrap();
        assert!(question.is_tls);
        assert_eq!(question.host, "shop.example.com:8443");
        assert_eq!(question.path, "/cart?id=7");
        assert_eq!(question.method, "PUT");
        assert_eq!(question.client.to_string(), "::1");
        assert_eq!(question.headers.get_all("x-a").iter().count(), 2);
        let gateway = ask(&[url, ("gateway", "infra/web:80")]).unwrap().gateway;
        assert_eq!(gateway.unwrap().to_string(), "infra/web:80");
        let plain = ask(&[("url", "http://a"), headers[2]]).unwrap();
        assert_eq!((plain.is_tls, plain.path.as_str()), (false, "/"));
        assert_eq!(plain.method, "GET");
        for (words, complaint) in [
            (&[][..], "url is missing: write https://HOST/PATH"),
            (
                &[("url", "/cart")],
                "url \"/cart\" is not https://HOST/PATH",
            ),
            (&[("url", "ftp://a/")], "url \"ftp://a/\" is not"),
            (&[("url", "https://a b/")], "url \"https://a b/\" is not"),
            (&[url, url], "url is given twice"),
            (&[url, ("method", "G T")], "method \"G T\" is not GET"),
            (
                &[url, ("client", "web")],
                "client \"web\" is not an address",
            ),
            (
                &[url, ("header", "X-A")],
                "header \"X-A\" is not NAME: VALUE",
            ),
            (&[url, ("header", "X A: b")], "header \"X A: b\" is not"),
            (&[url, ("gateway", "web:80")], "gateway \"web:80\" is not"),
            (&[url, ("from", "::1")], "from is not a parameter"),
        ] {
            let line = ask(words).unwrap_err();
            assert!(line.starts_with(complaint), "{line}");
        }
    }
}
