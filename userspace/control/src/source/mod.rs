//! Where objects come from: the API server or a folder of manifests, as [`Event`](event::Event)s.

pub(crate) mod convert;
pub(crate) mod event;
pub mod kube;
pub mod manifests;
pub(crate) mod pods;
pub(crate) mod ranges;
