//! Whose host it is: hosts belong to a namespace, that of the oldest Ingress that names them.

use std::collections::BTreeMap;

use crate::NamespacedName;

use super::{Ingress, annotations::Settings};
use crate::edge::for_host;

/// The order of Ingresses: by creation time, then by name.
pub(super) type Age = (i64, NamespacedName);

/// Returns the age of an Ingress; without a creation time it counts as the youngest.
pub(super) fn age(ingress: &Ingress) -> Age {
    (ingress.created_s.unwrap_or(i64::MAX), ingress.name.clone())
}

/// Returns the other one of a host and its `www.`; `None` for wildcards and rules without host.
pub(super) fn www_of(host: &str) -> Option<String> {
    let is_name = !host.is_empty() && !host.starts_with("*.");
    is_name.then(|| match host.strip_prefix("www.") {
        Some(rest) => rest.to_owned(),
        None => format!("www.{host}"),
    })
}

/// The owner of each host.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// The oldest Ingress that names a host: in rules, as alias, as `www.` of one of its hosts, or
    /// all other hosts by a default backend.
    oldest: BTreeMap<String, Age>,
    /// The oldest Ingress of the owner's namespace with rules for a host.
    ruled: BTreeMap<String, NamespacedName>,
}

impl Owners {
    /// Adds the hosts of an Ingress. Must be called for older Ingresses first.
    pub(super) fn claim(&mut self, ingress: &Ingress, settings: &Settings) {
        let age = age(ingress);
        if ingress.rules.is_empty() && ingress.default_backend.is_some() {
            self.take("", &age);
        }
        for rule in &ingress.rules {
            self.take(&rule.host, &age);
            if self.other(&rule.host, ingress).is_some() {
                continue;
            }
            let ruled = self.ruled.entry(rule.host.clone());
            ruled.or_insert_with(|| ingress.name.clone());
            if settings.www_redirect
                && !settings.passthrough
                && let Some(other) = www_of(&rule.host)
            {
                self.take(&other, &age);
            }
        }
        for alias in &settings.aliases {
            self.take(alias, &age);
        }
    }

    fn take(&mut self, host: &str, age: &Age) {
        let owner = self.oldest.entry(host.into());
        owner.or_insert_with(|| age.clone());
    }

    /// The owner of exactly this host.
    pub(super) fn owner(&self, host: &str) -> Option<&NamespacedName> {
        self.oldest.get(host).map(|(_, name)| name)
    }

    /// The owner of exactly this host, if it is in another namespace than the Ingress.
    pub(super) fn other(&self, host: &str, ingress: &Ingress) -> Option<&NamespacedName> {
        let is_other = |owner: &&NamespacedName| owner.namespace != ingress.name.namespace;
        self.owner(host).filter(is_other)
    }

    /// The owner of the rules that requests for a host match (its own or those of a wildcard), if it
    /// is older than an Ingress of another namespace.
    pub(super) fn older(&self, host: &str, age: &Age) -> Option<&NamespacedName> {
        let owner = for_host(host, |host| self.oldest.get(host))?;
        let is_older = owner < age && owner.1.namespace != age.1.namespace;
        is_older.then_some(&owner.1)
    }

    /// The oldest Ingress with rules for a host.
    pub(super) fn ruled(&self, host: &str) -> Option<&NamespacedName> {
        self.ruled.get(host)
    }

    /// Hosts that have rules.
    pub(super) fn ruled_hosts(&self) -> impl Iterator<Item = &String> {
        self.ruled.keys()
    }

    /// Every host with its owner.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Age)> {
        self.oldest.iter()
    }
}

/// Returns why an Ingress gets nothing of a host.
pub(super) fn belongs(host: &str, owner: &NamespacedName) -> String {
    format!("host `{host}` belongs to {owner}, an older Ingress of another namespace")
}
