//! Which ports of this network namespace have listeners.

use std::fs;

/// `TCP_LISTEN`, as the kernel writes states.
const LISTEN: &str = "0A";

/// Whether a process listens on this port of an address other than loopback. An unreadable table
/// counts as empty.
pub(super) fn is_used(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|path| {
        let table = fs::read_to_string(path).unwrap_or_default();
        has_listener(&table, port)
    })
}

/// Whether such a table has one. The kernel writes addresses as words in the order of the host, and
/// ports as numbers.
fn has_listener(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next(), words.nth(1));
        let Some((address, number)) = local.and_then(|local| local.split_once(':')) else {
            return false;
        };
        let is_loopback = match address.len() {
            8 => address.ends_with("7F"),
            _ => address == "00000000000000000000000001000000",
        };
        state == Some(LISTEN) && !is_loopback && u16::from_str_radix(number, 16) == Ok(port)
    })
}

#[cfg(test)]
mod tests {
    use super::has_listener;

    #[test]
    fn s150_a_port_of_the_proxy_that_another_process_has_is_found() {
        let line = |local: &str, state: &str| {
            format!(
                "  sl  local_address rem_address   st\n   0: {local} 00000000:0000 {state} 0:0\n"
            )
        };
        for (local, state, expected) in [
            ("00000000:0050", "0A", true),
            ("0132A8C0:0050", "0A", true),
            ("00000000000000000000000000000000:0050", "0A", true),
            ("0100007F:0050", "0A", false),
            ("00000000000000000000000001000000:0050", "0A", false),
            ("0132A8C0:0050", "01", false),
            ("00000000:01BB", "0A", false),
        ] {
            assert_eq!(
                has_listener(&line(local, state), 80),
                expected,
                "{local} {state}"
            );
        }
    }
}
