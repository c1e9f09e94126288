//! Which parts of the manifests of another Ingress controller are supported. Nothing is changed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    NamespacedName, ObjectName, Refusal, RefusalKind,
    edge::Secret,
    ingress::{
        Ingress, IngressOptions, NGINX, OWN, Objects, Routes, Support, is_settings, routes,
        setting, support, to_gateway,
    },
};
use serde::Serialize;

use super::output::{Format, print_list, table};

/// Ends of the names of the ConfigMap in charts and manifests of ingress-nginx.
const CONFIG_MAPS: [&str; 3] = [
    "ingress-nginx-controller",
    "nginx-configuration",
    "nginx-ingress-controller",
];

/// The class of an Ingress before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";

#[derive(clap::Args)]
pub(crate) struct MigrateArgs {
    /// The controller that the manifests are for
    from: From,
    /// Folder with the manifests; its sub-folders are read too
    folder: PathBuf,
    /// Print manifests of this API instead, for kubectl apply; what has no equal goes to standard error
    #[arg(long, value_name = "API")]
    to: Option<To>,
    /// The Gateway that is printed
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "default/ingress",
        requires = "to"
    )]
    #[arg(value_parser = parse_gateway)]
    gateway: NamespacedName,
    /// Its GatewayClass
    #[arg(long, default_value = "headgate", requires = "to")]
    gateway_class: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum From {
    IngressNginx,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum To {
    /// The Gateway API, with RoutePolicies
    Gateway,
}

fn parse_gateway(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".into()),
    }
}

/// Support for a part of an object, or for a whole Ingress.
#[derive(Serialize)]
struct MigrationRow {
    object: String,
    /// An annotation, a field, or a setting; empty for the whole object.
    part: String,
    support: SupportLevel,
    /// How it differs, or what to use instead.
    what: String,
    value: String,
    file: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum SupportLevel {
    Same,
    Different,
    Unsupported,
    /// Every request is rejected.
    Closes,
}

impl SupportLevel {
    /// What happens to an Ingress whose worst part has this level.
    fn verdict(self) -> &'static str {
        match self {
            Self::Same => "works as it is",
            Self::Different => "works differently",
            Self::Unsupported => "works without the parts that are not supported",
            Self::Closes => "is closed: every request gets 503",
        }
    }
}

/// Prints the rows; the exit code is 1 if something is not supported.
pub(crate) fn migrate(args: &MigrateArgs) -> Result<ExitCode> {
    let From::IngressNginx = args.from;
    if let Some(To::Gateway) = args.to {
        return print_gateway(args);
    }
    let rows = rows(&args.folder)?;
    let folder = args.folder.display();
    ensure!(!rows.is_empty(), "there is no Ingress in {folder}");
    let text = text(args.output, &rows)?;
    print_list(args.output, &rows, || text)?;
    let is_bad = |row: &MigrationRow| row.support >= SupportLevel::Unsupported;
    Ok(match rows.iter().any(is_bad) {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}

/// Prints the objects of the Gateway API; the exit code is 1 if an Ingress is left out.
fn print_gateway(args: &MigrateArgs) -> Result<ExitCode> {
    let folder = &args.folder;
    let unreadable = || folder.display().to_string();
    let mut objects = Objects::default();
    let mut is_complete = true;
    for file in manifests::files(folder).with_context(unreadable)? {
        for event in manifests::read(&file, Interest::Ingress, "") {
            match event {
                Event::Ingress(name, Some(ingress)) => {
                    add_secrets(&ingress, &mut objects.secrets);
                    objects.ingresses.insert(name, ingress);
                }
                Event::Upstream(name, Some(service)) => {
                    objects.services.insert(name, service);
                }
                Event::Refused(ObjectName::Ingress(_) | ObjectName::File(_), refusals) => {
                    is_complete &= refusals.is_empty();
                    refusals.iter().for_each(|one| eprintln!("headgate: {one}"));
                }
                _ => {}
            }
        }
    }
    ensure!(
        !objects.ingresses.is_empty(),
        "there is no Ingress in {}",
        folder.display()
    );
    let migration = to_gateway(&objects, &args.gateway, &args.gateway_class);
    for document in &migration.documents {
        print!("---\n{}", yaml_serde::to_string(document)?);
    }
    for note in &migration.notes {
        eprintln!("headgate: {note}");
    }
    for row in settings_rows(folder)? {
        eprintln!("headgate: {}: {}: {}", row.object, row.part, row.what);
    }
    Ok(match is_complete && !migration.lacks_ingress() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn rows(folder: &Path) -> Result<Vec<MigrationRow>> {
    let unreadable = || folder.display().to_string();
    let mut rows = Vec::new();
    let mut ingresses = Vec::new();
    // What Ingresses may refer to.
    let mut objects = Objects::default();
    for file in manifests::files(folder).with_context(unreadable)? {
        for event in manifests::read(&file, Interest::Ingress, "") {
            match event {
                Event::Ingress(_, Some(ingress)) => ingresses.push((file.clone(), ingress)),
                Event::Upstream(name, Some(service)) => {
                    objects.services.insert(name, service);
                }
                Event::Refused(ObjectName::Ingress(_) | ObjectName::File(_), refusals) => {
                    rows.extend(
                        refusals
                            .into_iter()
                            .map(|refusal| of_refusal(refusal, &file)),
                    );
                }
                _ => {}
            }
        }
    }
    let refusals = refusals_together(&ingresses, &objects);
    for (file, ingress) in ingresses {
        rows.extend(of_ingress(ingress, &objects, &refusals, &file));
    }
    rows.extend(settings_rows(folder)?);
    Ok(rows)
}

/// A row for each setting in the ConfigMaps of ingress-nginx.
fn settings_rows(folder: &Path) -> Result<Vec<MigrationRow>> {
    let maps = manifests::config_maps(folder).with_context(|| folder.display().to_string())?;
    let ours = maps.iter().filter(|(name, data)| {
        let mut ends = CONFIG_MAPS.iter();
        ends.any(|end| name.name.ends_with(end)) || is_settings(data.keys())
    });
    Ok(ours
        .flat_map(|(name, data)| of_settings(name, data))
        .collect())
}

/// One row for the Ingress, and one for each of its annotations and of its fields that are refused: of the
/// Ingress alone, and `together` with others.
fn of_ingress(
    ingress: Ingress,
    objects: &Objects,
    together: &[Refusal],
    file: &Path,
) -> Vec<MigrationRow> {
    let name = ObjectName::Ingress(ingress.name.clone());
    let object = name.to_string();
    let each = support(&ingress.annotations)
        .into_iter()
        .map(|(key, found)| {
            let (support, what) = level(found, &key, &ingress);
            MigrationRow {
                object: object.clone(),
                value: ingress.annotations.get(&key).cloned().unwrap_or_default(),
                part: key,
                support,
                what,
                file: file.display().to_string(),
            }
        });
    let mut rows: Vec<MigrationRow> = each.collect();
    let (mut refusals, closed) = judge(ingress, objects);
    let fields: Vec<String> = refusals.iter().map(|one| one.field.clone()).collect();
    let own = together.iter().filter(|refusal| refusal.object == name);
    // What other Ingresses do to this one is only in these.
    refusals.extend(own.filter(|one| !fields.contains(&one.field)).cloned());
    for refusal in refusals {
        let mut known = rows.iter_mut();
        match known.find(|row| refusal.field == format!("metadata.annotations[{}]", row.part)) {
            Some(row) if row.support >= SupportLevel::Unsupported => {}
            Some(row) => {
                row.support = SupportLevel::Unsupported;
                row.what = refusal.reason;
            }
            None => rows.push(of_refusal(refusal, file)),
        }
    }
    if let Some(reason) = &closed {
        let name = reason.split(": ").next().unwrap_or_default();
        let is_cause = |row: &&mut MigrationRow| {
            let short = row.part.strip_prefix(NGINX).or(row.part.strip_prefix(OWN));
            row.part == name || short == Some(name)
        };
        if let Some(row) = rows.iter_mut().find(is_cause) {
            row.support = SupportLevel::Closes;
        }
    }
    let worst = rows.iter().map(|row| row.support).max();
    let support = match closed {
        Some(_) => SupportLevel::Closes,
        None => worst.unwrap_or(SupportLevel::Same),
    };
    let whole = MigrationRow {
        object,
        part: String::new(),
        support,
        what: match closed {
            Some(reason) => format!("{}: {reason}", support.verdict()),
            None => support.verdict().into(),
        },
        value: String::new(),
        file: file.display().to_string(),
    };
    rows.insert(0, whole);
    rows
}

fn level(found: Support, key: &str, ingress: &Ingress) -> (SupportLevel, String) {
    match found {
        Support::Same => (SupportLevel::Same, String::new()),
        // A path that is equal to it is not rewritten, nor compared differently.
        Support::Different(_) if key.ends_with("/rewrite-target") && has_only(ingress, key) => {
            (SupportLevel::Same, String::new())
        }
        Support::Different(how) => (SupportLevel::Different, how.into()),
        Support::Unsupported(instead) => (SupportLevel::Unsupported, instead),
        Support::Closes(instead) => (SupportLevel::Closes, instead),
    }
}

/// Whether all paths of an Ingress are equal to an annotation.
fn has_only(ingress: &Ingress, key: &str) -> bool {
    let target = ingress.annotations.get(key).map(|value| value.trim());
    let mut paths = ingress.rules.iter().flat_map(|rule| &rule.paths);
    paths.all(|path| Some(&*path.path) == target)
}

/// What is refused of an Ingress that is alone, and why it is closed.
fn judge(ingress: Ingress, objects: &Objects) -> (Vec<Refusal>, Option<String>) {
    let mut routes = routes_of([ingress], objects);
    // A canary is for the routes of another Ingress.
    routes
        .refusals
        .retain(|refusal| refusal.kind != RefusalKind::MainIngress);
    let mut all = routes.listener.hosts.values().flat_map(|host| &host.routes);
    let closed = all.find_map(|route| route.policy.closed.clone());
    (routes.refusals, closed)
}

/// What is refused of Ingresses that are served together: those of one class.
fn refusals_together(ingresses: &[(PathBuf, Ingress)], objects: &Objects) -> Vec<Refusal> {
    let mut classes: BTreeMap<_, Vec<Ingress>> = BTreeMap::new();
    for (_, ingress) in ingresses {
        let class = ingress.class.as_ref();
        let class = class.or_else(|| ingress.annotations.get(CLASS)).cloned();
        classes.entry(class).or_default().push(ingress.clone());
    }
    let routes = classes.into_values().map(|all| routes_of(all, objects));
    routes.flat_map(|routes| routes.refusals).collect()
}

/// The routes of Ingresses. Services and Secrets that are not among the manifests may exist in the cluster.
fn routes_of(ingresses: impl IntoIterator<Item = Ingress>, objects: &Objects) -> Routes {
    let mut all = Objects {
        services: objects.services.clone(),
        ..Objects::default()
    };
    for mut ingress in ingresses {
        // Its class does not matter for what is supported.
        ingress.class = None;
        ingress.annotations.remove(CLASS);
        add_secrets(&ingress, &mut all.secrets);
        all.ingresses.insert(ingress.name.clone(), ingress);
    }
    let options = IngressOptions {
        without_class: true,
        ..IngressOptions::default()
    };
    let mut routes = routes(&all, &options);
    let is_known = |refusal: &Refusal| refusal.kind != RefusalKind::Service;
    routes.refusals.retain(is_known);
    routes
}

/// Adds a Secret for each name that an Ingress may mean as one: those that are not among the manifests may exist.
fn add_secrets(ingress: &Ingress, secrets: &mut BTreeMap<NamespacedName, Secret>) {
    let namespace = &ingress.name.namespace;
    for value in ingress.annotations.values() {
        let own = value.strip_prefix(&format!("{namespace}/"));
        let secret = NamespacedName::new(namespace, own.unwrap_or(value).trim());
        secrets.insert(secret, any_secret());
    }
    for secret in ingress.tls.iter().filter_map(|tls| tls.secret.as_ref()) {
        secrets.insert(NamespacedName::new(namespace, secret), any_secret());
    }
}

/// A Secret with every key that annotations read, instead of one that is not known.
fn any_secret() -> Secret {
    let long = "0123456789abcdef0123456789abcdef";
    let data = [
        ("auth", "user:hash"),
        ("ca.crt", "-"),
        ("tls.crt", "-"),
        ("tls.key", "-"),
        ("client-id", "-"),
        ("client-secret", "-"),
        ("cookie-key", long),
        ("bind-dn", "-"),
        ("bind-password", "-"),
        ("public.pem", "-"),
        ("public", "-"),
    ];
    let data = data.map(|(key, value)| (key.to_owned(), value.into()));
    Secret {
        type_: "Opaque".into(),
        data: data.into(),
    }
}

fn of_refusal(refusal: Refusal, file: &Path) -> MigrationRow {
    MigrationRow {
        object: refusal.object.to_string(),
        part: refusal.field,
        support: SupportLevel::Unsupported,
        what: refusal.reason,
        value: String::new(),
        file: file.display().to_string(),
    }
}

fn of_settings(name: &NamespacedName, data: &BTreeMap<String, String>) -> Vec<MigrationRow> {
    let rows = data.iter().map(|(key, value)| MigrationRow {
        object: format!("ConfigMap {name}"),
        part: key.clone(),
        support: SupportLevel::Unsupported,
        what: setting(key),
        value: value.clone(),
        file: String::new(),
    });
    rows.collect()
}

fn text(format: Format, rows: &[MigrationRow]) -> Result<String> {
    let mut header = vec!["object", "part", "support", "what"];
    if format == Format::Wide {
        header.extend(["value", "file"]);
    }
    let wholes = rows
        .iter()
        .filter(|row| row.part.is_empty() && row.object.starts_with("Ingress "));
    let levels: Vec<SupportLevel> = wholes.map(|row| row.support).collect();
    let count = |level| levels.iter().filter(|one| **one == level).count();
    Ok(format!(
        "{}\n\nIngresses: {} work as they are, {} work differently, {} have parts that are not supported, {} are closed",
        table(&header, rows)?,
        count(SupportLevel::Same),
        count(SupportLevel::Different),
        count(SupportLevel::Unsupported),
        count(SupportLevel::Closes),
    ))
}
