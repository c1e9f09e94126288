//! ReferenceGrants and BackendTLSPolicies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Condition, LocalRef, ParentRef, shared::open_enum};

/// `spec` of a ReferenceGrant: any of `from` may refer to any of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantSpec {
    /// The objects that refer.
    pub from: Vec<GrantFrom>,
    /// The objects that they refer to, in the namespace of the grant.
    pub to: Vec<GrantTo>,
}

/// Objects that refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantFrom {
    /// Their API group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that are referred to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantTo {
    /// Their API group; empty for the core API.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Name; all if not given.
    pub name: Option<String>,
}

/// `spec` of a BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// Services that it is for.
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are checked.
    pub validation: BackendValidation,
    /// Settings of single implementations.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A Service, or a port of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// API group; empty for the core API.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Name of a port; all if not given.
    pub section_name: Option<String>,
}

/// How certificates of a Service are checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendValidation {
    /// CA certificates.
    #[serde(default)]
    pub ca_certificate_refs: Vec<LocalRef>,
    /// CA certificates by a name that stands for them, such as `System`.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    /// The name that the Gateway sends and, without `subject_alt_names`, checks.
    pub hostname: String,
    /// Names of which one must be in the certificate.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SubjectAltName {
    /// Which of the two.
    #[serde(rename = "type")]
    pub type_: SubjectAltNameType,
    /// A DNS name.
    pub hostname: Option<String>,
    /// A URI.
    pub uri: Option<String>,
}

open_enum! {
    /// A type of name in a certificate.
    SubjectAltNameType {
        /// A DNS name.
        Hostname = "Hostname",
        /// A URI.
        Uri = "URI",
    }
}

/// `status` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// By Gateway.
    pub ancestors: Vec<AncestorStatus>,
}

/// A policy at a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The Gateway.
    pub ancestor_ref: ParentRef,
    /// The controller that wrote the entry.
    pub controller_name: String,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
