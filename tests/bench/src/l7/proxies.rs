//! The proxies, their backend and their configurations.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use headgate_netns::{Certificate, Netns, Process, binary, get};
use tempfile::TempDir;

use super::{greedy, loads};
use crate::tools::{nginx, on_cpu};

/// The address of every server, inside the namespace.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const BACKEND: u16 = 9000;
/// The port of nginx for HTTP/2 without TLS.
pub(super) const NGINX_H2C: u16 = 8083;

/// Hosts of Ingresses, with paths each, for a load that asks them at random.
const HOSTS: u32 = 1_000;
const PATHS: u32 = 10;

/// The user that guarded setups admit, with the password `secret`, as `htpasswd -s` writes it: one hash of SHA-1
/// for each request, because a hash that is slow on purpose would be all that is measured.
const USERS: &str = "bench:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";
/// `Authorization` of this user.
pub(super) const AUTHORIZATION: &str = "Authorization: Basic YmVuY2g6c2VjcmV0";
/// The rate limit of guarded setups: so high that it counts requests and refuses none.
const PER_SECOND: u32 = 1_000_000;

/// A namespace with a backend, and what all proxies read.
pub(super) struct World {
    pub(super) netns: Netns,
    pub(super) folder: TempDir,
    pub(super) certificate: Certificate,
    pem: PathBuf,
    _backend: Process,
}

/// How a proxy is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Many hosts, neither guards nor access log.
    Usual,
    /// As many hosts; Basic authentication, a rate limit and an access log.
    Guarded,
    /// [`Self::Usual`] with this number of workers, on any CPU.
    Workers(u8),
}

impl Setup {
    fn name(self) -> String {
        match self {
            Self::Usual => "usual".into(),
            Self::Guarded => "guarded".into(),
            Self::Workers(count) => format!("workers-{count}"),
        }
    }
}

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) process: Process,
    pub(super) http: u16,
    pub(super) https: u16,
    /// The access log, if it writes one.
    pub(super) log: PathBuf,
}

impl World {
    /// Starts a backend in a namespace with this name.
    pub(super) fn new(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let netns = Netns::new(name)?;
        netns.batch(&format!("address add {ADDRESS}/32 dev lo"))?;
        greedy::prepare(folder.path())?;
        loads::prepare(folder.path())?;
        let _backend = nginx(
            &netns,
            None,
            folder.path(),
            "backend",
            1,
            &backend(folder.path()),
        )?;
        let certificate = Certificate::new(&["bench.example.com"])?;
        let pem = folder.path().join("tls.pem");
        fs::write(&pem, format!("{}{}", certificate.chain, certificate.key))?;
        Ok(Self {
            netns,
            folder,
            certificate,
            pem,
            _backend,
        })
    }

    /// Starts Headgate on CPU 0.
    pub(super) fn headgate(&self, setup: Setup) -> Result<Proxy> {
        let (http, https) = (8080, 8443);
        let folder = self
            .folder
            .path()
            .join(format!("headgate-{}", setup.name()));
        fs::create_dir_all(&folder)?;
        let annotations = match setup {
            Setup::Guarded => format!(
                "headgate.io/auth-type: basic, headgate.io/auth-secret: users, headgate.io/limit-rps: '{PER_SECOND}', "
            ),
            Setup::Usual | Setup::Workers(_) => String::new(),
        };
        let hosts = (0..HOSTS).map(ingress).collect::<String>();
        for (file, text) in [
            ("secret.yaml", self.certificate.secret("tls")),
            ("hosts.yaml", hosts),
            ("bench.yaml", manifests(&annotations)),
        ] {
            fs::write(folder.join(file), text)?;
        }
        let log = self.folder.path().join("headgate.log");
        let (threads, access_log) = match setup {
            Setup::Usual => (1, "off"),
            Setup::Guarded => (1, "combined"),
            Setup::Workers(count) => (count, "off"),
        };
        let mut command = match setup {
            Setup::Workers(_) => self.netns.command("sh", None),
            Setup::Usual | Setup::Guarded => on_cpu(&self.netns, None, 0, "sh"),
        };
        // The access log goes to a file, as that of nginx does.
        command
            .args(["-c", "exec \"$0\" \"$@\" > \"$LOG\""])
            .env("LOG", &log)
            .arg(binary("headgate")?)
            .args(["proxy", "--node-name", "bench"])
            .args(["--threads", &threads.to_string()])
            .args(["--access-log", access_log])
            .args(["--bind-addresses", &ADDRESS.to_string()])
            .args(["--http-port", &http.to_string()])
            .args(["--https-port", &https.to_string()])
            .arg("--source")
            .arg(folder);
        self.started("headgate", Process::spawn(command)?, (http, https), log)
    }

    /// Starts nginx on CPU 0.
    pub(super) fn nginx(&self, setup: Setup) -> Result<Proxy> {
        let (http, https) = (8081, 8444);
        let (folder, log) = (self.folder.path(), self.folder.path().join("nginx.log"));
        let guards = match setup {
            Setup::Guarded => {
                let users = folder.join("users");
                fs::write(&users, USERS)?;
                format!(
                    "access_log {} combined; auth_basic bench; auth_basic_user_file {};\n\
                     limit_req zone=clients burst=10000 nodelay;\n",
                    log.display(),
                    users.display()
                )
            }
            Setup::Usual | Setup::Workers(_) => String::new(),
        };
        let text = nginx_proxy(&self.pem, (http, https), &guards);
        let process = nginx(&self.netns, None, folder, &setup.name(), 0, &text)?;
        self.started("nginx", process, (http, https), log)
    }

    /// Starts haproxy on CPU 0.
    pub(super) fn haproxy(&self) -> Result<Proxy> {
        let (http, https) = (8082, 8445);
        let command = haproxy(&self.netns, self.folder.path(), &self.pem, http, https)?;
        let log = self.folder.path().join("haproxy.log");
        self.started("haproxy", Process::spawn(command)?, (http, https), log)
    }

    /// Waits until a proxy answers.
    fn started(
        &self,
        name: &'static str,
        process: Process,
        (http, https): (u16, u16),
        log: PathBuf,
    ) -> Result<Proxy> {
        for _ in 0..200 {
            let answer = self.netns.run(move || get((ADDRESS, http).into()));
            match answer {
                // Every other answer shows that the proxy listens.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                _ => {
                    return Ok(Proxy {
                        name,
                        process,
                        http,
                        https,
                        log,
                    });
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{name} does not answer:\n{}", process.log())
    }
}

fn backend(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "keepalive_requests 1000000000; default_type text/plain;\n\
         server {{ listen {ADDRESS}:{BACKEND} backlog=4096; location / {{ return 200 \"ok\"; }}\n\
         location /large {{ root {folder}; }} location /megabyte {{ root {folder}; }} }}"
    )
}

/// As ingress-nginx writes it, as far as it matters here.
fn nginx_proxy(pem: &Path, (http, https): (u16, u16), guards: &str) -> String {
    let pem = pem.display();
    let pass = "proxy_pass http://be;";
    let mut text = format!(
        "keepalive_requests 1000000000; http2_max_requests 1000000000; server_names_hash_max_size 4096;\n\
         limit_req_zone $binary_remote_addr zone=clients:1m rate={PER_SECOND}r/s;\n\
         upstream be {{ server {ADDRESS}:{BACKEND}; keepalive 256; keepalive_requests 1000000000; }}\n\
         proxy_http_version 1.1; proxy_buffering off; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Request-Id $request_id;\n\
         ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         server {{ listen {ADDRESS}:{http} backlog=4096; listen {ADDRESS}:{https} ssl http2 backlog=4096;\n\
         listen {ADDRESS}:{NGINX_H2C} http2; {guards} location / {{ {pass} }} }}\n"
    );
    for host in 0..HOSTS {
        let locations = (0..PATHS).map(|path| format!("location /p{path}/ {{ {pass} }} "));
        text += &format!(
            "server {{ listen {ADDRESS}:{http}; server_name h{host}.example.com;\n{}}}\n",
            locations.collect::<String>()
        );
    }
    text
}

fn haproxy(netns: &Netns, folder: &Path, pem: &Path, http: u16, https: u16) -> Result<Command> {
    let file = folder.join("haproxy.cfg");
    let routes = folder.join("routes.map");
    let lines = (0..HOSTS * PATHS)
        .map(|at| format!("h{}.example.com/p{}/ b\n", at / PATHS, at % PATHS))
        .collect::<String>();
    fs::write(&routes, lines)?;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  http-reuse always\n  option forwardfor\n\
         \x20 timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend f\n  bind {ADDRESS}:{http} backlog 4096\n\
         \x20 bind {ADDRESS}:{https} ssl crt {} alpn h2,http/1.1 backlog 4096\n\
         \x20 http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n\
         \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20 http-request set-header X-Forwarded-Port %[dst_port]\n\
         \x20 http-request set-header X-Real-IP %[src]\n\
         \x20 http-request set-header X-Request-Id %[uuid]\n\
         \x20 use_backend %[base,map_beg({},b)]\n\
         backend b\n  server s {ADDRESS}:{BACKEND}\n",
        pem.display(),
        routes.display()
    );
    fs::write(&file, text)?;
    let mut command = on_cpu(netns, None, 0, "haproxy");
    command.arg("-f").arg(file);
    Ok(command)
}

/// An Ingress with a host and its paths.
fn ingress(host: u32) -> String {
    let paths = (0..PATHS).map(|path| {
        format!(
            "{{path: /p{path}/, pathType: Prefix, backend: {{service: {{name: be, port: {{number: 80}}}}}}}}, "
        )
    });
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: h{host}}},\n\
         spec: {{ingressClassName: headgate, rules: [{{host: h{host}.example.com,\n\
         http: {{paths: [{}]}}}}]}}}}\n",
        paths.collect::<String>()
    )
}

/// An Ingress for every other host, its certificate, backend and users.
fn manifests(annotations: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: headgate}},\n\
         spec: {{controller: headgate.io/ingress}}}}\n---\n\
         {{apiVersion: networking.k8s.io/v1, kind: Ingress,\n\
         metadata: {{name: bench, annotations: {{{annotations}headgate.io/ssl-redirect: 'false'}}}},\n\
         spec: {{ingressClassName: headgate, tls: [{{secretName: tls}}],\n\
         rules: [{{http: {{paths: [{{path: /, pathType: Prefix,\n\
         backend: {{service: {{name: be, port: {{number: 80}}}}}}}}]}}}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: users}}, stringData: {{auth: '{USERS}'}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: be}}, spec: {{clusterIP: 10.96.0.1,\n\
         ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,\n\
         metadata: {{name: be, labels: {{kubernetes.io/service-name: be}}}},\n\
         ports: [{{port: {BACKEND}}}], endpoints: [{{addresses: [{ADDRESS}]}}]}}\n"
    )
}
