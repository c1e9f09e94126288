//! The configuration that ingress-nginx writes for Ingresses, with its defaults, as far as nginx and
//! Debian's modules for it go (`internal/ingress/controller/template` of ingress-nginx 1.12).

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{BACKEND, BACKEND_PORT, Case, HASHED, NGINX, NGINX_HTTP2, Rule, hash};

/// Annotations that no case has, each with the reason.
pub const NOT_COMPARED: &[(&[&str], &str)] = &[
    (
        &[
            "canary",
            "canary-weight",
            "canary-weight-total",
            "canary-by-header",
            "canary-by-header-value",
            "canary-by-header-pattern",
            "canary-by-cookie",
            "load-balance",
            "upstream-hash-by",
            "affinity",
            "affinity-mode",
            "session-cookie-name",
            "session-cookie-path",
            "session-cookie-domain",
            "session-cookie-max-age",
            "session-cookie-samesite",
            "session-cookie-secure",
            "session-cookie-expires",
            "session-cookie-conditional-samesite-none",
        ],
        "ingress-nginx chooses endpoints in Lua of its own, which no package has; for `upstream-hash-by` \
         another test compares what is hashed",
    ),
    (
        &["service-upstream"],
        "the choice of an address, not of bytes",
    ),
    (
        &[
            "auth-tls-secret",
            "auth-tls-verify-client",
            "auth-tls-verify-depth",
            "auth-tls-pass-certificate-to-upstream",
            "auth-tls-match-cn",
            "auth-tls-error-page",
            "ssl-passthrough",
            "proxy-ssl-secret",
            "proxy-ssl-verify",
            "proxy-ssl-name",
            "backend-protocol",
            "secure-backends",
        ],
        "the tests of clients and backends over TLS have their own authorities",
    ),
    (
        &[
            "proxy-connect-timeout",
            "proxy-read-timeout",
            "proxy-send-timeout",
            "proxy-next-upstream",
            "proxy-next-upstream-tries",
        ],
        "depends on time, or on several endpoints",
    ),
    (
        &[
            "enable-access-log",
            "enable-opentelemetry",
            "opentelemetry-trust-incoming-span",
        ],
        "neither client nor backend sees it, or ingress-nginx does it in a module of its own",
    ),
    (
        &[
            "proxy-buffering",
            "proxy-request-buffering",
            "proxy-buffer-size",
            "proxy-buffers-number",
            "proxy-max-temp-file-size",
            "client-body-buffer-size",
            "proxy-busy-buffers-size",
        ],
        "has no effect here, and neither client nor backend sees it there",
    ),
    (
        &[
            "auth-cache-key",
            "auth-cache-duration",
            "auth-keepalive",
            "auth-keepalive-requests",
            "auth-keepalive-timeout",
        ],
        "how often, and over which connections, the service is asked",
    ),
    (
        &["enable-global-auth"],
        "there is no setting for all Ingresses that it could except one from",
    ),
    (
        &["auth-secret-type"],
        "ingress-nginx writes both kinds into the same file",
    ),
];

/// Annotations that this file translates.
const TRANSLATED: &[&str] = &[
    "allowlist-source-range",
    "app-root",
    "auth-always-set-cookie",
    "auth-method",
    "auth-realm",
    "auth-request-redirect",
    "auth-response-headers",
    "auth-secret",
    "auth-signin",
    "auth-signin-redirect-param",
    "auth-type",
    "auth-url",
    "cors-allow-credentials",
    "cors-allow-headers",
    "cors-allow-methods",
    "cors-allow-origin",
    "cors-expose-headers",
    "cors-max-age",
    "custom-http-errors",
    "default-backend",
    "denylist-source-range",
    "enable-cors",
    "force-ssl-redirect",
    "from-to-www-redirect",
    "limit-allowlist",
    "limit-burst-multiplier",
    "limit-connections",
    "limit-rpm",
    "limit-rps",
    "limit-whitelist",
    "permanent-redirect",
    "permanent-redirect-code",
    "proxy-body-size",
    "rewrite-target",
    "satisfy",
    "server-alias",
    "ssl-redirect",
    "temporal-redirect",
    "temporal-redirect-code",
    "upstream-vhost",
    "use-regex",
    "whitelist-source-range",
    "x-forwarded-prefix",
];

const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,\
                            Content-Type,Range,Authorization";

/// Writes the configuration, and the files that it names, into a folder.
///
/// # Errors
///
/// If an annotation of a case is not translated, or a file cannot be written.
pub fn configuration(cases: &[Case], folder: &Path, pem: &Path) -> Result<PathBuf> {
    let mut http = head(folder, pem);
    for case in cases {
        for name in case.annotations.keys() {
            ensure!(
                TRANSLATED.contains(&name.as_str()),
                "{}: annotation {name} is not translated",
                case.name
            );
        }
        server(&mut http, case, folder)?;
    }
    for (index, value) in HASHED.iter().enumerate() {
        let _ = writeln!(
            http,
            "server {{ listen {NGINX}:80; server_name {}; location / {{ return 200 {}; }} }}",
            hash::host(index),
            quoted(value)
        );
    }
    let file = folder.join("nginx.conf");
    let modules = [
        "ndk_http",
        "ngx_http_set_misc",
        "ngx_http_headers_more_filter",
        "ngx_http_lua",
    ];
    let modules: String = modules
        .iter()
        .map(|module| format!("load_module /usr/lib/nginx/modules/{module}_module.so;\n"))
        .collect();
    let pid = folder.join("nginx.pid");
    let text = format!(
        "{modules}daemon off; master_process off; error_log stderr crit; pid {};\n\
         events {{ worker_connections 1024; }}\nhttp {{\n{http}}}\n",
        pid.display()
    );
    fs::write(&file, text)?;
    Ok(file)
}

/// What all servers share: the defaults of ingress-nginx's ConfigMap.
fn head(folder: &Path, pem: &Path) -> String {
    let mut text = String::from("access_log off;\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {}/{kind};", folder.display());
    }
    let pem = pem.display();
    let _ = write!(
        text,
        "server_tokens off; more_clear_headers Server;\n\
         underscores_in_headers off; ignore_invalid_headers on;\n\
         client_header_buffer_size 1k; large_client_header_buffers 4 8k;\n\
         limit_req_status 503; limit_conn_status 503;\n\
         server_name_in_redirect off; port_in_redirect off;\n\
         variables_hash_max_size 2048; server_names_hash_bucket_size 128;\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {pem}; ssl_certificate_key {pem};\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         map $http_x_request_id $req_id {{ default $http_x_request_id; '' $request_id; }}\n\
         upstream upstream_balancer {{ server {BACKEND}:{BACKEND_PORT}; keepalive 320; }}\n\
         init_by_lua_block {{\n\
         function redirect_to_https()\n\
         if ngx.var.scheme ~= 'http' then return end\n\
         local host = ngx.re.match(ngx.var.http_host or ngx.var.host, '^[^:]*')[0]\n\
         return ngx.redirect('https://' .. host .. uri_without_slash(), 308)\nend\n\
         function uri_without_slash()\n\
         return string.match(ngx.var.request_uri, '^(.-)/?$')\nend }}\n\
         server {{ listen {NGINX}:80 default_server; listen {NGINX}:443 default_server ssl http2;\n\
         listen {NGINX_HTTP2}:80 default_server http2;\n\
         server_name _; location / {{ return 404; }} }}\n"
    );
    text
}

/// `limit_req` and `limit_conn` zones of a case.
fn zones(text: &mut String, case: &Case) {
    let connections = case.annotation("limit-connections");
    if rates(case).next().is_none() && connections.is_none() {
        return;
    }
    let id = id(case);
    let _ = writeln!(text, "geo $remote_addr $allowlist_{id} {{ default 0;");
    let excepted = case
        .annotation("limit-allowlist")
        .or(case.annotation("limit-whitelist"));
    for network in list(excepted) {
        let _ = writeln!(text, "{network} 1;");
    }
    let _ = writeln!(
        text,
        "}}\nmap $allowlist_{id} $limit_{id} {{ 0 $binary_remote_addr; 1 ''; }}"
    );
    for (rate, unit) in rates(case) {
        let _ = writeln!(
            text,
            "limit_req_zone $limit_{id} zone={id}_{unit}:5m rate={rate}r/{unit};"
        );
    }
    if connections.is_some() {
        let _ = writeln!(text, "limit_conn_zone $limit_{id} zone={id}_conn:5m;");
    }
}

/// The limits of a case, in requests per second (`s`) and minute (`m`).
fn rates(case: &Case) -> impl Iterator<Item = (u32, &'static str)> {
    [("limit-rps", "s"), ("limit-rpm", "m")]
        .into_iter()
        .filter_map(|(name, unit)| Some((case.annotation(name)?.parse().ok()?, unit)))
}

fn id(case: &Case) -> String {
    case.name.replace('-', "_")
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.into_iter()
        .flat_map(|text| text.split(',').map(str::trim))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn server(text: &mut String, case: &Case, folder: &Path) -> Result<()> {
    zones(text, case);
    if case.is_on("from-to-www-redirect") {
        let _ = writeln!(
            text,
            "server {{ listen {NGINX}:80; listen {NGINX}:443 ssl http2; listen {NGINX_HTTP2}:80 http2;\n\
             server_name www.{host};\n\
             set_by_lua_block $to {{ return ngx.var.scheme .. '://{host}' .. uri_without_slash() }}\n\
             return 308 $to; }}",
            host = case.host()
        );
    }
    let names: String = list(case.annotation("server-alias"))
        .map(|name| format!(" {name}"))
        .collect();
    let _ = writeln!(
        text,
        "server {{ listen {NGINX}:80; listen {NGINX}:443 ssl http2; listen {NGINX_HTTP2}:80 http2;\n\
         server_name {}{names};",
        case.host()
    );
    for code in list(case.annotation("custom-http-errors")) {
        error_page(text, case, code);
    }
    for location in locations(case) {
        location.write(text, case, folder)?;
    }
    text.push_str("}\n");
    Ok(())
}

/// What paths of a rule are rewritten to; a path that is equal to it is not.
fn rewrite<'a>(case: &'a Case, rule: &Rule) -> Option<&'a str> {
    case.annotation("rewrite-target")
        .filter(|target| *target != rule.path)
}

/// A location of a server.
struct Location {
    rule: Rule,
    /// As written after `location`.
    matcher: String,
    is_default: bool,
}

/// The locations of a case's server: Prefix paths twice, with and without their slash, unless paths are
/// regular expressions; longest first; and the default backend behind them.
fn locations(case: &Case) -> Vec<Location> {
    let is_rewritten = |rule: &Rule| rewrite(case, rule).is_some();
    let is_regex = case.is_on("use-regex") || case.paths.iter().any(is_rewritten);
    let mut rules = Vec::new();
    for rule in &case.paths {
        let is_plain = rule.path_type == "Prefix" && rule.path != "/" && !is_regex;
        if !is_plain {
            rules.push((rule.clone(), false));
            continue;
        }
        let exact = Rule {
            path_type: "Exact".into(),
            ..rule.clone()
        };
        let slash = format!("{}/", rule.path.trim_end_matches('/'));
        let has_exact = case
            .paths
            .iter()
            .any(|other| other.path_type == "Exact" && other.path == rule.path);
        rules.push((
            Rule {
                path: slash,
                ..rule.clone()
            },
            false,
        ));
        if !has_exact {
            rules.push((exact, false));
        }
    }
    if !rules.iter().any(|(rule, _)| rule.path == "/") {
        let root = Rule {
            path: "/".into(),
            path_type: "Prefix".into(),
        };
        rules.push((root, true));
    }
    rules.sort_by(|(one, _), (other, _)| {
        let lengths = other.path.len().cmp(&one.path.len());
        lengths.then_with(|| other.path.cmp(&one.path))
    });
    rules
        .into_iter()
        .map(|(rule, is_default)| Location {
            matcher: match (is_regex, rule.path_type.as_str()) {
                (true, _) => format!("~* \"^{}\"", rule.path),
                (false, "Exact") => format!("= \"{}\"", rule.path),
                (false, _) => format!("\"{}\"", rule.path),
            },
            rule,
            is_default,
        })
        .collect()
}

impl Location {
    fn write(&self, text: &mut String, case: &Case, folder: &Path) -> Result<()> {
        let index = text.len();
        let auth = case
            .annotation("auth-url")
            .map(|url| (url, format!("/_auth_{index}")));
        if let Some(root) = case.annotation("app-root") {
            let _ = writeln!(
                text,
                "if ($uri = /) {{ return 302 $scheme://$http_host{root}; }}"
            );
        }
        if let Some((url, path)) = &auth {
            authority(text, case, url, path);
        }
        if let Some(signin) = case.annotation("auth-signin") {
            let _ = writeln!(
                text,
                "location @signin_{index} {{ internal; add_header Set-Cookie $auth_cookie;\n\
                 return 302 {}; }}",
                signin_url(case, signin)
            );
        }
        let _ = writeln!(text, "location {} {{", self.matcher);
        if self.is_default {
            text.push_str("return 404; }\n");
            return Ok(());
        }
        let is_challenge = self.rule.path.starts_with("/.well-known/acme-challenge");
        let is_redirected = case.is_on("force-ssl-redirect")
            || case.tls && case.annotation("ssl-redirect") != Some("false");
        if is_redirected && !is_challenge {
            text.push_str("rewrite_by_lua_block { redirect_to_https() }\n");
        }
        if case.tls {
            text.push_str(
                "header_filter_by_lua_block { if ngx.var.scheme == 'https' then \
                 ngx.header['Strict-Transport-Security'] = 'max-age=31536000; includeSubDomains' end }\n",
            );
        }
        text.push_str("set $pass_access_scheme $scheme; set $best_http_host $http_host;\n");
        guards(text, case);
        if case.is_on("enable-cors") {
            cors(text, case);
        }
        if let Some((_, path)) = &auth {
            let always = match case.is_on("auth-always-set-cookie") {
                true => " always",
                false => "",
            };
            let _ = writeln!(
                text,
                "auth_request {path}; auth_request_set $auth_cookie $upstream_http_set_cookie;\n\
                 add_header Set-Cookie $auth_cookie{always};"
            );
            for (number, name) in list(case.annotation("auth-response-headers")).enumerate() {
                let variable = name.to_lowercase().replace('-', "_");
                let _ = writeln!(
                    text,
                    "auth_request_set $authHeader{number} $upstream_http_{variable};\n\
                     proxy_set_header '{name}' $authHeader{number};"
                );
            }
        }
        if case.annotation("auth-signin").is_some() {
            let _ = writeln!(
                text,
                "set_escape_uri $escaped_request_uri $request_uri;\nerror_page 401 = @signin_{index};"
            );
        }
        if let Some(users) = &case.htpasswd {
            let file = folder.join(format!("{}.htpasswd", case.name));
            fs::write(&file, users)?;
            let realm = case
                .annotation("auth-realm")
                .unwrap_or("Authentication Required");
            let _ = writeln!(
                text,
                "auth_basic {}; auth_basic_user_file {}; proxy_set_header Authorization '';",
                quoted(realm),
                file.display()
            );
        }
        if let Some(which) = case.annotation("satisfy") {
            let _ = writeln!(text, "satisfy {which};");
        }
        if case.annotation("custom-http-errors").is_some() {
            text.push_str("proxy_intercept_errors on;\n");
        }
        for code in list(case.annotation("custom-http-errors")) {
            let _ = writeln!(text, "error_page {code} = @custom_{code};");
        }
        let size = case.annotation("proxy-body-size").unwrap_or("1m");
        let _ = writeln!(text, "client_max_body_size {size};");
        self.pass(text, case);
        Ok(())
    }

    /// The end of the location: headers for the backend, redirects and rewrites.
    fn pass(&self, text: &mut String, case: &Case) {
        match case.annotation("upstream-vhost") {
            Some(host) => {
                let _ = writeln!(text, "proxy_set_header Host {};", quoted(host));
            }
            None => text.push_str("proxy_set_header Host $best_http_host;\n"),
        }
        for (name, value) in [
            ("Upgrade", "$http_upgrade"),
            ("Connection", "$connection_upgrade"),
            ("X-Request-ID", "$req_id"),
            ("X-Real-IP", "$remote_addr"),
            ("X-Forwarded-For", "$remote_addr"),
            ("X-Forwarded-Host", "$best_http_host"),
            ("X-Forwarded-Port", "$server_port"),
            ("X-Forwarded-Proto", "$pass_access_scheme"),
            ("X-Forwarded-Scheme", "$pass_access_scheme"),
            ("X-Scheme", "$pass_access_scheme"),
            ("X-Original-Forwarded-For", "$http_x_forwarded_for"),
            ("X-Original-Forwarded-Host", "$http_x_forwarded_host"),
            ("Proxy", "''"),
        ] {
            let _ = writeln!(text, "proxy_set_header {name} {value};");
        }
        text.push_str(
            "proxy_buffering off; proxy_request_buffering on; proxy_http_version 1.1;\n\
             proxy_cookie_domain off; proxy_cookie_path off; proxy_next_upstream error timeout;\n\
             proxy_next_upstream_tries 3; proxy_redirect off;\n",
        );
        for (kind, code) in [("permanent", "301"), ("temporal", "302")] {
            if let Some(url) = case.annotation(&format!("{kind}-redirect")) {
                let code = case
                    .annotation(&format!("{kind}-redirect-code"))
                    .unwrap_or(code);
                let _ = writeln!(text, "return {code} {url};");
            }
        }
        if let Some(target) = rewrite(case, &self.rule) {
            let _ = writeln!(text, "rewrite \"(?i){}\" {target} break;", self.rule.path);
            if let Some(prefix) = case.annotation("x-forwarded-prefix") {
                let _ = writeln!(
                    text,
                    "proxy_set_header X-Forwarded-Prefix {};",
                    quoted(prefix)
                );
            }
        }
        text.push_str("proxy_pass http://upstream_balancer; }\n");
    }
}

/// Lists of addresses, and limits.
fn guards(text: &mut String, case: &Case) {
    for network in list(case.annotation("denylist-source-range")) {
        let _ = writeln!(text, "deny {network};");
    }
    let allowed = case
        .annotation("allowlist-source-range")
        .or(case.annotation("whitelist-source-range"));
    if allowed.is_some() {
        for network in list(allowed) {
            let _ = writeln!(text, "allow {network};");
        }
        text.push_str("deny all;\n");
    }
    let multiplier: u32 = case
        .annotation("limit-burst-multiplier")
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    for (rate, unit) in rates(case) {
        let _ = writeln!(
            text,
            "limit_req zone={}_{unit} burst={} nodelay;",
            id(case),
            rate * multiplier
        );
    }
    if let Some(most) = case.annotation("limit-connections") {
        let _ = writeln!(text, "limit_conn {}_conn {most};", id(case));
    }
}

/// The location that asks the service of `auth-url`.
fn authority(text: &mut String, case: &Case, url: &str, path: &str) {
    let _ = writeln!(text, "location = {path} {{ internal;");
    if let Some(method) = case.annotation("auth-method") {
        let _ = writeln!(
            text,
            "proxy_method {method}; proxy_set_header X-Original-URI $request_uri;\n\
             proxy_set_header X-Scheme $scheme;"
        );
    }
    let host = url.split('/').nth(2).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let redirect = case
        .annotation("auth-request-redirect")
        .unwrap_or("$request_uri");
    let _ = writeln!(
        text,
        "proxy_pass_request_body off; proxy_set_header Content-Length ''; client_max_body_size 1m;\n\
         proxy_set_header X-Forwarded-Proto ''; proxy_set_header X-Request-ID $req_id;\n\
         proxy_set_header Host {host}; proxy_set_header X-Original-URL $scheme://$http_host$request_uri;\n\
         proxy_set_header X-Original-Method $request_method;\n\
         proxy_set_header X-Sent-From nginx-ingress-controller;\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Auth-Request-Redirect {redirect}; proxy_http_version 1.1;\n\
         set $target {url}; proxy_pass $target; }}"
    );
}

/// The location that asks the default backend for the page of a status.
fn error_page(text: &mut String, case: &Case, code: &str) {
    let _ = writeln!(text, "location @custom_{code} {{ internal;");
    for (name, value) in [
        ("X-Code", code),
        ("X-Format", "$http_accept"),
        ("X-Original-URI", "$request_uri"),
        ("X-Namespace", "default"),
        ("X-Ingress-Name", &case.name),
        ("X-Service-Name", "backend"),
        ("X-Service-Port", "80"),
        ("X-Request-ID", "$req_id"),
        ("X-Forwarded-For", "$remote_addr"),
        ("Host", "$best_http_host"),
    ] {
        let _ = writeln!(text, "proxy_set_header {name} {value};");
    }
    text.push_str(
        "proxy_intercept_errors off; proxy_http_version 1.1; rewrite (.*) / break;\n\
         proxy_pass http://upstream_balancer; }\n",
    );
}

/// Where `auth-signin` redirects to.
fn signin_url(case: &Case, signin: &str) -> String {
    let parameter = case
        .annotation("auth-signin-redirect-param")
        .unwrap_or("rd");
    let back = format!("{parameter}=$pass_access_scheme://$http_host$escaped_request_uri");
    match signin.split_once('?') {
        None => format!("{signin}?{back}"),
        Some((_, query)) if query.contains(&format!("{parameter}=")) => signin.into(),
        Some(_) => format!("{signin}&{back}"),
    }
}

fn cors(text: &mut String, case: &Case) {
    let origins: Vec<&str> = list(case.annotation("cors-allow-origin")).collect();
    if origins.is_empty() || origins == ["*"] {
        text.push_str("set $http_origin *; set $cors 'true';\n");
    } else {
        let patterns: Vec<String> = origins
            .iter()
            .map(|origin| {
                let escaped = origin
                    .replace('.', "\\.")
                    .replacen('*', "[A-Za-z0-9\\-]+", 1);
                format!("({escaped})")
            })
            .collect();
        let _ = writeln!(
            text,
            "if ($http_origin ~* ({})$ ) {{ set $cors 'true'; }}",
            patterns.join("|")
        );
    }
    let or = |name: &str, default: &str| case.annotation(name).unwrap_or(default).to_owned();
    let mut headers =
        String::from("more_set_headers 'Access-Control-Allow-Origin: $http_origin';\n");
    if case.annotation("cors-allow-credentials") != Some("false") {
        headers += "more_set_headers 'Access-Control-Allow-Credentials: true';\n";
    }
    for (header, name, default) in [
        ("Allow-Methods", "cors-allow-methods", CORS_METHODS),
        ("Allow-Headers", "cors-allow-headers", CORS_HEADERS),
        ("Max-Age", "cors-max-age", "1728000"),
        ("Expose-Headers", "cors-expose-headers", ""),
    ] {
        let value = or(name, default);
        if !value.is_empty() {
            let _ = writeln!(
                headers,
                "more_set_headers 'Access-Control-{header}: {value}';"
            );
        }
    }
    let _ = writeln!(
        text,
        "if ($request_method = 'OPTIONS') {{ set $cors ${{cors}}options; }}\n\
         if ($cors = 'true') {{\n{headers}}}\n\
         if ($cors = 'trueoptions') {{\n{headers}\
         more_set_headers 'Content-Type: text/plain charset=UTF-8';\n\
         more_set_headers 'Content-Length: 0'; return 204; }}"
    );
}
