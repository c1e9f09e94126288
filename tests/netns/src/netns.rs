//! A network namespace.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

/// Runs `ip` with these arguments.
pub(crate) fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .context("ip")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {words}: {stderr}");
    Ok(())
}

impl Netns {
    /// Makes a namespace with its loopback device up.
    pub fn new(name: &str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        let netns = Self {
            name: name.into(),
            keep: false,
        };
        netns.batch("link set lo up")?;
        // Our IPv6 addresses are unique. Without duplicate address detection they work at once.
        netns.sysctl(&[
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its file, for setns(2).
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Keeps it after the drop.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs `ip` commands inside, one per line.
    pub fn batch(&self, commands: &str) -> Result<()> {
        self.batch_with(&[], commands)
    }

    /// The same for commands about IPv6 that name no address by which `ip` sees it.
    pub fn batch_v6(&self, commands: &str) -> Result<()> {
        self.batch_with(&["-6"], commands)
    }

    fn batch_with(&self, options: &[&str], commands: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(options)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "ip in {}: {commands}\n{stderr}",
            self.name
        );
        Ok(())
    }

    /// Sets values below `/proc/sys/net`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        self.run(move || {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(&key);
                fs::write(&path, value).with_context(|| path.display().to_string())?;
            }
            Ok(())
        })
    }

    /// Starts a function on a thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = self.path();
        thread::spawn(move || {
            let file = File::open(&path).expect("the namespace is there");
            setns(file, CloneFlags::CLONE_NEWNET).expect("entering a namespace as root");
            work()
        })
    }

    /// Runs a function on a thread inside the namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A command that runs inside the namespace and, if one is given, inside a cgroup. Unlike
    /// `ip netns exec` it does not mount `/sys` again, which holds the BPF file system and cgroups.
    pub fn command(&self, program: impl AsRef<OsStr>, cgroup: Option<&Path>) -> Command {
        let mut command = Command::new(program);
        let netns = self.path();
        let procs = cgroup.map(|cgroup| cgroup.join("cgroup.procs"));
        // SAFETY: between fork and exec this opens two files, writes one and enters a namespace. It
        // allocates memory for the paths, which glibc supports after fork in a process with threads.
        unsafe {
            command.pre_exec(move || {
                if let Some(procs) = &procs {
                    fs::write(procs, "0")?;
                }
                setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = ip(&format!("netns del {}", self.name))
        {
            eprintln!("left behind namespace {}: {error:#}", self.name);
        }
    }
}
