//! The strategies as the documentation tells them, in plain numbers and loops. It uses nothing of what it
//! is compared with.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The first port and the last.
pub type Ports = [u16; 2];

/// All that a place depends on.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct World {
    pub limits: Ports,
    pub chunk: u16,
    pub placement: String,
    pub gap: u16,
    pub preserve_gaps: bool,
    pub types: BTreeMap<String, Vec<Ports>>,
    pub rules: BTreeMap<String, Rule>,
    pub excluded: Vec<Ports>,
    pub ephemeral: Option<Ports>,
    pub in_use: Vec<u16>,
}

/// What holds for the names of a pattern.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    pub chunk: Option<u16>,
    pub placement: Option<String>,
    pub near: Option<u16>,
}

/// As the head of the table says.
impl Default for World {
    fn default() -> Self {
        Self {
            limits: [10_000, 10_099],
            chunk: 10,
            placement: "after".to_owned(),
            gap: 0,
            preserve_gaps: true,
            types: BTreeMap::new(),
            rules: BTreeMap::new(),
            excluded: Vec::new(),
            ephemeral: None,
            in_use: Vec::new(),
        }
    }
}

/// Each of them is a reason: sets of limits without all of which there would be a place.
pub type Reasons = Vec<Vec<&'static str>>;

const LIMITS: [&str; 2] = ["gap_size", "excluded_ports"];

/// Not one of them: the last resort.
const KERNELS: &str = "ip_local_port_range";

impl World {
    /// The range of a type that has none.
    pub fn place(&self, name: &str, least: u16) -> Result<Ports, Reasons> {
        let size = self.size(name, least);
        let starts = self.starts(name, size);
        if starts.is_empty() {
            return Err(self.reasons(name, size));
        }
        let first = self.choose(name, size, &starts);
        Ok([first, first + (size - 1)])
    }

    /// A further range of a type.
    pub fn grow(&self, name: &str, least: u16) -> Result<Ports, Reasons> {
        let size = self.size(name, least);
        let starts = self.starts(name, size);
        for [first, last] in &self.types[name] {
            let above = u32::from(*last) + 1;
            let below = i64::from(*first) - i64::from(size);
            for start in [i64::from(above), below] {
                if starts.iter().any(|free| i64::from(*free) == start) {
                    let start = u16::try_from(start).unwrap();
                    return Ok([start, start + (size - 1)]);
                }
            }
        }
        self.place(name, least)
    }

    /// Adds a range to a type.
    pub fn add(&mut self, name: &str, [first, last]: Ports) {
        let ranges = self.types.entry(name.to_owned()).or_default();
        for range in ranges.iter_mut() {
            if u32::from(range[1]) + 1 == u32::from(first) {
                range[1] = last;
                return;
            }
            if u32::from(last) + 1 == u32::from(range[0]) {
                range[0] = first;
                return;
            }
        }
        ranges.push([first, last]);
    }

    /// The distance between ranges.
    pub fn distance(&self) -> u16 {
        if self.preserve_gaps { self.gap } else { 0 }
    }

    /// The rule for a name. Where two match here, the longer pattern is the more specific one.
    pub fn rule(&self, name: &str) -> Rule {
        let mut best: Option<(&String, &Rule)> = None;
        for (pattern, rule) in &self.rules {
            let is_longer = best.is_none_or(|(other, _)| pattern.len() > other.len());
            if is_longer && matches(pattern, name) {
                best = Some((pattern, rule));
            }
        }
        best.map(|(_, rule)| rule.clone()).unwrap_or_default()
    }

    pub fn size(&self, name: &str, least: u16) -> u16 {
        self.rule(name).chunk.unwrap_or(self.chunk).max(least)
    }

    pub fn strategy(&self, name: &str) -> String {
        self.rule(name).placement.unwrap_or_else(|| self.placement.clone())
    }

    /// Where the range can begin: outside of the kernel's range, and where nothing is in use, if that can be.
    fn starts(&self, name: &str, size: u16) -> Vec<u16> {
        let mut all = self.all_starts(name, size, &[]);
        if all.is_empty() {
            all = self.all_starts(name, size, &[KERNELS]);
        }
        let mut quiet = Vec::new();
        for start in &all {
            if !self.in_use.iter().any(|port| port >= start && *port - start < size) {
                quiet.push(*start);
            }
        }
        if quiet.is_empty() { all } else { quiet }
    }

    /// Where it can begin if these limits did not count.
    pub fn all_starts(&self, name: &str, size: u16, without: &[&str]) -> Vec<u16> {
        let [min, max] = self.limits.map(u32::from);
        let mut starts = Vec::new();
        let mut free = 0;
        for port in min..=max {
            free = if self.is_free(name, port, without) { free + 1 } else { 0 };
            if free >= u32::from(size) {
                starts.push(u16::try_from(port + 1 - u32::from(size)).unwrap());
            }
        }
        starts
    }

    fn is_free(&self, name: &str, port: u32, without: &[&str]) -> bool {
        for (other, ranges) in &self.types {
            let keeps_none = other == name || without.contains(&"gap_size");
            let gap = if keeps_none { 0 } else { u32::from(self.distance()) };
            for [first, last] in ranges {
                if port + gap >= u32::from(*first) && port <= u32::from(*last) + gap {
                    return false;
                }
            }
        }
        let inside = |ports: &Ports| u32::from(ports[0]) <= port && port <= u32::from(ports[1]);
        let ephemeral = self.ephemeral.as_ref().is_some_and(inside);
        let excluded = self.excluded.iter().any(inside);
        (!ephemeral || without.contains(&KERNELS))
            && (!excluded || without.contains(&"excluded_ports"))
    }

    fn choose(&self, name: &str, size: u16, starts: &[u16]) -> u16 {
        if let Some(near) = self.rule(name).near {
            return best(starts, |start| (start.abs_diff(near), start < near));
        }
        let [min, max] = self.limits;
        let mut all = Vec::new();
        let mut within = Vec::new();
        for (other, ranges) in &self.types {
            for [first, last] in ranges {
                all.push((other, *first, *last));
                if *last >= min && *first <= max {
                    within.push((*first, *last));
                }
            }
        }
        match self.strategy(name).as_str() {
            "after" => {
                let last = within.iter().map(|(_, last)| *last).max().unwrap_or(0);
                let behind = starts.iter().find(|start| **start > last);
                *behind.unwrap_or(&starts[0])
            }
            "before" => {
                let first = within.iter().map(|(first, _)| *first).min();
                let in_front = starts
                    .iter()
                    .rfind(|start| first.is_none_or(|first| **start + (size - 1) < first));
                *in_front.unwrap_or(&starts[0])
            }
            "smart" => {
                let family = |name: &str| name.split('-').next().unwrap_or_default().to_lowercase();
                all.retain(|(other, ..)| family(other) == family(name));
                if all.is_empty() {
                    return starts[0];
                }
                best(starts, |start| {
                    let distances = all.iter().map(|(_, first, last)| {
                        if start > *last {
                            (start - last, "above")
                        } else {
                            (first - (start + (size - 1)), "below")
                        }
                    });
                    distances.min()
                })
            }
            other => panic!("{other}"),
        }
    }

    /// The smallest sets of limits without which there would be a place.
    fn reasons(&self, name: &str, size: u16) -> Reasons {
        if u32::from(size) > u32::from(self.limits[1] - self.limits[0]) + 1 {
            return vec![vec!["leave room for"]];
        }
        for many in 1..=LIMITS.len() {
            let mut sets = Vec::new();
            for choice in 0..1 << LIMITS.len() {
                let set: Vec<_> = (0..LIMITS.len())
                    .filter(|limit| choice & (1 << limit) != 0)
                    .map(|limit| LIMITS[limit])
                    .collect();
                let without = [&*set, &[KERNELS]].concat();
                if set.len() == many && !self.all_starts(name, size, &without).is_empty() {
                    sets.push(set);
                }
            }
            if !sets.is_empty() {
                return sets;
            }
        }
        vec![vec!["full of other ranges"]]
    }
}

/// The first of those with the least of something.
fn best<T: Ord>(starts: &[u16], of: impl Fn(u16) -> T) -> u16 {
    let mut best = starts[0];
    for start in starts {
        if of(*start) < of(best) {
            best = *start;
        }
    }
    best
}

/// Whether a pattern matches, by trying every way.
pub fn matches(pattern: &str, name: &str) -> bool {
    let rest = |text: &str| text.chars().next().map(|c| (c, text[c.len_utf8()..].to_owned()));
    match (rest(pattern), rest(name)) {
        (None, None) => true,
        (Some(('*', pattern)), None) => matches(&pattern, ""),
        (Some(('*', short)), Some((_, tail))) => matches(&short, name) || matches(pattern, &tail),
        (Some((c, pattern)), Some((d, name))) => (c == '?' || c == d) && matches(&pattern, &name),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
