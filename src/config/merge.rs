//! Merges a layer into those below.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration};

use super::{
    Config,
    layer::{AutoLayer, Layer, TypeLayer},
    program,
};
use crate::{
    auto_allocation::AutoAllocation,
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    service_type::{Hold, ServiceType, ServiceTypeName, nearest},
};

/// A field that does not fit the rest, and why.
pub(super) type Misfit = (String, String);

type Types = BTreeMap<ServiceTypeName, ServiceType>;

impl Config {
    /// Merges a layer into the configuration; returns what does not fit and is ignored.
    pub(super) fn put(&mut self, layer: Layer) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        if let Some(seconds) = layer.idle_exit_seconds {
            self.idle_exit = Duration::from_secs(seconds);
        }
        let limits = layer.limits.unwrap_or_default();
        set(&mut self.unused, layer.unused_seconds);
        set(&mut self.claimed, layer.claimed_seconds);
        set(&mut self.max_leases, limits.leases);
        set(&mut self.max_per_instance, limits.leases_per_instance);
        set(&mut self.max_per_project, limits.leases_per_project);
        set(&mut self.percent_per_instance, limits.range_percent_per_instance);
        set(&mut self.percent_per_project, limits.range_percent_per_project);
        set(&mut self.max_guards, limits.guards);
        set(&mut self.max_remembered, limits.remembered_ports);
        set(&mut self.max_instances, limits.instances);
        set(
            &mut self.excluded,
            layer
                .excluded_ports
                .map(|ports| ports.into_iter().map(|ports| ports.range()).collect()),
        );
        let slips = edit(&mut self.templates, layer.instance_templates, |before, offset| {
            *before.get_or_insert_default() = offset;
        });
        misfits.extend(slips.into_iter().map(within("instance_templates")));
        let slips = program::put(&mut self.programs, layer.programs);
        misfits.extend(slips.into_iter().map(within("programs")));
        put_auto(&mut self.auto, layer.auto_allocation.unwrap_or_default(), &mut misfits);
        put_types(&mut self.types.0, layer.service_types, &self.excluded, &mut misfits);
        misfits
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Applies each edit to the entry of its name; null removes the entry. Returns the removals that look like
/// mistakes.
pub(super) fn edit<K: Ord + Display, V, E>(
    map: &mut BTreeMap<K, V>,
    edits: BTreeMap<K, Option<E>>,
    put: impl Fn(&mut Option<V>, E),
) -> Vec<Misfit> {
    let mut slips = Vec::new();
    for (name, edit) in edits {
        let mut value = map.remove(&name);
        match edit {
            Some(edit) => put(&mut value, edit),
            None if value.is_none() => slips.extend(slip(map, &name)),
            None => value = None,
        }
        if let Some(value) = value {
            map.insert(name, value);
        }
    }
    slips
}

/// The problem with removing a name that does not exist, if it resembles an existing one. Otherwise there is
/// none: what it once removed may no longer exist.
fn slip<K: Display, V>(map: &BTreeMap<K, V>, name: &K) -> Option<Misfit> {
    let known: Vec<_> = map.keys().map(ToString::to_string).collect();
    let near = nearest(&name.to_string(), known.iter().map(String::as_str))?;
    let message = format!("there is nothing of this name to remove; did you mean {near:?}?");
    Some((name.to_string(), message))
}

/// Completes the field of a misfit in this section.
fn within(section: &str) -> impl Fn(Misfit) -> Misfit {
    move |(name, message)| (format!("{section}.{name}"), message)
}

fn put_auto(auto: &mut AutoAllocation, layer: AutoLayer, misfits: &mut Vec<Misfit>) {
    set(&mut auto.enabled, layer.enabled);
    set(&mut auto.chunk_size, layer.default_chunk_size);
    set(&mut auto.placement, layer.placement);
    set(&mut auto.preserve_gaps, layer.preserve_gaps);
    set(&mut auto.gap_size, layer.gap_size);
    let (min, max) =
        (layer.min_port.unwrap_or(auto.min_port), layer.max_port.unwrap_or(auto.max_port));
    if min <= max {
        (auto.min_port, auto.max_port) = (min, max);
    } else {
        let field = if layer.min_port.is_some() { "min_port" } else { "max_port" };
        misfits.push((
            format!("auto_allocation.{field}"),
            format!("min_port {min} is above max_port {max}: make min_port the lower of the two"),
        ));
    }
    let slips = edit(&mut auto.rules, layer.rules, |before, rule| {
        let before = before.get_or_insert_default();
        before.chunk_size = rule.chunk_size.or(before.chunk_size);
        before.placement = rule.placement.or(before.placement);
        before.preferred_range_start = rule.preferred_range_start.or(before.preferred_range_start);
    });
    misfits.extend(slips.into_iter().map(within("auto_allocation.rules")));
}

/// Applies all edits to the types, then reverts those that do not fit until the rest does: types may swap their
/// ranges in one layer.
fn put_types(
    types: &mut Types,
    mut edits: BTreeMap<ServiceTypeName, Option<TypeLayer>>,
    excluded: &[PortRange],
    misfits: &mut Vec<Misfit>,
) {
    let excluded = excluded.iter().copied().collect::<PortSet>();
    let mut tried = types.clone();
    let mut note = |name: &ServiceTypeName, (field, message): TypeMisfit| {
        misfits.push((format!("service_types.{name}{field}"), message));
    };
    edits.retain(|name, edit| {
        let put = put_type(&mut tried, name, edit.as_ref(), &excluded);
        put.map_err(|misfit| note(name, misfit)).is_ok()
    });
    let mut uses = Uses::of(&tried);
    let mut moved: Vec<_> = edits
        .iter()
        .filter_map(|(name, edit)| Some((name, edit.as_ref()?)))
        .filter(|(_, edit)| edit.port_range.is_some() || edit.more_port_ranges.is_some())
        .collect();
    let mut at = 0;
    while let Some(&(name, edit)) = moved.get(at) {
        let new = tried.get(name).filter(|new| uses.has_overlap(new));
        let Some(misfit) = new.and_then(|new| overlap(&tried, name, edit, new)) else {
            at += 1;
            continue;
        };
        note(name, misfit);
        moved.remove(at);
        uses.change(tried.remove(name).as_ref(), u32::wrapping_sub);
        if let Some(before) = types.get(name) {
            uses.change(Some(before), u32::wrapping_add);
            tried.insert(name.clone(), before.clone());
            // Its previous range may be one that an earlier edit relied on.
            at = 0;
        }
    }
    *types = tried;
}

/// The number of ranges that contain each port.
struct Uses(Vec<u32>);

impl Uses {
    fn of(types: &Types) -> Self {
        let mut uses = Self(vec![0; 1 << 16]);
        types.values().for_each(|service_type| uses.change(Some(service_type), u32::wrapping_add));
        uses
    }

    fn change(&mut self, service_type: Option<&ServiceType>, by: fn(u32, u32) -> u32) {
        for range in service_type.into_iter().flat_map(ServiceType::ranges) {
            self.0[indices(range)].iter_mut().for_each(|count| *count = by(*count, 1));
        }
    }

    /// Whether a type, which is among those counted, has a port in common with another range.
    fn has_overlap(&self, service_type: &ServiceType) -> bool {
        service_type.ranges().any(|range| self.0[indices(range)].iter().any(|count| *count > 1))
    }
}

fn indices(range: PortRange) -> RangeInclusive<usize> {
    range.first().get().into()..=range.last().get().into()
}

type TypeMisfit = (&'static str, String);

fn put_type(
    types: &mut Types,
    name: &ServiceTypeName,
    edit: Option<&TypeLayer>,
    excluded: &PortSet,
) -> Result<(), TypeMisfit> {
    let Some(edit) = edit else {
        let slip = types.remove(name).is_none().then(|| slip(types, name)).flatten();
        return slip.map_or(Ok(()), |(_, message)| Err(("", message)));
    };
    let before = types.get(name);
    let Some(port_range) = edit.port_range.or(before.map(|t| t.port_range)) else {
        return Err((
            "",
            "a new service type needs a port_range: add \"port_range\": [first, last]".to_owned(),
        ));
    };
    let mut new = before.cloned().unwrap_or_else(|| ServiceType::new(port_range));
    if edit.port_range.is_some() {
        // A range that a person wrote is not automatic, whatever was there before.
        new.created.clone_from(&edit.created);
    }
    if edit.port_range.is_some() && edit.port_range != before.map(|t| t.port_range) {
        // Ranges that were added to another range do not belong to this one.
        new.more_ranges = Vec::new();
    }
    new.port_range = port_range;
    set(&mut new.more_ranges, edit.more_port_ranges.clone());
    set(&mut new.instance_behavior, edit.instance_behavior);
    set(&mut new.claims, edit.claims);
    set(&mut new.protocol, edit.protocol);
    set(&mut new.wait_ms, edit.wait_ms);
    if new.protocol == Protocol::Udp && edit.hold == Some(Hold::Guard) {
        return Err((".hold", "a guard can hold a TCP port only: set hold to \"none\"".to_owned()));
    }
    set(&mut new.hold, edit.hold);
    set(&mut new.description, edit.description.clone());
    set(&mut new.examples, edit.examples.clone());
    if let Some(preferred) = &edit.preferred_ports {
        check_preferred(preferred, &new, excluded)?;
        new.preferred_ports.clone_from(preferred);
    } else {
        // Preferred ports from a layer below that are outside of a new range are nobody's mistake.
        let inside = new.clone();
        new.preferred_ports.retain(|port| inside.contains(*port));
    }
    types.insert(name.clone(), new);
    Ok(())
}

fn check_preferred(
    preferred: &[Port],
    service_type: &ServiceType,
    excluded: &PortSet,
) -> Result<(), TypeMisfit> {
    let misfit = |message| Err((".preferred_ports", message));
    if let Some(port) = preferred.iter().find(|port| !service_type.contains(**port)) {
        let ranges = service_type.describe_ranges();
        return misfit(format!(
            "{port} is outside the type's port_range, {ranges}: choose a port inside"
        ));
    }
    if let Some(port) = preferred.iter().find(|port| excluded.contains(**port)) {
        return misfit(format!("{port} is one of the excluded_ports: choose another"));
    }
    let twice = preferred.iter().enumerate().find(|(i, port)| preferred[..*i].contains(port));
    match twice {
        Some((_, port)) => misfit(format!("{port} is given twice: keep one of the two")),
        None => Ok(()),
    }
}

/// The range that a range of an edited type overlaps.
fn overlap(
    types: &Types,
    name: &ServiceTypeName,
    edit: &TypeLayer,
    service_type: &ServiceType,
) -> Option<TypeMisfit> {
    let ranges: Vec<_> = service_type.ranges().collect();
    let own = |(index, range): (usize, &PortRange)| {
        let with = ranges[..index].iter().find(|other| other.overlaps(*range))?;
        Some((*range, format!("the type's own range {with}")))
    };
    let others = |range: &PortRange| {
        types.iter().filter(|(other, _)| *other != name).find_map(|(other, t)| {
            let with = t.ranges().find(|with| with.overlaps(*range))?;
            let remedy = if t.created.is_some() {
                format!(
                    " (created automatically: `styxy config undo-auto-allocation {other}` frees it)"
                )
            } else {
                String::new()
            };
            Some((*range, format!("the range of {other}, {with}{remedy}")))
        })
    };
    let (range, with) =
        (ranges.iter().enumerate().find_map(own)).or_else(|| ranges.iter().find_map(others))?;
    let more = edit.port_range.is_none() || range != service_type.port_range;
    let field = if more { ".more_port_ranges" } else { ".port_range" };
    Some((field, format!("{range} overlaps {with}: choose ports that no other type has")))
}
