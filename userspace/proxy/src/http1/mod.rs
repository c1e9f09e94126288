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
pub(crate) use encode::{Asked, Encoder, Size, date, field, request_head, response_head};
pub(crate) use head::{
    BadMessage, Length, ReceivedRequest, ReceivedResponse, final_response, is_hopeless, request,
};
pub(crate) use send::{Outgoing, poll_send};
pub(crate) use transport::{HeadRead, Shared, Transport};
