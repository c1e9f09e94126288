//! Words for what is shown.

use std::net::{IpAddr, SocketAddr};

use headgate_abi::{Addr, Port, Protocol};
#[cfg(feature = "proxy")]
use jiff::Timestamp;

/// `ADDRESS:PORT`, or `[ADDRESS]:PORT` for IPv6.
pub(crate) fn endpoint(address: Addr, port: Port) -> String {
    SocketAddr::new(IpAddr::from(address), port.number()).to_string()
}

/// Name of a protocol.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        _ => "other",
    }
}

/// Whole days from one moment to another; negative if `end` is before `now`.
#[cfg(feature = "proxy")]
pub(crate) fn days(now: Timestamp, end: Timestamp) -> i64 {
    const DAY_S: i64 = 24 * 60 * 60;
    (end.as_second() - now.as_second()).div_euclid(DAY_S)
}

/// An error and its causes in one line, without causes that the error itself names.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match line.is_empty() {
            true => cause,
            false if line.contains(&cause) => line,
            false => format!("{line}: {cause}"),
        }
    })
}

#[cfg(all(test, feature = "proxy"))]
mod tests {
    use anyhow::{Context, anyhow};
    use jiff::Timestamp;

    use super::{days, in_one_line};

    #[test]
    fn l79_expired_certificate_has_a_negative_number_of_days_left() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (end, left) in [(86_400, 1), (86_399, 0), (0, 0), (-1, -1), (-86_401, -2)] {
            assert_eq!(days(at(0), at(end)), left, "{end}");
        }
    }

    #[test]
    fn causes_are_listed_once() {
        let error = Err::<(), _>(anyhow!("no such file"));
        let error = error.context("cannot open web: no such file");
        let error = error.context("cannot start").unwrap_err();
        let line = "cannot start: cannot open web: no such file";
        assert_eq!(in_one_line(&error), line);
    }
}
