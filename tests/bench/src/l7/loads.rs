//! The loads.

use std::{fs, path::Path};

use anyhow::Result;

/// Scripts of wrk, by file name.
const SCRIPTS: [(&str, &str); 2] = [
    (
        "random.lua",
        "request = function()\n\
         local path = string.format('/p%d/x', math.random(0, 9))\n\
         local host = string.format('h%d.example.com', math.random(0, 999))\n\
         return wrk.format('GET', path, { Host = host })\n\
         end\n",
    ),
    (
        "upload.lua",
        "wrk.method = 'POST'\nwrk.body = string.rep('x', 1000000)\n",
    ),
];

/// A kind of load.
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) is_tls: bool,
    pub(super) path: &'static str,
    /// The command without duration and URL, in a folder with [`SCRIPTS`].
    pub(super) command: &'static [&'static str],
}

pub(super) const LOADS: [Load; 9] = [
    Load {
        name: "HTTP/1.1, 32 kept connections",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c32"],
    },
    Load {
        name: "HTTP/1.1, 256 kept connections",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c256"],
    },
    Load {
        name: "HTTP/1.1, a connection per request",
        is_tls: false,
        path: "/",
        // wrk accepts the header only with the blank.
        command: &["wrk", "-t1", "-c64", "-H", "Connection: close"],
    },
    Load {
        name: "TLS, a handshake per request",
        is_tls: true,
        path: "/",
        command: &["wrk", "-t1", "-c64", "-H", "Connection: close"],
    },
    Load {
        name: "HTTP/2 over TLS, 16 x 10 streams",
        is_tls: true,
        path: "/",
        command: &["h2load", "-t1", "-c16", "-m10"],
    },
    Load {
        name: "HTTP/1.1, answers of 1 MB",
        is_tls: false,
        path: "/megabyte",
        command: &["wrk", "-t1", "-c16"],
    },
    Load {
        name: "TLS, answers of 1 MB",
        is_tls: true,
        path: "/megabyte",
        command: &["wrk", "-t1", "-c16"],
    },
    Load {
        name: "HTTP/1.1, uploads of 1 MB",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c16", "-s", "upload.lua"],
    },
    Load {
        name: "HTTP/1.1, 1,000 hosts with 10 paths each",
        is_tls: false,
        path: "/",
        command: &["wrk", "-t1", "-c32", "-s", "random.lua"],
    },
];

/// Writes the scripts, and the file that the backend sends.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    for (name, text) in SCRIPTS {
        fs::write(folder.join(name), text)?;
    }
    Ok(fs::write(folder.join("megabyte"), vec![b'x'; 1_000_000])?)
}
