//! Runs tests in virtual machines with the kernels of Debian.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, setup, sh, test};

/// Programs that this command needs, each with its Debian package.
const TOOLS: [setup::Tool; 4] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/bin/xz", "xz-utils"),
];
const FOLDER: &str = "target/vm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian releases that differ in their kernels.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "sid"];
/// Prefixes of the kernel versions; the empty one selects the newest kernel.
const KERNELS: [&str; 4] = ["5.10.", "6.1.", "6.12.", ""];
/// Modules for devices, filters and ending sockets, which are loaded unless the kernel has them built in.
/// Each module comes after those that it needs.
const MODULES: [&str; 8] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "udp_diag",
];
/// Test binaries, with their source files.
const TESTS: [(&str, &str); 4] = [
    ("load", "tests/prog/tests/load.rs"),
    ("golden", "tests/prog/tests/golden.rs"),
    ("services", "tests/prog/tests/services.rs"),
    ("clsact", "tests/netns/tests/clsact.rs"),
];
/// Binaries of this workspace that the tests start.
const PROGRAMS: [&str; 2] = ["headgate", "headgate-echo"];
/// Programs of this machine that the tests start.
const TOOLS_INSIDE: [&str; 4] = [
    "/usr/sbin/ip",
    "/usr/sbin/tc",
    "/usr/sbin/ethtool",
    "/usr/bin/curl",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only kernels whose version starts with this, for example 6.1
    kernel: Option<String>,
    /// Only the tests of this file, for example golden
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
}

/// A kernel package.
struct Kernel {
    version: String,
    package: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::tools(&TOOLS)?;
    build::object(setup::bpf()?)?;
    let mut binaries = binaries()?;
    if let Some(wanted) = &options.test {
        let is_wanted = |place: &str| match place.strip_prefix("tests/") {
            Some(name) => name == wanted,
            None => true,
        };
        binaries.retain(|place, _| is_wanted(place));
    }
    let archive = Archive::open()?;
    let mut table =
        String::from("| kernel | programs loaded | tests passed | without |\n|---|---|---|---|\n");
    let mut failed = Vec::new();
    for start in KERNELS {
        let kernel = archive.kernel(start)?;
        let version = kernel.as_ref().map_or(start, |kernel| &kernel.version);
        if !version.starts_with(options.kernel.as_deref().unwrap_or_default()) {
            continue;
        }
        let row = match &kernel {
            None => "SKIPPED: the mirror does not have it | |".into(),
            Some(kernel) => {
                sh::heading(&format!("Linux {version}"));
                let outcome = Outcome::of(&boot(&archive.unpack(&kernel.package)?, &binaries)?);
                if !outcome.has_passed() {
                    failed.push(version.to_owned());
                }
                outcome.row()
            }
        };
        table += &format!("| {version} | {row} |\n");
    }
    println!("{table}");
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn folder(name: &str) -> PathBuf {
    sh::root().join(FOLDER).join(name)
}

/// Runs a command that must succeed; returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The apt mirror of this machine, with more releases, and separate from the installed packages.
struct Archive {
    config: PathBuf,
}

impl Archive {
    fn open() -> Result<Self> {
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI)"]);
        targets.args(["Created-By: Packages", "Label: Debian"]);
        let mirrors = output(&mut targets)?;
        let mirror = mirrors.lines().next();
        let mirror = mirror.context("apt has no mirror of Debian: run `apt-get update`")?;
        let home = folder("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(part))?;
        }
        fs::write(home.join("status"), "")?;
        let source =
            |suite| format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(home.join("sources"), SUITES.map(source).concat())?;
        let config = home.join("config");
        let home = home.canonicalize()?;
        let home = home.display();
        let text = format!(
            "Dir::Etc::sourcelist \"{home}/sources\";\nDir::Etc::sourceparts \"-\";\n\
             Dir::State \"{home}\";\nDir::State::status \"{home}/status\";\n\
             Dir::Cache \"{home}/cache\";\nAPT::Sandbox::User \"root\";\n"
        );
        fs::write(&config, text)?;
        let archive = Self { config };
        // apt reports a release that the mirror does not have; its kernel is then skipped.
        let _reported = sh::run(&mut archive.apt("apt-get update -qq"));
        Ok(archive)
    }

    fn apt(&self, line: &str) -> Command {
        let mut command = sh::command(line);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// The newest kernel whose version starts with `start`.
    fn kernel(&self, start: &str) -> Result<Option<Kernel>> {
        let text = output(&mut self.apt("apt-cache show linux-image-amd64"))?;
        let mut paragraphs = text.split("\n\n").map(|paragraph| {
            let field = |name| {
                paragraph
                    .lines()
                    .find_map(|line: &str| line.strip_prefix(name))
            };
            let image = |word: &&str| word.starts_with("linux-image-");
            Some(Kernel {
                version: field("Version: ")?.into(),
                package: field("Depends: ")?.split(' ').find(image)?.into(),
            })
        });
        // The newest version comes first.
        Ok(paragraphs.find_map(|kernel| kernel.filter(|kernel| kernel.version.starts_with(start))))
    }

    /// Downloads a kernel package; returns a folder with the kernel and its modules.
    fn unpack(&self, package: &str) -> Result<PathBuf> {
        let unpacked = folder("kernels").join(package);
        if unpacked.join("vmlinuz").exists() {
            return Ok(unpacked);
        }
        let temporary = folder("unpacked");
        remove(&temporary)?;
        fs::create_dir_all(&temporary)?;
        fs::create_dir_all(&unpacked)?;
        // Newer packages have the kernel and the modules in separate packages.
        let depends = output(&mut self.apt(&format!("apt-cache depends --important {package}")))?;
        let is_part =
            |name: &&str| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
        let parts = depends.split_whitespace().filter(is_part);
        for part in parts.chain([package]) {
            sh::run(
                self.apt(&format!("apt-get download -qq {part}"))
                    .current_dir(&temporary),
            )?;
        }
        for file in files(&temporary)? {
            sh::run(Command::new("dpkg").arg("-x").args([&file, &temporary]))?;
            fs::remove_file(file)?;
        }
        for file in files(&temporary)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let (stem, rest) = name.split_once('.').unwrap_or((&name, ""));
            if name.starts_with("vmlinuz") {
                fs::copy(&file, unpacked.join("vmlinuz"))?;
            } else if MODULES.contains(&stem) && rest.starts_with("ko") {
                let module = unpacked.join(format!("{stem}.{rest}"));
                fs::copy(&file, &module)?;
                if rest == "ko.xz" {
                    sh::run(Command::new("xz").arg("-d").arg(module))?;
                }
            }
        }
        remove(&temporary)?;
        Ok(unpacked)
    }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

/// Builds the tests and the programs that they start; returns the files by their path in the machine.
fn binaries() -> Result<BTreeMap<String, PathBuf>> {
    sh::heading("building tests and binaries");
    let mut build = sh::command(&format!("cargo build {} --message-format json", test::HOST));
    for name in PROGRAMS {
        build.args(["--bin", name]);
    }
    for (name, _) in TESTS {
        build.args(["--test", name]);
    }
    let messages = output(&mut build)?;
    let mut found = BTreeMap::new();
    for message in messages.lines() {
        let field = |name: &str| {
            let (_, rest) = message.split_once(&format!("\"{name}\":\""))?;
            Some(rest.split_once('"')?.0)
        };
        let (Some(file), Some(source)) = (field("executable"), field("src_path")) else {
            continue;
        };
        let program = PROGRAMS
            .iter()
            .find(|name| file.ends_with(&format!("/{name}")));
        if let Some(name) = program {
            found.insert((*name).to_owned(), file.into());
        }
        if let Some((name, _)) = TESTS.iter().find(|(_, test)| source.ends_with(test)) {
            found.insert(format!("tests/{name}"), file.into());
        }
    }
    ensure!(
        found.len() == TESTS.len() + PROGRAMS.len(),
        "cargo did not build everything: {found:?}"
    );
    for file in TOOLS_INSIDE {
        found.insert(file.trim_start_matches('/').into(), file.into());
    }
    found.insert("bin/busybox".into(), "/bin/busybox".into());
    found.insert("init".into(), sh::root().join("tests/vm/init"));
    Ok(found)
}

/// Starts a machine; returns its console output, line by line.
fn boot(kernel: &Path, binaries: &BTreeMap<String, PathBuf>) -> Result<Vec<String>> {
    let root = folder("root");
    remove(&root)?;
    for empty in ["proc", "sys", "dev", "tmp", "run", "modules"] {
        fs::create_dir_all(root.join(empty))?;
    }
    for (place, file) in binaries {
        copy(file, &root.join(place))?;
        // A static binary has no libraries, and ldd(1) fails for it.
        let libraries = sh::output(&format!("ldd {}", file.display())).unwrap_or_default();
        for library in libraries
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('/'))
        {
            copy(&Path::new("/").join(library), &root.join(library))?;
        }
    }
    // Debug builds read it when they run.
    fs::copy(sh::root().join(build::OBJECT), root.join("headgate.bpf.o"))?;
    for module in MODULES {
        let file = format!("{module}.ko");
        if kernel.join(&file).exists() {
            copy(&kernel.join(&file), &root.join("modules").join(file))?;
        }
    }
    let archive = folder("initrd");
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio --quiet -o -H newc"])
        .current_dir(&root);
    let status = pack.stdout(File::create(&archive)?).status()?;
    ensure!(status.success(), "cpio: {status}");

    // Emulated processors also work inside a virtual machine.
    let mut machine = sh::command(
        "timeout 3000 qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 3G \
         -nodefaults -no-reboot -display none -serial stdio",
    );
    machine
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(&archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = machine.spawn().context("qemu")?;
    let Some(console) = child.stdout.take() else {
        bail!("qemu has no output");
    };
    let mut lines = Vec::new();
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        eprintln!("{line}");
        lines.push(line);
    }
    child.wait()?;
    remove(&root)?;
    fs::remove_file(archive)?;
    Ok(lines)
}

/// Copies a file, without its debug information.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("the path has no folder")?)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    // strip(1) fails for files that are not binaries, and leaves them unchanged.
    let _stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg(to)
        .stderr(Stdio::null())
        .status();
    Ok(())
}

/// The results in the console output of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Whether the machine ran all tests.
    is_done: bool,
    programs: usize,
    loaded: usize,
    tests: usize,
    passed: usize,
    /// Features that the kernel lacks.
    without: Vec<String>,
}

impl Outcome {
    fn of(lines: &[String]) -> Self {
        let mut outcome = Self::default();
        for line in lines {
            if line == "vm: done" {
                outcome.is_done = true;
            } else if let Some((_, result)) =
                line.split_once(": ").filter(|_| line.starts_with("hg_"))
            {
                outcome.programs += 1;
                outcome.loaded += usize::from(result.starts_with("loaded"));
            } else if let Some(result) = line
                .strip_prefix("test ")
                .and_then(|test| test.split_once(" ... "))
            {
                outcome.tests += 1;
                outcome.passed += usize::from(result.1 == "ok");
            } else if let Some((feature, _)) = line
                .strip_prefix("warning kernel: no ")
                .and_then(|rest| rest.split_once(": "))
            {
                outcome.without.push(feature.into());
            }
        }
        outcome
    }

    fn has_passed(&self) -> bool {
        let Self {
            programs,
            loaded,
            tests,
            passed,
            ..
        } = self;
        self.is_done && *tests > 0 && loaded == programs && passed == tests
    }

    fn row(&self) -> String {
        let Self {
            programs,
            loaded,
            tests,
            passed,
            ..
        } = self;
        let without = match self.without.is_empty() {
            true => "nothing".into(),
            false => self.without.join(", "),
        };
        let end = if self.is_done { "" } else { ", CUT OFF" };
        format!("{loaded} of {programs} | {passed} of {tests}{end} | {without}")
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn console_is_read() {
        let console = "\
            warning kernel: no TCX (Linux 6.6): programs of TC are filters\n\
            ok      kernel: Linux 6.1\n\
            test every_program_loads ... ok\n\
            hg_tc_pod: loaded, 85 instructions verified\n\
            hg_xdp_external: cannot load\n\
            test a ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed\n\
            vm: done";
        let lines: Vec<String> = console.lines().map(String::from).collect();
        let outcome = Outcome::of(&lines);
        assert_eq!(outcome.row(), "1 of 2 | 1 of 2 | TCX (Linux 6.6)");
        assert!(!outcome.has_passed());
        let cut = Outcome::of(&lines[..4]);
        assert_eq!(cut.row(), "1 of 1 | 1 of 1, CUT OFF | TCX (Linux 6.6)");
        assert!(!cut.has_passed());
    }
}
