//! Fields whose value is a list (RFC 9110, 5.6.1).

use http::{HeaderMap, HeaderName};

/// The elements of a list field, over all its lines.
pub(crate) fn elements<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines = headers.get_all(name).iter();
    // Bytes that are not ASCII are an element that cannot be understood.
    let texts = lines.map(|line| line.to_str().unwrap_or("?"));
    let elements = texts.flat_map(|text| text.split(',')).map(str::trim);
    elements.filter(|element| !element.is_empty())
}

/// The first element of a list field.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    elements(headers, name).next()
}

/// Whether a list field has an element, in any case.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted))
}
