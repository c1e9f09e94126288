//! Which requests of a route go to its canary.

use headgate_model::ingress::CanaryRule;
use http::HeaderMap;

use crate::{
    message::cookie,
    serving::{ServedRoute, ServedTarget},
};

/// Part of the requests: (weight, total). The total is not 0.
type Weight = (u32, u32);

const ALL: Weight = (1, 1);
const NONE: Weight = (0, 1);

/// Selects the target of a request.
pub(crate) fn target<'a>(route: &'a ServedRoute, headers: &HeaderMap) -> &'a ServedTarget {
    match &route.canary {
        Some((rules, canary)) if is_canary(rules, headers) => canary,
        _ => &route.target,
    }
}

/// Returns the part of the requests with these headers that goes to the canary. The first rule that
/// applies decides.
pub(crate) fn weight(rules: &[CanaryRule], headers: &HeaderMap) -> Weight {
    let mut decisions = rules.iter().filter_map(|rule| decide(rule, headers));
    decisions.next().unwrap_or(NONE)
}

fn is_canary(rules: &[CanaryRule], headers: &HeaderMap) -> bool {
    let (weight, total) = weight(rules, headers);
    fastrand::u32(..total) < weight
}

fn decide(rule: &CanaryRule, headers: &HeaderMap) -> Option<Weight> {
    match rule {
        CanaryRule::Header(name, value) => {
            let field = headers.get(name.as_str())?.to_str().ok()?;
            match value {
                Some(value) => value.matches(field).then_some(ALL),
                None => always_or_never(field),
            }
        }
        CanaryRule::Cookie(name) => always_or_never(cookie(headers, name)?),
        CanaryRule::Weight { weight, total } => Some((*weight, *total)),
    }
}

fn always_or_never(text: &str) -> Option<Weight> {
    match text {
        "always" => Some(ALL),
        "never" => Some(NONE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::ingress::{CanaryRule, Text};
    use http::{HeaderMap, HeaderValue};

    use super::is_canary;

    #[test]
    fn l13_header_before_cookie_before_weight() {
        let weight = |weight| CanaryRule::Weight { weight, total: 10 };
        let header = CanaryRule::Header("x-canary".into(), None);
        let value = CanaryRule::Header("x-canary".into(), Some(Text::OneOf(vec!["eu".into()])));
        let cookie = CanaryRule::Cookie("canary".into());
        let headers = |header: &'static str, cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-canary", HeaderValue::from_static(header));
            headers.insert("cookie", HeaderValue::from_static(cookie));
            headers
        };
        let all = [header, cookie, weight(10)];
        assert!(is_canary(&all, &headers("always", "canary=never")));
        assert!(!is_canary(&all, &headers("never", "canary=always")));
        assert!(!is_canary(&all, &headers("?", "canary=never")));
        assert!(is_canary(&all, &headers("?", "canary=?")), "by weight");
        assert!(is_canary(&[value.clone(), weight(0)], &headers("eu", "")));
        assert!(!is_canary(&[value, weight(0)], &headers("always", "")));
    }
}
