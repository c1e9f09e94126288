//! Events: what is refused or fails is told at the object that asked for it.

use std::collections::BTreeSet;

use headgate_model::{ObjectName, ServiceName};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource,
    api::PartialObjectMeta,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::watch;
use tracing::warn;

use crate::reconcile::Status;

/// Who, why, and what to tell.
type Complaint = (ObjectName, &'static str, String);

/// Publishes Events of this node's agent until the status is gone. Each complaint is told once
/// while it lasts.
pub async fn report(client: Client, node: &str, mut statuses: watch::Receiver<Status>) {
    let reporter = Reporter {
        controller: "headgate".into(),
        instance: Some(node.into()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut told = BTreeSet::new();
    loop {
        let now = complaints(&statuses.borrow_and_update());
        for complaint in now.difference(&told) {
            if let Err(error) = publish(&client, &recorder, complaint).await {
                warn!("cannot write an Event about {}: {error}", complaint.0);
            }
        }
        told = now;
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

fn complaints(status: &Status) -> BTreeSet<Complaint> {
    let refusals = status.refusals.iter().map(|refusal| {
        let text = format!("{}: {}", refusal.field, refusal.reason);
        (refusal.object.clone(), "Refused", text)
    });
    let failures = status.failures.iter().filter_map(|failure| {
        let object = ObjectName::Service(failure.service.clone()?);
        let text = format!("{}: {}", failure.object, failure.reason);
        Some((object, "FailedToProgram", text))
    });
    refusals.chain(failures).collect()
}

async fn publish(
    client: &Client,
    recorder: &Recorder,
    (object, reason, text): &Complaint,
) -> kube::Result<()> {
    let reference = match object {
        ObjectName::Service(name) => metadata::<Service>(client, name).await?,
        ObjectName::EndpointSlice(name) => metadata::<EndpointSlice>(client, name).await?,
        ObjectName::Node(_) | ObjectName::File(_) => None,
    };
    // An object that is gone needs no Event.
    let Some(reference) = reference else {
        return Ok(());
    };
    let event = Event {
        type_: EventType::Warning,
        reason: (*reason).into(),
        note: Some(text.clone()),
        action: "Program".into(),
        secondary: None,
    };
    recorder.publish(&event, &reference).await
}

/// A reference with the object's uid, by which `kubectl describe` finds Events.
async fn metadata<K>(
    client: &Client,
    name: &ServiceName,
) -> kube::Result<Option<k8s_openapi::api::core::v1::ObjectReference>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug,
    K: serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), &name.namespace);
    let found: Option<PartialObjectMeta<K>> = api.get_metadata_opt(&name.name).await?;
    Ok(found.map(|found| found.object_ref(&K::DynamicType::default())))
}
