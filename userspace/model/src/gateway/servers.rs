//! Whether proxies and agents serve Gateways, as far as a controller knows.

use super::{Listener, Problem, site::Site};

/// Why listeners are not served, whatever the objects say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Why proxies serve no HTTP, HTTPS and TLS listeners; `None` if they do.
    pub proxies: Option<String>,
    /// Why agents do not serve TCP and UDP listeners everywhere; `None` if they do.
    pub agents: Option<String>,
}

impl Servers {
    /// Why a listener is not served.
    pub(super) fn problem(&self, listener: &Listener<'_>) -> Option<Problem> {
        let reason = match listener.l4_protocol() {
            Some(_) => &self.agents,
            None => &self.proxies,
        };
        let reason = reason.clone()?;
        Some(Problem::new("Pending", reason))
    }

    /// Why none of the valid listeners of a Gateway is served.
    pub(super) fn problem_of_all(&self, site: &Site<'_>) -> Option<Problem> {
        let mut valid = site.listeners.iter().filter(|one| site.serves(one));
        let first = self.problem(valid.next()?)?;
        let is_rest = valid.all(|listener| self.problem(listener).is_some());
        is_rest.then(|| Problem::new("NoResources", first.message))
    }
}
