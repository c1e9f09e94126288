//! Which replica writes.

use headgate_control::lead;
use headgate_model::NamespacedName;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::cluster::{Cluster, PATIENCE};

struct Replica {
    leads: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(cluster: &Cluster, identity: &'static str) -> Self {
        let (leads, leading) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let client = cluster.client();
        let task = tokio::spawn(async move {
            let lease = NamespacedName::new("kube-system", "headgate-controller");
            let stopped = async { drop(stopped.await) };
            lead(client, &lease, identity, leads, stopped).await;
        });
        Self {
            leads: leading,
            stop,
            task,
        }
    }

    async fn wait_until_leading(&mut self) {
        let leads = self.leads.wait_for(|leads| *leads);
        timeout(PATIENCE, leads).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g09_one_replica_leads_and_gives_the_lease_back() {
    let cluster = Cluster::bare().await;
    let mut first = Replica::start(&cluster, "first");
    first.wait_until_leading().await;
    let mut second = Replica::start(&cluster, "second");
    // Long enough for two attempts.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!*second.leads.borrow() && *first.leads.borrow());
    first.stop.send(()).unwrap();
    first.task.await.unwrap();
    assert!(!*first.leads.borrow());
    second.wait_until_leading().await;
    let lease: Lease = cluster
        .server
        .get("kube-system", "headgate-controller")
        .unwrap();
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("second"));
    assert_eq!(spec.lease_transitions, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn g09_a_lease_that_is_not_renewed_is_taken() {
    let cluster = Cluster::bare().await;
    // Its time is in the future of this clock: clocks of other machines do not count.
    let lease = json!({
        "metadata": {"name": "headgate-controller"},
        "spec": {
            "holderIdentity": "gone", "leaseDurationSeconds": 1,
            "renewTime": "2100-01-01T00:00:00.000000Z",
        },
    });
    let lease: Lease = serde_json::from_value(lease).unwrap();
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "kube-system");
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let mut replica = Replica::start(&cluster, "next");
    replica.wait_until_leading().await;
}
