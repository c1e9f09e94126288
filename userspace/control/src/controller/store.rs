//! Objects of a watch.

use std::collections::BTreeMap;

use headgate_model::NamespacedName;
use kube::{ResourceExt, runtime::watcher};

/// The objects that a watch has sent.
#[derive(Debug)]
pub(super) struct Store<K> {
    objects: BTreeMap<NamespacedName, K>,
    /// The list that is being read.
    listing: BTreeMap<NamespacedName, K>,
    is_listed: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            is_listed: false,
        }
    }
}

impl<K: ResourceExt + Clone> Store<K> {
    /// Whether all objects were sent at least once.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    pub(super) fn get(&self, name: &NamespacedName) -> Option<&K> {
        self.objects.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NamespacedName, &K)> {
        self.objects.iter()
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    pub(super) fn put(&mut self, object: K) {
        self.objects.insert(name(&object), object);
    }

    /// Handles an event; returns whether objects may differ afterwards.
    pub(super) fn note(&mut self, event: watcher::Event<K>) -> bool {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                false
            }
            watcher::Event::InitApply(object) => {
                self.listing.insert(name(&object), object);
                false
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.is_listed = true;
                true
            }
            watcher::Event::Apply(object) => {
                let version = object.resource_version();
                let known = self.objects.get(&name(&object));
                let is_known = known.is_some_and(|known| known.resource_version() == version);
                self.put(object);
                !is_known
            }
            watcher::Event::Delete(object) => self.objects.remove(&name(&object)).is_some(),
        }
    }
}

fn name(object: &impl ResourceExt) -> NamespacedName {
    NamespacedName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}
