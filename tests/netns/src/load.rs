//! Clients that send requests continuously, and a tally of the answers.

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

/// Pause of a client after a lost request. Without it, an absent server would be asked thousands of
/// times.
const AFTER_LOSS: Duration = Duration::from_millis(10);

/// Sends one request and returns the name of the pod that answered.
pub type Client = Box<dyn FnMut() -> Result<String, Miss> + Send>;

/// The failure of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No answer, and the error.
    Lost(String),
    /// An answer of another pod than before, over the same connection or flow.
    Moved(String),
}

impl Miss {
    /// No answer, for this reason.
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

/// The outcomes of the requests of one client, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of answers by pod.
    pub answers: BTreeMap<String, usize>,
    /// An error for each lost request.
    pub lost: Vec<String>,
    /// A sentence for each answer of another pod than before.
    pub moved: Vec<String>,
}

impl Tally {
    /// Number of all requests.
    pub fn sent(&self) -> usize {
        self.answered() + self.lost.len() + self.moved.len()
    }

    /// Number of requests that were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    /// Number of answers of this pod.
    pub fn of(&self, pod: &str) -> usize {
        self.answers.get(pod).copied().unwrap_or(0)
    }

    /// Adds the outcome of one request.
    pub fn add(&mut self, result: Result<String, Miss>) {
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

/// Clients that send requests until they are stopped.
#[derive(Debug, Default)]
pub struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<(Arc<Mutex<Tally>>, JoinHandle<()>)>,
}

impl Load {
    /// A load without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts one more client, which pauses between its requests.
    #[must_use]
    pub fn with(mut self, from: &Netns, pause: Duration, mut request: Client) -> Self {
        let (is_over, tally) = (self.is_over.clone(), Arc::<Mutex<Tally>>::default());
        let shared = tally.clone();
        let client = from.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let result = request();
                let pause = match result {
                    Err(Miss::Lost(_)) => pause.max(AFTER_LOSS),
                    _ => pause,
                };
                lock(&shared).add(result);
                thread::sleep(pause);
            }
        });
        self.clients.push((tally, client));
        self
    }

    /// The outcomes of all requests so far.
    pub fn tally(&self) -> Tally {
        self.clients
            .iter()
            .map(|(tally, _)| lock(tally).clone())
            .sum()
    }

    /// Stops the clients; returns the tally of each.
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

/// A client that opens a new connection for each request.
pub fn connections(to: SocketAddr) -> Client {
    Box::new(move || {
        let lost = |how: &str, error| Miss::Lost(format!("new connection {how}{to}: {error}"));
        let stream = connect(to).map_err(|error| lost("to ", error))?;
        // The port finds the connection in a packet capture.
        let from = stream.local_addr()?;
        let answer = get_on(&stream).map_err(|error| lost(&format!("from {from} to "), error))?;
        Ok(answer.pod)
    })
}

/// A client with one connection, which stays open and must stay at its pod. It opens the connection
/// with the first request, and again after a loss.
pub fn connection(to: SocketAddr) -> Client {
    kept(
        format!("connection to {to}"),
        move || connect(to),
        |stream: &mut TcpStream| get_on(stream),
    )
}

/// A client with one connected UDP socket, whose datagrams must stay at one pod.
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

/// A client that is a process of a cgroup. With `is_kept`, all answers must come from one pod.
pub fn talk(mut talk: Talk, to: SocketAddr, is_kept: bool) -> Client {
    let name = format!("by socket to {to}, kept: {is_kept}");
    let mut before = None;
    Box::new(move || {
        let line = talk.to(to)?;
        let pod = line.split(' ').next().unwrap_or_default();
        match pod {
            "error" => Err(Miss::Lost(format!("{name}: {line}"))),
            _ if is_kept => same(&name, &mut before, pod.into()),
            _ => Ok(pod.into()),
        }
    })
}

fn kept<T: Send + 'static>(
    name: String,
    mut open: impl FnMut() -> io::Result<T> + Send + 'static,
    mut request: impl FnMut(&mut T) -> io::Result<Answer> + Send + 'static,
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
        let answer = request(&mut open).map_err(lost)?;
        connection = Some(open);
        same(&name, &mut before, answer.pod)
    })
}

/// Returns the pod if it is the same as before.
fn same(name: &str, before: &mut Option<String>, now: String) -> Result<String, Miss> {
    match before.replace(now.clone()) {
        Some(before) if before != now => {
            Err(Miss::Moved(format!("{name}: from {before} to {now}")))
        }
        _ => Ok(now),
    }
}
