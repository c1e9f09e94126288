//! What becomes of the manifests of another Ingress controller. Nothing is changed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    ingress::{Fate, Ingress, IngressOptions, Objects, fates, routes, setting},
};
use serde::Serialize;

use super::output::{Form, print, table};

/// Names that charts and manifests of ingress-nginx give their ConfigMap.
const CONFIG_MAPS: [&str; 3] = [
    "ingress-nginx-controller",
    "nginx-configuration",
    "nginx-ingress-controller",
];

#[derive(clap::Args)]
pub(crate) struct Migrate {
    /// Whose manifests they are
    from: From,
    /// Folder of the manifests
    folder: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum From {
    IngressNginx,
}

/// What becomes of a part of an object.
#[derive(Serialize)]
struct Row {
    object: String,
    /// An annotation, a field, or a setting.
    part: String,
    fate: Verdict,
    /// How it differs, or what to do instead.
    what: String,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Same,
    Different,
    Unsupported,
}

/// Fails if something is not supported.
pub(crate) fn migrate(command: &Migrate) -> Result<ExitCode> {
    let From::IngressNginx = command.from;
    let rows = rows(&command.folder)?;
    let text = text(command.output, &rows)?;
    print(command.output, &rows, || text)?;
    Ok(match count(&rows, Verdict::Unsupported) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn rows(folder: &Path) -> Result<Vec<Row>> {
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

fn of_ingress(mut ingress: Ingress) -> Vec<Row> {
    let object = ObjectName::Ingress(ingress.name.clone()).to_string();
    let fates = fates(&ingress.annotations).into_iter().map(|(key, fate)| {
        let (fate, what) = match fate {
            Fate::Same => (Verdict::Same, String::new()),
            Fate::Different(how) => (Verdict::Different, how.into()),
            Fate::Unsupported(instead) => (Verdict::Unsupported, instead),
        };
        let value = ingress.annotations.get(&key).cloned().unwrap_or_default();
        Row {
            object: object.clone(),
            part: key,
            fate,
            what,
            value,
        }
    });
    let mut rows: Vec<Row> = fates.collect();
    if rows.is_empty() {
        rows.push(Row {
            object,
            part: String::new(),
            fate: Verdict::Same,
            what: "no annotations".into(),
            value: String::new(),
        });
    }
    // Whatever class it has now.
    ingress.class = None;
    ingress.annotations.remove("kubernetes.io/ingress.class");
    rows.extend(bad_paths(ingress).into_iter().map(of_refusal));
    rows
}

/// Paths that cannot be taken, such as regular expressions with look-around.
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

fn of_refusal(refusal: Refusal) -> Row {
    Row {
        object: refusal.object.to_string(),
        part: refusal.field,
        fate: Verdict::Unsupported,
        what: refusal.reason,
        value: String::new(),
    }
}

fn of_settings(name: &NamespacedName, data: &BTreeMap<String, String>) -> Vec<Row> {
    let rows = data.iter().map(|(key, value)| Row {
        object: format!("ConfigMap {name}"),
        part: key.clone(),
        fate: Verdict::Unsupported,
        what: setting(key),
        value: value.clone(),
    });
    rows.collect()
}

fn count(rows: &[Row], fate: Verdict) -> usize {
    rows.iter().filter(|row| row.fate == fate).count()
}

fn text(form: Form, rows: &[Row]) -> Result<String> {
    let mut header = vec!["object", "part", "fate", "what"];
    if form == Form::Wide {
        header.push("value");
    }
    Ok(format!(
        "{}\n\n{} work as they are, {} work differently, {} are not supported",
        table(&header, rows)?,
        count(rows, Verdict::Same),
        count(rows, Verdict::Different),
        count(rows, Verdict::Unsupported),
    ))
}
