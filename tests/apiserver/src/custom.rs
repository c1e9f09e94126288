//! Custom resources: what a version of a CustomResourceDefinition says about its objects.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::error::Cause;
use crate::resource::{self, Decoded, Resource, Types, intern};
use crate::schema::Schema;
use crate::table::Column;

/// The part of a resource that its definition adds.
pub(crate) struct Custom {
    pub(crate) schema: Schema,
    /// `apiVersion` of stored objects, which all versions of the resource share.
    pub(crate) stored: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) categories: Vec<String>,
}

impl Custom {
    /// Drops unknown fields. Types are checked later, except for those of the metadata.
    pub(crate) fn decode(&self, mut object: Value) -> Result<Decoded, String> {
        let metadata = resource::decode::<ObjectMeta>(object["metadata"].take())?;
        object["metadata"] = metadata.object;
        let paths = metadata.unknown.iter();
        let mut unknown: Vec<String> = paths.map(|path| format!("metadata.{path}")).collect();
        unknown.extend(self.schema.prune(&mut object));
        Ok(Decoded { object, unknown })
    }
}

/// The names in a list of strings.
fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The resources of the served versions of a definition.
///
/// # Errors
///
/// The schemas that are missing or invalid, those of versions that are not served, too.
pub(crate) fn resources(definition: &Value) -> Result<Vec<Resource>, Vec<Cause>> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let versions: &[Value] = spec["versions"].as_array().map_or(&[], Vec::as_slice);
    let storage = versions.iter().find(|version| version["storage"] == true);
    let stored = storage.map_or("", |version| text(&version["name"]));
    let mut resources = Vec::new();
    let mut causes = Vec::new();
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        let document = &version["schema"]["openAPIV3Schema"];
        if !document.is_object() {
            causes.push(Cause::required(path, "schemas are required"));
            continue;
        }
        let schema = match Schema::new(document) {
            Ok(schema) => schema,
            Err(why) => {
                causes.push(Cause::invalid(path, &json!("schema"), &why));
                continue;
            }
        };
        if version["served"] != true {
            continue;
        }
        let fields = version["selectableFields"].as_array().into_iter().flatten();
        let fields = fields.map(|field| intern(text(&field["jsonPath"]).trim_start_matches('.')));
        resources.push(Resource {
            group: intern(text(&spec["group"])),
            version: intern(text(&version["name"])),
            kind: intern(text(&names["kind"])),
            plural: intern(text(&names["plural"])),
            singular: intern(text(&names["singular"])),
            short_names: Cow::Owned(texts(&names["shortNames"]).map(intern).collect()),
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"]["status"].is_object(),
            status_at_creation: false,
            generation: true,
            create_on_update: false,
            unconditional_update: false,
            returns_deleted: false,
            fields: Cow::Owned(fields.collect()),
            table: intern(text(&definition["metadata"]["name"])),
            types: Types::Custom(Custom {
                schema,
                stored: format!("{}/{stored}", text(&spec["group"])),
                columns: Column::of_version(version),
                categories: texts(&names["categories"]).map(str::to_owned).collect(),
            }),
        });
    }
    if causes.is_empty() {
        Ok(resources)
    } else {
        Err(causes)
    }
}
