//! Which target of a route gets a request.

use headgate_model::edge::{CanaryRule, Route, WeightedTarget};
use http::HeaderMap;

use crate::{
    message::cookie,
    serving::{ServedRoute, ServedTarget},
};

/// Part of the requests: (weight, total). The total is not 0.
type Weight = (u32, u32);

const ALL: Weight = (1, 1);
const NONE: Weight = (0, 1);

/// The target of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'a> {
    pub(crate) target: &'a ServedTarget,
    /// As the route has it, with changes to headers; `None` for a canary.
    pub(crate) weighted: Option<&'a WeightedTarget>,
}

/// Selects the target of a request: the canary if its rules say so, else one by weight. `None` if no
/// target has any weight.
pub(crate) fn choose<'a>(route: &'a ServedRoute, headers: &HeaderMap) -> Option<Chosen<'a>> {
    match &route.canary {
        Some((rules, target)) if is_canary(rules, headers) => Some(Chosen {
            target,
            weighted: None,
        }),
        _ => by_weight(route, |total| fastrand::u64(..total)),
    }
}

/// Returns the targets of a route that get requests.
pub(crate) fn weighted(route: &ServedRoute) -> impl Iterator<Item = Chosen<'_>> {
    let model: &Route = route.as_ref();
    let targets = model.targets.iter().zip(&route.targets);
    let weighted = targets.filter(|(weighted, _)| weighted.weight > 0);
    weighted.map(|(weighted, target)| Chosen {
        target,
        weighted: Some(weighted),
    })
}

impl Chosen<'_> {
    pub(crate) fn weight(&self) -> u64 {
        self.weighted.map_or(0, |weighted| weighted.weight.into())
    }
}

/// Selects the target that has the number that `draw` gives of all.
fn by_weight(route: &ServedRoute, draw: impl Fn(u64) -> u64) -> Option<Chosen<'_>> {
    let mut targets = weighted(route);
    let first = targets.next()?;
    let Some(second) = targets.next() else {
        return Some(first);
    };
    let total = weighted(route).map(|chosen| chosen.weight()).sum();
    let mut number = draw(total);
    let mut all = [first, second].into_iter().chain(targets);
    all.find(|chosen| {
        let is_it = number < chosen.weight();
        number = number.saturating_sub(chosen.weight());
        is_it
    })
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
    use headgate_model::edge::{CanaryRule, Text};
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
