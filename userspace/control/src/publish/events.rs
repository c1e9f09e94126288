//! Writes Events about refused fields and failed changes, at the object that has them.

use std::{collections::BTreeSet, time::Duration};

use headgate_model::{NamespacedName, ObjectName, Refusal};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ObjectReference, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
};
use kube::{
    Api, Client, Resource,
    api::PartialObjectMeta,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use crate::{
    loops::status::{IngressStatus, Status},
    source::convert::Object,
};

/// An Event to write: object, reason and note.
type Complaint = (ObjectName, &'static str, String);

/// The status of a loop, as a source of Events.
pub trait Complain {
    /// `reportingController` of the Events.
    const CONTROLLER: &str;

    /// The Events that hold now.
    fn complaints(&self) -> BTreeSet<Complaint>;
}

impl Complain for Status {
    const CONTROLLER: &str = "headgate";

    fn complaints(&self) -> BTreeSet<Complaint> {
        let failures = self.failures.iter().filter_map(|failure| {
            let object = ObjectName::Service(failure.service.clone()?);
            let text = format!("{}: {}", failure.object, failure.reason);
            Some((object, "FailedToProgram", text))
        });
        let refusals = self.refusals.iter().map(refused);
        refusals.chain(failures).collect()
    }
}

impl Complain for IngressStatus {
    const CONTROLLER: &str = "headgate-ingress";

    fn complaints(&self) -> BTreeSet<Complaint> {
        self.refusals.iter().map(refused).collect()
    }
}

fn refused(refusal: &Refusal) -> Complaint {
    let text = format!("{}: {}", refusal.field, refusal.reason);
    (refusal.object.clone(), "Refused", text)
}

/// Delay before a complaint is written: objects that are created together arrive one after another,
/// and are incomplete for a moment.
const SETTLE: Duration = Duration::from_secs(1);

/// Writes Events of this node's loop, each once while it holds. Returns when the sender of the
/// status is gone.
pub async fn report<S: Complain>(client: Client, node: &str, mut statuses: watch::Receiver<S>) {
    let reporter = Reporter {
        controller: S::CONTROLLER.into(),
        instance: Some(node.into()),
    };
    let mut written = BTreeSet::new();
    loop {
        sleep(SETTLE).await;
        let now = statuses.borrow_and_update().complaints();
        for complaint in now.difference(&written) {
            // A new recorder for each: a shared one merges Events that differ in their notes only.
            let recorder = Recorder::new(client.clone(), reporter.clone());
            if let Err(error) = publish(&client, &recorder, complaint).await {
                warn!(object = %complaint.0, %error, "cannot write an Event");
            }
        }
        written = now;
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

async fn publish(
    client: &Client,
    recorder: &Recorder,
    (object, reason, text): &Complaint,
) -> kube::Result<()> {
    let found = match object {
        ObjectName::Service(name) => in_namespace::<Service>(client, name).await?,
        ObjectName::EndpointSlice(name) => in_namespace::<EndpointSlice>(client, name).await?,
        ObjectName::Ingress(name) => in_namespace::<Ingress>(client, name).await?,
        ObjectName::Secret(name) => in_namespace::<Secret>(client, name).await?,
        ObjectName::IngressClass(name) => {
            reference(Api::<IngressClass>::all(client.clone()), name).await?
        }
        // What is wrong with objects of the Gateway API is in their statuses.
        ObjectName::Node(_) | ObjectName::File(_) | ObjectName::Gateway(..) => None,
    };
    // A deleted object needs no Event.
    let Some(found) = found else {
        return Ok(());
    };
    let event = Event {
        type_: EventType::Warning,
        reason: (*reason).into(),
        note: Some(text.clone()),
        action: "Program".into(),
        secondary: None,
    };
    recorder.publish(&event, &found).await
}

async fn in_namespace<K>(
    client: &Client,
    name: &NamespacedName,
) -> kube::Result<Option<ObjectReference>>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    let api: Api<K> = Api::namespaced(client.clone(), &name.namespace);
    reference(api, &name.name).await
}

/// A reference with the object's UID: `kubectl describe` finds Events by it.
async fn reference<K: Object>(api: Api<K>, name: &str) -> kube::Result<Option<ObjectReference>> {
    let found: Option<PartialObjectMeta<K>> = api.get_metadata_opt(name).await?;
    Ok(found.map(|found| found.object_ref(&())))
}
