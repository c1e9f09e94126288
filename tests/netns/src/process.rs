//! Child processes that end when the value that holds them is dropped.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest time until a process prints that it is ready. It suffices on emulated processors too.
const READY: Duration = Duration::from_secs(120);

/// A running child process, killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Reads its standard error.
    errors: Option<JoinHandle<()>>,
    keep: bool,
}

/// The path of a binary of this workspace, in the folder of the running one or above it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut folder = env::current_exe()?;
    while folder.pop() {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not built: run `cargo xtask build` or `cargo build --bins` first")
}

impl Process {
    /// Starts a command and waits for a line on its standard output that contains `ready`.
    pub fn start(command: Command, ready: &str) -> Result<Self> {
        let (mut process, lines) = Self::launch(command)?;
        loop {
            match lines.recv_timeout(READY) {
                Ok(line) if line.contains(ready) => return Ok(process),
                Ok(_) => {}
                Err(error) => {
                    process.child.kill()?;
                    // Its last output may still be in the pipe.
                    let _read = process.errors.take().map(JoinHandle::join);
                    bail!("not ready ({error}):\n{}", process.log());
                }
            }
        }
    }

    /// Starts a command and does not wait until it is ready.
    pub fn spawn(command: Command) -> Result<Self> {
        Self::launch(command).map(|(process, _)| process)
    }

    fn launch(mut command: Command) -> Result<(Self, mpsc::Receiver<String>)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take();
        let errors = stderr.map(|stderr| collect(stderr, log.clone(), None));
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, log.clone(), Some(sender));
        }
        let process = Self {
            child,
            log,
            errors,
            keep: false,
        };
        Ok((process, lines))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }

    /// Kills it with SIGKILL, as a crash would, and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal)?;
        Ok(())
    }

    /// Lets it run after the drop.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    log: Arc<Mutex<String>>,
    lines: Option<mpsc::Sender<String>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Ok(mut log) = log.lock() {
                log.push_str(&line);
                log.push('\n');
            }
            if let Some(lines) = &lines {
                // The receiver is gone once the process is ready.
                let _closed = lines.send(line);
            }
        }
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The process may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if thread::panicking() {
            eprintln!("--- output of process {}\n{}", self.child.id(), self.log());
        }
    }
}
