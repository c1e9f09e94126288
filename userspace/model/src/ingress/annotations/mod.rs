//! Annotations of Ingresses: a table of them, read into a [`Draft`].
#![expect(
    clippy::unit_arg,
    reason = "`Ok(place = value?)` keeps an annotation on one line"
)]

mod auth;
mod auth_draft;
mod draft;
mod foreign;
mod others;
mod requests;
mod settings;
mod snippets;
mod upstream;
mod values;

use std::{collections::BTreeMap, sync::LazyLock};

pub(super) use draft::Draft;
pub(crate) use draft::{Context, Settings};
pub use foreign::{DIFFERENT, FOREIGN, Foreign, Support, support};
pub use others::{Controller, other_controller};
pub use settings::{is_settings, setting};

use crate::{NamespacedName, Refusal};

/// Prefix of Headgate's annotations.
pub const OWN: &str = "headgate.io/";
/// Prefix of the annotations of ingress-nginx.
pub const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// An annotation that is supported.
#[derive(Debug)]
pub struct Annotation {
    /// Its name after `headgate.io/`.
    pub name: &'static str,
    /// Whether it is also supported after `nginx.ingress.kubernetes.io/`.
    pub is_nginx: bool,
    /// Whether it is a guard: if it is invalid, every request is rejected.
    pub is_guard: bool,
    /// Meaning of its value, as in `deploy/INGRESS.md`.
    pub meaning: &'static str,
    pub(super) read: fn(&str, &mut Draft) -> Result<(), String>,
}

impl Annotation {
    const fn own(
        name: &'static str,
        meaning: &'static str,
        read: fn(&str, &mut Draft) -> Result<(), String>,
    ) -> Self {
        Self {
            name,
            is_nginx: false,
            is_guard: false,
            meaning,
            read,
        }
    }

    const fn nginx(
        name: &'static str,
        meaning: &'static str,
        read: fn(&str, &mut Draft) -> Result<(), String>,
    ) -> Self {
        Self {
            is_nginx: true,
            ..Self::own(name, meaning, read)
        }
    }

    const fn guard(self) -> Self {
        Self {
            is_guard: true,
            ..self
        }
    }
}

/// Every annotation that is supported.
pub static ANNOTATIONS: LazyLock<Vec<&'static Annotation>> = LazyLock::new(|| {
    let tables = [
        auth::ANNOTATIONS,
        requests::ANNOTATIONS,
        upstream::ANNOTATIONS,
    ];
    tables.into_iter().flatten().collect()
});

/// Guards of ingress-nginx, by the start of their names. If one is not supported, every request is
/// rejected.
const FOREIGN_GUARDS: [&str; 2] = ["auth-", "satisfy"];

/// Whether every request is rejected because of an annotation that is not supported.
fn is_foreign_guard(found: &Found<'_>) -> bool {
    let mut guards = FOREIGN_GUARDS.iter();
    guards.any(|start| found.name.starts_with(start)) || denying(found).is_some()
}

/// What keeps requests out in a snippet.
fn denying<'a>(found: &Found<'a>) -> Option<&'a str> {
    let is_snippet = found.name.ends_with("-snippet");
    is_snippet.then(|| snippets::denies(found.text)).flatten()
}

/// Why an annotation is refused that is not supported, and what to do instead.
fn unsupported(found: &Found<'_>) -> String {
    format!("is not supported: {}", foreign::instead(found))
}

/// Why a guard of another controller is refused.
fn ignored_guard(controller: &Controller) -> String {
    let name = controller.name;
    format!("is a guard of {name} and is not read: REQUESTS PASS WITHOUT IT")
}

/// The field of an annotation in a refusal.
fn field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// An annotation of an Ingress.
struct Found<'a> {
    key: &'a String,
    /// Its name after the prefix.
    name: &'a str,
    text: &'a str,
    is_own: bool,
    known: Option<&'static Annotation>,
}

/// The annotations of an Ingress with a known prefix, those of ingress-nginx first. One with
/// Headgate's prefix replaces that of ingress-nginx, even if it is invalid.
fn found(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = Found<'_>> {
    [(NGINX, false), (OWN, true)]
        .into_iter()
        .flat_map(move |(prefix, is_own)| {
            annotations.iter().filter_map(move |(key, text)| {
                let name = key.strip_prefix(prefix)?;
                let is_replaced = !is_own && annotations.contains_key(&format!("{OWN}{name}"));
                let known = ANNOTATIONS.iter().find(|known| known.name == name);
                let found = Found {
                    key,
                    name,
                    text: text.trim(),
                    is_own,
                    known: known.filter(|known| is_own || known.is_nginx).copied(),
                };
                (!is_replaced).then_some(found)
            })
        })
}

/// Reads the annotations of an Ingress. Invalid ones are refused; the others still apply.
pub(super) fn read(
    ingress: &NamespacedName,
    annotations: &BTreeMap<String, String>,
    refusals: &mut Vec<Refusal>,
) -> Draft {
    let mut draft = Draft::default();
    for found in found(annotations) {
        let (result, is_guard) = match found.known {
            Some(known) => {
                draft.fields.insert(known.name, field(found.key));
                ((known.read)(found.text, &mut draft), known.is_guard)
            }
            None => (Err(unsupported(&found)), is_foreign_guard(&found)),
        };
        let Err(reason) = result else { continue };
        if is_guard {
            draft.close(format!("{}: {reason}", found.key));
        }
        refusals.push(Refusal::ingress(ingress, field(found.key), reason));
    }
    for key in annotations.keys() {
        if let Some((controller, true)) = other_controller(key) {
            let reason = ignored_guard(controller);
            refusals.push(Refusal::ingress(ingress, field(key), reason));
        }
    }
    draft
}

/// A value that a field of another object has for an annotation.
pub(crate) struct Given {
    /// Name of the annotation, after its prefix.
    pub(crate) name: &'static str,
    /// The field.
    pub(crate) field: String,
    /// The value; `None` if the field is not set.
    pub(crate) text: Option<String>,
}

/// Reads values of another object as those of annotations.
///
/// # Errors
///
/// The first field that is invalid, and the reason.
pub(crate) fn read_given(context: &Context<'_>, given: Vec<Given>) -> Result<Settings, String> {
    let mut draft = Draft::default();
    for Given { name, field, text } in given {
        let known = ANNOTATIONS.iter().find(|known| known.name == name);
        let known = known.ok_or_else(|| format!("{field}: is not supported"))?;
        if let Some(text) = text {
            (known.read)(text.trim(), &mut draft).map_err(|reason| format!("{field}: {reason}"))?;
        }
        draft.fields.insert(name, field);
    }
    let mut first = None;
    let settings = draft.finish(context, &mut |field, reason| {
        first.get_or_insert_with(|| format!("{field}: {reason}"));
    });
    first.map_or(Ok(settings), Err)
}
