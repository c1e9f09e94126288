//! Counters and the reasons that are counted.

/// Traffic of one service or one backend on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Traffic {
    /// Connections opened; for sockets, translations.
    pub connections: u64,
    /// Packets translated, both directions. Sockets do not count packets.
    pub packets: u64,
    /// Bytes of these packets, link header included.
    pub bytes: u64,
}

/// What happens to a packet for a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Left to the kernel unchanged.
    Pass,
    /// Translated and sent on.
    Forward,
    /// Answered with a TCP reset or an ICMP error.
    Reject,
    /// Dropped without an answer.
    Drop,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $fate:ident, $word:literal;)+) => {
        /// Why a packet or a socket is handled as it is. Numbers are stable and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Reason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the word that the CLI and the metrics use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Returns the sentence that the CLI prints.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// Returns what happens to the packet.
            #[inline(always)]
            pub const fn fate(self) -> Fate {
                match self { $(Self::$name => Fate::$fate,)+ }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6, or tagged with a VLAN.
    NotIp = 0, Pass, "not-ip";
    /// Shorter than its headers say, or with an invalid header.
    Malformed = 1, Pass, "malformed";
    /// Neither TCP nor UDP nor an ICMP error about them.
    OtherProtocol = 2, Pass, "other-protocol";
    /// No Service uses this address and port, and no connection is known.
    NotOurs = 3, Pass, "not-ours";
    /// A later fragment whose first fragment was not seen, not to a Service address.
    Fragment = 4, Pass, "fragment";
    /// A device is to complete the checksum, which XDP cannot keep: handed to TC.
    PartialChecksum = 5, Pass, "partial-checksum";
    /// The link address of the next hop is not known yet: handed to TC or to the kernel.
    NoNeighbour = 6, Pass, "no-neighbour";
    /// XDP could not extend the frame for an answer: handed to TC.
    NoTailroom = 7, Pass, "no-tailroom";
    /// XDP could not extend the frame to encapsulate the packet: handed to TC.
    NoHeadroom = 8, Pass, "no-headroom";
    /// A reply that the kernel routes: translated at TC egress.
    AtEgress = 9, Pass, "at-egress";
    /// After translation by XDP, TC would assign the packet to another connection: handed to TC.
    ForTc = 10, Pass, "for-tc";
    /// XDP has not learned yet whether the frame is for this machine: handed to TC.
    LinkUnknown = 11, Pass, "link-unknown";
    /// The frame is for another machine, or for all.
    OtherHost = 12, Pass, "other-host";
    /// The kernel has this connection, or rules that are being replaced may have it: left to the kernel.
    KernelConnection = 13, Pass, "kernel-connection";
    /// Translated towards a backend.
    ToBackend = 16, Forward, "to-backend";
    /// Translated back towards the client.
    ToClient = 17, Forward, "to-client";
    /// An ICMP error about a translated connection, translated inside and outside.
    IcmpError = 18, Forward, "icmp-error";
    /// A socket was connected to a backend.
    SocketTranslated = 19, Forward, "socket-translated";
    /// Sent encapsulated to the node of its backend, which replies to the client directly (DSR).
    Encapsulated = 20, Forward, "encapsulated";
    /// An echo request to a Service address with a ready endpoint, answered.
    EchoAnswered = 21, Forward, "echo-answered";
    /// A socket was translated but not remembered: the process sees the backend's address.
    SocketsFull = 22, Forward, "sockets-full";
    /// The Service has no eligible endpoint.
    NoBackend = 32, Reject, "no-backend";
    /// The Service has no eligible endpoint on this node, and its traffic policy is Local.
    NoLocalBackend = 33, Drop, "no-local-backend";
    /// Every source port towards this backend is in use.
    SnatPortsExhausted = 34, Drop, "snat-ports-exhausted";
    /// This node has no address of the packet's family to send from.
    NoSnatAddress = 35, Drop, "no-snat-address";
    /// The hop limit ran out here.
    HopLimit = 36, Reject, "hop-limit";
    /// Larger than the MTU of the next hop, and not to be fragmented.
    TooBig = 37, Reject, "too-big";
    /// No route to the translated destination.
    NoRoute = 38, Drop, "no-route";
    /// The packet could not be changed: the kernel refused a write.
    RewriteFailed = 39, Drop, "rewrite-failed";
    /// The connection table is full.
    ConntrackFull = 40, Drop, "conntrack-full";
    /// The client is not in the source ranges of the load balancer.
    SourceRange = 41, Drop, "source-range";
    /// The source is a loopback or Service address, which no host may send from.
    Spoofed = 42, Drop, "spoofed";
    /// No Service uses this port of its address.
    NoPort = 43, Reject, "no-port";
    /// A later fragment of a packet for a Service whose first fragment was not forwarded.
    FragmentUnknown = 44, Drop, "fragment-unknown";
    /// Encapsulated by another node for a backend that is not on this node, or for no known frontend.
    EncapsulatedUnknown = 45, Drop, "encapsulated-unknown";
    /// The chosen backend was removed at that moment: the client's next try gets another.
    StaleBackend = 46, Drop, "stale-backend";
    /// The cluster assigns this address to Services, and no Service has it.
    NoService = 47, Reject, "no-service";
    /// An ICMP error that quotes no segment in flight of its connection (RFC 5927).
    StaleError = 48, Drop, "stale-error";
    /// The connection is being handed to the kernel's connection tracking, or copied from the maps of another version;
    /// its sender repeats the packet.
    Paused = 49, Drop, "paused";
}

impl Reason {
    /// Size of the counter array.
    pub const COUNT: u32 = 64;
}
