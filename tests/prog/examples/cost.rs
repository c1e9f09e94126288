//! What a packet costs: instructions that the verifier walks, and nanoseconds beside two baselines.

use anyhow::Result;
use headgate_abi::{AddressEntry, BackendEntry, FrontendFlags, FrontendKey, Port, Protocol, names};
use headgate_prog::{Builder, Kernel, State};

const RUNS: usize = 20_000;

fn main() -> Result<()> {
    let v4 = Builder::new("10.0.0.1:1000", "10.0.0.2:80");
    let v6 = Builder::new("[fd00::1]:1000", "[fd00::2]:80");
    let mut state = State::default();
    for (id, client, backend) in [(1, v4, "10.0.0.3:8080"), (2, v6, "[fd00::3]:8080")] {
        let backend: std::net::SocketAddr = backend.parse()?;
        let port = Port::new(client.destination.port());
        let frontend = FrontendKey::new(client.destination.ip().into(), port, Protocol::TCP);
        state.add_frontend(
            frontend,
            id,
            FrontendFlags::default(),
            AddressEntry::SERVICE,
        );
        let entry = BackendEntry {
            address: backend.ip().into(),
            port: Port::new(backend.port()),
            protocol: Protocol::TCP,
            local: 1,
        };
        state.backends.insert(id, entry);
        state.add_service(id, &[id], 0);
    }
    let mut kernel = Kernel::new("cost", &state)?;
    println!("{:<20} {:>12}", "program", "verified");
    let hooks = [
        names::XDP_EXTERNAL,
        names::TC_EXTERNAL,
        names::TC_POD,
        names::TC_EGRESS,
        names::SK_LOOKUP,
        "hg_baseline_pass",
        "hg_baseline_lookup",
    ];
    for name in hooks.into_iter().chain(names::SOCKET_HOOKS) {
        let count = kernel.verified_instructions(name)?;
        println!("{name:<20} {:>12}", count.unwrap_or_default());
    }
    // Opens the connections that the established cases are about.
    for client in [v4, v6] {
        kernel.run_xdp(&client.tcp("S", b""))?;
    }
    let other = Builder::new("10.0.0.1:1000", "10.0.0.9:80").tcp("A", b"");
    let (v4, v6) = (v4.tcp("A", b""), v6.tcp("A", b""));
    let cases = [
        ("pass", "hg_baseline_pass", &v4),
        ("one look-up", "hg_baseline_lookup", &v4),
        ("not ours", names::XDP_EXTERNAL, &other),
        ("established, IPv4", names::XDP_EXTERNAL, &v4),
        ("established, IPv6", names::XDP_EXTERNAL, &v6),
    ];
    // One fresh packet a run, because a run would get what the one before left. Cases take turns
    // and the median counts: what disturbs a run only slows it.
    let mut times = vec![Vec::with_capacity(RUNS); cases.len()];
    for _ in 0..RUNS {
        for ((_, program, frame), times) in cases.iter().zip(&mut times) {
            times.push(kernel.time_xdp(program, frame)?.as_nanos());
        }
    }
    let median = |times: &mut Vec<u128>| {
        times.sort_unstable();
        times.get(RUNS / 2).copied().unwrap_or_default() as f64
    };
    let medians: Vec<f64> = times.iter_mut().map(median).collect();
    println!("\n{:<20} {:>8} {:>8}", "packet", "ns", "ratio");
    for ((name, ..), time) in cases.iter().zip(&medians) {
        println!("{name:<20} {time:>8} {:>8.2}", time / medians[1]);
    }
    Ok(())
}
