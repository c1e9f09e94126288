//! The rules of a structural schema for values, as a JSON Schema, with refusals in the words of the API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Draft, JsonType, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value, json};

use crate::error::Cause;
use crate::schema::child;

/// The rules of a schema.
pub(crate) struct Rules(Validator);

impl Rules {
    pub(crate) fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::options()
            .with_draft(Draft::Draft7)
            .should_validate_formats(true)
            // As the API, without look-around.
            .with_pattern_options(PatternOptions::regex())
            .with_format("byte", |text: &str| STANDARD.decode(text).is_ok())
            .with_format("cidr", |text: &str| text.parse::<ipnet::IpNet>().is_ok())
            .build(&to_json_schema(schema))
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// The reasons why an object breaks the rules.
    pub(crate) fn check(&self, object: &Value) -> Vec<Cause> {
        self.0.iter_errors(object).map(|e| cause(&e)).collect()
    }
}

/// The JSON Schema (draft 7) of a schema of OpenAPI 3.0: the words that differ are replaced, and those
/// without a rule left out.
fn to_json_schema(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else {
        return schema.clone();
    };
    let mut rules = Map::new();
    for (word, value) in fields {
        let rule = match (word.as_str(), value) {
            ("description" | "title" | "default" | "example" | "nullable", _) => continue,
            (word, _) if word.starts_with("x-kubernetes-") => continue,
            ("properties", Value::Object(properties)) => {
                let rules = properties.iter();
                let rules = rules.map(|(name, schema)| (name.clone(), to_json_schema(schema)));
                Value::Object(rules.collect())
            }
            ("items" | "additionalProperties" | "not", schema) => to_json_schema(schema),
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().map(to_json_schema).collect()
            }
            _ => value.clone(),
        };
        rules.insert(word.clone(), rule);
    }
    for (exclusive, limit) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        if rules.remove(exclusive) == Some(Value::Bool(true))
            && let Some(limit) = rules.remove(limit)
        {
            rules.insert(exclusive.to_owned(), limit);
        }
    }
    if rules.get("format") == Some(&json!("int32")) {
        rules.entry("minimum").or_insert(json!(i32::MIN));
        rules.entry("maximum").or_insert(json!(i32::MAX));
    }
    if schema["x-kubernetes-int-or-string"] == true {
        rules.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if schema["nullable"] == true
        && let Some(types) = rules.get_mut("type")
    {
        *types = match types.take() {
            Value::Array(mut several) => {
                several.push(json!("null"));
                Value::Array(several)
            }
            one => json!([one, "null"]),
        };
    }
    Value::Object(rules)
}

/// `spec.listeners[0].port`.
fn field(location: &Location) -> String {
    let mut path = String::new();
    for segment in location.iter() {
        path = match segment {
            LocationSegment::Property(name) => child(&path, &name),
            LocationSegment::Index(index) => format!("{path}[{index}]"),
        };
    }
    path
}

/// The name of a value's type in the messages of the API.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The number of items, fields or characters.
fn size(value: &Value) -> Value {
    match value {
        Value::Array(items) => json!(items.len()),
        Value::Object(fields) => json!(fields.len()),
        other => other.clone(),
    }
}

/// A refusal, as the API words it.
fn cause(error: &ValidationError<'_>) -> Cause {
    use ValidationErrorKind as Kind;
    let field = field(error.instance_path());
    let value: &Value = error.instance();
    let invalid = |value: &Value, why: &str| {
        Cause::invalid(field.as_str(), value, &format!("{field} in body {why}"))
    };
    let of_type = |wanted: &str, found: &Value| {
        Cause::wrong_type(
            field.as_str(),
            found,
            &format!("{field} in body must be of type {wanted}: {found}"),
        )
    };
    // The API does not name the field of these apart from the text.
    let composite = |why: &str| Cause::invalid("<nil>", &json!(""), &format!("\"{field}\" {why}"));
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            Cause::required(child(&field, name), "")
        }
        Kind::Type { kind } => {
            let is_null = |one: &JsonType| *one == JsonType::Null;
            let wanted: Vec<&str> = match kind {
                TypeKind::Single(one) => vec![one.as_str()],
                TypeKind::Multiple(several) => several
                    .iter()
                    .filter(|one| !is_null(one))
                    .map(JsonType::as_str)
                    .collect(),
            };
            of_type(&wanted.join(","), &json!(type_of(value)))
        }
        Kind::Format { format } => of_type(format, value),
        Kind::Enum { options } => {
            let choices = options.as_array().into_iter().flatten();
            let choices: Vec<String> = choices
                .map(|choice| match choice {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect();
            let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
            Cause::not_supported(field.as_str(), value, &choices)
        }
        Kind::Pattern { pattern } => invalid(value, &format!("should match '{pattern}'")),
        Kind::MinLength { limit } => {
            invalid(value, &format!("should be at least {limit} chars long"))
        }
        Kind::MaxLength { limit } => Cause::too_long(field.as_str(), *limit),
        Kind::MinItems { limit } => {
            invalid(&size(value), &format!("should have at least {limit} items"))
        }
        Kind::MinProperties { limit } => invalid(
            &size(value),
            &format!("should have at least {limit} properties"),
        ),
        Kind::MaxItems { limit } | Kind::MaxProperties { limit } => {
            Cause::too_many(field.as_str(), &size(value), *limit)
        }
        Kind::Minimum { limit } => invalid(
            value,
            &format!("should be greater than or equal to {limit}"),
        ),
        Kind::Maximum { limit } => {
            invalid(value, &format!("should be less than or equal to {limit}"))
        }
        Kind::ExclusiveMinimum { limit } => {
            invalid(value, &format!("should be greater than {limit}"))
        }
        Kind::ExclusiveMaximum { limit } => invalid(value, &format!("should be less than {limit}")),
        Kind::MultipleOf { multiple_of } => {
            invalid(value, &format!("should be a multiple of {multiple_of}"))
        }
        Kind::UniqueItems => invalid(value, "shouldn't contain duplicates"),
        Kind::AnyOf { .. } => composite("must validate at least one schema (anyOf)"),
        Kind::OneOfNotValid { .. } => {
            composite("must validate one and only one schema (oneOf). Found none valid")
        }
        Kind::OneOfMultipleValid { .. } => {
            composite("must validate one and only one schema (oneOf). Found more than one valid")
        }
        Kind::Not { .. } => composite("must not validate the schema (not)"),
        _ => invalid(value, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_those_of_the_api() {
        for (schema, value, expected) in [
            (
                json!({"type": "integer", "maximum": 65535}),
                json!(70000),
                r"f: Invalid value: 70000: f in body should be less than or equal to 65535",
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                r"f: Invalid value: 0: f in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
                json!(1),
                r"f: Invalid value: 1: f in body should be greater than 1",
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_u64),
                r"f: Invalid value: 3000000000: f in body should be less than or equal to 2147483647",
            ),
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"f: Invalid value: "string": f in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"f: Invalid value: "null": f in body must be of type string: "null""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"f: Invalid value: "boolean": f in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string", "nullable": true}),
                json!(1),
                r#"f: Invalid value: "integer": f in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "string", "enum": ["A", "B"]}),
                json!("C"),
                r#"f: Unsupported value: "C": supported values: "A", "B""#,
            ),
            (
                json!({"type": "string", "pattern": "^[a-z]+$"}),
                json!("A"),
                r#"f: Invalid value: "A": f in body should match '^[a-z]+$'"#,
            ),
            (
                json!({"type": "string", "minLength": 1}),
                json!(""),
                r#"f: Invalid value: "": f in body should be at least 1 chars long"#,
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "f: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("now"),
                r#"f: Invalid value: "now": f in body must be of type date-time: "now""#,
            ),
            (
                json!({"type": "string", "format": "cidr"}),
                json!("10.0.0.1"),
                r#"f: Invalid value: "10.0.0.1": f in body must be of type cidr: "10.0.0.1""#,
            ),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "f: Invalid value: 0: f in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "maxItems": 1}),
                json!([1, 2]),
                "f: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "object", "required": ["name"]}}),
                json!([{"name": "a"}, {}]),
                "f[1].name: Required value",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "boolean"}}),
                json!({"key": 1}),
                r#"f.key: Invalid value: "integer": f.key in body must be of type boolean: "integer""#,
            ),
            (
                json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found none valid"#,
            ),
        ] {
            let schema = json!({"type": "object", "properties": {"f": schema}});
            let causes = Rules::new(&schema).unwrap().check(&json!({"f": value}));
            let texts: Vec<String> = causes
                .iter()
                .map(|cause| format!("{}: {}", cause.field, cause.message))
                .collect();
            assert_eq!(texts, [expected], "{schema}");
        }
    }

    #[test]
    fn what_the_rules_allow_is_accepted() {
        for (schema, value) in [
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("80%")),
            (json!({"x-kubernetes-int-or-string": true}), json!(80)),
            (
                json!({"type": "string", "format": "no-such-format"}),
                json!("x"),
            ),
            (json!({"type": "string", "maxLength": 2}), json!("äö")),
            (
                json!({"x-kubernetes-preserve-unknown-fields": true}),
                json!([1, {"a": null}]),
            ),
        ] {
            let rules = json!({"type": "object", "properties": {"f": schema}});
            let causes = Rules::new(&rules).unwrap().check(&json!({"f": value}));
            assert_eq!(causes, [], "{schema}");
        }
    }

    #[test]
    fn an_invalid_pattern_is_an_error() {
        assert!(Rules::new(&json!({"type": "string", "pattern": "("})).is_err());
    }
}
