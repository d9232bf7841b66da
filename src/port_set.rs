//! A set of ports as a bitmap: 8 KiB, whatever it holds.

use crate::port::{Port, PortRange};

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

const WORDS: usize = 65_536 / 64;

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl PortSet {
    /// Adds a port.
    pub fn insert(&mut self, port: Port) {
        self.0[word(port)] |= bit(port);
    }

    /// Adds every port of a range.
    pub fn insert_range(&mut self, range: PortRange) {
        for number in range.first().get()..=range.last().get() {
            self.0[usize::from(number) / 64] |= 1 << (number % 64);
        }
    }

    /// Adds every port of another set.
    pub fn insert_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word |= other);
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: Port) {
        self.0[word(port)] &= !bit(port);
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: Port) -> bool {
        self.0[word(port)] & bit(port) != 0
    }
}

impl Extend<Port> for PortSet {
    fn extend<I: IntoIterator<Item = Port>>(&mut self, ports: I) {
        ports.into_iter().for_each(|port| self.insert(port));
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert_range(range));
        set
    }
}

impl FromIterator<Port> for PortSet {
    fn from_iter<I: IntoIterator<Item = Port>>(ports: I) -> Self {
        let mut set = Self::default();
        set.extend(ports);
        set
    }
}

/// The ports of the range for whose word of 64 `select` leaves a bit, ascending. Whole words are
/// skipped at a time, so the widest range costs well under a microsecond.
pub(crate) fn select(
    range: PortRange,
    select: impl Fn(usize) -> u64,
) -> impl Iterator<Item = Port> {
    let (first, last) = (range.first(), range.last());
    (word(first)..=word(last)).flat_map(move |index| {
        let mut bits = select(index);
        if index == word(first) {
            bits &= !0 << (first.get() % 64);
        }
        if index == word(last) {
            bits &= !0 >> (63 - last.get() % 64);
        }
        std::iter::from_fn(move || {
            let lowest = bits.trailing_zeros();
            if lowest == 64 {
                return None;
            }
            bits &= bits - 1;
            Port::new(index as u64 * 64 + u64::from(lowest))
        })
    })
}

impl PortSet {
    /// The 64 ports from `index` * 64 on, the lowest in the lowest bit.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.0[index]
    }
}

fn word(port: Port) -> usize {
    usize::from(port.get()) / 64
}

fn bit(port: Port) -> u64 {
    1 << (port.get() % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u64) -> Port {
        Port::new(number).unwrap()
    }

    fn absent(set: &PortSet, first: u64, last: u64) -> Vec<u16> {
        let range = PortRange::new(port(first), port(last)).unwrap();
        select(range, |i| !set.word(i)).map(Port::get).collect()
    }

    #[test]
    fn the_edges_of_words_and_of_the_range_are_respected() {
        let set: PortSet = [63, 64, 128, 65_535].map(port).into_iter().collect();
        assert_eq!(absent(&set, 62, 66), [62, 65, 66]);
        assert_eq!(absent(&set, 127, 129), [127, 129]);
        assert_eq!(absent(&set, 65_534, 65_535), [65_534]);
        assert!(absent(&set, 64, 64).is_empty());
        assert_eq!(absent(&set, 1, 65_535).len(), 65_535 - 4);
    }

    #[test]
    fn a_removed_port_is_absent_again() {
        let mut set = PortSet::default();
        set.insert(port(3000));
        assert!(set.contains(port(3000)));
        set.remove(port(3000));
        assert!(!set.contains(port(3000)));
    }
}
