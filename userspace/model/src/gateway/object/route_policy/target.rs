//! What a RoutePolicy is for.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::object::GROUP;

part! {
    /// What a policy is for.
    #[derive(PartialOrd, Ord)]
    RoutePolicyTarget {
        /// `gateway.networking.k8s.io`.
        #[schemars(extend("enum" = [GROUP]))]
        group: String,
        /// Kind.
        kind: TargetKind,
        /// Name.
        name: String,
        /// Name of a listener of the Gateway or ListenerSet, or of a rule of the route; all if not given.
        section_name: Option<String>,
    }
}

/// Kinds that policies are for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
pub enum TargetKind {
    /// All HTTPRoutes and GRPCRoutes of a Gateway.
    Gateway,
    /// Those of the listeners of a ListenerSet.
    ListenerSet,
    /// An HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// A GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
}

impl TargetKind {
    /// Returns the kind as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }
}

impl fmt::Display for RoutePolicyTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind.as_str(), self.name)?;
        match (&self.section_name, self.kind) {
            (Some(section), TargetKind::Gateway | TargetKind::ListenerSet) => {
                write!(out, " listener {section}")
            }
            (Some(section), _) => write!(out, " rule {section}"),
            (None, _) => Ok(()),
        }
    }
}
