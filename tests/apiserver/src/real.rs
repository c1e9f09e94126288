//! The real API server in place of the stand-in: `kube-apiserver` and `etcd` from the folder that
//! `KUBEBUILDER_ASSETS` names, as in the tests of Kubernetes controllers.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rcgen::KeyPair;

use crate::{ApiServer, Options, tls};

/// Environment variable with the folder of the real binaries.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Longest time until the real server answers.
const START: Duration = Duration::from_secs(60);

/// A server to test against: the real one if [`ASSETS`] names it, else the stand-in.
pub enum TestServer {
    /// The stand-in.
    StandIn(ApiServer),
    /// The real one.
    Real(RealServer),
}

impl TestServer {
    /// Starts a server in the network namespace of the calling thread.
    pub fn start(options: Options) -> Result<Self> {
        match std::env::var_os(ASSETS) {
            Some(assets) => RealServer::start(Path::new(&assets), &options).map(Self::Real),
            None => Ok(Self::StandIn(ApiServer::spawn(options)?)),
        }
    }

    /// A kubeconfig for it, with everything inline.
    pub fn kubeconfig(&self) -> String {
        match self {
            Self::StandIn(server) => server.kubeconfig(),
            Self::Real(server) => server.kubeconfig.clone(),
        }
    }
}

/// A running `kube-apiserver` with its `etcd`, killed on drop.
pub struct RealServer {
    children: Vec<Child>,
    folder: PathBuf,
    kubeconfig: String,
}

impl RealServer {
    fn start(assets: &Path, options: &Options) -> Result<Self> {
        let listen = match options.listen.port() {
            0 => SocketAddr::new(options.listen.ip(), free_port(options.listen.ip())?),
            _ => options.listen,
        };
        let folder = std::env::temp_dir().join(format!("hg-apiserver-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let token = options.token.clone().unwrap_or_else(|| "headgate".into());
        let mut server = Self {
            children: Vec::new(),
            kubeconfig: tls::kubeconfig(&format!("https://{listen}"), None, Some(&token)).replace(
                "    server:",
                "    insecure-skip-tls-verify: true\n    server:",
            ),
            folder,
        };
        let file = |name: &str, text: &str| -> Result<String> {
            let path = server.folder.join(name);
            fs::File::create(&path)?.write_all(text.as_bytes())?;
            Ok(path.display().to_string())
        };
        let tokens = file(
            "tokens.csv",
            &format!("{token},headgate,1,system:masters\n"),
        )?;
        let key = file(
            "service-accounts.key",
            &KeyPair::generate()?.serialize_pem(),
        )?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let etcd = format!("http://127.0.0.1:{}", free_port(loopback)?);
        let peer = format!("http://127.0.0.1:{}", free_port(loopback)?);
        let data = server.folder.join("etcd").display().to_string();
        server.spawn(
            &assets.join("etcd"),
            &[
                ("data-dir", &data),
                ("listen-client-urls", &etcd),
                ("advertise-client-urls", &etcd),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &format!("default={peer}")),
                ("unsafe-no-fsync", "true"),
            ],
        )?;
        let ranges: Vec<String> = options
            .service_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        let certificates = server.folder.join("certificates").display().to_string();
        server.spawn(
            &assets.join("kube-apiserver"),
            &[
                ("etcd-servers", &etcd),
                ("bind-address", &listen.ip().to_string()),
                ("secure-port", &listen.port().to_string()),
                ("cert-dir", &certificates),
                ("token-auth-file", &tokens),
                ("authorization-mode", "RBAC"),
                ("service-cluster-ip-range", &ranges.join(",")),
                ("service-account-issuer", "https://kubernetes.default.svc"),
                ("service-account-key-file", &key),
                ("service-account-signing-key-file", &key),
                ("disable-admission-plugins", "ServiceAccount"),
            ],
        )?;
        server.wait(listen)?;
        Ok(server)
    }

    fn spawn(&mut self, program: &Path, flags: &[(&str, &str)]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(
                flags
                    .iter()
                    .map(|(flag, value)| format!("--{flag}={value}")),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{ASSETS}: cannot start {}", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    fn wait(&mut self, listen: SocketAddr) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(listen).is_err() {
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("{status}: see the logs in {}", self.folder.display());
                }
            }
            if start.elapsed() > START {
                bail!(
                    "no answer on {listen}: see the logs in {}",
                    self.folder.display()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn free_port(ip: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // The process may have ended already.
            let _ended = child.kill();
            let _ended = child.wait();
        }
        // Logs are kept if the test failed.
        if !std::thread::panicking()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            eprintln!("left behind {}: {error}", self.folder.display());
        }
    }
}
