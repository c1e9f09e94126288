//! The L7 proxy compared with nginx and haproxy: each alone on one CPU, load and backend on another, in
//! alternating rounds. Prints medians over the rounds, and ratios; absolute figures belong to one machine.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use headgate_netns::{Certificate, Netns, Process, binary, get};

use crate::{
    Options, Report, Table, greedy,
    tools::{nginx, on_cpu, rate},
};

const NAME: &str = "hgbench";
/// The address of every server, inside the namespace.
const ADDRESS: &str = "10.99.0.1";
const BACKEND: u16 = 9000;
/// The proxies, with their ports for HTTP and HTTPS; the first is ours.
const PROXIES: [(&str, u16, u16); 3] = [
    ("headgate", 8080, 8443),
    ("nginx", 8081, 8444),
    ("haproxy", 8082, 8445),
];
/// The port of nginx for HTTP/2 without TLS.
const NGINX_H2C: u16 = 8083;
/// One tick of `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// Hosts of Ingresses, with paths each, for a load that asks them at random.
const HOSTS: u32 = 1_000;
const PATHS: u32 = 10;
/// Scripts of wrk, by file name.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "random.lua",
        "request = function()\n\
         local path = string.format('/p%d/x', math.random(0, 9))\n\
         local host = string.format('h%d.example.com', math.random(0, 999))\n\
         return wrk.format('GET', path, { Host = host })\n\
         end\n",
    ),
    (
        "upload.lua",
        "wrk.method = 'POST'\nwrk.body = string.rep('x', 1000000)\n",
    ),
];

/// A kind of load.
struct Load {
    name: &'static str,
    is_tls: bool,
    path: &'static str,
    /// The command without duration and URL, in a folder with [`SCRIPTS`].
    command: &'static [&'static str],
}

const LOADS: [Load; 9] = [
    Load {
        name: "HTTP/1.1, 32 kept connections",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c32"],
    },
    Load {
        name: "HTTP/1.1, 256 kept connections",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c256"],
    },
    Load {
        name: "HTTP/1.1, a connection per request",
        is_tls: false,
        path: "/",
        // wrk accepts the header only with the blank.
        command: &["wrk", "-t1", "-c64", "-H", "Connection: close"],
    },
    Load {
        name: "TLS, a handshake per request",
        is_tls: true,
        path: "/",
        command: &["wrk", "-t1", "-c64", "-H", "Connection: close"],
    },
    Load {
        name: "HTTP/2 over TLS, 16 x 10 streams",
        is_tls: true,
        path: "/",
        command: &["h2load", "-t1", "-c16", "-m10"],
    },
    Load {
        name: "HTTP/1.1, answers of 1 MB",
        is_tls: false,
        path: "/megabyte",
        command: &["wrk", "-t1", "-c16"],
    },
    Load {
        name: "TLS, answers of 1 MB",
        is_tls: true,
        path: "/megabyte",
        command: &["wrk", "-t1", "-c16"],
    },
    Load {
        name: "HTTP/1.1, uploads of 1 MB",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c16", "-s", "upload.lua"],
    },
    Load {
        name: "HTTP/1.1, 1,000 hosts with 10 paths each",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c32", "-s", "random.lua"],
    },
];

/// Measures all loads.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (rounds, seconds) = if options.quick { (3, 2) } else { (7, 5) };
    let folder = tempfile::tempdir()?;
    let netns = Netns::new(NAME)?;
    netns.batch(&format!("address add {ADDRESS}/32 dev lo"))?;
    greedy::prepare(folder.path())?;
    fs::write(folder.path().join("megabyte"), vec![b'x'; 1_000_000])?;
    for (name, text) in SCRIPTS {
        fs::write(folder.path().join(name), text)?;
    }
    let backend = backend(folder.path());
    let _backend = nginx(&netns, None, folder.path(), "backend", 1, &backend)?;
    let certificate = Certificate::new(&["bench.example.com"])?;
    let pem = folder.path().join("tls.pem");
    fs::write(&pem, format!("{}{}", certificate.chain, certificate.key))?;
    let proxies = [
        headgate(&netns, folder.path(), &certificate)?,
        nginx(&netns, None, folder.path(), "proxy", 0, &nginx_proxy(&pem))?,
        haproxy(&netns, folder.path(), &pem)?,
    ];
    for (name, port, _) in PROXIES {
        ready(&netns, port).with_context(|| format!("{name} does not answer"))?;
    }
    let how = format!("{rounds} rounds of {seconds} s");
    for load in &LOADS {
        if !options.wants(load.name) {
            continue;
        }
        let mut results: [Vec<Sample>; 3] = Default::default();
        for _ in 0..rounds {
            for ((proxy, process), samples) in PROXIES.iter().zip(&proxies).zip(&mut results) {
                let (scheme, port) = match load.is_tls {
                    true => ("https", proxy.2),
                    false => ("http", proxy.1),
                };
                let url = format!("{scheme}://{ADDRESS}:{port}{}", load.path);
                let mut command = on_cpu(&netns, None, 1, load.command[0]);
                command.args(&load.command[1..]).current_dir(folder.path());
                // h2load takes seconds, and wrk a unit.
                match load.command[0] {
                    "h2load" => command.arg(format!("-D{seconds}")),
                    _ => command.arg(format!("-d{seconds}s")),
                };
                let sample = measure(process.id(), command.arg(url));
                samples.push(sample.with_context(|| format!("{}, {}", load.name, proxy.0))?);
            }
        }
        let mut rates = Table::new(load.name, "requests/s", &how, "nginx");
        let costs = format!("{}: CPU time of the proxy", load.name);
        let mut costs = Table::new(&costs, "us each", &how, "nginx");
        for ((name, ..), samples) in PROXIES.iter().zip(&results) {
            rates.add(
                name,
                &samples.iter().map(|sample| sample.rate).collect::<Vec<_>>(),
            );
            costs.add(
                name,
                &samples
                    .iter()
                    .map(|sample| sample.cpu_us)
                    .collect::<Vec<_>>(),
            );
        }
        report.add(rates);
        report.add(costs);
    }
    if options.wants("memory") {
        let [headgate, nginx, _] = &proxies;
        let (_, port, _) = PROXIES[0];
        let measured = [
            ("headgate", port, headgate.id()),
            ("nginx", NGINX_H2C, nginx.id()),
        ];
        report.add(greedy::measure(&netns, &measured)?);
    }
    Ok(())
}

/// Requests per second, and CPU time of the proxy for each request.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: f64,
}

fn measure(process: u32, load: &mut Command) -> Result<Sample> {
    let (before, begin) = (cpu(process)?, Instant::now());
    let output = load.output().with_context(|| format!("{load:?}"))?;
    let (took, after) = (begin.elapsed(), cpu(process)?);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{load:?}: {error}{text}");
    ensure!(!text.contains("Non-2xx"), "{text}");
    let rate = rate(&text).with_context(|| format!("no rate in {text}"))?;
    let requests = rate * took.as_secs_f64();
    Ok(Sample {
        rate,
        cpu_us: (after - before).as_secs_f64() * 1e6 / requests,
    })
}

/// CPU time of a process.
fn cpu(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The process name in parentheses may contain blanks.
    let (_, rest) = text.rsplit_once(") ").context("stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> Result<u32> { Ok(fields.get(index).context("stat")?.parse()?) };
    Ok(TICK * (ticks(11)? + ticks(12)?))
}

/// Waits until a proxy answers.
fn ready(netns: &Netns, port: u16) -> Result<()> {
    for _ in 0..200 {
        let answer = netns.run(move || {
            let address = (std::net::Ipv4Addr::new(10, 99, 0, 1), port).into();
            get(address)
        });
        match answer {
            // Every other answer shows that the proxy listens.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            _ => return Ok(()),
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("port {port} is refused")
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
fn nginx_proxy(pem: &Path) -> String {
    let (_, http, https) = PROXIES[1];
    let pem = pem.display();
    let pass = "proxy_pass http://be;";
    let mut text = format!(
        "keepalive_requests 1000000000; http2_max_requests 1000000000; server_names_hash_max_size 4096;\n\
         upstream be {{ server {ADDRESS}:{BACKEND}; keepalive 256; keepalive_requests 1000000000; }}\n\
         proxy_http_version 1.1; proxy_buffering off; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Request-Id $request_id;\n\
         ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         server {{ listen {ADDRESS}:{http} backlog=4096; listen {ADDRESS}:{https} ssl http2 backlog=4096;\n\
         listen {ADDRESS}:{NGINX_H2C} http2; location / {{ {pass} }} }}\n"
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

fn haproxy(netns: &Netns, folder: &Path, pem: &Path) -> Result<Process> {
    let (_, http, https) = PROXIES[2];
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
    Process::spawn(command)
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

fn headgate(netns: &Netns, folder: &Path, certificate: &Certificate) -> Result<Process> {
    let (_, http, https) = PROXIES[0];
    let manifests = folder.join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("secret.yaml"), certificate.secret("tls"))?;
    fs::write(
        manifests.join("hosts.yaml"),
        (0..HOSTS).map(ingress).collect::<String>(),
    )?;
    fs::write(
        manifests.join("bench.yaml"),
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: headgate}},\n\
             spec: {{controller: headgate.io/ingress}}}}\n---\n\
             {{apiVersion: networking.k8s.io/v1, kind: Ingress,\n\
             metadata: {{name: bench, annotations: {{headgate.io/ssl-redirect: 'false'}}}},\n\
             spec: {{ingressClassName: headgate, tls: [{{secretName: tls}}],\n\
             rules: [{{http: {{paths: [{{path: /, pathType: Prefix,\n\
             backend: {{service: {{name: be, port: {{number: 80}}}}}}}}]}}}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: be}}, spec: {{clusterIP: 10.96.0.1,\n\
             ports: [{{port: 80}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,\n\
             metadata: {{name: be, labels: {{kubernetes.io/service-name: be}}}},\n\
             ports: [{{port: {BACKEND}}}], endpoints: [{{addresses: [{ADDRESS}]}}]}}\n"
        ),
    )?;
    let mut command = on_cpu(netns, None, 0, binary("headgate")?);
    command
        .args([
            "proxy",
            "--node-name",
            "bench",
            "--threads",
            "1",
            "--access-log",
            "off",
        ])
        .args(["--bind-addresses", ADDRESS])
        .args([
            "--http-port",
            &http.to_string(),
            "--https-port",
            &https.to_string(),
        ])
        .arg("--source")
        .arg(manifests);
    Process::start(command, "ready")
}
