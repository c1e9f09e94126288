//! Clients that ask again and again, and what became of it.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Error;

use crate::{
    client::{Answer, connect, get_on, udp_exchange, udp_socket},
    netns::Netns,
    talk::Talk,
};

/// How long a client that lost something rests: what is away would be asked thousands of times.
const AFTER_LOSS: Duration = Duration::from_millis(10);

/// Asks once: who answered.
pub type Client = Box<dyn FnMut() -> Result<String, Miss> + Send>;

/// What a client got instead of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Nothing.
    Lost(String),
    /// An answer of somebody else than before.
    Moved(String),
}

impl Miss {
    /// Nothing, and what is known of why.
    pub fn lost(why: impl fmt::Display) -> Self {
        Self::Lost(why.to_string())
    }
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Self {
        Self::lost(error)
    }
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::lost(error)
    }
}

/// What became of the questions of one client, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers, by who answered.
    pub answers: BTreeMap<String, usize>,
    /// What was lost, and why.
    pub lost: Vec<String>,
    /// Answers of somebody else than before.
    pub moved: Vec<String>,
}

impl Tally {
    /// All questions.
    pub fn asked(&self) -> usize {
        self.answered() + self.lost.len() + self.moved.len()
    }

    /// Those that were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    /// Answers of this pod.
    pub fn of(&self, pod: &str) -> usize {
        self.answers.get(pod).copied().unwrap_or(0)
    }

    /// Counts one more.
    pub fn note(&mut self, result: Result<String, Miss>) {
        match result {
            Ok(pod) => *self.answers.entry(pod).or_default() += 1,
            Err(Miss::Lost(why)) => self.lost.push(why),
            Err(Miss::Moved(how)) => self.moved.push(how),
        }
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            for (pod, count) in tally.answers {
                *sum.answers.entry(pod).or_default() += count;
            }
            sum.lost.extend(tally.lost);
            sum.moved.extend(tally.moved);
            sum
        })
    }
}

/// Clients that ask until told to stop.
#[derive(Debug, Default)]
pub struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<(Arc<Mutex<Tally>>, JoinHandle<()>)>,
}

impl Load {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a client more, which rests between its questions.
    #[must_use]
    pub fn with(mut self, from: &Netns, pause: Duration, mut ask: Client) -> Self {
        let (is_over, tally) = (self.is_over.clone(), Arc::<Mutex<Tally>>::default());
        let noted = tally.clone();
        let client = from.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let result = ask();
                let rest = match result {
                    Err(Miss::Lost(_)) => pause.max(AFTER_LOSS),
                    _ => pause,
                };
                lock(&noted).note(result);
                thread::sleep(rest);
            }
        });
        self.clients.push((tally, client));
        self
    }

    /// What became of all questions so far.
    pub fn tally(&self) -> Tally {
        self.clients
            .iter()
            .map(|(tally, _)| lock(tally).clone())
            .sum()
    }

    /// Stops the clients: what became of the questions of each.
    pub fn finish(mut self) -> Vec<Tally> {
        self.stop()
    }

    fn stop(&mut self) -> Vec<Tally> {
        self.is_over.store(true, Ordering::Relaxed);
        let stop = |(tally, client): (Arc<Mutex<Tally>>, JoinHandle<()>)| {
            assert!(
                client.join().is_ok() || thread::panicking(),
                "a client failed"
            );
            lock(&tally).clone()
        };
        self.clients.drain(..).map(stop).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new connection each time.
pub fn connections(to: SocketAddr) -> Client {
    Box::new(move || {
        let lost = |how: &str, error| Miss::Lost(format!("new connection {how}{to}: {error}"));
        let stream = connect(to).map_err(|error| lost("to ", error))?;
        // In a trace of packets it is found by this.
        let from = stream.local_addr()?;
        let answer = get_on(&stream).map_err(|error| lost(&format!("from {from} to "), error))?;
        Ok(answer.pod)
    })
}

/// One connection, opened with the first question, which stays open and at its pod. If it is lost,
/// another one.
pub fn connection(to: SocketAddr) -> Client {
    kept(
        format!("connection to {to}"),
        move || connect(to),
        |stream: &mut TcpStream| get_on(stream),
    )
}

/// The datagrams of one connected socket, which stay with one pod.
pub fn datagrams(to: SocketAddr) -> Client {
    kept(
        format!("datagram to {to}"),
        move || {
            let socket = udp_socket(to)?;
            socket.connect(to)?;
            Ok(socket)
        },
        |socket| udp_exchange(socket),
    )
}

/// What a process of a cgroup sends, one flow after the other or all at one pod.
pub fn talk(mut talk: Talk, to: SocketAddr, is_kept: bool) -> Client {
    let name = format!("by socket to {to}, kept: {is_kept}");
    let mut before = None;
    Box::new(move || {
        let said = talk.to(to)?;
        let pod = said.split(' ').next().unwrap_or_default();
        match pod {
            "error" => Err(Miss::Lost(format!("{name}: {said}"))),
            _ if is_kept => same(&name, &mut before, pod.into()),
            _ => Ok(pod.into()),
        }
    })
}

fn kept<T: Send + 'static>(
    name: String,
    mut open: impl FnMut() -> io::Result<T> + Send + 'static,
    mut ask: impl FnMut(&mut T) -> io::Result<Answer> + Send + 'static,
) -> Client {
    let mut connection = None;
    let mut before = None;
    Box::new(move || {
        let lost = |error: io::Error| Miss::Lost(format!("{name}: {error}"));
        let mut open = match connection.take() {
            Some(open) => open,
            None => {
                before = None;
                open().map_err(lost)?
            }
        };
        let answer = ask(&mut open).map_err(lost)?;
        connection = Some(open);
        same(&name, &mut before, answer.pod)
    })
}

/// The pod, if it is the one that it was before.
fn same(name: &str, before: &mut Option<String>, now: String) -> Result<String, Miss> {
    match before.replace(now.clone()) {
        Some(before) if before != now => {
            Err(Miss::Moved(format!("{name}: from {before} to {now}")))
        }
        _ => Ok(now),
    }
}
