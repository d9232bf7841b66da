//! The keys.

use crate::cli::table::broken;

const KEYS: [(&str, &str); 9] = [
    ("↑ ↓ k j", "select a lease"),
    ("PgUp PgDn", "a page up or down"),
    ("Home End", "the first or the last lease"),
    ("/", "filter by words of any column, by a path, or by an id; Esc clears the filter"),
    ("s S", "sort by the next column; reverse the order"),
    ("Enter d", "all about the lease, and who uses its port; Esc goes back"),
    ("r", "release the lease, after y"),
    ("?", "this help"),
    ("q Ctrl-C", "quit"),
];

const NOTE: &str = "Changes of leases are shown at once. Nothing announces that a program starts or stops to \
    listen: while nothing else happens and no key is pressed, states and ages may be a minute old.";

/// The lines to show in this width.
pub(super) fn text(width: usize) -> Vec<String> {
    let keys =
        KEYS.iter().flat_map(|(keys, meaning)| broken(&format!("{keys:<11}{meaning}"), width));
    keys.chain([String::new()]).chain(broken(NOTE, width)).collect()
}
