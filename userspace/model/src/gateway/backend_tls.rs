//! BackendTLSPolicies: TLS towards the endpoints of a Service.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Services that it is for, and why it is not followed for one of them.
    pub(super) services: BTreeMap<NamespacedName, Option<Problem>>,
    /// Why it is followed for none.
    refusal: Option<Problem>,
    /// The first reference that is not valid.
    pub(super) unresolved: Option<Problem>,
}

impl JudgedPolicy {
    /// Why it is not accepted at a Gateway with routes to some of its Services.
    pub(super) fn refusal_for(&self, services: &[&NamespacedName]) -> Option<Problem> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.clone());
        }
        let refusal = |service: &&&NamespacedName| self.services.get(**service)?.as_ref();
        let first = services.iter().find_map(|service| refusal(&service))?;
        let followed = services.iter().filter(|service| refusal(service).is_none());
        let followed: Vec<String> = followed.map(|service| service.to_string()).collect();
        let mut problem = first.clone();
        if !followed.is_empty() {
            problem.message += &format!("; it is followed for {}", followed.join(", "));
        }
        Some(problem)
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
        let mut services: BTreeMap<NamespacedName, Option<Problem>> = BTreeMap::new();
        for target in &policy.spec.target_refs {
            if !target.group.is_empty() || target.kind != "Service" {
                continue;
            }
            let service = NamespacedName::new(&name.namespace, &target.name);
            let section = section(target);
            let refusal = services.entry(service.clone()).or_default();
            let is_missing = |section: &String| {
                let known = world.services.get(&service);
                known.is_some_and(|known| !known.ports.iter().any(|port| port.name == *section))
            };
            if let Some(section) = section.as_ref().filter(|section| is_missing(section)) {
                let message = format!("Service {service} has no port {section}");
                refusal.get_or_insert(Problem::new("TargetNotFound", message));
            }
            let claims = self.claims.entry(service.clone()).or_default();
            if let Some(winner) = claims.get(&section) {
                let message = format!(
                    "BackendTLSPolicy {} is for Service {service} as well, and comes first",
                    winner.policy
                );
                refusal.get_or_insert(Problem::new("Conflicted", message));
                continue;
            }
            let tls = match &read.failure {
                Some(problem) => Err(problem.message.clone()),
                None => Ok(read.tls.clone()),
            };
            let claim = Claim {
                policy: name.clone(),
                tls,
            };
            claims.insert(section, claim);
        }
        let judged = JudgedPolicy {
            services,
            refusal: read.failure,
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

/// What is read of a policy.
struct Read {
    tls: UpstreamTls,
    /// Why no connection can be opened by it.
    failure: Option<Problem>,
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
            failure: None,
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
        self.failure.get_or_insert(Problem::new(reason, message));
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
