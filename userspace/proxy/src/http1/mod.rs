//! HTTP/1.1 on the path of a request (RFC 9112): heads, bodies and buffers, for clients and endpoints.
//!
//! A head becomes the types of the `http` crate, so that all later steps are the same for every version of
//! HTTP. What is ambiguous is refused: this parser accepts less than RFC 9112 allows, never more.

mod body;
mod encode;
mod head;
mod send;
#[cfg(test)]
mod tests;
mod transport;

pub(crate) use body::Decoder;
pub(crate) use encode::{Asked, Size, request_head, response_head};
#[cfg(test)]
pub(crate) use head::Length;
pub(crate) use head::{
    BadMessage, ReceivedRequest, ReceivedResponse, is_hopeless, request, response,
};
pub(crate) use send::{Outgoing, poll_send};
pub(crate) use transport::{HeadRead, Shared, Transport};
