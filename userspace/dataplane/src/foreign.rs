//! Programs of others at the hooks that ours use.

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};

use crate::clsact;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCKET_HOOK: u32 = 18;

/// Returns the TC programs of others on these devices, and the loaded socket programs of others: a line each.
pub fn foreign_programs<'a>(devices: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_ours = |name: &str| name.starts_with("hg_");
    let mut found = Vec::new();
    for device in devices {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let programs = SchedClassifier::query_tcx(device, side);
            for program in programs.into_iter().flat_map(|(_, programs)| programs) {
                let name = program.name_as_str().unwrap_or("?");
                if !is_ours(name) {
                    found.push(format!("TCX program {name} on {device}"));
                }
            }
        }
        for filter in clsact::filters(device).into_iter().flatten() {
            if !filter.is_ours() {
                found.push(format!("TC filter {} on {device}", filter.program));
            }
        }
    }
    let hooks = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.program_type() as u32 == SOCKET_HOOK);
    for hook in hooks {
        let name = hook.name_as_str().unwrap_or("?");
        if !is_ours(name) {
            found.push(format!("socket program {name}"));
        }
    }
    found.sort();
    found.dedup();
    found
}
