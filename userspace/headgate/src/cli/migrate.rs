//! Which parts of the manifests of another Ingress controller are supported. Nothing is changed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    ingress::{Ingress, IngressOptions, Objects, Support, routes, setting, support},
};
use serde::Serialize;

use super::output::{Format, print_list, table};

/// Names of the ConfigMap in charts and manifests of ingress-nginx.
const CONFIG_MAPS: [&str; 3] = [
    "ingress-nginx-controller",
    "nginx-configuration",
    "nginx-ingress-controller",
];

#[derive(clap::Args)]
pub(crate) struct MigrateArgs {
    /// The controller that the manifests are for
    from: From,
    /// Folder with the manifests
    folder: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum From {
    IngressNginx,
}

/// Support for a part of an object.
#[derive(Serialize)]
struct MigrationRow {
    object: String,
    /// An annotation, a field, or a setting.
    part: String,
    support: SupportLevel,
    /// How it differs, or what to use instead.
    what: String,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum SupportLevel {
    Same,
    Different,
    Unsupported,
}

/// Prints the rows; the exit code is 1 if something is not supported.
pub(crate) fn migrate(args: &MigrateArgs) -> Result<ExitCode> {
    let From::IngressNginx = args.from;
    let rows = rows(&args.folder)?;
    let text = text(args.output, &rows)?;
    print_list(args.output, &rows, || text)?;
    Ok(match count(&rows, SupportLevel::Unsupported) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn rows(folder: &Path) -> Result<Vec<MigrationRow>> {
    let maps = manifests::config_maps(folder);
    let maps = maps.with_context(|| folder.display().to_string())?;
    let mut rows = Vec::new();
    for event in manifests::read(folder, Interest::Ingress, "") {
        match event {
            Event::Ingress(_, Some(ingress)) => rows.extend(of_ingress(ingress)),
            Event::Refused(ObjectName::Ingress(_) | ObjectName::File(_), refusals) => {
                rows.extend(refusals.into_iter().map(of_refusal));
            }
            _ => {}
        }
    }
    let maps = maps.iter();
    let ours = maps.filter(|(name, _)| CONFIG_MAPS.contains(&name.name.as_str()));
    rows.extend(ours.flat_map(|(name, data)| of_settings(name, data)));
    Ok(rows)
}

fn of_ingress(mut ingress: Ingress) -> Vec<MigrationRow> {
    let object = ObjectName::Ingress(ingress.name.clone()).to_string();
    let each = support(&ingress.annotations)
        .into_iter()
        .map(|(key, found)| {
            let (support, what) = match found {
                Support::Same => (SupportLevel::Same, String::new()),
                Support::Different(how) => (SupportLevel::Different, how.into()),
                Support::Unsupported(instead) => (SupportLevel::Unsupported, instead),
            };
            let value = ingress.annotations.get(&key).cloned().unwrap_or_default();
            MigrationRow {
                object: object.clone(),
                part: key,
                support,
                what,
                value,
            }
        });
    let mut rows: Vec<MigrationRow> = each.collect();
    if rows.is_empty() {
        rows.push(MigrationRow {
            object,
            part: String::new(),
            support: SupportLevel::Same,
            what: "no annotations".into(),
            value: String::new(),
        });
    }
    // Its class does not matter for what is supported.
    ingress.class = None;
    ingress.annotations.remove("kubernetes.io/ingress.class");
    rows.extend(bad_paths(ingress).into_iter().map(of_refusal));
    rows
}

/// Paths that are refused, such as regular expressions with look-around.
fn bad_paths(ingress: Ingress) -> Vec<Refusal> {
    let objects = Objects {
        ingresses: BTreeMap::from([(ingress.name.clone(), ingress)]),
        ..Objects::default()
    };
    let options = IngressOptions {
        without_class: true,
        ..IngressOptions::default()
    };
    let mut refusals = routes(&objects, &options).refusals;
    refusals.retain(|refusal| refusal.field.ends_with(".path"));
    refusals
}

fn of_refusal(refusal: Refusal) -> MigrationRow {
    MigrationRow {
        object: refusal.object.to_string(),
        part: refusal.field,
        support: SupportLevel::Unsupported,
        what: refusal.reason,
        value: String::new(),
    }
}

fn of_settings(name: &NamespacedName, data: &BTreeMap<String, String>) -> Vec<MigrationRow> {
    let rows = data.iter().map(|(key, value)| MigrationRow {
        object: format!("ConfigMap {name}"),
        part: key.clone(),
        support: SupportLevel::Unsupported,
        what: setting(key),
        value: value.clone(),
    });
    rows.collect()
}

fn count(rows: &[MigrationRow], support: SupportLevel) -> usize {
    rows.iter().filter(|row| row.support == support).count()
}

fn text(format: Format, rows: &[MigrationRow]) -> Result<String> {
    let mut header = vec!["object", "part", "support", "what"];
    if format == Format::Wide {
        header.push("value");
    }
    Ok(format!(
        "{}\n\n{} work as they are, {} work differently, {} are not supported",
        table(&header, rows)?,
        count(rows, SupportLevel::Same),
        count(rows, SupportLevel::Different),
        count(rows, SupportLevel::Unsupported),
    ))
}
