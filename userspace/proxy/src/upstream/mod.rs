//! Connections to the endpoints of Services' ports, and which endpoint gets a request.
//!
//! [`Upstreams`] keeps an [`Upstream`] for each [`UpstreamKey`](headgate_model::ingress::UpstreamKey)
//! over all configurations. An upstream picks an endpoint ([`Upstream::pick`]), counts the request
//! while it lasts, and sends it ([`Upstream::send`]) on a connection that it keeps for the next one.
//! It knows neither Kubernetes nor routes, and tries no second endpoint: that is for the caller to
//! decide, whom [`SendError`] tells whether the first one may have acted.

mod affinity;
mod balance;
mod connect;
mod endpoint;
mod error;
mod ewma;
mod exchange;
mod health;
mod http1;
mod http2;
mod pick;
mod port;
mod probe;
mod progress;
mod registry;
mod reply;
mod set;
mod silence;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use error::{ErrorKind, NoEndpoint, SendError};
pub use pick::{Ask, Pick};
pub use port::Upstream;
pub use registry::Upstreams;
pub use reply::Reply;
pub(crate) use silence::Silence;

pub use state::{EndpointHealth, EndpointState, UpstreamState};
