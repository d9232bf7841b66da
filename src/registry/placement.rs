//! Where a range goes that appears by itself.

use super::{PortSet, port_set::select};
use crate::{
    auto_allocation::{AutoAllocation, Placement},
    error::{Error, ErrorKind},
    port::{Port, PortRange},
    service_type::{ServiceType, ServiceTypeName, ServiceTypes},
};

/// What a place is looked for in.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// All service types, whose ranges are taken.
    pub types: &'a ServiceTypes,
    /// Ports that are never granted.
    pub excluded: &'a PortSet,
    /// The ports that the kernel gives to outgoing connections (`ip_local_port_range`, ip(7)).
    pub ephemeral: Option<PortRange>,
    /// Ports that something uses at this moment: a place without them is better.
    pub in_use: &'a PortSet,
}

/// A new range, and how its place was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The ports.
    pub range: PortRange,
    /// The strategy.
    pub placement: Placement,
}

/// Finds a range for a type that has none, of at least so many ports.
pub fn place(
    name: &ServiceTypeName,
    least: u16,
    auto: &AutoAllocation,
    ground: Ground<'_>,
) -> Result<Place, Error> {
    let rule = auto.rule(name.as_str());
    let size = rule.chunk_size.unwrap_or(auto.chunk_size).max(least);
    let placement = rule.placement.unwrap_or(auto.placement);
    let search = Search { name, size, auto, ground };
    search
        .starts()
        .and_then(|starts| match rule.preferred_range_start {
            Some(near) => starts
                .iter()
                .copied()
                .min_by_key(|start| (start.get().abs_diff(near.get()), *start < near)),
            None => search.choose(placement, &starts),
        })
        .and_then(|first| range(first, size))
        .map(|range| Place { range, placement })
        .ok_or_else(|| search.refusal())
}

/// Finds a further range for a type: next to one that it has, else wherever there is a place.
pub fn grow(
    name: &ServiceTypeName,
    service_type: &ServiceType,
    least: u16,
    auto: &AutoAllocation,
    ground: Ground<'_>,
) -> Result<Place, Error> {
    let size = auto.rule(name.as_str()).chunk_size.unwrap_or(auto.chunk_size).max(least);
    let search = Search { name, size, auto, ground };
    let blocked = search.blocked(auto.gap(), true, true, true);
    let fits = |first: &Port| search.fits(*first, &blocked);
    let above = service_type.ranges().filter_map(|range| range.last().plus(1));
    let below = service_type.ranges().filter_map(|range| range.first().minus(size));
    let next_to = above.chain(below).find(fits).and_then(|first| range(first, size));
    match next_to {
        Some(range) => {
            let placement = auto.rule(name.as_str()).placement.unwrap_or(auto.placement);
            Ok(Place { range, placement })
        }
        None => place(name, least, auto, ground),
    }
}

/// Adds a range to those of a type: one that lies next to another makes that one longer.
pub fn add(service_type: &mut ServiceType, new: PortRange) {
    let touch = |range: PortRange| {
        range.last().plus(1) == Some(new.first()) || new.last().plus(1) == Some(range.first())
    };
    let mut ranges: Vec<_> = service_type.ranges().collect();
    match ranges.iter_mut().find(|range| touch(**range)) {
        Some(range) => {
            let (first, last) = (range.first().min(new.first()), range.last().max(new.last()));
            *range = PortRange::new(first, last).unwrap_or(*range);
        }
        None => ranges.push(new),
    }
    service_type.port_range = ranges.remove(0);
    service_type.more_ranges = ranges;
}

/// What is looked for.
struct Search<'a> {
    name: &'a ServiceTypeName,
    size: u16,
    auto: &'a AutoAllocation,
    ground: Ground<'a>,
}

impl Search<'_> {
    /// Every port at which the range may begin, ascending: where nothing is in use, if there is such a
    /// place. `None` if there is no place at all.
    fn starts(&self) -> Option<Vec<Port>> {
        [true, false]
            .into_iter()
            .map(|avoid_in_use| {
                let blocked = self.blocked(self.auto.gap(), true, true, avoid_in_use);
                self.free(&blocked)
            })
            .find(|starts| !starts.is_empty())
    }

    /// The ports that the range must not have.
    fn blocked(&self, gap: u16, ephemeral: bool, excluded: bool, in_use: bool) -> PortSet {
        let mut blocked = PortSet::default();
        for (name, service_type) in &self.ground.types.0 {
            // A type keeps no distance from itself.
            let gap = if name == self.name { 0 } else { gap };
            for range in service_type.ranges() {
                blocked.insert_range(range.widened(gap));
            }
        }
        if let Some(range) = self.ground.ephemeral.filter(|_| ephemeral) {
            blocked.insert_range(range);
        }
        if excluded {
            blocked.insert_all(self.ground.excluded);
        }
        if in_use {
            blocked.insert_all(self.ground.in_use);
        }
        blocked
    }

    fn limits(&self) -> Option<PortRange> {
        PortRange::new(self.auto.min_port, self.auto.max_port)
    }

    fn free(&self, blocked: &PortSet) -> Vec<Port> {
        let Some(limits) = self.limits() else { return Vec::new() };
        let mut run = 0;
        let mut before: Option<Port> = None;
        let mut starts = Vec::new();
        for port in select(limits, |i| !blocked.word(i)) {
            let follows = before.and_then(|before| before.plus(1)) == Some(port);
            run = if follows { run + 1 } else { 1 };
            before = Some(port);
            if run >= self.size {
                starts.extend(port.minus(self.size - 1));
            }
        }
        starts
    }

    fn fits(&self, first: Port, blocked: &PortSet) -> bool {
        let inside = |range: PortRange| {
            self.limits().is_some_and(|limits| {
                limits.contains(range.first()) && limits.contains(range.last())
            })
        };
        range(first, self.size).is_some_and(|range| {
            inside(range) && select(range, |i| blocked.word(i)).next().is_none()
        })
    }

    fn choose(&self, placement: Placement, starts: &[Port]) -> Option<Port> {
        let limits = self.limits()?;
        let ranges = || self.ground.types.0.values().flat_map(ServiceType::ranges);
        let inside = || ranges().filter(|range| range.overlaps(limits));
        let hole = starts.first().copied();
        match placement {
            Placement::After => {
                let last = inside().map(PortRange::last).max();
                starts.iter().copied().find(|start| last.is_none_or(|last| *start > last)).or(hole)
            }
            Placement::Before => {
                let first = inside().map(PortRange::first).min();
                let ends_before = |start: &Port| {
                    let end = start.plus(self.size - 1);
                    first.is_none_or(|first| end.is_some_and(|end| end < first))
                };
                starts.iter().rev().copied().find(ends_before).or(hole)
            }
            Placement::Smart => {
                let family = family(self.name);
                let others = self.ground.types.0.iter();
                let related = others.filter(|(name, _)| self::family(name) == family);
                let ranges: Vec<_> = related.flat_map(|(_, t)| t.ranges()).collect();
                if ranges.is_empty() { hole } else { nearest(starts, self.size, &ranges) }
            }
        }
    }

    /// Why there is no place: the first limit without which there would be one.
    fn refusal(&self) -> Error {
        let AutoAllocation { min_port, max_port, .. } = self.auto;
        let size = self.size;
        let room = self.limits().map_or(0, PortRange::len);
        let without = |gap, ephemeral, excluded| {
            !self.free(&self.blocked(gap, ephemeral, excluded, false)).is_empty()
        };
        let gap = self.auto.gap();
        let (limit, remedy) = if usize::from(size) > room {
            (
                format!("min_port {min_port} and max_port {max_port} leave room for {room} ports"),
                "ask for fewer, lower the chunk size, or widen auto_allocation.min_port and max_port",
            )
        } else if gap > 0 && without(0, true, true) {
            (
                format!("gap_size {gap} leaves no hole that is wide enough"),
                "lower auto_allocation.gap_size, or set preserve_gaps to false",
            )
        } else if without(gap, false, true) {
            let range = self.ground.ephemeral.map_or_else(String::new, |range| format!(" {range}"));
            (
                format!("what is left lies in the kernel's ip_local_port_range{range}"),
                "widen auto_allocation.min_port and max_port outside of it",
            )
        } else if without(gap, true, false) {
            (
                "what is left is excluded by excluded_ports".to_owned(),
                "exclude fewer ports, or widen auto_allocation.min_port and max_port",
            )
        } else {
            (
                format!("min_port {min_port} to max_port {max_port} is full of other ranges"),
                "undo ranges that are no longer needed (`styxy types`), or widen auto_allocation.min_port and max_port",
            )
        };
        let message = format!("there is no place for {size} ports of {}: {limit}", self.name);
        Error::new(ErrorKind::PoolExhausted, message).suggest(remedy)
    }
}

/// The part of a name before the first `-`: types of one family belong together.
fn family(name: &ServiceTypeName) -> String {
    let name = name.as_str();
    name.split_once('-').map_or(name, |(family, _)| family).to_ascii_lowercase()
}

/// The start of the range that lies nearest to any of these; above rather than below.
fn nearest(starts: &[Port], size: u16, to: &[PortRange]) -> Option<Port> {
    let distance = |start: Port| {
        let first = i32::from(start.get());
        let last = first + i32::from(size) - 1;
        let far = to.iter().map(|range| {
            let (above, below) =
                (first - i32::from(range.last().get()), i32::from(range.first().get()) - last);
            (above.max(below), above < below)
        });
        far.min()
    };
    starts.iter().copied().min_by_key(|start| distance(*start))
}

fn range(first: Port, size: u16) -> Option<PortRange> {
    PortRange::new(first, first.plus(size - 1)?)
}
