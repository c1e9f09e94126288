//! `headgate migrate`: which parts of the manifests of ingress-nginx are supported.

use std::{fs, process::Command};

use headgate_netns::binary;
use serde_json::Value;

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: NAME
  namespace: shop
  annotations: {ANNOTATIONS}
spec:
  ingressClassName: nginx
  rules:
  - host: shop.example.com
    http:
      paths:
      - path: PATH
        pathType: ImplementationSpecific
        backend: {service: {name: web, port: {number: 80}}}
";

fn ingress(name: &str, annotations: &[(&str, &str)], path: &str) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(key, value)| format!("nginx.ingress.kubernetes.io/{key}: '{value}'"))
        .collect();
    INGRESS
        .replace("NAME", name)
        .replace("ANNOTATIONS", &annotations.join(", "))
        .replace("PATH", path)
}

/// Runs `migrate` on a folder with these files, which must not change; returns exit code and output.
fn migrate(files: &[(&str, &str)], words: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = Command::new(binary("headgate").unwrap());
    let command = command
        .args(["migrate", "ingress-nginx"])
        .arg(folder.path())
        .args(words);
    let output = command.output().unwrap();
    for (name, text) in files {
        let after = fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(after, *text, "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), files.len());
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

/// The exit code, and the columns object, part, support and what of each row.
fn rows(files: &[(&str, &str)]) -> (i32, Vec<[String; 4]>) {
    let (code, text) = migrate(files, &["-o", "json"]);
    let output: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(output["version"], 1);
    let rows = output["items"].as_array().unwrap();
    let field = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows
        .iter()
        .map(|row| ["object", "part", "support", "what"].map(|name| field(row, name)));
    (code, rows.collect())
}

fn fate<'a>(rows: &'a [[String; 4]], part: &str) -> (&'a str, &'a str) {
    let mut rows = rows.iter();
    let row = rows.find(|row| row[1].trim_start_matches("nginx.ingress.kubernetes.io/") == part);
    let row = row.unwrap_or_else(|| panic!("there is no {part}"));
    (&row[2], &row[3])
}

#[test]
fn l59_supported_annotations_are_listed_with_their_differences() {
    let understood = ingress(
        "web",
        &[("proxy-body-size", "8m"), ("use-regex", "true")],
        "/a[0-9]+",
    );
    let plain = ingress("plain", &[], "/");
    let files = [("web.yaml", &*understood), ("plain.yaml", &plain)];
    let (code, rows) = rows(&files);
    assert_eq!((code, rows.len()), (0, 3), "{rows:?}");
    assert_eq!(fate(&rows, "proxy-body-size"), ("same", ""));
    let (is, how) = fate(&rows, "use-regex");
    assert_eq!(is, "different");
    assert!(how.contains("not those of other Ingresses"), "{how}");
    assert_eq!(fate(&rows, ""), ("same", "no annotations"));
    assert!(rows.iter().any(|row| row[0] == "Ingress shop/web"));

    let (_, table) = migrate(&files, &[]);
    let summary = "2 work as they are, 1 work differently, 0 are not supported";
    assert!(
        table.contains(summary) && !table.contains("/a[0-9]"),
        "{table}"
    );
    let (_, wide) = migrate(&files, &["-o", "wide"]);
    assert!(wide.contains("8m"), "{wide}");
    let (_, yaml) = migrate(&files, &["-o", "yaml"]);
    assert!(yaml.contains("support: different"), "{yaml}");
}

#[test]
fn l59_unsupported_annotations_are_listed_with_advice() {
    let web = ingress(
        "web",
        &[
            ("server-snippet", "return 204;"),
            ("satisfy", "any"),
            ("backend-protocol", "FCGI"),
            ("surely-not", "1"),
            ("custom-headers", "shop/headers"),
        ],
        "/",
    );
    let (code, rows) = rows(&[("web.yaml", &*web)]);
    assert_eq!(code, 1);
    for (part, advice) in [
        ("server-snippet", "no configuration snippets"),
        ("satisfy", "closes the Ingress"),
        ("backend-protocol", "FCGI"),
        ("surely-not", "check its name"),
        ("custom-headers", "headgate.io/response-headers"),
    ] {
        let (is, what) = fate(&rows, part);
        assert_eq!(is, "unsupported", "{part}");
        assert!(what.contains(advice), "{part}: {what}");
    }
    // Our annotation replaces that of ingress-nginx, which is then not read.
    let ours = web.replace(
        "nginx.ingress.kubernetes.io/backend-protocol: 'FCGI'",
        "nginx.ingress.kubernetes.io/backend-protocol: FCGI, headgate.io/backend-protocol: HTTP",
    );
    let (_, rows) = self::rows(&[("web.yaml", &*ours)]);
    assert_eq!(fate(&rows, "headgate.io/backend-protocol").0, "same");
    assert!(
        !rows
            .iter()
            .any(|row| row[1].starts_with("nginx") && row[1].ends_with("protocol"))
    );
}

#[test]
fn l59_paths_files_and_the_config_map_are_checked() {
    let regex = ingress("web", &[("use-regex", "true")], "/(?!admin)");
    let settings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: NAME, namespace: a}, data: \
                    {use-forwarded-headers: 'true', proxy-body-size: 8m, odd: '1'}}";
    let theirs = settings.replace("NAME", "ingress-nginx-controller");
    let list = format!("{{apiVersion: v1, kind: List, items: [{theirs}]}}");
    let files = [
        ("broken.yaml", "kind: ["),
        ("list.yaml", &*list),
        ("other.yaml", &settings.replace("NAME", "of-the-shop")),
        ("web.yaml", &regex),
    ];
    let (code, rows) = rows(&files);
    assert_eq!(code, 1);
    let broken = rows.iter().find(|row| row[0].ends_with("broken.yaml"));
    assert_eq!(broken.unwrap()[2], "unsupported");
    let path = fate(&rows, "spec.rules[0].http.paths[0].path");
    assert_eq!(path.0, "unsupported");
    for (part, advice) in [
        ("use-forwarded-headers", "--trusted-proxies"),
        ("proxy-body-size", "headgate.io/proxy-body-size"),
        ("odd", "unknown setting"),
    ] {
        let (is, what) = fate(&rows, part);
        assert!(
            is == "unsupported" && what.contains(advice),
            "{part}: {what}"
        );
    }
    let theirs = rows.iter().filter(|row| row[0].starts_with("ConfigMap"));
    let objects: Vec<&str> = theirs.map(|row| &*row[0]).collect();
    assert_eq!(objects, ["ConfigMap a/ingress-nginx-controller"; 3]);
}
