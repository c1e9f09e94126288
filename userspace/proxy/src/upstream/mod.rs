//! Upstreams: picks an endpoint of a Service port for each request and sends the request to it.
//!
//! [`Upstreams`] keeps one [`Upstream`] for each [`UpstreamKey`](headgate_model::edge::UpstreamKey)
//! across configuration changes. An upstream picks an endpoint ([`Upstream::pick`]), counts the
//! request while it is in flight, and sends it ([`Upstream::send`]) on a pooled or a new connection.
//! It knows neither Kubernetes nor routes, and does not retry: the caller decides about that.
//! [`SendError`] says whether the endpoint may have acted on the request.

mod affinity;
mod balance;
mod connect;
mod direct;
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
mod state;
mod target;
#[cfg(test)]
mod tests;
mod timeout;
mod tls;

pub(crate) use direct::{DirectRequest, DirectResponse};
pub use error::{ErrorKind, NoEndpoint, SendError};
pub use pick::{Pick, PickInput};
pub use port::Upstream;
pub use registry::Upstreams;
pub use reply::Reply;
pub(crate) use timeout::IdleTimeout;

pub use state::{EndpointHealth, EndpointState, UpstreamState};
