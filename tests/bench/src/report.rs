//! The results of a benchmark and the machine: printed, and written as JSON.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Options;

/// The properties of a machine that figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    /// Whether the CPU reports a hypervisor.
    virtual_machine: bool,
    kernel: String,
    /// The kernel's mitigation for each vulnerability of the CPU.
    mitigations: BTreeMap<String, String>,
    /// Load average of the minute before the run.
    load: String,
    commit: String,
}

impl Machine {
    /// Reads the properties of this machine.
    pub fn read() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg")?;
        let mut mitigations = BTreeMap::new();
        let weaknesses = "/sys/devices/system/cpu/vulnerabilities";
        for entry in fs::read_dir(weaknesses).into_iter().flatten() {
            let entry = entry?;
            let state = fs::read_to_string(entry.path())?.trim().to_owned();
            if state != "Not affected" {
                mitigations.insert(entry.file_name().to_string_lossy().into_owned(), state);
            }
        }
        Ok(Self {
            cpu: model.map_or("unknown", |(_, model)| model).into(),
            cpus: thread::available_parallelism()?.get(),
            virtual_machine: cpus.contains(" hypervisor"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .into(),
            mitigations,
            load: load.split(' ').next().unwrap_or_default().into(),
            commit: commit().unwrap_or_else(|| "unknown".into()),
        })
    }
}

/// The checked-out commit, marked as dirty if files differ from it.
fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine {
            "a virtual machine"
        } else {
            "no virtual machine"
        };
        write!(
            f,
            "{}, {} CPUs, {kind}, Linux {}, load before {}, commit {}, {}",
            self.cpu,
            self.cpus,
            self.kernel,
            self.load,
            self.commit,
            Timestamp::now().strftime("%F")
        )?;
        for (weakness, state) in &self.mitigations {
            write!(f, "\n  {weakness}: {state}")?;
        }
        Ok(())
    }
}

/// Subjects that alternated, and the result of each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    title: String,
    unit: String,
    /// Rounds and duration of the measurement.
    how: String,
    /// The row that ratios refer to; empty for a table without ratios.
    base: String,
    rows: Vec<Row>,
    /// Date and time of the run.
    date: String,
    /// The commit that was measured.
    #[serde(default)]
    commit: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    median: f64,
    least: f64,
    most: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, unit: &str, how: &str, base: &str) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            how: how.into(),
            base: base.into(),
            rows: Vec::new(),
            date: Timestamp::now().strftime("%F %H:%M UTC").to_string(),
            commit: String::new(),
        }
    }

    /// Adds a subject with its result in each round.
    pub fn add(&mut self, name: &str, samples: &[f64]) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        self.rows.push(Row {
            name: name.into(),
            median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            least: sorted.first().copied().unwrap_or_default(),
            most: sorted.last().copied().unwrap_or_default(),
            ratio: None,
            note: None,
        });
        let base = self.rows.iter().find(|row| row.name == self.base);
        if let Some(base) = base.map(|row| row.median) {
            for row in &mut self.rows {
                row.ratio = Some((row.median / base * 1000.0).round() / 1000.0);
            }
        }
    }

    /// Adds a note to the subject that was added last.
    pub fn note(&mut self, text: String) {
        if let Some(row) = self.rows.last_mut() {
            row.note = Some(text);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} ({}; {})", self.title, self.unit, self.how)?;
        let digits = |value: f64| if value < 100.0 { 2 } else { 0 };
        for row in &self.rows {
            let Row {
                median,
                least,
                most,
                ..
            } = *row;
            write!(
                f,
                "  {:<36} {median:>10.*}  ({least:.*} to {most:.*})",
                row.name,
                digits(median),
                digits(least),
                digits(most),
            )?;
            if let Some(ratio) = row.ratio {
                write!(f, "  {ratio:.2}")?;
            }
            match &row.note {
                Some(note) => writeln!(f, "  {note}")?,
                None => writeln!(f)?,
            }
        }
        match &*self.base {
            "" => Ok(()),
            base => write!(f, "  ratios are relative to: {base}"),
        }
    }
}

/// All tables of a benchmark.
#[derive(Debug, Serialize)]
pub struct Report {
    what: String,
    machine: Machine,
    tables: Vec<Table>,
    #[serde(skip)]
    path: PathBuf,
}

impl Report {
    /// A report for `target/bench/WHAT.json`. If only some tables are selected, it starts with the tables
    /// of earlier runs.
    pub fn new(what: &str, machine: &Machine, options: &Options) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
        let path = folder.join(format!("{what}.json"));
        let tables = match options.name {
            Some(_) => tables_of(&path).unwrap_or_default(),
            None => Vec::new(),
        };
        Self {
            what: what.into(),
            machine: machine.clone(),
            tables,
            path,
        }
    }

    /// Prints a table and adds it, or replaces the one with the same title.
    pub fn add(&mut self, mut table: Table) {
        println!("{table}");
        table.commit.clone_from(&self.machine.commit);
        match self.tables.iter_mut().find(|old| old.title == table.title) {
            Some(old) => *old = table,
            None => self.tables.push(table),
        }
    }

    /// Writes the file and returns its path.
    pub fn write(&self) -> Result<&Path> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&self.path, text + "\n").with_context(|| self.path.display().to_string())?;
        Ok(&self.path)
    }
}

fn tables_of(path: &Path) -> Option<Vec<Table>> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    serde_json::from_value(report.get("tables")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn medians_and_ratios_to_the_base() {
        let mut table = Table::new("a title", "ns", "3 rounds", "base");
        table.add("first", &[30.0, 10.0, 20.0]);
        table.add("base", &[40.0]);
        table.note("a note".into());
        let text = table.to_string();
        assert!(text.contains("20.00  (10.00 to 30.00)  0.50"), "{text}");
        assert!(
            text.contains("40.00  (40.00 to 40.00)  1.00  a note"),
            "{text}"
        );
    }
}
