//! The eBPF programs: glue around `headgate-datapath`, and the only crate of `ebpf` with unsafe
//! code. No decision about a packet is made here.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod baseline;
mod bytes;
mod lookup;
mod maps;
mod socket;
mod tables;
mod tc;
mod xdp;

/// A program that can panic does not load: the verifier refuses this loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives some helpers only to programs whose license section names the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
