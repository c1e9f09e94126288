//! Leader election by a Lease (`coordination.k8s.io/v1`), with the durations of client-go.

use std::{future::Future, pin::pin, time::Duration};

use headgate_model::NamespacedName;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

/// How long a leader that does not renew the Lease keeps others from leading.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew the Lease for this long stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps `leads` true while the holder of the Lease is `identity`, which no other replica has. Ends after
/// `shutdown`, when it has given the Lease back.
pub async fn lead(
    client: Client,
    lease: &NamespacedName,
    identity: &str,
    leads: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &lease.namespace),
        name: &lease.name,
        identity,
        seen: None,
    };
    let mut shutdown = pin!(shutdown);
    let mut renewed = Instant::now();
    let mut is_failing = false;
    loop {
        let start = Instant::now();
        let deadline = match *leads.borrow() {
            true => renewed + DEADLINE,
            false => start + DEADLINE,
        };
        let attempt = tokio::select! {
            () = &mut shutdown => break,
            attempt = timeout_at(deadline, candidate.attempt()) => attempt,
        };
        let failure = match attempt {
            Ok(Ok(is_leading)) => {
                renewed = start;
                set(&leads, is_leading);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no response".into()),
        };
        if let Some(error) = &failure {
            if !is_failing {
                warn!(%lease, error, "cannot read or write the Lease");
            }
            if renewed.elapsed() >= DEADLINE {
                set(&leads, false);
            }
        }
        is_failing = failure.is_some();
        tokio::select! {
            () = &mut shutdown => break,
            () = sleep(RETRY) => {}
        }
    }
    if leads.send_replace(false)
        && let Err(error) = candidate.release().await
    {
        warn!(%lease, %error, "cannot give the Lease back: others wait until it is over");
    }
}

fn set(leads: &watch::Sender<bool>, is_leading: bool) {
    leads.send_if_modified(|leads| {
        let is_other = *leads != is_leading;
        if is_other {
            info!(is_leading, "leader election");
        }
        *leads = is_leading;
        is_other
    });
}

struct Candidate<'a> {
    api: Api<Lease>,
    name: &'a str,
    identity: &'a str,
    /// The Lease of another holder, and when it was first seen. Clocks of other machines do not count.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate<'_> {
    /// Takes or renews the Lease; returns whether it is ours.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let params = PostParams::default();
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.into()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.held(&LeaseSpec::default())),
            };
            return won(self.api.create(&params, &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let is_ours = spec.holder_identity.as_deref() == Some(self.identity);
        if !is_ours && !self.is_over(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.held(&spec));
        won(self.api.replace(self.name, &params, &lease).await)
    }

    /// Whether the Lease of another holder is over.
    fn is_over(&mut self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().is_none_or(str::is_empty) {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == spec => {
                let seconds = spec.lease_duration_seconds.unwrap_or_default();
                let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
                since.elapsed() >= duration
            }
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    /// The Lease after `before`, held by this replica.
    fn held(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let is_ours = before.holder_identity.as_deref() == Some(self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        let is_first = before.holder_identity.is_none();
        LeaseSpec {
            holder_identity: Some(self.identity.into()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: before
                .acquire_time
                .clone()
                .filter(|_| is_ours)
                .or(now.clone()),
            renew_time: now,
            lease_transitions: Some(transitions + i32::from(!is_ours && !is_first)),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back, so that another replica takes it at once.
    async fn release(&mut self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            return Ok(());
        };
        let Some(spec) = &mut lease.spec else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() == Some(self.identity) {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.api
                .replace(self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }
}

/// Whether a write succeeded; another replica may have been faster.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
