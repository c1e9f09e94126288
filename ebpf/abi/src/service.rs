//! A service: one port of a Kubernetes Service, for one family and one scope.

use bitflags::bitflags;

/// A run of slots in the slot table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRange {
    /// Index of the first slot.
    pub first: u32,
    /// Number of slots; 0 if the service has no eligible backend.
    pub count: u32,
}

/// The value of a slot whose connections are refused, as those of a service without slots are: no backend has this
/// id, because the map of backends is smaller.
pub const REFUSED: u32 = u32::MAX;

/// One service; its index in the map is its id. Id 0 is never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ServiceEntry {
    /// A [`SlotRange`] in one word, because one store replaces it.
    pub(crate) table: u64,
    /// `sessionAffinity: ClientIP` timeout in seconds; 0 is off.
    pub affinity_timeout_s: u32,
    /// See [`ServiceFlags`].
    pub flags: ServiceFlags,
}

/// Facts about a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(transparent)]
pub struct ServiceFlags(u32);

bitflags! {
    impl ServiceFlags: u32 {
        /// Its slots are a Maglev table. Read by the agent only.
        const CONSISTENT = 1;
        /// Its backends have weights, or some of its slots are [`REFUSED`]. Read by the agent only.
        const WEIGHTED = 2;
    }
}

impl ServiceEntry {
    /// An entry whose slots are in `range`.
    pub const fn new(range: SlotRange, affinity_timeout_s: u32, flags: ServiceFlags) -> Self {
        Self {
            table: Self::pack(range),
            affinity_timeout_s,
            flags,
        }
    }

    /// Returns the word of `range`, which one store puts in place.
    pub const fn pack(range: SlotRange) -> u64 {
        (range.first as u64) << 32 | range.count as u64
    }

    /// The slots of this service.
    #[inline(always)]
    pub const fn slots(&self) -> SlotRange {
        SlotRange {
            first: (self.table >> 32) as u32,
            count: self.table as u32,
        }
    }
}

/// The name of a service id, for restarts and the CLI. Only userspace uses this map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ServiceLabel {
    pub(crate) bytes: [u8; ServiceLabel::CAPACITY],
}

impl ServiceLabel {
    /// The longest text that fits, in bytes.
    pub const CAPACITY: usize = 192;

    /// The label of an id that is not in use.
    pub const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
    };

    /// A label with this text, or `None` if it is too long.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::CAPACITY];
        bytes
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Some(Self { bytes })
    }

    /// Returns the text; empty if the id is not in use or the bytes are not UTF-8.
    pub fn text(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0);
        let used = self.bytes.get(..end.unwrap_or(Self::CAPACITY));
        used.and_then(|used| core::str::from_utf8(used).ok())
            .unwrap_or_default()
    }
}
