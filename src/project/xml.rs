//! What is needed of XML: simple elements and their text.

/// The text without every part that begins and ends so, such as comments.
pub(super) fn without(text: &str, start: &str, end: &str) -> String {
    let mut parts = text.split(start);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.split_once(end).map_or("", |(_, after)| after));
    }
    kept
}

/// The contents of the elements with this name and without attributes, in order.
pub(super) fn elements<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let parts = text.split(&start).skip(1);
    parts.filter_map(|part| Some(part.split_once(&end)?.0.trim())).collect()
}
