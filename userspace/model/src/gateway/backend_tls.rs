//! BackendTLSPolicies: TLS towards the endpoints of a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    Problem, World,
    certificates::Certificates,
    object::{BackendTlsPolicy, BackendValidation, PolicyTarget, SubjectAltNameType},
};
use crate::{
    NamespacedName,
    edge::{SubjectName, Trust, UpstreamTls},
};

/// Largest size of the CA certificates of a policy, in bytes: each backend of a route has them.
const MAX_AUTHORITIES: usize = 256 << 10;

/// All policies, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// By Service and the name of a port, or none for all ports: the policy that wins.
    claims: BTreeMap<NamespacedName, BTreeMap<Option<String>, Claim>>,
    pub(super) judged: BTreeMap<NamespacedName, JudgedPolicy>,
}

/// What a policy asks for, or why it cannot be followed.
#[derive(Debug, PartialEq)]
struct Claim {
    policy: NamespacedName,
    tls: Result<UpstreamTls, String>,
}

/// The verdict about a policy.
#[derive(Debug)]
pub(super) struct JudgedPolicy {
    /// What it is for.
    pub(super) targets: Vec<JudgedTarget>,
    /// Why it cannot be followed.
    refusal: Option<Problem>,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
}

/// A target of a policy, and why the policy is not followed for it.
#[derive(Debug)]
pub(super) struct JudgedTarget {
    pub(super) service: NamespacedName,
    port: Option<String>,
    problem: Option<Problem>,
}

impl JudgedPolicy {
    /// Why it is not accepted at a Gateway whose routes use the Services of these targets: it is not followed for one of
    /// them.
    pub(super) fn refusal_for(&self, targets: &[&JudgedTarget]) -> Option<Problem> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.clone());
        }
        let mut problem = targets.iter().find_map(|target| target.problem.clone())?;
        let followed = targets.iter().filter(|target| target.problem.is_none());
        let followed: Vec<String> = followed.map(ToString::to_string).collect();
        if !followed.is_empty() {
            problem.message += &format!("; it is followed for {}", followed.join(", "));
        }
        Some(problem)
    }
}

impl fmt::Display for JudgedTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Service {}", self.service)?;
        match &self.port {
            Some(port) => write!(out, " port {port}"),
            None => Ok(()),
        }
    }
}

impl Policies {
    /// Judges all policies. Of several for a target the older one wins, then by name.
    pub(super) fn new(world: &World<'_>, certificates: &mut Certificates) -> Self {
        let mut policies: Vec<&BackendTlsPolicy> = world.objects.backend_tls.values().collect();
        policies.sort_by_cached_key(|policy| policy.meta.age());
        let mut all = Self::default();
        for policy in policies {
            all.add(world, certificates, policy);
        }
        all
    }

    fn add(
        &mut self,
        world: &World<'_>,
        certificates: &mut Certificates,
        policy: &BackendTlsPolicy,
    ) {
        let name = &policy.meta.name;
        let read = Read::new(world, certificates, policy);
        let mut targets: Vec<JudgedTarget> = Vec::new();
        for target in &policy.spec.target_refs {
            if !target.group.is_empty() || target.kind != "Service" {
                continue;
            }
            let service = NamespacedName::new(&name.namespace, &target.name);
            let mut judged = JudgedTarget {
                port: section(target),
                problem: missing(world, &service, target),
                service: service.clone(),
            };
            let is_known = |one: &JudgedTarget| one.service == service && one.port == judged.port;
            if targets.iter().any(is_known) {
                continue;
            }
            let claims = self.claims.entry(service.clone()).or_default();
            match claims.get(&judged.port) {
                Some(winner) => {
                    let message = format!(
                        "BackendTLSPolicy {} is for {judged} as well, and comes first",
                        winner.policy
                    );
                    let conflict = || Problem::new("Conflicted", message);
                    judged.problem.get_or_insert_with(conflict);
                }
                None => {
                    let tls = match &read.refusal {
                        Some(problem) => Err(problem.message.clone()),
                        None => Ok(read.tls.clone()),
                    };
                    let claim = Claim {
                        policy: name.clone(),
                        tls,
                    };
                    claims.insert(judged.port.clone(), claim);
                }
            }
            targets.push(judged);
        }
        let judged = JudgedPolicy {
            targets,
            refusal: read.refusal,
            unresolved: read.unresolved,
        };
        self.judged.insert(name.clone(), judged);
    }

    /// Whether other policies ask for the same.
    pub(super) fn same_claims(&self, other: &Self) -> bool {
        self.claims == other.claims
    }

    /// Whether a policy is for a Service.
    pub(super) fn has(&self, service: &NamespacedName) -> bool {
        self.claims.contains_key(service)
    }

    /// Returns the TLS of a port of a Service; `None` if no policy is for it. A policy for the port wins over
    /// one for the Service.
    ///
    /// # Errors
    ///
    /// If the policy cannot be followed: requests must not be sent without it.
    pub(super) fn of_port(
        &self,
        service: &NamespacedName,
        port: &str,
    ) -> Result<Option<&UpstreamTls>, Problem> {
        let Some(claims) = self.claims.get(service) else {
            return Ok(None);
        };
        let own = claims.get(&Some(port.to_owned()));
        let Some(claim) = own.or_else(|| claims.get(&None)) else {
            return Ok(None);
        };
        let failed = |reason: &String| {
            let message = format!("BackendTLSPolicy {}: {reason}", claim.policy);
            Problem::new("UnsupportedProtocol", message)
        };
        claim.tls.as_ref().map(Some).map_err(failed)
    }
}

/// The port that a target names; `None` for all ports of the Service.
fn section(target: &PolicyTarget) -> Option<String> {
    target.section_name.clone().filter(|name| !name.is_empty())
}

/// Why the Service of a target, or its port, is not there.
fn missing(world: &World<'_>, service: &NamespacedName, target: &PolicyTarget) -> Option<Problem> {
    let lacks = |what: String| Some(Problem::new("TargetNotFound", what));
    let Some(known) = world.services.get(service) else {
        return lacks(format!("there is no Service {service}"));
    };
    let section = section(target)?;
    let has_port = known.ports.iter().any(|port| port.name == section);
    match has_port {
        true => None,
        false => lacks(format!("Service {service} has no port {section}")),
    }
}

/// What is read of a policy.
struct Read {
    tls: UpstreamTls,
    /// Why no connection can be opened by it.
    refusal: Option<Problem>,
    unresolved: Option<Problem>,
}

impl Read {
    fn new(world: &World<'_>, certificates: &mut Certificates, policy: &BackendTlsPolicy) -> Self {
        let validation = &policy.spec.validation;
        let mut read = Self {
            tls: UpstreamTls {
                name: Some(validation.hostname.clone()),
                ..UpstreamTls::default()
            },
            refusal: None,
            unresolved: None,
        };
        match validation.well_known_ca_certificates.as_deref() {
            None => read.set_authorities(world, certificates, policy),
            Some("System") => read.tls.trust = Trust::System,
            Some(other) => {
                let message = format!("wellKnownCACertificates {other} is not supported");
                read.fail("Invalid", message);
            }
        }
        match names(validation) {
            Ok(names) => read.tls.names = names,
            Err(message) => read.fail("Invalid", message),
        }
        read
    }

    fn set_authorities(
        &mut self,
        world: &World<'_>,
        certificates: &mut Certificates,
        policy: &BackendTlsPolicy,
    ) {
        let mut authorities = Vec::new();
        let mut read = BTreeSet::new();
        let references = policy.spec.validation.ca_certificate_refs.iter();
        for reference in references.filter(|one| read.insert((&one.kind, &one.name))) {
            let found = if reference.group.is_empty() && reference.kind == "ConfigMap" {
                let name = NamespacedName::new(&policy.meta.name.namespace, &reference.name);
                let found = certificates.authorities(world, &name);
                found.map_err(|reason| Problem::new("InvalidCACertificateRef", reason))
            } else {
                let message = format!("{} {} is not a ConfigMap", reference.kind, reference.name);
                Err(Problem::new("InvalidKind", message))
            };
            match found {
                Ok(pem) => {
                    authorities.extend_from_slice(&pem);
                    authorities.push(b'\n');
                }
                Err(problem) => self.unresolved = self.unresolved.take().or(Some(problem)),
            }
        }
        if authorities.len() > MAX_AUTHORITIES {
            let message = format!("it names more than {MAX_AUTHORITIES} bytes of CA certificates");
            self.fail("NoValidCACertificate", message);
            authorities.clear();
        }
        if authorities.is_empty() {
            let message = self.unresolved.as_ref().map(|one| one.message.clone());
            let none = || "it names no CA certificate".into();
            self.fail("NoValidCACertificate", message.unwrap_or_else(none));
        }
        self.tls.trust = Trust::Authorities(authorities.into());
    }

    /// Refuses the policy; the first reason counts. Its Services get no requests.
    fn fail(&mut self, reason: &'static str, message: String) {
        self.refusal
            .get_or_insert_with(|| Problem::new(reason, message));
    }
}

fn names(validation: &BackendValidation) -> Result<Vec<SubjectName>, String> {
    let names = validation.subject_alt_names.iter().map(|name| {
        let (value, kind): (_, fn(String) -> SubjectName) = match &name.type_ {
            SubjectAltNameType::Hostname => (&name.hostname, SubjectName::Dns),
            SubjectAltNameType::Uri => (&name.uri, SubjectName::Uri),
            SubjectAltNameType::Other(type_) => {
                return Err(format!("subjectAltNames: type {type_} is not supported"));
            }
        };
        let value = value.clone().filter(|value| !value.is_empty());
        let missing = || format!("subjectAltNames: a {} has no value", name.type_);
        value.map(kind).ok_or_else(missing)
    });
    names.collect()
}
