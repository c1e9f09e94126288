//! Cross-origin resource sharing (Fetch standard, section 3.3).

use super::HostMode;

/// Cross-origin resource sharing (Fetch standard, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may read responses.
    pub origins: CorsOrigins,
    /// `Access-Control-Allow-Methods`.
    pub methods: CorsList,
    /// `Access-Control-Allow-Headers`.
    pub headers: CorsList,
    /// `Access-Control-Expose-Headers`.
    pub expose: Option<String>,
    /// `Access-Control-Allow-Credentials`.
    pub credentials: bool,
    /// `Access-Control-Max-Age` in seconds.
    pub max_age_s: u32,
}

/// Which origins may read responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// All, as `*`: never with credentials.
    All,
    /// All, each by its own name, so that credentials may be allowed to it.
    Each,
    /// These, by their names.
    Listed(Vec<CorsOrigin>),
}

/// An origin: scheme and host with an optional port. The default port of its scheme counts as none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsOrigin {
    /// Scheme with its separator: `https://`.
    pub scheme: String,
    /// Whether the origin has labels in front of `host`, and how many; with no labels in `host` it may be
    /// any host.
    pub wildcard: Option<HostMode>,
    /// Host and port.
    pub host: String,
}

/// What a page may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsList {
    /// These, with `, ` between them; empty for no header.
    Listed(String),
    /// What the page asks for.
    Asked,
}
