//! Events, as the programs tell them.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::maps::{Array, MapData, RingBuf};
use headgate_abi::{Event, MonitorEntry, names};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    error::Error,
    maps::{open, pin_folder, typed},
    sys::now_s,
};

/// How long programs go on telling when nobody asks any more, in seconds.
const LEASE_S: u32 = 3;

/// Somebody who looks at events. There is one at a time, for each event is told once.
#[allow(missing_debug_implementations, reason = "aya's ring buffers have none")]
pub struct Monitor {
    switch: Array<MapData, MonitorEntry>,
    events: RingBuf<MapData>,
    share: u32,
    _lock: Flock<File>,
}

impl Monitor {
    /// Starts to look at one of `one_in` events, taken at random.
    pub fn open(pins: &Path, one_in: u32) -> Result<Self, Error> {
        let folder = pin_folder(pins);
        let failed = |source| Error::Open {
            path: folder.clone(),
            source,
        };
        let file = File::open(&folder).map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => Error::MonitorTaken,
            other => failed(other.into()),
        })?;
        let events = RingBuf::try_from(aya::maps::Map::RingBuf(open(&folder, names::EVENTS)?));
        let mut monitor = Self {
            switch: typed(&folder, names::MONITOR)?,
            events: events.map_err(|source| Error::map(names::EVENTS, source))?,
            share: u32::MAX / one_in.max(1),
            _lock: lock,
        };
        // What is left of somebody who looked before.
        while monitor.events.next().is_some() {}
        monitor.renew()?;
        Ok(monitor)
    }

    fn entry(&self) -> Result<MonitorEntry, Error> {
        let entry = self.switch.get(&0, 0);
        entry.map_err(|source| Error::map(names::MONITOR, source))
    }

    fn set(&mut self, until_s: u32) -> Result<(), Error> {
        // A count that a program adds in between is lost, which is of no weight.
        let entry = MonitorEntry {
            until_s,
            share: self.share,
            ..self.entry()?
        };
        let result = self.switch.set(0, entry, 0);
        result.map_err(|source| Error::map(names::MONITOR, source))
    }

    /// Goes on looking: to be called at least once a second.
    pub fn renew(&mut self) -> Result<(), Error> {
        self.set(now_s() + LEASE_S)
    }

    /// The next event, if one is there. To wait for one, poll [`Monitor::fd`].
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let bytes: &[u8; size_of::<Event>()] = item.as_ref().try_into().ok()?;
        Some(crate::array::from_bytes(bytes))
    }

    /// Becomes readable when there are events.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Events that there was no room for, since the map was made.
    pub fn lost(&self) -> Result<u64, Error> {
        Ok(self.entry()?.lost)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Otherwise it ends by itself a little later.
        let _ends_later = self.set(0);
    }
}
