//! Which requests of a route are its canary's.

use headgate_model::ingress::CanaryRule;
use http::HeaderMap;

use crate::{
    message::cookie,
    serving::{ServedRoute, ServedTarget},
};

/// So many of so many, which is not 0.
type Weight = (u32, u32);

const ALL: Weight = (1, 1);
const NONE: Weight = (0, 1);

/// Where a request goes.
pub(crate) fn target<'a>(route: &'a ServedRoute, headers: &HeaderMap) -> &'a ServedTarget {
    match &route.canary {
        Some((rules, canary)) if is_canary(rules, headers) => canary,
        _ => &route.target,
    }
}

/// How many requests like this one are the canary's.
pub(crate) fn weight(rules: &[CanaryRule], headers: &HeaderMap) -> Weight {
    // The first rule that decides.
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
            let told = headers.get(name.as_str())?.to_str().ok()?;
            match value {
                Some(value) => value.matches(told).then_some(ALL),
                None => always_or_never(told),
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
        let told = |header: &'static str, cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-canary", HeaderValue::from_static(header));
            headers.insert("cookie", HeaderValue::from_static(cookie));
            headers
        };
        let all = [header, cookie, weight(10)];
        assert!(is_canary(&all, &told("always", "canary=never")));
        assert!(!is_canary(&all, &told("never", "canary=always")));
        assert!(!is_canary(&all, &told("?", "canary=never")));
        assert!(is_canary(&all, &told("?", "canary=?")), "by weight");
        assert!(is_canary(&[value.clone(), weight(0)], &told("eu", "")));
        assert!(!is_canary(&[value, weight(0)], &told("always", "")));
    }
}
