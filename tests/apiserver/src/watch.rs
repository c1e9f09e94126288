//! Watches: the log of changes as a stream of JSON lines.
//!
//! A watch holds only a version; after a write it reads the changes since that version. So a watch that was
//! slow, stalled or resumed gets the same events as any other, or an error that they are expired.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::convert;
use crate::error::ApiError;
use crate::faults::{FaultState, Faults};
use crate::negotiate::Shape;
use crate::resource::Resource;
use crate::selector::Selector;
use crate::storage::{Change, Store};

/// The start of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the existing objects, as ADDED events.
    Existing,
    /// With the existing objects, followed by a bookmark that marks their end.
    ExistingThenBookmark,
    /// After this version.
    After(u64),
    /// With the changes from now on.
    Now,
}

/// The parameters of a watch.
pub(crate) struct WatchRequest {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) shape: Shape,
    pub(crate) start: Start,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
}

/// Counts a watch while it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Watch {
    request: WatchRequest,
    store: Arc<Store>,
    versions: watch::Receiver<u64>,
    faults: watch::Receiver<FaultState>,
    seen: FaultState,
    /// The version up to which everything was sent.
    position: u64,
    sent_columns: bool,
    ready: VecDeque<Bytes>,
    bookmark_timer: Interval,
    deadline: Instant,
    finished: bool,
    _open: Open,
}

/// Starts a watch. As from the API, errors come as the first event.
pub(crate) fn watch(
    request: WatchRequest,
    store: &Arc<Store>,
    faults: &Faults,
    bookmark_interval: Duration,
    open: &Arc<AtomicUsize>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let versions = store.versions();
    let mut faults = faults.follow();
    let seen = faults.borrow_and_update().clone();
    let mut bookmark_timer =
        tokio::time::interval_at(Instant::now() + bookmark_interval, bookmark_interval);
    bookmark_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        deadline: Instant::now() + request.timeout,
        store: Arc::clone(store),
        versions,
        faults,
        seen,
        position: 0,
        sent_columns: false,
        ready: VecDeque::new(),
        bookmark_timer,
        finished: false,
        _open: Open::new(open),
        request,
    };
    watch.begin();
    futures::stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })
}

/// The cause that woke a watch.
enum Wake {
    Store,
    Faults,
    Bookmark,
    Deadline,
    Closed,
}

impl Watch {
    fn begin(&mut self) {
        let table = self.request.resource.table;
        let (version, existing) = self.store.with(|state| {
            let namespace = self.request.namespace.as_deref();
            (state.version(), state.list(table, namespace))
        });
        self.position = match self.request.start {
            Start::After(after) => after,
            Start::Existing | Start::ExistingThenBookmark | Start::Now => version,
        };
        if matches!(
            self.request.start,
            Start::Existing | Start::ExistingThenBookmark
        ) {
            for object in &existing {
                if self.request.selector.matches(object) {
                    self.event("ADDED", Value::clone(object));
                }
            }
        }
        if self.request.start == Start::ExistingThenBookmark {
            self.bookmark(true);
        }
        self.catch_up();
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if self.seen.dropped != self.faults.borrow().dropped {
                self.finished = true;
                self.ready.clear();
                // Forgets the difference, so that the error is the last item.
                self.seen = self.faults.borrow_and_update().clone();
                return Some(Err(io::Error::other("the watch was dropped")));
            }
            let stalled = self.faults.borrow().stalled;
            if !stalled {
                self.handle_faults();
                self.catch_up();
                if let Some(line) = self.ready.pop_front() {
                    return Some(Ok(line));
                }
                if self.finished {
                    return None;
                }
            }
            match self.wake(stalled).await {
                Wake::Store | Wake::Faults => {}
                Wake::Bookmark if self.request.bookmarks => {
                    self.catch_up();
                    self.bookmark(false);
                }
                Wake::Bookmark => {}
                Wake::Deadline | Wake::Closed => self.finished = true,
            }
        }
    }

    async fn wake(&mut self, stalled: bool) -> Wake {
        tokio::select! {
            changed = self.faults.changed() => changed.map_or(Wake::Closed, |()| Wake::Faults),
            changed = self.versions.changed(), if !stalled => {
                changed.map_or(Wake::Closed, |()| Wake::Store)
            }
            _ = self.bookmark_timer.tick(), if !stalled => Wake::Bookmark,
            () = tokio::time::sleep_until(self.deadline), if !stalled => Wake::Deadline,
        }
    }

    /// Handles the faults that were set since the last call.
    fn handle_faults(&mut self) {
        let now = self.faults.borrow().clone();
        if now.expired != self.seen.expired {
            let oldest = self.store.with(|state| state.version());
            self.fail(&ApiError::too_old(self.position, oldest));
        }
        if now.bookmarked != self.seen.bookmarked && self.request.bookmarks {
            self.catch_up();
            self.bookmark(false);
        }
        self.seen = now;
    }

    fn catch_up(&mut self) {
        if self.finished {
            return;
        }
        let resource = &self.request.resource;
        let result = self.store.with(|state| {
            let changes = state.since(resource.table, self.position)?;
            let is_served = state.resources.serves(resource);
            Ok::<_, ApiError>((state.version(), changes, is_served))
        });
        match result {
            Ok((version, changes, is_served)) => {
                for change in &changes {
                    self.change(change);
                }
                self.position = version;
                // A changed or deleted definition closes the watches of its resources.
                self.finished = !is_served;
            }
            Err(error) => self.fail(&error),
        }
    }

    /// The event of a change: an object that enters the selection is ADDED, one that leaves is DELETED.
    fn change(&mut self, change: &Change) {
        let namespace = self.request.namespace.as_deref();
        if namespace.is_some_and(|wanted| wanted != change.key.namespace) {
            return;
        }
        let selected = |object: &Option<Arc<Value>>| {
            let object = object.as_ref()?;
            let matches = self.request.selector.matches(object);
            matches.then(|| Value::clone(object))
        };
        match (selected(&change.before), selected(&change.after)) {
            (None, None) => {}
            (None, Some(after)) => self.event("ADDED", after),
            (Some(_), Some(after)) => self.event("MODIFIED", after),
            (Some(mut before), None) => {
                before["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.event("DELETED", before);
            }
        }
    }

    fn event(&mut self, kind: &str, object: Value) {
        let resource = &self.request.resource;
        let object = convert::from_stored(resource, object);
        let object = self
            .request
            .shape
            .object(resource, object, !self.sent_columns);
        self.sent_columns = true;
        self.line(kind, &object);
    }

    fn bookmark(&mut self, initial_events_end: bool) {
        if self.finished {
            return;
        }
        let resource = &self.request.resource;
        let mut object = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.position.to_string()},
        });
        if initial_events_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.request.shape {
            Shape::Table(_) => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
                "columnDefinitions": null,
                "rows": [],
            }),
            shape => shape.object(resource, object, false),
        };
        self.line("BOOKMARK", &object);
    }

    fn fail(&mut self, error: &ApiError) {
        if !self.finished {
            self.line("ERROR", &error.status());
            self.finished = true;
        }
    }

    fn line(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.ready.push_back(Bytes::from(line));
    }
}
