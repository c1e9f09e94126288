//! TLS of clients: the certificates that they are shown, and the handshake.

pub(crate) mod facts;
pub(crate) mod named;
pub(crate) mod provider;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod verifier;
