//! Automatic ranges for service types that are not configured: the types of the settings.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    port::Port,
    word::{shortened, word},
};

/// Where a new range goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Behind the last range within the limits; at their end, the first hole that fits.
    #[default]
    After,
    /// In front of the first range within the limits; at their beginning, the first hole that fits.
    Before,
    /// Near types of the same family, else the first hole that fits.
    Smart,
}

impl Placement {
    /// All placements.
    pub const ALL: [Self; 3] = [Self::After, Self::Before, Self::Smart];

    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Before => "before",
            Self::Smart => "smart",
        }
    }
}

impl FromStr for Placement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|placement| placement.as_str() == text).ok_or_else(|| {
            Error::invalid(format!(
                "{:?} is not a placement: give \"after\", \"before\" or \"smart\"",
                shortened(text)
            ))
        })
    }
}

word! {
    /// A pattern for names of service types: their alphabet, `*` for any text and `?` for any one character.
    Pattern, "pattern", can_match,
    "no service type can match it: use letters, digits, hyphens, * and ?, 50 characters at most besides *"
}

fn can_match(text: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "-*?".contains(c);
    let length = text.chars().filter(|c| *c != '*').count();
    !text.is_empty() && text.len() <= 100 && text.chars().all(is_known) && length <= 50
}

impl Pattern {
    /// Whether the name matches.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.as_str().as_bytes(), name.as_bytes())
    }

    /// A pattern with more letters is more specific, then one with more `?`, then one with `*` in fewer places.
    /// So a pattern that matches a subset of the names of another ranks higher.
    fn specificity(&self) -> (usize, usize, std::cmp::Reverse<usize>) {
        let is_letter = |c: char| !"*?".contains(c);
        let letters = self.as_str().chars().filter(|c| is_letter(*c)).count();
        let characters = self.as_str().matches('?').count();
        // `*?*` matches the same names as `?*`.
        let stars = self.as_str().split(is_letter).filter(|run| run.contains('*')).count();
        (letters, characters, std::cmp::Reverse(stars))
    }
}

/// Matches from the left, and backtracks to the last `*` on a mismatch.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The settings for automatic ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoAllocation {
    /// Whether unknown types get a range at all.
    pub enabled: bool,
    /// The number of ports in a new range, 1 to 1000.
    pub chunk_size: u16,
    /// Where a new range is placed.
    pub placement: Placement,
    /// The lowest port of any new range.
    pub min_port: Port,
    /// The highest port of any new range.
    pub max_port: Port,
    /// Whether new ranges leave a gap to their neighbors.
    pub preserve_gaps: bool,
    /// The size of the gap in ports, 0 to 1000.
    pub gap_size: u16,
    /// Overrides for types whose names match a pattern.
    pub rules: BTreeMap<Pattern, AutoRule>,
}

/// Overrides for types whose names match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoRule {
    /// The number of ports in a new range.
    pub chunk_size: Option<u16>,
    /// Where a new range is placed.
    pub placement: Option<Placement>,
    /// The new range is placed as near to this port as the limits allow.
    pub preferred_range_start: Option<Port>,
}

impl AutoAllocation {
    /// Disabled and without rules: the initial value.
    pub fn off() -> Self {
        Self {
            enabled: false,
            chunk_size: 1,
            placement: Placement::After,
            min_port: Port::MAX,
            max_port: Port::MAX,
            preserve_gaps: false,
            gap_size: 0,
            rules: BTreeMap::new(),
        }
    }

    /// The most specific rule that matches the name; an empty one if none does.
    pub fn rule(&self, name: &str) -> AutoRule {
        let rules = self.rules.iter().filter(|(pattern, _)| pattern.matches(name));
        let best = rules.max_by_key(|(pattern, _)| (pattern.specificity(), pattern.as_str()));
        best.map(|(_, rule)| rule.clone()).unwrap_or_default()
    }

    /// The gap that new ranges leave, in ports.
    pub fn gap(&self) -> u16 {
        if self.preserve_gaps { self.gap_size } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_knows_stars_and_question_marks_and_nothing_else() {
        for (pattern, good, bad) in [
            ("monitoring-*", "monitoring-a", "monitoring"),
            ("*", "x", ""),
            ("a?c", "abc", "ac"),
            ("*-db-*", "my-db-2", "my-db"),
            ("a*b*c", "aXbYbc", "abcd"),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert!(parsed.matches(good), "{pattern} {good}");
            assert!(bad.is_empty() || !parsed.matches(bad), "{pattern} {bad}");
        }
        for never in ["", "a b", "[ab]", "a.b", &"x".repeat(51), "ü*"] {
            assert!(never.parse::<Pattern>().is_err(), "{never}");
        }
        // Naive backtracking would take exponential time for this pattern.
        let hostile: Pattern = "*a".repeat(25).parse().unwrap();
        assert!(!hostile.matches(&"a".repeat(24)));
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let rule = |size| AutoRule { chunk_size: Some(size), ..AutoRule::default() };
        let rules = [("*", 1), ("db-*", 2), ("db-test-*", 3), ("db-?est-*", 4), ("*db-test-*", 5)];
        let auto = AutoAllocation {
            rules: rules.iter().map(|(p, size)| (p.parse().unwrap(), rule(*size))).collect(),
            ..AutoAllocation::off()
        };
        for (name, size) in [("web", 1), ("db-x", 2), ("db-test-x", 3), ("db-best-x", 4)] {
            assert_eq!(auto.rule(name).chunk_size, Some(size), "{name}");
        }
    }
}
