//! Writes to the API server.

use std::time::Duration;

use headgate_model::{NamespacedName, gateway::RouteKind};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{core::v1::Service, discovery::v1::EndpointSlice},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;
use tokio::time::timeout;

use super::plan::{Target, Write};
use crate::source::convert::{self, Custom};

/// Field manager of the writes.
const MANAGER: &str = "headgate-controller";
/// Timeout of a write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a write ended. What is there afterwards, the watches send.
#[derive(Debug)]
pub(super) enum Outcome {
    Written,
    /// The object has another version by now.
    Conflict,
    /// The object is gone.
    Gone,
    /// The Service is there already, without the label that the watch asks for.
    Found(Box<Service>),
    Failed(String),
}

/// Writes.
pub(super) async fn write(client: Client, target: Target, write: Write) -> (Target, Outcome) {
    let result = timeout(TIMEOUT, send(client, &target, write)).await;
    let outcome = match result {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {
            Outcome::Failed("an object of this name exists".into())
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Outcome::Conflict,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Outcome::Gone,
        Ok(Err(kube::Error::Api(status))) if !status.message.is_empty() => {
            Outcome::Failed(status.message.clone())
        }
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(_) => Outcome::Failed("no response".into()),
    };
    (target, outcome)
}

async fn send(client: Client, target: &Target, write: Write) -> kube::Result<Outcome> {
    match (target, write) {
        (Target::Service(name), Write::CreateService(service)) => {
            let api = Api::<Service>::namespaced(client, &name.namespace);
            match api.create(&post(), &service).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    let found = api.get(&name.name).await?;
                    return Ok(Outcome::Found(found.into()));
                }
                created => created.map(drop)?,
            }
        }
        (Target::Slice(name), Write::CreateSlice(slice)) => {
            let api = Api::<EndpointSlice>::namespaced(client, &name.namespace);
            api.create(&post(), &slice).await?;
        }
        (Target::Service(name), Write::Patch(change)) => {
            patch::<Service>(client, name, change).await?;
        }
        (Target::Slice(name), Write::Patch(change)) => {
            patch::<EndpointSlice>(client, name, change).await?;
        }
        (Target::Service(name), Write::Delete(uid)) => delete::<Service>(client, name, uid).await?,
        (Target::Slice(name), Write::Delete(uid)) => {
            delete::<EndpointSlice>(client, name, uid).await?;
        }
        (target, Write::Status(status)) => write_status(client, target, status).await?,
        (target, write) => unreachable!("no plan writes {target:?} by {write:?}"),
    }
    Ok(Outcome::Written)
}

async fn patch<K>(client: Client, name: &NamespacedName, change: Value) -> kube::Result<()>
where
    K: convert::Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client, &name.namespace);
    let change = Patch::Merge(change);
    api.patch(&name.name, &params(), &change).await.map(drop)
}

async fn delete<K>(client: Client, name: &NamespacedName, uid: String) -> kube::Result<()>
where
    K: convert::Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client, &name.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(&name.name, &params).await?;
    Ok(())
}

async fn write_status(client: Client, target: &Target, status: Value) -> kube::Result<()> {
    macro_rules! custom {
        ($kind:ident, $name:expr) => {
            patch_status::<Custom<convert::$kind>>(client, $name, status).await
        };
    }
    match target {
        Target::Class(name) => {
            let api = Api::<Custom<convert::GatewayClass>>::all(client);
            let patch = Patch::Merge(status);
            api.patch_status(name, &params(), &patch).await.map(drop)
        }
        Target::Gateway(name) => custom!(Gateway, name),
        Target::ListenerSet(name) => custom!(ListenerSet, name),
        Target::Route(RouteKind::Http, name) => custom!(HttpRoute, name),
        Target::Route(RouteKind::Grpc, name) => custom!(GrpcRoute, name),
        Target::Route(RouteKind::Tls, name) => custom!(TlsRoute, name),
        Target::Route(RouteKind::Tcp, name) => custom!(TcpRoute, name),
        Target::Route(RouteKind::Udp, name) => custom!(UdpRoute, name),
        Target::Policy(name) => custom!(BackendTlsPolicy, name),
        Target::RoutePolicy(name) => custom!(RoutePolicy, name),
        Target::Addresses(name) | Target::Service(name) => {
            patch_status::<Service>(client, name, status).await
        }
        Target::Slice(name) => unreachable!("EndpointSlice {name} has no status"),
    }
}

async fn patch_status<K>(client: Client, name: &NamespacedName, status: Value) -> kube::Result<()>
where
    K: convert::Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client, &name.namespace);
    let patch = Patch::Merge(status);
    api.patch_status(&name.name, &params(), &patch)
        .await
        .map(drop)
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    }
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    }
}
