//! Statuses: verdicts, and how they are merged into what is written already.

use super::{
    Problem, RouteKind,
    object::{
        AncestorStatus, Condition, GatewayClassStatus, GatewayStatus, ListenerSetStatus,
        ListenerStatus, ParentRef, ParentStatus, PolicyStatus, RouteStatus, StatusAddress,
        SupportedFeature,
    },
};

/// Largest number of entries in `parents`.
const MAX_PARENTS: usize = 32;
/// Largest number of entries in `ancestors`.
const MAX_ANCESTORS: usize = 16;

/// Types of conditions that the controller writes. Others stay as they are.
const OF_CLASSES: [&str; 2] = ["Accepted", "SupportedVersion"];
const OF_GATEWAYS: [&str; 4] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "InsecureFrontendValidationMode",
];
const OF_LISTENER_SETS: [&str; 2] = ["Accepted", "Programmed"];
const OF_LISTENERS: [&str; 4] = ["Accepted", "Conflicted", "ResolvedRefs", "Programmed"];
const OF_POLICIES: [&str; 2] = ["Accepted", "ResolvedRefs"];
const OF_ROUTES: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// A condition, before it is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub type_: &'static str,
    /// Whether it holds.
    pub is_true: bool,
    /// The reason, as one word.
    pub reason: &'static str,
    /// The reason, for people.
    pub message: String,
}

impl Verdict {
    /// A condition that holds; a good one needs no text for people.
    pub(super) fn yes(type_: &'static str, reason: &'static str) -> Self {
        Self {
            type_,
            is_true: true,
            reason,
            message: String::new(),
        }
    }

    /// A condition that does not hold.
    pub(super) fn no(type_: &'static str, problem: &Problem) -> Self {
        Self {
            type_,
            is_true: false,
            reason: problem.reason,
            message: problem.message.clone(),
        }
    }

    /// A condition that holds without a problem, for a reason that is its own type if it is not another.
    pub(super) fn of(type_: &'static str, problem: Option<&Problem>) -> Self {
        match problem {
            Some(problem) => Self::no(type_, problem),
            None => Self::yes(type_, type_),
        }
    }
}

/// The verdict about a GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassVerdict {
    /// Conditions.
    pub conditions: Vec<Verdict>,
    /// Features, in ascending order.
    pub features: Vec<&'static str>,
}

/// The verdict about a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayVerdict {
    /// Conditions.
    pub conditions: Vec<Verdict>,
    /// Addresses.
    pub addresses: Vec<StatusAddress>,
    /// Number of accepted ListenerSets.
    pub listener_sets: usize,
    /// Listeners, as `spec` has them.
    pub listeners: Vec<ListenerVerdict>,
}

/// The verdict about a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSetVerdict {
    /// Conditions.
    pub conditions: Vec<Verdict>,
    /// Listeners, as `spec` has them.
    pub listeners: Vec<ListenerVerdict>,
}

/// The verdict about a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerVerdict {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it can have.
    pub kinds: Vec<RouteKind>,
    /// Number of routes that are accepted here.
    pub attached_routes: usize,
    /// Conditions.
    pub conditions: Vec<Verdict>,
}

/// The verdict about a route, by parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteVerdict {
    /// Parents of ours, as `spec` has them.
    pub parents: Vec<(ParentRef, Vec<Verdict>)>,
}

/// The verdict about a policy, by Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// Gateways of ours that the policy concerns; of a RoutePolicy also targets that are not there.
    pub ancestors: Vec<(ParentRef, Vec<Verdict>)>,
}

/// What a status is merged with besides the verdict.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// `metadata.generation` of the object that was judged.
    pub generation: i64,
    /// The time (RFC 3339).
    pub now: &'a str,
}

impl Merge<'_> {
    /// Returns the status of a GatewayClass, or `None` if it is written already.
    pub fn class(
        self,
        old: &GatewayClassStatus,
        verdict: &ClassVerdict,
    ) -> Option<GatewayClassStatus> {
        let features = verdict.features.iter().map(|name| SupportedFeature {
            name: (*name).into(),
        });
        let new = GatewayClassStatus {
            conditions: self.conditions(&old.conditions, &verdict.conditions, &OF_CLASSES),
            supported_features: features.collect(),
        };
        (new != *old).then_some(new)
    }

    /// Returns the status of a Gateway, or `None` if it is written already.
    pub fn gateway(self, old: &GatewayStatus, verdict: &GatewayVerdict) -> Option<GatewayStatus> {
        let new = GatewayStatus {
            addresses: verdict.addresses.clone(),
            attached_listener_sets: Some(count(verdict.listener_sets)),
            conditions: self.conditions(&old.conditions, &verdict.conditions, &OF_GATEWAYS),
            listeners: self.listeners(&old.listeners, &verdict.listeners),
        };
        (new != *old).then_some(new)
    }

    /// Returns the status of a ListenerSet, or `None` if it is written already.
    pub fn listener_set(
        self,
        old: &ListenerSetStatus,
        verdict: &ListenerSetVerdict,
    ) -> Option<ListenerSetStatus> {
        let new = ListenerSetStatus {
            conditions: self.conditions(&old.conditions, &verdict.conditions, &OF_LISTENER_SETS),
            listeners: self.listeners(&old.listeners, &verdict.listeners),
        };
        (new != *old).then_some(new)
    }

    /// Returns the status of a route, or `None` if it is written already. Entries of other controllers stay
    /// where they are; entries of ours for parents that `spec` no longer has are removed.
    pub fn route(
        self,
        old: &RouteStatus,
        verdict: &RouteVerdict,
        controller: &str,
    ) -> Option<RouteStatus> {
        let known = old.parents.iter();
        let known = known.map(|one| (&one.controller_name, &one.parent_ref, &one.conditions));
        let merged = self.entries(
            known,
            &verdict.parents,
            (controller, &OF_ROUTES[..], MAX_PARENTS),
        );
        let parents = merged.into_iter();
        let parents = parents.map(|(controller_name, parent_ref, conditions)| ParentStatus {
            parent_ref,
            controller_name,
            conditions,
        });
        let new = RouteStatus {
            parents: parents.collect(),
        };
        (new != *old).then_some(new)
    }

    /// Returns the status of a policy, or `None` if it is written already, as [`Merge::route`].
    pub fn policy(
        self,
        old: &PolicyStatus,
        verdict: &PolicyVerdict,
        controller: &str,
    ) -> Option<PolicyStatus> {
        let known = old.ancestors.iter();
        let known = known.map(|one| (&one.controller_name, &one.ancestor_ref, &one.conditions));
        let limits = (controller, &OF_POLICIES[..], MAX_ANCESTORS);
        let ancestors = self.entries(known, &verdict.ancestors, limits).into_iter();
        let ancestors =
            ancestors.map(
                |(controller_name, ancestor_ref, conditions)| AncestorStatus {
                    ancestor_ref,
                    controller_name,
                    conditions,
                },
            );
        let new = PolicyStatus {
            ancestors: ancestors.collect(),
        };
        (new != *old).then_some(new)
    }

    /// Merges entries of several controllers. Those of others stay where they are; of ours those without a
    /// verdict are removed, and new ones follow up to a number.
    fn entries<'a>(
        self,
        old: impl Iterator<Item = (&'a String, &'a ParentRef, &'a Vec<Condition>)>,
        verdicts: &[(ParentRef, Vec<Verdict>)],
        (controller, types, most): (&str, &[&str], usize),
    ) -> Vec<(String, ParentRef, Vec<Condition>)> {
        let mut rest: Vec<&(ParentRef, Vec<Verdict>)> = verdicts.iter().collect();
        let entry = |(parent, verdicts): &(ParentRef, Vec<Verdict>), old: &[Condition]| {
            let conditions = self.conditions(old, verdicts, types);
            (controller.to_owned(), parent.clone(), conditions)
        };
        let mut merged = Vec::new();
        for (writer, parent, conditions) in old {
            if writer != controller {
                merged.push((writer.clone(), parent.clone(), conditions.clone()));
                continue;
            }
            let same = rest.iter().position(|(known, _)| known == parent);
            if let Some(index) = same {
                merged.push(entry(rest.remove(index), conditions));
            }
        }
        let capacity = most.saturating_sub(merged.len());
        merged.extend(rest.into_iter().take(capacity).map(|one| entry(one, &[])));
        merged
    }

    fn listeners(
        self,
        old: &[ListenerStatus],
        verdicts: &[ListenerVerdict],
    ) -> Vec<ListenerStatus> {
        let merged = verdicts.iter().map(|verdict| {
            let known = old.iter().find(|known| known.name == verdict.name);
            let known = known.map_or(&[][..], |known| &known.conditions);
            ListenerStatus {
                name: verdict.name.clone(),
                supported_kinds: verdict.kinds.iter().map(|kind| kind.group_kind()).collect(),
                attached_routes: count(verdict.attached_routes),
                conditions: self.conditions(known, &verdict.conditions, &OF_LISTENERS),
            }
        });
        merged.collect()
    }

    /// Merges conditions: those of other types stay where they are, those of the types `ours` without a
    /// verdict are removed, and those about a newer version of the object are not touched.
    fn conditions(self, old: &[Condition], verdicts: &[Verdict], ours: &[&str]) -> Vec<Condition> {
        let is_newer = |one: &Condition| one.observed_generation > Some(self.generation);
        let stays = |one: &&Condition| {
            let has_verdict = verdicts.iter().any(|verdict| verdict.type_ == one.type_);
            has_verdict || is_newer(one) || !ours.contains(&one.type_.as_str())
        };
        let mut merged: Vec<Condition> = old.iter().filter(stays).cloned().collect();
        for verdict in verdicts {
            let status = if verdict.is_true { "True" } else { "False" };
            let position = merged.iter().position(|one| one.type_ == verdict.type_);
            let known = position.map(|position| &merged[position]);
            if known.is_some_and(is_newer) {
                continue;
            }
            let unchanged = known.filter(|known| known.status == status);
            let condition = Condition {
                type_: verdict.type_.into(),
                status: status.into(),
                observed_generation: Some(self.generation),
                last_transition_time: match unchanged {
                    Some(known) => known.last_transition_time.clone(),
                    None => self.now.into(),
                },
                reason: verdict.reason.into(),
                message: verdict.message.clone(),
            };
            match position {
                Some(position) => merged[position] = condition,
                None => merged.push(condition),
            }
        }
        merged
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
