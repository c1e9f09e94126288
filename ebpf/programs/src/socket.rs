//! Socket hooks of a cgroup.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use headgate_abi::{Addr, BackendEntry, Fate, Port, Protocol, Reason, SocketEntry, SocketKey};
use headgate_datapath::{
    Family,
    socket::{Decision, Destination, translate},
};

use crate::{
    maps::{SOCKETS, config, count_socket, helpers},
    tables::{BpfTables, Site},
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// The address that a hook is called for, in the socket's own family: an IPv6 socket reaches an
/// IPv4 address by its mapped form.
struct SocketAddress<'a> {
    context: &'a SockAddrContext,
    family: Family,
}

impl SocketAddress<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.context.sock_addr
    }

    #[inline(always)]
    fn address(&self) -> Addr {
        // SAFETY: the kernel hands us a valid context, of which it lets us read these fields.
        unsafe {
            match self.family {
                Family::V4 => Addr::from_v4_word((*self.raw()).user_ip4),
                Family::V6 => {
                    let words = &raw const (*self.raw()).user_ip6;
                    let word = |index| words.cast::<u32>().add(index).read_volatile();
                    Addr::from_words([word(0), word(1), word(2), word(3)])
                }
            }
        }
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: as above. The kernel keeps the port in network order in the lower half.
        Port::from_word(unsafe { (*self.raw()).user_port } as u16)
    }

    #[inline(always)]
    fn protocol(&self) -> Protocol {
        // SAFETY: as above.
        Protocol(unsafe { (*self.raw()).protocol } as u8)
    }

    /// Whether the socket is connected to the address itself. Then its answers must come from there, so it was
    /// connected before the address was a frontend, or is not to be balanced. The kernel calls the hooks of
    /// sendmsg also for connected IPv6 sockets whose peer is an IPv4 address.
    #[inline(always)]
    fn is_connected(&self) -> bool {
        const ESTABLISHED: u32 = 1;
        // SAFETY: the kernel lets us read these fields of the socket, which is never null here.
        let (state, port, address) = unsafe {
            let socket = (*self.raw()).__bindgen_anon_1.sk;
            let address = match self.family {
                Family::V4 => Addr::from_v4_word((*socket).dst_ip4),
                Family::V6 => {
                    let words = &raw const (*socket).dst_ip6;
                    let word = |index| words.cast::<u32>().add(index).read_volatile();
                    Addr::from_words([word(0), word(1), word(2), word(3)])
                }
            };
            (
                (*socket).state,
                Port::from_word((*socket).dst_port),
                address,
            )
        };
        state == ESTABLISHED && port == self.port() && address == self.address()
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_netns_cookie(self.context.as_ptr()) }
    }

    /// Replaces the address. An IPv4 socket never gets an IPv6 backend: a Service has one family.
    #[inline(always)]
    fn set(&self, address: Addr, port: Port) {
        // SAFETY: the kernel lets us write these fields, one aligned word at a time.
        unsafe {
            match self.family {
                Family::V4 => (*self.raw()).user_ip4 = address.v4_word(),
                Family::V6 => {
                    let [a, b, c, d] = address.words();
                    let words = (&raw mut (*self.raw()).user_ip6).cast::<u32>();
                    words.write_volatile(a);
                    words.add(1).write_volatile(b);
                    words.add(2).write_volatile(c);
                    words.add(3).write_volatile(d);
                }
            }
            (*self.raw()).user_port = u32::from(port.word());
        }
    }
}

/// Cookie of the node's network namespace.
#[inline(always)]
fn node_netns() -> u64 {
    match config().host_netns_cookie {
        // SAFETY: without a context the helper returns the cookie of the kernel's first namespace.
        0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
        cookie => cookie,
    }
}

/// The entries of a socket.
struct Peers {
    key: SocketKey,
}

impl Peers {
    #[inline(always)]
    fn of(cookie: u64) -> Self {
        Self {
            key: SocketKey {
                cookie,
                number: 0,
                zero: [0; 4],
            },
        }
    }

    /// Finds an entry. Afterwards `self.key` is its key, or else the first that is free, or the last one.
    #[inline(always)]
    fn find(&mut self, is_wanted: impl Fn(&SocketEntry) -> bool) -> Option<SocketEntry> {
        for number in 0..SocketKey::PEERS {
            self.key.number = number;
            // SAFETY: the entry stays mapped and is copied at once. Only this socket writes it, and it is
            // deleted when the socket closes.
            let entry = unsafe { SOCKETS.get(self.key).copied() }?;
            if is_wanted(&entry) {
                return Some(entry);
            }
        }
        None
    }

    /// Answers of this backend come from the entry of `self.key` from now on.
    #[inline(always)]
    fn show(&self, backend: Addr, port: Port) {
        for number in 0..SocketKey::PEERS {
            let key = SocketKey { number, ..self.key };
            if number == self.key.number {
                continue;
            }
            let Some(entry) = SOCKETS.get_ptr_mut(key) else {
                return;
            };
            // SAFETY: see `find`; here one byte is written.
            unsafe {
                if ((*entry).backend, (*entry).backend_port) == (backend, port) {
                    (*entry).is_hidden = 1;
                }
            }
        }
    }

    /// Writes the entry of `self.key`, if it is not there yet. Returns whether it is there.
    #[inline(always)]
    fn put(&self, entry: &SocketEntry, is_unconnected: bool) -> bool {
        // SAFETY: see `find`; here the entry is compared at once.
        let present = unsafe { SOCKETS.get(self.key) };
        if present == Some(entry) {
            return true;
        }
        if is_unconnected {
            self.show(entry.backend, entry.backend_port);
        }
        let is_replaced = present.is_some_and(|old| {
            (old.frontend, old.frontend_port) != (entry.frontend, entry.frontend_port)
        });
        let is_forgotten = is_replaced && self.key.number + 1 == SocketKey::PEERS;
        let is_put = SOCKETS.insert(self.key, entry, 0).is_ok();
        if !is_put || is_forgotten {
            count_socket(Reason::SocketsFull);
        }
        is_put
    }
}

/// sendmsg: from frontend to backend. A socket keeps its backend while that is ready.
#[inline(always)]
fn send(context: &SockAddrContext, family: Family) -> i32 {
    let peer = SocketAddress { context, family };
    if peer.is_connected() {
        return ALLOW;
    }
    let (address, port) = (peer.address(), peer.port());
    let mut peers = Peers::of(peer.cookie());
    let last = peers.find(|entry| (entry.frontend, entry.frontend_port) == (address, port));
    let last = last.unwrap_or_default();
    let backend = BackendEntry {
        address: last.backend,
        port: last.backend_port,
        ..BackendEntry::default()
    };
    forward(&peer, Some((last.backend_id, backend)), &peers)
}

/// From frontend to backend, which `peers` remember. An unconnected socket got the backend `last` before.
#[inline(always)]
fn forward(peer: &SocketAddress<'_>, last: Option<(u32, BackendEntry)>, peers: &Peers) -> i32 {
    let is_unconnected = last.is_some();
    let netns = peer.netns();
    let wanted = Destination {
        address: peer.address(),
        port: peer.port(),
        protocol: peer.protocol(),
        netns,
        is_node: netns == node_netns(),
        last: last.unwrap_or_default(),
    };
    let mut tables = BpfTables::<false>::new(peer.context, Site::Socket, core::ptr::null_mut());
    let hash = mix_cookie(peers.key.cookie);
    match translate(&mut tables, &wanted, hash) {
        Decision::Leave => ALLOW,
        Decision::Refuse(reason) => {
            count_socket(reason);
            // A `Drop` elsewhere is EPERM here, as for a packet that netfilter drops.
            if reason.fate() == Fate::Reject && helpers().set_retval != 0 {
                // SAFETY: the helper only records the error that connect or sendmsg returns.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            REFUSE
        }
        Decision::Backend { service, id, entry } => {
            let remembered = SocketEntry {
                frontend: wanted.address,
                backend: entry.address,
                frontend_port: wanted.port,
                backend_port: entry.port,
                protocol: wanted.protocol,
                is_hidden: 0,
                zero: [0; 2],
                service,
                backend_id: id,
            };
            let is_put = peers.put(&remembered, is_unconnected);
            // Packets of pods are translated on their way as well, and their answers back. Those of the node's own
            // processes are not.
            if !is_put && !wanted.is_node {
                return ALLOW;
            }
            count_socket(Reason::SocketTranslated);
            peer.set(entry.address, entry.port);
            ALLOW
        }
    }
}

/// recvmsg and getpeername: from backend to frontend.
#[inline(always)]
fn reverse(context: &SockAddrContext, family: Family) -> i32 {
    let peer = SocketAddress { context, family };
    let (address, port) = (peer.address(), peer.port());
    let mut peers = Peers::of(peer.cookie());
    if let Some(entry) = peers.find(|entry| {
        entry.is_hidden == 0 && (entry.backend, entry.backend_port) == (address, port)
    }) {
        peer.set(entry.frontend, entry.frontend_port);
    }
    ALLOW
}

/// connect: from frontend to backend.
#[inline(always)]
fn connect(context: &SockAddrContext, family: Family) -> i32 {
    let peer = SocketAddress { context, family };
    forward(&peer, None, &Peers::of(peer.cookie()))
}

/// Cookies are consecutive numbers; the multiplication spreads them (Knuth, 6.4).
#[inline(always)]
fn mix_cookie(cookie: u64) -> u32 {
    (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Forgets a closed socket.
#[cgroup_sock(sock_release)]
fn hg_sock_release(context: SockContext) -> i32 {
    // SAFETY: the context is the program's own.
    let mut peers = Peers::of(unsafe { bpf_get_socket_cookie(context.as_ptr()) });
    while peers.key.number < SocketKey::PEERS && SOCKETS.remove(peers.key).is_ok() {
        peers.key.number += 1;
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
fn hg_connect4(context: SockAddrContext) -> i32 {
    connect(&context, Family::V4)
}

#[cgroup_sock_addr(connect6)]
fn hg_connect6(context: SockAddrContext) -> i32 {
    connect(&context, Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
fn hg_sendmsg4(context: SockAddrContext) -> i32 {
    send(&context, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
fn hg_sendmsg6(context: SockAddrContext) -> i32 {
    send(&context, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
fn hg_recvmsg4(context: SockAddrContext) -> i32 {
    reverse(&context, Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
fn hg_recvmsg6(context: SockAddrContext) -> i32 {
    reverse(&context, Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
fn hg_getpeername4(context: SockAddrContext) -> i32 {
    reverse(&context, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
fn hg_getpeername6(context: SockAddrContext) -> i32 {
    reverse(&context, Family::V6)
}
