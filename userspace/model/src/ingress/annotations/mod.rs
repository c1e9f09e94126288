//! Annotations of Ingresses: one table, read into a [`Draft`].
#![expect(
    clippy::unit_arg,
    reason = "`Ok(place = value?)` keeps an annotation on one line"
)]

mod draft;
mod requests;
mod upstream;
mod values;

use std::{collections::BTreeMap, sync::LazyLock};

pub(super) use draft::{Context, Draft, Settings};

use crate::{NamespacedName, Refusal};

use super::rules::refusal;

/// In front of our own annotations.
pub const OWN: &str = "headgate.io/";
/// In front of those of ingress-nginx.
pub const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// An annotation that is understood.
#[derive(Debug)]
pub struct Annotation {
    /// Its name after `headgate.io/`.
    pub name: &'static str,
    /// Whether it is also understood after `nginx.ingress.kubernetes.io/`.
    pub is_nginx: bool,
    /// Whether it keeps requests out: if it cannot be read, none is let through.
    pub is_guard: bool,
    /// What its value says.
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

/// Every annotation that is understood.
pub static ANNOTATIONS: LazyLock<Vec<&'static Annotation>> = LazyLock::new(|| {
    let tables = [requests::ANNOTATIONS, upstream::ANNOTATIONS];
    tables.into_iter().flatten().collect()
});

/// Annotations of ingress-nginx that keep requests out, by the start of their names: where they are
/// not understood, nothing is let through.
const FOREIGN_GUARDS: [&str; 2] = ["auth-", "satisfy"];

/// The field that an annotation is.
fn field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// Reads the annotations of an Ingress. What is wrong is refused; other annotations still count.
pub(super) fn read(
    ingress: &NamespacedName,
    annotations: &BTreeMap<String, String>,
    refusals: &mut Vec<Refusal>,
) -> Draft {
    let mut draft = Draft::default();
    // One of ours replaces that of ingress-nginx, right or wrong.
    for (prefix, is_own) in [(NGINX, false), (OWN, true)] {
        let texts = annotations.iter().filter_map(|(key, text)| {
            let name = key.strip_prefix(prefix)?;
            let is_replaced = !is_own && annotations.contains_key(&format!("{OWN}{name}"));
            (!is_replaced).then_some((key, name, text.trim()))
        });
        for (key, name, text) in texts {
            let known = ANNOTATIONS.iter().find(|known| known.name == name);
            let (result, is_guard) = match known.filter(|known| is_own || known.is_nginx) {
                Some(known) => {
                    draft.keys.insert(known.name, key.clone());
                    ((known.read)(text, &mut draft), known.is_guard)
                }
                None => {
                    let is_guard = FOREIGN_GUARDS.iter().any(|start| name.starts_with(start));
                    (Err("is not supported".into()), is_guard)
                }
            };
            let Err(reason) = result else { continue };
            if is_guard {
                draft.close(format!("{key}: {reason}"));
            }
            refusals.push(refusal(ingress, field(key), reason));
        }
    }
    draft
}
