//! The input of a packet target: a state, and steps.

use headgate_abi::Takeover;
use headgate_datapath::{Hook, RouteResult};

use crate::input::Input;

/// Largest frame.
const MAX_FRAME: u16 = 1600;

/// The routes that the kernel may return.
pub(crate) const ROUTES: [RouteResult; 6] = [
    RouteResult::NextHop,
    RouteResult::Neighbour,
    RouteResult::NotHere,
    RouteResult::Stack,
    RouteResult::TooBig,
    RouteResult::Unreachable,
];

/// A step of an input.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A frame arrives.
    Frame { hook: Hook, frame: Vec<u8> },
    /// The receiver of the last forwarded frame sends a reply, with one byte changed by `change`.
    Reply {
        hook: Hook,
        flags: u8,
        change: (u16, u8),
    },
    /// A router sends an ICMP error about the last forwarded frame.
    Error {
        hook: Hook,
        kind: u8,
        change: (u16, u8),
    },
    /// Time passes, in seconds.
    Wait(u16),
    /// The kernel returns this route from now on.
    Route(RouteResult, u16),
    /// The agent gives all connections these marks, and removes the others (`CtFlags`).
    Mark(u8),
    /// The agent takes over from other rules, or gives back to them.
    Takeover(Takeover),
}

/// Reads an input: the number of its state, and its steps.
pub(crate) fn steps(input: &[u8]) -> (u8, Vec<Step>) {
    let mut input = Input(input);
    let state = input.byte();
    let mut steps = Vec::new();
    while !input.is_empty() {
        let tag = input.byte();
        let hook = match tag >> 4 & 3 {
            1 => Hook::Pod,
            2 => Hook::Egress,
            _ => Hook::External,
        };
        steps.push(match tag & 0xf {
            0 | 1 => {
                let len = input.half() % MAX_FRAME;
                let frame = input.bytes(len.into()).to_vec();
                Step::Frame { hook, frame }
            }
            2 | 3 => Step::Reply {
                hook,
                flags: input.byte(),
                change: (input.half(), input.byte()),
            },
            4 => Step::Error {
                hook,
                kind: input.byte(),
                change: (input.half(), input.byte()),
            },
            5 => Step::Wait(input.half()),
            6 => {
                let result = ROUTES[usize::from(input.byte()) % ROUTES.len()];
                Step::Route(result, input.half())
            }
            7 => Step::Mark(input.byte()),
            8 => Step::Takeover(Takeover(u32::from(input.byte() % 3))),
            _ => continue,
        });
    }
    (state, steps)
}

/// Writes an input.
pub(crate) fn input(state: u8, steps: &[Step]) -> Vec<u8> {
    let mut out = vec![state];
    let tag = |number: u8, hook: &Hook| number | (*hook as u8) << 4;
    for step in steps {
        match step {
            Step::Frame { hook, frame } => {
                out.push(tag(0, hook));
                out.extend((frame.len() as u16).to_be_bytes());
                out.extend(frame);
            }
            Step::Reply {
                hook,
                flags,
                change,
            } => {
                out.extend([tag(2, hook), *flags]);
                out.extend(change.0.to_be_bytes());
                out.push(change.1);
            }
            Step::Error { hook, kind, change } => {
                out.extend([tag(4, hook), *kind]);
                out.extend(change.0.to_be_bytes());
                out.push(change.1);
            }
            Step::Wait(seconds) => {
                out.push(5);
                out.extend(seconds.to_be_bytes());
            }
            Step::Mark(marks) => out.extend([7, *marks]),
            Step::Takeover(takeover) => out.extend([8, takeover.0 as u8]),
            Step::Route(result, mtu) => {
                out.extend([6, *result as u8]);
                out.extend(mtu.to_be_bytes());
            }
        }
    }
    out
}
