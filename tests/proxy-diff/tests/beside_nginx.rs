//! nginx and Headgate, side by side in one network namespace.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of the tests fail as the tests do"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::TcpStream,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use headgate_model::ingress::ANNOTATIONS;
use headgate_netns::{Certificate, Netns, Process, binary};
use headgate_proxy_diff::{
    BACKEND, CLIENT, Case, Differences, HASHED, HEADGATE, MANY, NGINX, NGINX_HTTP2, NOT_COMPARED,
    Request, Seen, Transport, ask, cases, configuration, exchange, hash_requests, hold, manifests,
    requests, serve, serve_named,
};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

#[test]
fn every_annotation_is_compared_or_has_a_reason() {
    let cases = cases().unwrap();
    let compared: BTreeSet<&str> = cases
        .iter()
        .flat_map(|case| case.annotations.keys().map(String::as_str))
        .collect();
    let left_out = NOT_COMPARED.iter().flat_map(|(names, _)| names.iter());
    for name in left_out.clone() {
        assert!(!compared.contains(name), "{name} has a case and a reason");
    }
    let left_out: BTreeSet<&str> = left_out.copied().collect();
    for annotation in ANNOTATIONS.iter().filter(|annotation| annotation.is_nginx) {
        let name = annotation.name;
        assert!(
            compared.contains(name) || left_out.contains(name),
            "{name}: add a case to tests/proxy-diff/cases.yaml"
        );
    }
}

/// nginx and Headgate with the same Ingresses, and the network namespace of their client.
struct SideBySide {
    backends: Netns,
    tls: Arc<ClientConfig>,
    _nginx: Process,
    _headgate: Process,
    _proxies: Netns,
    _folder: TempDir,
}

/// `None` if this machine has no namespaces.
fn side_by_side(name: &str, cases: &[Case]) -> Option<SideBySide> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: beside nginx: network namespaces need root");
        return None;
    }
    let prefix = format!("hg{}{name}", std::process::id() % 10_000);
    let proxies = Netns::new(&format!("{prefix}p")).unwrap();
    let backends = Netns::new(&format!("{prefix}b")).unwrap();
    let (here, there) = (proxies.name(), backends.name());
    proxies
        .batch(&format!(
            "link add back type veth peer name front netns {there}\n\
             address add {NGINX}/32 dev lo\naddress add {NGINX_HTTP2}/32 dev lo\n\
             address add {HEADGATE}/32 dev lo\n\
             address add 10.99.2.2/24 dev back\nlink set back up"
        ))
        .unwrap_or_else(|error| panic!("{here}: {error:#}"));
    let many: String = MANY
        .iter()
        .map(|address| format!("address add {address}/24 dev front\n"))
        .collect();
    backends
        .batch(&format!(
            "address add {BACKEND}/24 dev front\naddress add {CLIENT}/24 dev front\n{many}\
             link set front up\nroute add 10.99.1.0/24 via 10.99.2.2 src {CLIENT}"
        ))
        .unwrap();
    backends
        .run(|| {
            MANY.iter().try_for_each(|address| serve_named(address))?;
            serve(BACKEND)
        })
        .unwrap();
    let hosts: Vec<String> = cases.iter().map(Case::host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let certificate = Certificate::new(&hosts).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nginx = nginx(&proxies, cases, folder.path(), &certificate);
    let headgate = headgate(&proxies, cases, folder.path(), &certificate);
    backends.run(|| {
        for server in [NGINX, HEADGATE] {
            wait_for(server);
        }
    });
    Some(SideBySide {
        backends,
        tls: client_config(&certificate),
        _nginx: nginx,
        _headgate: headgate,
        _proxies: proxies,
        _folder: folder,
    })
}

/// Requests for which nginx computes the same text reach the same endpoint here.
#[test]
fn l151_endpoints_follow_what_nginx_hashes() {
    let Some(both) = side_by_side("h", &[]) else {
        return;
    };
    both.backends.run(|| {
        for (index, value) in HASHED.iter().enumerate() {
            let mut endpoints: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for request in hash_requests(index) {
                let (_, key) = ask(NGINX, &request).unwrap();
                if key == "-" {
                    // Requests that have none of the values are spread.
                    continue;
                }
                let (status, endpoint) = ask(HEADGATE, &request).unwrap();
                assert_eq!(status, 200, "{value} {}: {endpoint}", request.name);
                endpoints.entry(key).or_default().insert(endpoint);
            }
            for (key, endpoints) in &endpoints {
                assert_eq!(endpoints.len(), 1, "{value}: {key}: {endpoints:?}");
            }
            let used: BTreeSet<&String> = endpoints.values().flatten().collect();
            assert!(
                endpoints.len() > 2 && used.len() > 1,
                "{value}: {endpoints:?}"
            );
        }
    });
}

/// With `limit-connections: 2` a third request is refused while two are in progress.
#[test]
fn l46_connections_are_limited_as_in_nginx() {
    let mut cases = cases().unwrap();
    cases.retain(|case| case.name == "limit-connections");
    let Some(both) = side_by_side("c", &cases) else {
        return;
    };
    let request = requests(&cases[0]).unwrap().remove(0);
    assert_eq!(request.transport, Transport::Http);
    both.backends.run(move || {
        for server in [NGINX, HEADGATE] {
            let first = hold(server, &request.host).unwrap();
            let _second = hold(server, &request.host).unwrap();
            answers(server, &request, 503);
            drop(first);
            answers(server, &request, 200);
        }
    });
}

/// Asks until the status is this one.
fn answers(server: &str, request: &Request, expected: u16) {
    let end = Instant::now() + Duration::from_secs(60);
    while ask(server, request).unwrap().0 != expected {
        assert!(Instant::now() < end, "{server}: never {expected}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn l125_answers_are_those_of_nginx_but_for_the_differences_that_are_meant() {
    let cases = cases().unwrap();
    let Some(both) = side_by_side("d", &cases) else {
        return;
    };
    let tls = both.tls.clone();
    let hosts = cases.len();
    let lines = both.backends.run(move || compare(&cases, &tls));
    let known = Differences::read().unwrap();
    let mut faults = Vec::new();
    for (case, request, theirs, ours) in &lines {
        let found = known.unexpected(case, request, theirs, ours);
        if !found.is_empty() {
            faults.push(format!(
                "{case}, {:?}, {}:\n{}",
                request.transport,
                request.name,
                found.join("\n")
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {} answers differ:\n{}",
        faults.len(),
        lines.len(),
        faults.join("\n")
    );
    let unused = known.unused();
    assert!(
        unused.is_empty(),
        "no longer different:\n{}",
        unused.join("\n")
    );
    println!("{} requests, {hosts} cases", lines.len());
}

type Answers = Vec<(String, Request, Seen, Seen)>;

/// Sends each request to both.
fn compare(cases: &[Case], tls: &Arc<ClientConfig>) -> Answers {
    let mut answers = Vec::new();
    for case in cases {
        for request in requests(case).unwrap() {
            let nginx = match request.transport {
                Transport::Http | Transport::Https => NGINX,
                Transport::Http2 => NGINX_HTTP2,
            };
            let [theirs, ours] = [nginx, HEADGATE].map(|server| {
                exchange(server, tls, &request).unwrap_or_else(|error| Seen::failed(&error))
            });
            answers.push((case.name.clone(), request, theirs, ours));
        }
    }
    answers
}

fn nginx(netns: &Netns, cases: &[Case], folder: &Path, certificate: &Certificate) -> Process {
    let folder = folder.join("nginx");
    fs::create_dir(&folder).unwrap();
    let pem = folder.join("tls.pem");
    fs::write(&pem, format!("{}{}", certificate.chain, certificate.key)).unwrap();
    let file = configuration(cases, &folder, &pem).unwrap();
    let mut command = netns.command("nginx", None);
    command.arg("-c").arg(file);
    Process::spawn(command).unwrap()
}

fn headgate(netns: &Netns, cases: &[Case], folder: &Path, certificate: &Certificate) -> Process {
    let folder = folder.join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("cases.yaml"), manifests(cases)).unwrap();
    fs::write(folder.join("secret.yaml"), certificate.secret("tls")).unwrap();
    let mut command = netns.command(binary("headgate").unwrap(), None);
    command.args(["proxy", "--node-name", "n1", "--bind-addresses", HEADGATE]);
    command.arg("--source").arg(folder);
    Process::start(command, "ready").unwrap()
}

fn client_config(certificate: &Certificate) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.authority.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

fn wait_for(server: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = TcpStream::connect((server, 443)) {
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{server}");
        assert!(Instant::now() < end, "{server} does not listen");
        thread::sleep(Duration::from_millis(20));
    }
}
