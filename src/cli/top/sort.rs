//! The order of the rows.

use std::cmp::{Ordering, Reverse};

use super::model::Listed;
use crate::{
    cli::{list::COLUMNS, text},
    time::Timestamp,
};

/// The column that the rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// As `styxy list` has them.
    #[default]
    Port,
    State,
    Type,
    Name,
    Project,
    Owner,
    /// The newest first.
    Age,
}

const ALL: [Sort; 7] =
    [Sort::Port, Sort::State, Sort::Type, Sort::Name, Sort::Project, Sort::Owner, Sort::Age];

impl Sort {
    /// The next one.
    pub(super) fn next(self) -> Self {
        ALL[(self.column() + 1) % ALL.len()]
    }

    /// The index of its column.
    pub(super) fn column(self) -> usize {
        self as usize
    }

    /// Its title.
    pub(super) fn name(self) -> &'static str {
        COLUMNS[self.column()].title()
    }

    /// The order of two leases, of which the first is listed in front of the second if they are equal.
    pub(super) fn compare(self, a: &Listed, b: &Listed) -> Ordering {
        let since = |listed: &Listed| text(&listed.lease, "since").parse::<Timestamp>().ok();
        let shown = |listed: &Listed| listed.cells[self.column()].text.to_lowercase();
        match self {
            Self::Port => Ordering::Equal,
            Self::Age => Reverse(since(a)).cmp(&Reverse(since(b))),
            _ => shown(a).cmp(&shown(b)),
        }
    }
}
