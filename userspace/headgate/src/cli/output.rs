//! Rows as a table for people, or as JSON or YAML for programs.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

#[derive(Args)]
pub(crate) struct Options {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(crate) output: Form,
    /// Only what is of Services, Ingresses or Secrets in this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only what is of Services, Ingresses or Secrets of this name
    #[arg(long)]
    name: Option<String>,
    /// Only what has this address
    #[arg(long)]
    address: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Table,
    /// A table with every column
    Wide,
    Json,
    Yaml,
}

impl Options {
    /// Whether a row is asked for. One that is of no object, or has no address, is not if these are.
    pub(crate) fn asks_for(&self, row: &Value) -> bool {
        let many = row["services"].as_array().into_iter().flatten();
        let mut services = many
            .chain([&row["service"], &row["ingress"], &row["secret"]])
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

/// Whether some text in a value is this address, with or without a port.
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

/// Prints the rows that are asked for, with further columns if these are.
pub(crate) fn print_rows<T: Serialize>(
    options: &Options,
    header: &[&str],
    wide: &[&str],
    rows: &[T],
) -> Result<()> {
    let rows: Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
    let mut rows = rows?;
    rows.retain(|row| options.asks_for(row));
    let mut header = header.to_vec();
    if options.output == Form::Wide {
        header.extend(wide);
    }
    let text = table(&header, &rows)?;
    print(options.output, &rows, || text)
}

/// Prints a value for programs; for people, what `table` makes of it.
pub(crate) fn print<T: Serialize>(
    form: Form,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<()> {
    match form {
        Form::Table | Form::Wide => println!("{}", table()),
        Form::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Form::Yaml => print!("{}", serde_yaml_ng::to_string(value)?),
    }
    Ok(())
}

/// A table with a column for each field.
pub(crate) fn table<T: Serialize>(header: &[&str], rows: &[T]) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        let Value::Object(fields) = serde_json::to_value(row)? else {
            continue;
        };
        table.add_row(header.iter().map(|name| match fields.get(*name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(items)) => {
                let texts = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), String::from));
                let texts: Vec<String> = texts.collect();
                let has_words = texts.iter().any(|text| text.contains(' '));
                texts.join(if has_words { "; " } else { " " })
            }
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }));
    }
    Ok(table.trim_fmt())
}

/// An error with its causes, those that it names itself left out.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match line.is_empty() {
            true => cause,
            false if line.contains(&cause) => line,
            false => format!("{line}: {cause}"),
        }
    })
}
