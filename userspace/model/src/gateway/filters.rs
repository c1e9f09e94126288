//! Filters of rules and backends.

use super::{
    Problem,
    backend::Backends,
    object::{
        CorsFilter, Filter, FilterType, HeaderModifier, PathModifier, PathModifierType,
        RequestMirror, RequestRedirect,
    },
    rules::{Changes, unsupported},
};
use crate::edge::{
    Cors, CorsList, CorsOrigin, CorsOrigins, HeaderEdit, HostMode, Mirror, PathChange, Redirect,
    RedirectParts, Scheme, Share, is_framing,
};

/// The filters of a rule.
pub(super) enum Filters {
    /// What they change.
    Valid(Box<Changes>),
    /// The rule is left out.
    Dropped(Problem),
    /// The rule answers with an error.
    Closed(Problem),
}

/// Reads the filters of a rule.
pub(super) fn read(filters: &[Filter], backends: &mut Backends<'_>) -> Filters {
    let mut changes = Changes::default();
    let mut seen: Vec<&FilterType> = Vec::new();
    let mut dropped = None;
    let mut closed = None;
    for filter in filters {
        if seen.contains(&&filter.type_) && filter.type_ != FilterType::RequestMirror {
            let message = format!("filter {} cannot be repeated", filter.type_);
            dropped = dropped.or(Some(Problem::new("IncompatibleFilters", message)));
        }
        seen.push(&filter.type_);
        match add(filter, &mut changes, backends) {
            Ok(()) => {}
            Err(problem) => closed = closed.or(Some(problem)),
        }
    }
    if changes.redirect.is_some() && changes.rewrite.is_some() {
        let message = "RequestRedirect and URLRewrite cannot be combined";
        dropped = dropped.or(Some(Problem::new("IncompatibleFilters", message)));
    }
    match (closed, dropped) {
        (Some(problem), _) => Filters::Closed(problem),
        (None, Some(problem)) => Filters::Dropped(problem),
        (None, None) => Filters::Valid(Box::new(changes)),
    }
}

fn add(filter: &Filter, changes: &mut Changes, backends: &mut Backends<'_>) -> Result<(), Problem> {
    let missing = || unsupported(format!("filter {} has no settings", filter.type_));
    match &filter.type_ {
        FilterType::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref();
            changes.request_headers = edits(modifier.ok_or_else(missing)?, &["host"])?;
        }
        FilterType::ResponseHeaderModifier => {
            let modifier = filter.response_header_modifier.as_ref();
            changes.response_headers = edits(modifier.ok_or_else(missing)?, &[])?;
        }
        FilterType::RequestMirror => {
            let mirror = filter.request_mirror.as_ref().ok_or_else(missing)?;
            add_mirror(mirror, changes, backends)?;
        }
        FilterType::RequestRedirect => {
            let redirect = filter.request_redirect.as_ref().ok_or_else(missing)?;
            changes.redirect = Some(Redirect::Parts(parts(redirect)?));
        }
        FilterType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().ok_or_else(missing)?;
            let path = rewrite.path.as_ref().map(path_change).transpose()?;
            changes.rewrite = Some((path, rewrite.hostname.clone()));
        }
        FilterType::Cors => {
            changes.cors = Some(cors(filter.cors.as_ref().ok_or_else(missing)?)?);
        }
        FilterType::ExtensionRef => {
            let name = filter.extension_ref.as_ref();
            let name = name.map(|one| format!("{} {}", one.kind, one.name));
            let message = format!("filter {} is not supported", name.unwrap_or_default());
            return Err(Problem::new("InvalidKind", message));
        }
        FilterType::ExternalAuth | FilterType::Other(_) => {
            return Err(unsupported(format!(
                "filter {} is not supported",
                filter.type_
            )));
        }
    }
    Ok(())
}

/// Filters of a backend: changes to headers of requests and responses.
pub(super) fn of_backend(
    filters: &[Filter],
) -> Result<(Vec<HeaderEdit>, Vec<HeaderEdit>), Problem> {
    let (mut request, mut response) = (Vec::new(), Vec::new());
    for filter in filters {
        match (
            &filter.type_,
            &filter.request_header_modifier,
            &filter.response_header_modifier,
        ) {
            (FilterType::RequestHeaderModifier, Some(modifier), _) => {
                request.extend(edits(modifier, &["host"])?);
            }
            (FilterType::ResponseHeaderModifier, _, Some(modifier)) => {
                response.extend(edits(modifier, &[])?);
            }
            (other, ..) => {
                return Err(unsupported(format!(
                    "filter {other} of a backend is not supported"
                )));
            }
        }
    }
    Ok((request, response))
}

/// Changes to headers. Fields that say how a message is sent are not to be changed (RFC 9110, 7.6.1), but for those in
/// `settable`, which can be set and removed. Of a name that is set twice the first counts.
fn edits(modifier: &HeaderModifier, settable: &[&str]) -> Result<Vec<HeaderEdit>, Problem> {
    let checked = |name: &str, is_added: bool| {
        let name = name.to_ascii_lowercase();
        let is_framing = is_framing(&name) && (is_added || !settable.contains(&name.as_str()));
        match is_framing {
            true => Err(unsupported(format!("`{name}` cannot be changed"))),
            false => Ok(name),
        }
    };
    let mut edits: Vec<HeaderEdit> = Vec::new();
    for header in &modifier.set {
        let name = checked(&header.name, false)?;
        let is_known =
            |edit: &HeaderEdit| matches!(edit, HeaderEdit::Set(known, _) if *known == name);
        if !edits.iter().any(is_known) {
            edits.push(HeaderEdit::Set(name, header.value.clone()));
        }
    }
    for header in &modifier.add {
        let name = checked(&header.name, true)?;
        edits.push(HeaderEdit::Add(name, header.value.clone()));
    }
    for name in &modifier.remove {
        edits.push(HeaderEdit::Remove(checked(name, false)?));
    }
    Ok(edits)
}

/// Adds a mirror. One that is not valid is reported, and requests are sent without it.
fn add_mirror(
    mirror: &RequestMirror,
    changes: &mut Changes,
    backends: &mut Backends<'_>,
) -> Result<(), Problem> {
    let share = match (mirror.percent, &mirror.fraction) {
        (None, None) => Share::ALL,
        (Some(percent), None) => share(percent, 100)?,
        (None, Some(fraction)) => share(fraction.numerator, fraction.denominator)?,
        (Some(_), Some(_)) => {
            return Err(unsupported(
                "both percent and fraction of a mirror are given".into(),
            ));
        }
    };
    match backends.upstream(&mirror.backend_ref) {
        Ok(upstream) => changes.mirrors.push(Mirror { upstream, share }),
        Err(problem) => backends.problems.push(problem),
    }
    Ok(())
}

fn share(part: i32, whole: i32) -> Result<Share, Problem> {
    let invalid = || unsupported(format!("{part} of {whole} is not a share of requests"));
    let part_number = u32::try_from(part).ok();
    let whole_number = u32::try_from(whole).ok().filter(|whole| *whole != 0);
    match part_number.zip(whole_number) {
        Some((part, whole)) if part <= whole => Ok(Share { part, whole }),
        _ => Err(invalid()),
    }
}

fn parts(redirect: &RequestRedirect) -> Result<RedirectParts, Problem> {
    let scheme = match redirect.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return Err(unsupported(format!("scheme {other} is not supported"))),
    };
    let code = redirect.status_code.unwrap_or(302);
    let code = u16::try_from(code).ok();
    let code = code.filter(|code| [301, 302, 303, 307, 308].contains(code));
    let port = redirect.port.map(|port| {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        number.ok_or_else(|| unsupported(format!("{port} is not a port (1 to 65535)")))
    });
    Ok(RedirectParts {
        scheme,
        host: redirect.hostname.clone(),
        port: port.transpose()?,
        path: redirect.path.as_ref().map(path_change).transpose()?,
        code: code.ok_or_else(|| unsupported("statusCode is not one of a redirect".into()))?,
    })
}

fn path_change(modifier: &PathModifier) -> Result<PathChange, Problem> {
    // The API requires no slash at the begin, and without one the result would be no path.
    let path = |value: &Option<String>| match value.as_deref() {
        None => Err(unsupported(format!("{} has no value", modifier.type_))),
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        Some(path) => Ok(format!("/{path}")),
    };
    match (
        &modifier.type_,
        &modifier.replace_full_path,
        &modifier.replace_prefix_match,
    ) {
        (PathModifierType::ReplaceFullPath, full, None) => path(full).map(PathChange::Full),
        (PathModifierType::ReplacePrefixMatch, None, prefix) => {
            path(prefix).map(PathChange::Prefix)
        }
        (PathModifierType::Other(other), ..) => Err(unsupported(format!(
            "path modifier {other} is not supported"
        ))),
        (type_, ..) => Err(unsupported(format!(
            "path modifier {type_} has the value of another type"
        ))),
    }
}

fn cors(filter: &CorsFilter) -> Result<Cors, Problem> {
    let is_any = |list: &[String]| list.iter().any(|one| one == "*");
    // Never `*` itself: it allows neither credentials nor the header `Authorization` (Fetch, 3.3.3).
    let list = |list: &[String]| match is_any(list) {
        true => CorsList::Asked,
        false => CorsList::Listed(list.join(", ")),
    };
    let origins = match is_any(&filter.allow_origins) {
        true => CorsOrigins::Each,
        false => {
            let origins = filter.allow_origins.iter().map(|text| origin(text));
            CorsOrigins::Listed(origins.collect::<Result<_, _>>()?)
        }
    };
    let credentials = filter.allow_credentials.unwrap_or_default();
    // `*` exposes nothing to requests with credentials.
    let is_void = is_any(&filter.expose_headers) && credentials;
    let exposed = !filter.expose_headers.is_empty() && !is_void;
    Ok(Cors {
        origins,
        methods: list(&filter.allow_methods),
        headers: list(&filter.allow_headers),
        expose: exposed.then(|| filter.expose_headers.join(", ")),
        credentials,
        max_age_s: u32::try_from(filter.max_age).unwrap_or_default(),
    })
}

fn origin(text: &str) -> Result<CorsOrigin, Problem> {
    let invalid = || unsupported(format!("`{text}` is not an origin"));
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(invalid()),
    };
    let rest = rest.strip_suffix(default_port).unwrap_or(rest);
    let (is_wildcard, host) = match (rest.strip_prefix("*."), rest.strip_prefix('*')) {
        (Some(host), _) | (None, Some(host)) => (true, host),
        (None, None) => (false, rest),
    };
    if host.contains('*') || (host.is_empty() && !is_wildcard) {
        return Err(invalid());
    }
    Ok(CorsOrigin {
        scheme: format!("{scheme}://"),
        wildcard: is_wildcard.then_some(HostMode::Suffix),
        host: host.into(),
    })
}
