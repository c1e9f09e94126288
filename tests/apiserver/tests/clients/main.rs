//! The stand-in API server with its two real clients: kubectl, and the kube crate.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::process::{Command, Stdio};

use headgate_apiserver::{ApiServer, Options};
use kube::{Client, Config, config::Kubeconfig};
use tempfile::TempDir;

mod custom;
mod kubectl;
mod lifecycle;

async fn start() -> ApiServer {
    start_with(Options::default()).await
}

async fn start_with(options: Options) -> ApiServer {
    let token = Some("secret".into());
    ApiServer::start(Options { token, ..options })
        .await
        .unwrap()
}

async fn client(server: &ApiServer) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// kubectl for one server, with a folder of its own.
struct Kubectl(TempDir);

impl Kubectl {
    /// `None`, and a note in the output, if there is no kubectl.
    fn of(server: &ApiServer) -> Option<Self> {
        let mut help = Command::new("kubectl");
        if help.arg("help").stdout(Stdio::null()).status().is_err() {
            println!("SKIPPED: kubectl is not on the PATH");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), server.kubeconfig()).unwrap();
        Some(Self(folder))
    }

    /// What it prints, or the error that it prints.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new("kubectl")
            .env("HOME", self.0.path())
            .env("KUBECONFIG", self.0.path().join("kubeconfig"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// `kubectl apply` of a manifest.
    fn apply(&self, manifest: &str) -> Result<String, String> {
        let file = self.0.path().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.run(&["apply", "-f", file.to_str().unwrap()])
    }
}
