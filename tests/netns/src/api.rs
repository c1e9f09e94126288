//! Clusters with an API server.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Result;
use headgate_apiserver::{Authorize, Options, TestServer};

use crate::cluster::Cluster;

/// Address of the client outside of the cluster.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 100);

impl Cluster {
    /// Starts an API server in the client's namespace; agents that are started from now on use it.
    pub fn serve_api(&mut self) -> Result<()> {
        self.serve_api_to(None)
    }

    /// Starts an API server that authorizes each request with `authorize`.
    pub fn serve_api_to(&mut self, authorize: Option<Authorize>) -> Result<()> {
        let options = Options {
            listen: SocketAddr::from((CLIENT_V4, 6443)),
            token: Some("headgate".into()),
            service_cidrs: vec!["10.96.0.0/16".parse()?, "fd96::/112".parse()?],
            authorize,
            ..Options::default()
        };
        let server = self.client.run(move || TestServer::start(options))?;
        fs::write(self.kubeconfig(), server.kubeconfig())?;
        self.api = Some(server);
        Ok(())
    }
}
