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
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
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

/// The verdict about a whole Ingress.
fn whole<'a>(rows: &'a [[String; 4]], name: &str) -> (&'a str, &'a str) {
    let object = format!("Ingress {name}");
    let mut rows = rows.iter();
    let row = rows.find(|row| row[0] == object && row[1].is_empty());
    let row = row.unwrap_or_else(|| panic!("there is no {object}"));
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
    assert_eq!((code, rows.len()), (0, 4), "{rows:?}");
    assert_eq!(fate(&rows, "proxy-body-size"), ("same", ""));
    let (is, how) = fate(&rows, "use-regex");
    assert_eq!(is, "different");
    assert!(how.contains("not those of other Ingresses"), "{how}");
    assert_eq!(whole(&rows, "shop/web"), ("different", "works differently"));
    assert_eq!(whole(&rows, "shop/plain"), ("same", "works as it is"));

    let (_, table) = migrate(&files, &[]);
    let summary =
        "1 work as they are, 1 work differently, 0 have parts that are not supported, 0 are closed";
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
    for (part, support, advice) in [
        ("server-snippet", "unsupported", "no configuration snippets"),
        ("satisfy", "closes", "all guards must admit"),
        ("backend-protocol", "unsupported", "FCGI"),
        ("surely-not", "unsupported", "check its name"),
        (
            "custom-headers",
            "unsupported",
            "headgate.io/response-headers",
        ),
    ] {
        let (is, what) = fate(&rows, part);
        assert_eq!(is, support, "{part}");
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
    let other = settings.replace("NAME", "of-the-shop");
    let other = other.replace("use-forwarded-headers", "color");
    let list = format!("{{apiVersion: v1, kind: List, items: [{theirs}]}}");
    let files = [
        ("broken.yaml", "kind: ["),
        ("list.yaml", &*list),
        ("other.yaml", &other),
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

#[test]
fn l106_each_ingress_of_all_sub_folders_is_judged_as_a_whole() {
    let annotated = |name: &str, notes: &[(&str, &str)]| ingress(name, notes, "/");
    let other = |name: &str, key: &str| {
        annotated(name, &[]).replace("annotations: {}", &format!("annotations: {{{key}: x}}"))
    };
    let external = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
                    spec: {type: ExternalName, externalName: example.com}}";
    for (text, verdict, what) in [
        (
            annotated("same", &[("rewrite-target", "/")]),
            "same",
            "as it is",
        ),
        (
            annotated("affine", &[("affinity", "cookie")]),
            "different",
            "differently",
        ),
        (
            annotated(
                "foreign",
                &[("auth-type", "basic"), ("auth-secret", "other/users")],
            ),
            "closes",
            "auth-secret: only Secrets of namespace shop",
        ),
        (
            annotated("mtls", &[("auth-tls-secret", "other/ca")]),
            "closes",
            "only Secrets of namespace shop",
        ),
        (
            annotated("own", &[("auth-tls-secret", "shop/ca")]),
            "same",
            "",
        ),
        (
            annotated("size", &[("proxy-body-size", "100MB")]),
            "closes",
            "proxy-body-size",
        ),
        (
            annotated("snippet", &[("configuration-snippet", "deny all;")]),
            "closes",
            "deny all",
        ),
        (
            annotated("alone", &[("auth-type", "basic")]),
            "closes",
            "auth-secret: is not set",
        ),
        (
            other(
                "traefik",
                "traefik.ingress.kubernetes.io/router.middlewares",
            ),
            "unsupported",
            "",
        ),
        (other("kong", "konghq.com/strip-path"), "different", ""),
    ] {
        let (code, rows) = rows(&[("a/b/web.yaml", &*text)]);
        let name = &rows[0][0].trim_start_matches("Ingress ").to_owned();
        let (is, said) = whole(&rows, name);
        assert_eq!(is, verdict, "{rows:?}");
        assert!(said.contains(what), "{said}");
        assert_eq!(
            code == 0,
            ["same", "different"].contains(&verdict),
            "{name}"
        );
    }
    let (_, rows) = rows(&[
        ("web.yaml", &*annotated("web", &[])),
        ("s/web.yaml", external),
    ]);
    let (is, _) = whole(&rows, "shop/web");
    assert_eq!(is, "unsupported");
    let (_, what) = fate(&rows, "spec.rules[0].http.paths[0].backend.service");
    assert!(what.contains("ExternalName"), "{what}");
    // The same Ingress for several environments.
    let text = annotated("web", &[]);
    let (_, rows) = self::rows(&[("dev/web.yaml", &*text), ("prod/web.yaml", &*text)]);
    assert_eq!(rows.len(), 2);
}

#[test]
fn l106_old_apis_and_any_config_map_are_named() {
    let old = ingress("web", &[], "/").replace("networking.k8s.io/v1", "extensions/v1beta1");
    let (code, found) = rows(&[("old.yaml", &*old)]);
    assert_eq!(code, 1);
    assert!(found[0][3].contains("kubectl convert"), "{found:?}");
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: edge, namespace: a}, data: \
               {global-auth-url: 'http://x', block-cidrs: 10.0.0.0/8, proxy-buffer-size: 8k}}";
    let (_, found) = rows(&[("map.yaml", map)]);
    for (part, advice) in [
        ("global-auth-url", "A GUARD OF ALL INGRESSES"),
        ("block-cidrs", "A GUARD OF ALL INGRESSES"),
        ("proxy-buffer-size", "has no effect"),
    ] {
        assert!(fate(&found, part).1.contains(advice), "{part}");
    }
}

#[test]
fn l106_what_ingresses_do_to_each_other_is_named() {
    let main = ingress("main", &[], "/a");
    let path = "spec.rules[0].http.paths[0].path";
    let (code, found) = rows(&[("main.yaml", &*main)]);
    assert_eq!((code, found.len()), (0, 1), "{found:?}");
    let canary = ingress(
        "canary",
        &[("canary", "true"), ("canary-weight", "10")],
        "/a",
    );
    for (other, part, reason) in [
        (ingress("other", &[], "/a"), path, "belongs to shop/main"),
        (
            ingress("other", &[], "/b").replace("namespace: shop", "namespace: team"),
            "spec.rules[0].host",
            "belongs to shop/main",
        ),
        (
            canary.replace("path: /a", "path: /b"),
            path,
            "no other Ingress of the namespace has this host and path",
        ),
    ] {
        let (code, found) = rows(&[("main.yaml", &*main), ("b/other.yaml", &*other)]);
        assert_eq!(code, 1, "{other}");
        let (support, what) = fate(&found, part);
        assert_eq!(support, "unsupported", "{found:?}");
        assert!(what.contains(reason), "{what}");
        assert_eq!(whole(&found, "shop/main").0, "same");
    }
    // Another class is served elsewhere.
    let elsewhere =
        ingress("other", &[], "/a").replace("ingressClassName: nginx", "ingressClassName: x");
    for other in [canary, elsewhere] {
        let (code, found) = rows(&[("main.yaml", &*main), ("other.yaml", &*other)]);
        assert_eq!(code, 0, "{found:?}");
    }
}
