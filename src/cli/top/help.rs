//! The keys.

use crate::cli::table::broken;

const KEYS: [(&str, &str); 10] = [
    ("↑ ↓ k j", "select a lease, or scroll"),
    ("PgUp PgDn", "a page up or down"),
    ("Home End g G", "the first or the last lease"),
    ("/", "filter by words of any column, a path or an id"),
    ("Esc", "clear the filter, or go back"),
    ("s S", "sort by the next column; reverse the order"),
    ("Enter d", "all about the lease, and who uses its port"),
    ("r", "release the lease, after y"),
    ("?", "this help"),
    ("q Ctrl-C", "quit"),
];

const NOTES: [&str; 2] = [
    "In the filter, Ctrl-W deletes a word and Ctrl-U all; Enter keeps it.",
    "Changes of leases are shown at once. No signal says that a program starts or stops listening: while nothing else \
     happens and no key is pressed, states and ages may be a minute old.",
];

/// The lines to show in this width.
pub(super) fn text(width: usize) -> Vec<String> {
    let keys = of_keys().flat_map(|line| broken(&line, width));
    let notes =
        NOTES.iter().flat_map(|note| [String::new()].into_iter().chain(broken(note, width)));
    keys.chain(notes).collect()
}

/// The keys, for the help of the command.
pub(super) fn keys() -> String {
    let keys = of_keys().map(|line| format!("\n  {line}"));
    format!("Keys:{}", keys.collect::<String>())
}

/// A line for each key.
fn of_keys() -> impl Iterator<Item = String> {
    KEYS.iter().map(|(keys, meaning)| format!("{keys:<14}{meaning}"))
}
