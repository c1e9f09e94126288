//! Rows as a table for people, or as JSON or YAML for programs.

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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Table,
    Json,
    Yaml,
}

/// Prints a value for programs; for people, what `table` makes of it.
pub(crate) fn print<T: Serialize>(
    options: &Options,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<()> {
    match options.output {
        Form::Table => println!("{}", table()),
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
        table.add_row(header.iter().map(|name| {
            match fields.get(*name) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(items)) => items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), String::from))
                    .collect::<Vec<_>>()
                    .join(" "),
                Some(other) => other.to_string(),
                None => String::new(),
            }
        }));
    }
    Ok(table.trim_fmt())
}
