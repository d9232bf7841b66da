//! Ports, protocols and port ranges, as types that cannot hold invalid values.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{error::Error, word::shortened};

/// A port number, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "mcp"), derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// The lowest port.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The highest port.
    pub const MAX: Self = Self(NonZeroU16::MAX);
    /// The port of the HTTP door over TCP: the one that clients of styxy 1.x know.
    pub const HTTP: Self = Self(NonZeroU16::new(9876).unwrap());

    /// Returns the port with this number; `None` for 0 and above 65535.
    pub fn new(number: u64) -> Option<Self> {
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// The port this many numbers higher, if there is one.
    pub fn plus(self, count: u16) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }

    /// The port this many numbers lower, if there is one.
    pub fn minus(self, count: u16) -> Option<Self> {
        Self::new(u64::from(self.get()).checked_sub(count.into())?)
    }

    /// Whether browsers refuse to connect to this port: the ["bad ports" of the Fetch
    /// standard](https://fetch.spec.whatwg.org/#port-blocking).
    pub fn is_refused_by_browsers(self) -> bool {
        BAD_PORTS.binary_search(&self.get()).is_ok()
    }

    /// The ports that are granted only if they are asked for by number: those that browsers refuse to connect to, and that
    /// of the HTTP door.
    pub fn never_chosen() -> impl Iterator<Item = Self> {
        let refused = BAD_PORTS.into_iter().filter_map(|number| Self::new(number.into()));
        refused.chain([Self::HTTP])
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a port: give a number from 1 to 65535"))
        })
    }
}

/// <https://fetch.spec.whatwg.org/#bad-port>, ascending.
const BAD_PORTS: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
    512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
    995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 10080,
];

/// The transport protocol that a lease counts for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// The same number in both.
    Both,
}

impl Protocol {
    /// The protocols that it consists of.
    pub fn parts(self) -> &'static [Self] {
        match self {
            Self::Tcp => &[Self::Tcp],
            Self::Udp => &[Self::Udp],
            Self::Both => &[Self::Tcp, Self::Udp],
        }
    }

    /// Its name in sentences.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Both => "TCP and UDP",
        }
    }

    /// Its name in every interface: `tcp`, `udp` or `both`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "both" => Ok(Self::Both),
            _ => Err(Error::invalid(format!(
                "{text:?} is not a protocol: give \"tcp\", \"udp\" or \"both\""
            ))),
        }
    }
}

/// Ports from `first` to `last`, both included, never reversed. As JSON: `[first, last]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "[Port; 2]"))]
#[serde(try_from = "[Port; 2]", into = "[Port; 2]")]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// Every port there is.
    pub const ALL: Self = Self { first: Port::MIN, last: Port::MAX };

    /// Returns the range; `None` if `first` is above `last`.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The range of one port.
    pub fn only(port: Port) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }

    /// Its ports, ascending.
    pub fn ports(self) -> impl Iterator<Item = Port> {
        (self.first.get()..=self.last.get()).filter_map(|number| Port::new(number.into()))
    }

    /// How many ports it has.
    pub fn len(self) -> usize {
        usize::from(self.last.get() - self.first.get()) + 1
    }

    /// Always false: a range has at least one port.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Whether the port is in it.
    pub fn contains(self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }

    /// The range, extended by this many ports at each end, as far as there are ports.
    #[must_use]
    pub fn widened(self, by: u16) -> Self {
        let first = self.first.minus(by).unwrap_or(Port::MIN);
        Self { first, last: self.last.plus(by).unwrap_or(Port::MAX) }
    }

    /// Whether the two have a port in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl TryFrom<[Port; 2]> for PortRange {
    type Error = &'static str;

    fn try_from([first, last]: [Port; 2]) -> Result<Self, Self::Error> {
        Self::new(first, last).ok_or("the range is reversed")
    }
}

impl From<PortRange> for [Port; 2] {
    fn from(range: PortRange) -> Self {
        [range.first, range.last]
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = Error;

    /// Parses `3000`, `3000-3099` or `3000..3099`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let ends = text.split_once("..").or_else(|| text.split_once('-'));
        let (first, last) = ends.unwrap_or((text, text));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
            return Err(Error::invalid(format!(
                "{:?} is not a range of ports: give 3000, 3000-3099 or 1..65535",
                shortened(text)
            )));
        };
        Self::new(first, last).ok_or_else(|| {
            Error::invalid(format!("the range {text} is reversed: give {last}-{first}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_too_large_are_not_ports() {
        assert!(Port::new(0).is_none());
        assert!(Port::new(65_536).is_none());
        assert_eq!(Port::new(65_535), Some(Port::MAX));
    }

    #[test]
    fn the_list_of_bad_ports_is_sorted_so_that_it_can_be_searched() {
        assert!(BAD_PORTS.is_sorted());
        assert!(Port::new(6000).unwrap().is_refused_by_browsers());
        assert!(!Port::new(6006).unwrap().is_refused_by_browsers());
    }

    #[test]
    fn a_range_is_never_reversed() {
        let (low, high) = (Port::new(3000).unwrap(), Port::new(3099).unwrap());
        assert!(PortRange::new(high, low).is_none());
        assert_eq!(PortRange::new(low, high).unwrap().len(), 100);
        assert_eq!(PortRange::new(low, low).unwrap().len(), 1);
    }

    #[test]
    fn a_range_is_read_in_each_spelling_and_refused_with_the_right_one() {
        let range = |text: &str| text.parse::<PortRange>();
        let expected = PortRange::new(Port::new(3000).unwrap(), Port::new(3099).unwrap()).unwrap();
        for text in ["3000-3099", "3000..3099"] {
            assert_eq!(range(text).unwrap(), expected, "{text}");
        }
        assert_eq!(range("3000").unwrap(), PortRange::only(expected.first()));
        assert_eq!(range("1..65535").unwrap().len(), 65_535);
        for text in ["", "-", "..", "0-1", "1-65536", "3000-", "-3000", "3000-3099-3100", "a..b"] {
            assert!(range(text).unwrap_err().to_string().contains("1..65535"), "{text}");
        }
        assert!(range("3099-3000").unwrap_err().to_string().contains("give 3000-3099"));
    }
}
