//! Errors with the texts of the API: every error that a client gets is a `metav1.Status`.

use serde_json::{Value, json};

use crate::resource::Resource;

/// One field that was refused, as the API lists it under `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Cause {
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            field: field.into(),
            message: format!("Invalid value: {value}: {why}"),
        }
    }

    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        Self {
            reason: "FieldValueRequired",
            field: field.into(),
            message,
        }
    }

    pub(crate) fn not_supported(field: impl Into<String>, value: &Value, choices: &[&str]) -> Self {
        let choices: Vec<String> = choices.iter().map(|c| format!("{c:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                choices.join(", ")
            ),
        }
    }

    pub(crate) fn wrong_type(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            reason: "FieldValueTypeInvalid",
            ..Self::invalid(field, value, why)
        }
    }

    pub(crate) fn too_long(field: impl Into<String>, limit: u64) -> Self {
        Self {
            reason: "FieldValueTooLong",
            field: field.into(),
            message: format!("Too long: may not be more than {limit} bytes"),
        }
    }

    pub(crate) fn too_many(field: impl Into<String>, count: &Value, limit: u64) -> Self {
        Self {
            reason: "FieldValueTooMany",
            field: field.into(),
            message: format!("Too many: {count}: must have at most {limit} items"),
        }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }
}

/// A request that was refused, with the status code and reason the API uses for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason} ({code}): {message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// The machine-readable `reason` of the Status.
    pub reason: &'static str,
    /// The message.
    pub message: String,
    /// The `details` of the Status, or `Null`.
    pub details: Value,
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        let mut details = json!({ "name": name, "kind": resource.plural });
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        self.details = details;
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, verb: &str, scope: &str) -> Self {
        Self::plain(
            403,
            "Forbidden",
            format!(
                "{} is forbidden: User cannot {verb} resource \"{}\" in API group \"{}\" {scope}",
                resource.named(name),
                resource.plural,
                resource.group
            ),
        )
        .about(resource, name)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::plain(
            404,
            "NotFound",
            format!("{} not found", resource.named(name)),
        )
        .about(resource, name)
    }

    pub(crate) fn no_such_path() -> Self {
        let mut error = Self::plain(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        error.details = json!({});
        error
    }

    pub(crate) fn method_not_allowed(why: &str) -> Self {
        Self::plain(405, "MethodNotAllowed", why)
    }

    pub(crate) fn not_acceptable(offered: &str) -> Self {
        Self::plain(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {offered}"),
        )
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::plain(
            409,
            "AlreadyExists",
            format!("{} already exists", resource.named(name)),
        )
        .about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::plain(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {}: {why}",
                resource.named(name)
            ),
        )
        .about(resource, name)
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    pub(crate) fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    pub(crate) fn too_large(requested: u64, current: u64) -> Self {
        let mut error = Self::plain(
            504,
            "Timeout",
            format!("Too large resource version: {requested}, current: {current}"),
        );
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error
    }

    pub(crate) fn too_much() -> Self {
        Self::plain(
            413,
            "RequestEntityTooLarge",
            "the request is larger than 3 MiB",
        )
    }

    pub(crate) fn unsupported_media_type(offered: &str) -> Self {
        Self::plain(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {offered}"
            ),
        )
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let subject = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error = Self::plain(
            422,
            "Invalid",
            format!("{subject} \"{name}\" is invalid: {text}"),
        )
        .about(resource, name);
        error.details["kind"] = json!(resource.kind);
        error.details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason, "field": c.field, "message": c.message}))
            .collect();
        error
    }

    pub(crate) fn patch_failed(why: impl std::fmt::Display) -> Self {
        Self::plain(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {why}"),
        )
    }

    pub(crate) fn unavailable() -> Self {
        Self::plain(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        )
    }

    /// The `metav1.Status` a client receives.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
