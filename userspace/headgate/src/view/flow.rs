//! A flow on the command line.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use headgate_abi::{Addr, FlowKey, Port};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl From<Protocol> for headgate_abi::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::TCP,
            Protocol::Udp => Self::UDP,
        }
    }
}

/// The flow from a client to a frontend.
pub(crate) fn key(from: SocketAddr, protocol: Protocol, to: SocketAddr) -> Result<FlowKey> {
    ensure!(
        from.is_ipv4() == to.is_ipv4(),
        "{from} and {to} are not of one family"
    );
    Ok(FlowKey {
        source: Addr::from(from.ip()),
        destination: Addr::from(to.ip()),
        source_port: Port::new(from.port()),
        destination_port: Port::new(to.port()),
        protocol: protocol.into(),
        zero: [0; 3],
    })
}
