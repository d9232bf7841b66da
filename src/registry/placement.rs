//! Where an automatic range goes.

use crate::{
    auto_allocation::{AutoAllocation, AutoRule, Placement},
    error::{Error, ErrorKind},
    port::{Port, PortRange},
    port_set::{PortSet, select},
    service_type::{ServiceType, ServiceTypeName, ServiceTypes},
};

/// Where to look for a place.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// All service types, whose ranges are taken.
    pub types: &'a ServiceTypes,
    /// Ports that are never granted.
    pub excluded: &'a PortSet,
    /// The ports that the kernel gives to outgoing connections (`ip_local_port_range`, ip(7)): only a last
    /// resort, for nothing keeps it from giving those that are not granted yet.
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

/// Finds a range for a type that has none, of at least this many ports.
pub fn place(
    name: &ServiceTypeName,
    least: u16,
    auto: &AutoAllocation,
    ground: Ground<'_>,
) -> Result<Place, Error> {
    let search = Search::new(name, least, auto, ground);
    let starts = search.starts();
    search.found(search.best(&starts))
}

/// Finds a further range for a type: next to the first that it has if it can be, else next to another, else
/// wherever there is a place.
pub fn grow(
    name: &ServiceTypeName,
    service_type: &ServiceType,
    least: u16,
    auto: &AutoAllocation,
    ground: Ground<'_>,
) -> Result<Place, Error> {
    let search = Search::new(name, least, auto, ground);
    let starts = search.starts();
    let beside = service_type
        .ranges()
        .flat_map(|range| [range.last().plus(1), range.first().minus(search.size)])
        .flatten()
        .find(|start| starts.binary_search(start).is_ok());
    search.found(beside.or_else(|| search.best(&starts)))
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

/// What rules out a place, besides other ranges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Gap,
    Excluded,
}

/// The range to place.
struct Search<'a> {
    name: &'a ServiceTypeName,
    size: u16,
    rule: AutoRule,
    auto: &'a AutoAllocation,
    ground: Ground<'a>,
}

impl<'a> Search<'a> {
    fn new(
        name: &'a ServiceTypeName,
        least: u16,
        auto: &'a AutoAllocation,
        ground: Ground<'a>,
    ) -> Self {
        let rule = auto.rule(name.as_str());
        let size = rule.chunk_size.unwrap_or(auto.chunk_size).max(least);
        Self { name, size, rule, auto, ground }
    }

    fn placement(&self) -> Placement {
        self.rule.placement.unwrap_or(self.auto.placement)
    }

    fn found(&self, first: Option<Port>) -> Result<Place, Error> {
        let range = first.and_then(|first| {
            let last = first.plus(self.size - 1)?;
            PortRange::new(first, last)
        });
        range
            .map(|range| Place { range, placement: self.placement() })
            .ok_or_else(|| self.refusal())
    }

    /// Every port at which the range may begin, ascending: where the kernel gives no ports away and nothing is
    /// in use, if there is such a place. Empty if there is no place at all.
    fn starts(&self) -> Vec<Port> {
        let blocked = self.blocked(&[]);
        let mut own = blocked.clone();
        self.ground.ephemeral.into_iter().for_each(|range| own.insert_range(range));
        let places = [own, blocked].into_iter().flat_map(|blocked| {
            let mut quiet = blocked.clone();
            quiet.insert_all(self.ground.in_use);
            [quiet, blocked]
        });
        places
            .map(|blocked| self.free(&blocked))
            .find(|starts| !starts.is_empty())
            .unwrap_or_default()
    }

    /// Every port at which the range may begin, ascending, if it must not have these.
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

    /// The ports that the range must not have, as far as other limits than these go.
    fn blocked(&self, without: &[Limit]) -> PortSet {
        let counts = |limit| !without.contains(&limit);
        let mut blocked = PortSet::default();
        for (name, service_type) in &self.ground.types.0 {
            // A type keeps no distance from itself.
            let keeps = name != self.name && counts(Limit::Gap);
            let gap = if keeps { self.auto.gap() } else { 0 };
            for range in service_type.ranges() {
                blocked.insert_range(range.widened(gap));
            }
        }
        if counts(Limit::Excluded) {
            blocked.insert_all(self.ground.excluded);
        }
        blocked
    }

    fn limits(&self) -> Option<PortRange> {
        PortRange::new(self.auto.min_port, self.auto.max_port)
    }

    fn best(&self, starts: &[Port]) -> Option<Port> {
        match self.rule.preferred_range_start {
            Some(near) => starts
                .iter()
                .copied()
                .min_by_key(|start| (start.get().abs_diff(near.get()), *start < near)),
            None => self.choose(self.placement(), starts),
        }
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
                // Without a range within the limits, their end: so that others can be in front of it.
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

    /// Why there is no place: the fewest limits without which there would be one.
    fn refusal(&self) -> Error {
        use Limit::{Excluded, Gap};
        const SETS: [&[Limit]; 3] = [&[Gap], &[Excluded], &[Gap, Excluded]];
        let AutoAllocation { min_port, max_port, .. } = self.auto;
        let (name, size) = (self.name, self.size);
        let error = |why: String| {
            let message = format!("there is no place for {size} ports of {name}: {why}");
            Error::new(ErrorKind::PoolExhausted, message)
        };
        let room = self.limits().map_or(0, PortRange::len);
        if usize::from(size) > room {
            return error(format!("min_port {min_port} and max_port {max_port} leave room for {room} ports"))
                .suggest("ask for fewer, lower the chunk size, or widen auto_allocation.min_port and max_port");
        }
        let is_to_blame = |set: &&&[Limit]| !self.free(&self.blocked(set)).is_empty();
        let Some(set) = SETS.iter().find(is_to_blame) else {
            return error(format!("min_port {min_port} to max_port {max_port} is full of other ranges"))
                .suggest("undo ranges that are no longer needed (`styxy types`), or widen auto_allocation.min_port and max_port");
        };
        let names: Vec<_> = set.iter().map(|limit| self.describe(*limit)).collect();
        let leave = if names.len() == 1 { "leaves" } else { "leave" };
        let why = format!("{} {leave} no gap that is wide enough", names.join(" and "));
        set.iter().fold(error(why), |error, limit| error.suggest(limit.remedy()))
    }

    fn describe(&self, limit: Limit) -> String {
        match limit {
            Limit::Gap => format!("gap_size {}", self.auto.gap()),
            Limit::Excluded => "excluded_ports".to_owned(),
        }
    }
}

impl Limit {
    /// What to do about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::Gap => "lower auto_allocation.gap_size, or set preserve_gaps to false",
            Self::Excluded => "exclude fewer ports, or widen auto_allocation.min_port and max_port",
        }
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
