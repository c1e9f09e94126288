//! What both loops do with the events of a source.

use std::collections::{BTreeMap, BTreeSet};

use headgate_model::{ObjectName, Refusal};
use tracing::{info, warn};

use super::status::SourceStatus;
use crate::source::event::{Event, Interest, Kind};

/// What a loop knows of its source.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Kinds that the source has not listed yet.
    pub(crate) missing: BTreeSet<Kind>,
    /// What the source refused, by object.
    pub(crate) refused: BTreeMap<ObjectName, Vec<Refusal>>,
}

impl Intake {
    pub(crate) fn new(interest: Interest) -> Self {
        Self {
            missing: interest.kinds().iter().copied().collect(),
            refused: BTreeMap::new(),
        }
    }

    /// Handles an event of the source itself; returns an event of an object, which it counts.
    pub(crate) fn note(&mut self, event: Event, status: &mut SourceStatus) -> Option<Event> {
        match event {
            Event::Listed(kind) => {
                self.missing.remove(&kind);
            }
            Event::Refused(object, refusals) if refusals.is_empty() => {
                self.refused.remove(&object);
            }
            Event::Refused(object, refusals) => {
                self.refused.insert(object, refusals);
            }
            Event::Connected(Ok(())) => {
                info!("connected");
                status.disconnected = None;
            }
            Event::Connected(Err(error)) => {
                warn!(error, "disconnected");
                status.disconnected = Some(error);
            }
            Event::Service(..) | Event::Upstream(..) => return count(Kind::Service, event, status),
            Event::Slice(..) => return count(Kind::EndpointSlice, event, status),
            Event::Node(_) => return count(Kind::Node, event, status),
            Event::Ingress(..) => return count(Kind::Ingress, event, status),
            Event::IngressClass(..) => return count(Kind::IngressClass, event, status),
            Event::Secret(..) => return count(Kind::Secret, event, status),
            Event::Gateway(_) => return count(Kind::Gateway, event, status),
        }
        None
    }
}

fn count(kind: Kind, event: Event, status: &mut SourceStatus) -> Option<Event> {
    *status.events.entry(kind).or_default() += 1;
    Some(event)
}

/// Logs the refusals that `before` does not have.
pub(super) fn log_new(refusals: &[Refusal], before: &[Refusal]) {
    let before: BTreeSet<&Refusal> = before.iter().collect();
    for refusal in refusals.iter().filter(|new| !before.contains(new)) {
        let Refusal {
            object,
            field,
            reason,
            kind: _,
        } = refusal;
        warn!(%object, field, reason, "refused");
    }
}
