//! Frames of a capture file, pcap or pcapng.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};

/// The first bytes of pcapng: a Section Header Block (draft-ietf-opsawg-pcapng, section 4.1).
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const NO_ETHERNET: &str = "has no Ethernet frames: capture on one device, not on `any`";
const NO_CAPTURE: &str = "is not a capture (pcap or pcapng)";

/// Reads the Ethernet frames of a file, in their order.
///
/// # Errors
/// If the file cannot be read, is not a complete capture, or holds other frames than Ethernet.
pub(crate) fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    frames(BufReader::new(file), &shown.to_string())
}

fn frames(mut reader: impl BufRead, name: &str) -> Result<Vec<Vec<u8>>> {
    let start = reader.fill_buf();
    let start = start.with_context(|| format!("cannot read {name}"))?;
    match start.starts_with(&PCAPNG) {
        true => pcapng(reader, name),
        false => pcap(reader, name),
    }
}

fn pcap(reader: impl BufRead, name: &str) -> Result<Vec<Vec<u8>>> {
    let mut reader = PcapReader::new(reader).with_context(|| format!("{name} {NO_CAPTURE}"))?;
    let is_ethernet = reader.header().datalink == DataLink::ETHERNET;
    ensure!(is_ethernet, "{name} {NO_ETHERNET}");
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| damaged(name))?;
        frames.push(packet.data.into_owned());
    }
    Ok(frames)
}

fn pcapng(reader: impl BufRead, name: &str) -> Result<Vec<Vec<u8>>> {
    let reader = PcapNgReader::new(reader);
    let mut reader = reader.with_context(|| format!("{name} {NO_CAPTURE}"))?;
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        let Some((interface, mut frame, sent)) = packet(block).with_context(|| damaged(name))?
        else {
            continue;
        };
        let interface = reader.interfaces().get(interface);
        let interface = interface.with_context(|| damaged(name))?;
        let is_ethernet = interface.linktype == DataLink::ETHERNET;
        ensure!(is_ethernet, "{name} {NO_ETHERNET}");
        if let Some(sent) = sent {
            let most = match interface.snaplen {
                0 => sent,
                most => sent.min(most),
            };
            frame.truncate(most as usize);
        }
        frames.push(frame);
    }
    Ok(frames)
}

/// Interface and bytes of a block with a packet. A Simple Packet Block also yields the length of the
/// packet on the wire, since its bytes end with padding.
type PacketOfBlock = (usize, Vec<u8>, Option<u32>);

fn packet(block: Result<Block<'_>, PcapError>) -> Result<Option<PacketOfBlock>, PcapError> {
    Ok(match block? {
        Block::EnhancedPacket(packet) => {
            Some((packet.interface_id as usize, packet.data.into_owned(), None))
        }
        Block::SimplePacket(packet) => {
            Some((0, packet.data.into_owned(), Some(packet.original_len)))
        }
        Block::Packet(packet) => Some((packet.interface_id.into(), packet.data.into_owned(), None)),
        _ => None,
    })
}

fn damaged(name: &str) -> String {
    format!("{name} is damaged")
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use pcap_file::{
        DataLink,
        pcap::{PcapHeader, PcapPacket, PcapWriter},
        pcapng::{
            PcapNgWriter,
            blocks::{
                enhanced_packet::EnhancedPacketBlock,
                interface_description::InterfaceDescriptionBlock, simple_packet::SimplePacketBlock,
            },
        },
    };

    use super::frames;

    const FRAMES: [&[u8]; 2] = [b"the first frame", b"second"];

    fn pcap(datalink: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            datalink,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for frame in FRAMES {
            let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
            writer.write_packet(&packet).unwrap();
        }
        writer.into_writer()
    }

    fn interface(linktype: DataLink) -> InterfaceDescriptionBlock<'static> {
        InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: Vec::new(),
        }
    }

    fn enhanced(interface_id: u32, frame: &[u8]) -> EnhancedPacketBlock<'_> {
        EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::ZERO,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        }
    }

    fn pcapng(second: DataLink) -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        writer
            .write_pcapng_block(interface(DataLink::ETHERNET))
            .unwrap();
        writer.write_pcapng_block(interface(second)).unwrap();
        let simple = SimplePacketBlock {
            original_len: FRAMES[0].len() as u32,
            data: Cow::Borrowed(FRAMES[0]),
        };
        writer.write_pcapng_block(simple).unwrap();
        writer.write_pcapng_block(enhanced(1, FRAMES[1])).unwrap();
        writer.into_inner()
    }

    #[test]
    fn frames_come_from_pcap_and_pcapng() {
        for file in [pcap(DataLink::ETHERNET), pcapng(DataLink::ETHERNET)] {
            assert_eq!(frames(file.as_slice(), "file").unwrap(), FRAMES);
        }
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let whole = pcapng(DataLink::ETHERNET);
        for (file, complaint) in [
            (&b"node-1\n"[..], "file is not a capture"),
            (&b""[..], "file is not a capture"),
            (&whole[..whole.len() - 3], "file is damaged"),
            (&pcap(DataLink::ETHERNET)[..60], "file is damaged"),
            (&pcap(DataLink::LINUX_SLL), "file has no Ethernet frames"),
            (&pcapng(DataLink::LINUX_SLL), "file has no Ethernet frames"),
        ] {
            let error = format!("{:#}", frames(file, "file").unwrap_err());
            assert!(error.starts_with(complaint), "{error}");
        }
    }
}
