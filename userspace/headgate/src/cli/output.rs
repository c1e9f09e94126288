//! Output of the commands: a table for people, JSON or YAML for programs.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::view::{List, Versioned};

/// Flags of commands that print rows.
#[derive(Args)]
pub(crate) struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Only rows of Services, Ingresses, Secrets, Gateways or routes in this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only rows of Services, Ingresses, Secrets, Gateways or routes with this name
    #[arg(long)]
    name: Option<String>,
    /// Only rows with this address
    #[arg(long)]
    address: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    /// A table with all columns
    Wide,
    Json,
    Yaml,
}

/// Fields of rows that name an object.
const OBJECTS: [&str; 5] = ["service", "ingress", "secret", "gateway", "route"];

impl OutputArgs {
    /// Whether the output is a table, to which a sentence may be added.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.output, Format::Table | Format::Wide)
    }

    /// Whether the filters select a row. With a namespace or name, rows of no object are left out;
    /// with an address, rows without an address.
    pub(crate) fn selects(&self, row: &Value) -> bool {
        let many = row["services"].as_array().into_iter().flatten();
        let mut services = many
            .chain(OBJECTS.map(|field| &row[field]))
            .filter_map(|text| text.as_str()?.split_once('/'));
        let is_wanted = |wanted: &Option<String>, part: &str| {
            wanted.as_ref().is_none_or(|wanted| part == wanted)
        };
        let is_any = self.namespace.is_none() && self.name.is_none();
        (is_any
            || services.any(|(namespace, name)| {
                is_wanted(&self.namespace, namespace) && is_wanted(&self.name, name)
            }))
            && self.address.is_none_or(|address| has_address(row, address))
    }
}

/// Whether a text in a value is this address, with or without a port.
fn has_address(value: &Value, address: IpAddr) -> bool {
    match value {
        Value::String(text) => {
            text.parse() == Ok(address)
                || text
                    .parse::<SocketAddr>()
                    .is_ok_and(|socket| socket.ip() == address)
        }
        Value::Array(items) => items.iter().any(|item| has_address(item, address)),
        Value::Object(fields) => fields.values().any(|field| has_address(field, address)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Prints the rows that the filters select; `wide` are the further columns of `-o wide`.
pub(crate) fn print_rows<T: Serialize>(
    args: &OutputArgs,
    header: &[&str],
    wide: &[&str],
    rows: &[T],
) -> Result<()> {
    let rows: Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
    let mut rows = rows?;
    rows.retain(|row| args.selects(row));
    let mut header = header.to_vec();
    if args.output == Format::Wide {
        header.extend(wide);
    }
    let text = table(&header, &rows)?;
    print_list(args.output, &rows, || text)
}

/// Prints a list: `text` for people, `{"version", "items"}` for programs.
pub(crate) fn print_list<T: Serialize>(
    format: Format,
    items: &[T],
    text: impl FnOnce() -> String,
) -> Result<()> {
    print(format, &List { items }, text)
}

/// Prints an object: `text` for people, its fields after `"version"` for programs.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<()> {
    let versioned = Versioned::new(value);
    match format {
        Format::Table | Format::Wide => println!("{}", text()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&versioned)?),
        Format::Yaml => print!("{}", yaml_serde::to_string(&versioned)?),
    }
    Ok(())
}

/// Formats rows as a table with a column for each field in the header.
pub(crate) fn table<T: Serialize>(header: &[&str], rows: &[T]) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        let Value::Object(fields) = serde_json::to_value(row)? else {
            continue;
        };
        table.add_row(header.iter().map(|name| cell(fields.get(*name))));
    }
    Ok(table.trim_fmt())
}

fn cell(field: Option<&Value>) -> String {
    match field {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let texts = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), String::from));
            let texts: Vec<String> = texts.collect();
            let has_spaces = texts.iter().any(|text| text.contains(' '));
            texts.join(if has_spaces { "; " } else { " " })
        }
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Format, OutputArgs, table};

    #[test]
    fn filters_select_rows_by_object_and_address() {
        let args =
            |namespace: Option<&str>, name: Option<&str>, address: Option<&str>| OutputArgs {
                output: Format::Table,
                namespace: namespace.map(Into::into),
                name: name.map(Into::into),
                address: address.map(|text| text.parse().unwrap()),
            };
        let one = json!({"service": "shop/web", "frontend": "[2001:db8::1]:80"});
        let many = json!({"services": ["shop/api", "test/web"], "backend": "10.0.0.1"});
        let none = json!({"map": "frontends"});
        for (args, selected) in [
            (args(None, None, None), [true, true, true]),
            (args(Some("shop"), None, None), [true, true, false]),
            (args(None, Some("web"), None), [true, true, false]),
            (args(Some("shop"), Some("web"), None), [true, false, false]),
            (args(None, None, Some("2001:db8::1")), [true, false, false]),
            (args(None, None, Some("10.0.0.1")), [false, true, false]),
        ] {
            assert_eq!([&one, &many, &none].map(|row| args.selects(row)), selected);
        }
    }

    #[test]
    fn cells_join_lists_and_leave_missing_fields_empty() {
        let rows = [
            json!({"service": "a", "backends": ["10.0.0.1:80", "10.0.0.2:80"]}),
            json!({"service": null, "backends": ["method is GET", "x"], "count": 7}),
        ];
        let text = table(&["service", "backends", "count"], &rows).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines[0], ["SERVICE", "BACKENDS", "COUNT"]);
        assert_eq!(lines[1], ["a", "10.0.0.1:80 10.0.0.2:80"]);
        assert_eq!(lines[2], ["method is GET; x", "7"]);
    }
}
