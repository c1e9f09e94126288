//! Reads the events that programs send.

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
    pin::{open, pin_folder, typed},
    sys::now_s,
};

/// How long programs send events after the last renewal, in seconds.
const LEASE_S: u32 = 3;

/// A monitor of events. There is one at a time: each event is sent once.
#[allow(missing_debug_implementations, reason = "aya's ring buffers have none")]
pub struct Monitor {
    switch: Array<MapData, MonitorEntry>,
    events: RingBuf<MapData>,
    share: u32,
    _lock: Flock<File>,
}

impl Monitor {
    /// Attaches a monitor, which gets one of `one_in` events, chosen at random.
    ///
    /// # Errors
    ///
    /// [`Error::MonitorTaken`] if another monitor is attached. Else if a map cannot be opened.
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
        // Events for the last monitor.
        while monitor.events.next().is_some() {}
        monitor.renew()?;
        Ok(monitor)
    }

    fn entry(&self) -> Result<MonitorEntry, Error> {
        let entry = self.switch.get(&0, 0);
        entry.map_err(|source| Error::map(names::MONITOR, source))
    }

    fn set(&mut self, until_s: u32) -> Result<(), Error> {
        // The count of an event that is lost in between is lost as well: harmless.
        let entry = MonitorEntry {
            until_s,
            share: self.share,
            ..self.entry()?
        };
        let result = self.switch.set(0, entry, 0);
        result.map_err(|source| Error::map(names::MONITOR, source))
    }

    /// Renews the lease; to be called at least once a second.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn renew(&mut self) -> Result<(), Error> {
        self.set(now_s() + LEASE_S)
    }

    /// Returns the next event, if there is one. To wait for one, poll [`Monitor::fd`].
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        let bytes: &[u8; size_of::<Event>()] = item.as_ref().try_into().ok()?;
        Some(crate::array::from_bytes(bytes))
    }

    /// Returns the descriptor that becomes readable when there are events.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Returns the number of events lost to a full buffer since the map was created.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        Ok(self.entry()?.lost)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Otherwise the lease ends a little later.
        let _ends_later = self.set(0);
    }
}
