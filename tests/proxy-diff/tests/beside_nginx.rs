//! nginx and Headgate, side by side in one network namespace.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of the tests fail as the tests do"
)]

use std::{
    collections::BTreeSet,
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
    BACKEND, CLIENT, Case, Differences, HEADGATE, NGINX, NOT_COMPARED, Seen, cases, configuration,
    exchange, manifests, requests, serve,
};
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

#[test]
fn l125_answers_are_those_of_nginx_but_for_the_differences_that_are_meant() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: beside nginx: network namespaces need root");
        return;
    }
    let prefix = format!("hg{}", std::process::id() % 10_000);
    let proxies = Netns::new(&format!("{prefix}diff")).unwrap();
    let backends = Netns::new(&format!("{prefix}diffb")).unwrap();
    let (here, there) = (proxies.name(), backends.name());
    proxies
        .batch(&format!(
            "link add back type veth peer name front netns {there}\n\
             address add {NGINX}/32 dev lo\naddress add {HEADGATE}/32 dev lo\n\
             address add 10.99.2.2/24 dev back\nlink set back up"
        ))
        .unwrap_or_else(|error| panic!("{here}: {error:#}"));
    backends
        .batch(&format!(
            "address add {BACKEND}/24 dev front\naddress add {CLIENT}/24 dev front\n\
             link set front up\nroute add 10.99.1.0/24 via 10.99.2.2 src {CLIENT}"
        ))
        .unwrap();
    backends.run(|| serve(BACKEND)).unwrap();

    let cases = cases().unwrap();
    let hosts: Vec<String> = cases.iter().map(Case::host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let certificate = Certificate::new(&hosts).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let _nginx = nginx(&proxies, &cases, folder.path(), &certificate);
    let _headgate = headgate(&proxies, &cases, folder.path(), &certificate);
    let tls = client_config(&certificate);

    let lines = backends.run(move || {
        for server in [NGINX, HEADGATE] {
            wait_for(server);
        }
        compare(&cases, &tls)
    });
    let known = Differences::read().unwrap();
    let mut faults = Vec::new();
    for (case, request, theirs, ours) in &lines {
        let found = known.unexpected(case, request, theirs, ours);
        if !found.is_empty() {
            let scheme = if request.is_tls { "https" } else { "http" };
            faults.push(format!(
                "{case}, {scheme}, {}:\n{}",
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
    println!("{} requests, {} cases", lines.len(), hosts.len());
}

type Answers = Vec<(String, headgate_proxy_diff::Request, Seen, Seen)>;

/// Sends each request to both.
fn compare(cases: &[Case], tls: &Arc<ClientConfig>) -> Answers {
    let mut answers = Vec::new();
    for case in cases {
        for request in requests(case).unwrap() {
            let [theirs, ours] = [NGINX, HEADGATE].map(|server| {
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
