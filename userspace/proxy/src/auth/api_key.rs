//! API keys, in a header or in the query.

use std::{borrow::Cow, collections::HashMap};

use anyhow::{Context, Result, ensure};
use headgate_model::edge::ApiKey;
use http::{HeaderName, Uri, request::Parts, uri::PathAndQuery};

use crate::message::parameters;

use super::{CheckResult, USER, cache::SecretHash, set_header, spelling, unauthorized};

const CONSUMER: HeaderName = HeaderName::from_static("x-consumer");

/// Checks API keys and finds their consumers.
pub(super) struct ApiKeyCheck {
    header: HeaderName,
    query: Option<String>,
    hash: SecretHash,
    /// By hash of the key, so that the time of a comparison does not reveal a part of a key.
    consumers: HashMap<Vec<u8>, String>,
}

impl ApiKeyCheck {
    pub(super) fn new(rule: &ApiKey) -> Result<Self> {
        let (hash, mut consumers) = (SecretHash::new()?, HashMap::new());
        for (consumer, key) in &rule.consumers {
            let known = consumers.insert(hash.digest(&[&key.0]), consumer.clone());
            ensure!(known.is_none(), "two consumers have the same key");
        }
        Ok(Self {
            hash,
            header: rule
                .header
                .parse()
                .context("auth-key-header is not a header name")?,
            query: rule.query.clone(),
            consumers,
        })
    }

    pub(super) fn pass(&self, parts: &mut Parts) -> CheckResult {
        let hash = self
            .key(parts)
            .map(|key| self.hash.digest(&[key.as_bytes()]));
        let Some(consumer) = hash.and_then(|hash| self.consumers.get(&hash)) else {
            return Err(unauthorized("ApiKey"));
        };
        self.remove_key(parts);
        set_header(&mut parts.headers, &USER, consumer);
        set_header(&mut parts.headers, &CONSUMER, consumer);
        Ok(Vec::new())
    }

    /// Whether keys are in this header, with `-` for `_`.
    pub(super) fn reads(&self, name: &str) -> bool {
        spelling(self.header.as_str()) == name
    }

    /// The key of a request, if there is exactly one.
    fn key<'a>(&'a self, parts: &'a Parts) -> Option<Cow<'a, str>> {
        let fields = parts.headers.get_all(&self.header).iter();
        let fields = fields.map(|value| value.to_str().unwrap_or_default().into());
        let query = self.query.iter();
        let in_query = query.flat_map(|name| parameters(parts.uri.query(), name));
        let mut keys = fields.chain(in_query);
        let key = keys.next()?;
        keys.next().is_none().then_some(key)
    }

    /// Removes the key, which backends do not need.
    fn remove_key(&self, parts: &mut Parts) {
        parts.headers.remove(&self.header);
        let (Some(name), Some(query)) = (&self.query, parts.uri.query()) else {
            return;
        };
        let is_key = |pair: &str| parameters(Some(pair), name).next().is_some();
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_key(pair)).collect();
        let path = parts.uri.path();
        let target = match kept.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", kept.join("&")),
        };
        let mut pieces = parts.uri.clone().into_parts();
        pieces.path_and_query = PathAndQuery::try_from(target).ok();
        if let Ok(uri) = Uri::from_parts(pieces) {
            parts.uri = uri;
        }
    }
}

#[cfg(test)]
mod tests {
    use headgate_model::edge::{ApiKey, Auth, Hidden};

    use super::super::{
        Authenticator,
        tests::{authenticator, authorize, request},
    };

    fn rule(keys: &[(&str, &str)]) -> Auth {
        let consumers = keys
            .iter()
            .map(|(name, key)| ((*name).into(), Hidden((*key).into())));
        Auth::ApiKey(ApiKey {
            header: "x-api-key".into(),
            query: Some("key".into()),
            consumers: consumers.collect(),
        })
    }

    #[tokio::test]
    async fn l65_auth_keys_name_consumers_and_do_not_reach_backends() {
        let guard = authenticator(rule(&[("ada", "first"), ("bob", "second")]));
        for (target, key, consumer, kept) in [
            ("/a?b=c", Some("first"), "ada", "/a?b=c"),
            ("/a?key=second", None, "bob", "/a"),
            ("/a?b=%20&k%65y=second&d", None, "bob", "/a?b=%20&d"),
        ] {
            let mut builder = request(target);
            if let Some(key) = key {
                builder = builder.header("x-api-key", key);
            }
            let parts = authorize(&guard, &mut builder).await.unwrap();
            assert_eq!(parts.headers["x-consumer"], consumer);
            assert_eq!(parts.headers["x-auth-user"], consumer);
            assert!(!parts.headers.contains_key("x-api-key"));
            assert_eq!(parts.uri, kept);
        }
        for (target, keys) in [
            ("/", &[][..]),
            ("/", &["firs"]),
            ("/", &[""]),
            ("/?key=", &[]),
            ("/", &["first", "first"]),
            ("/?key=first", &["first"]),
        ] {
            let mut builder = request(target);
            for key in keys {
                builder = builder.header("x-api-key", *key);
            }
            let denied = authorize(&guard, &mut builder).await.unwrap_err();
            assert_eq!(denied.status(), 401, "{target} {keys:?}");
        }
    }

    #[test]
    fn l65_auth_same_key_for_two_consumers_is_refused() {
        assert!(
            Authenticator::new(
                &[rule(&[("ada", "same"), ("bob", "same")])],
                &crate::reach::Reach::everything()
            )
            .is_err()
        );
    }
}
