//! Putting a layer over those below.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Config,
    layer::{AutoLayer, Layer, TypeLayer},
};
use crate::{
    auto_allocation::AutoAllocation,
    port::{Port, PortRange, Protocol},
    registry::PortSet,
    service_type::{Hold, ServiceType, ServiceTypeName},
};

/// A field that does not fit the rest, and why.
pub(super) type Misfit = (String, String);

type Types = BTreeMap<ServiceTypeName, ServiceType>;

impl Config {
    /// Puts a layer over the configuration; gives what does not fit and is left out.
    pub(super) fn put(&mut self, layer: Layer) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        if let Some(seconds) = layer.idle_exit_seconds {
            self.idle_exit = Duration::from_secs(seconds);
        }
        let limits = layer.limits.unwrap_or_default();
        set(&mut self.unused, layer.unused_seconds);
        set(&mut self.most_leases, limits.leases);
        set(&mut self.most_guards, limits.guards);
        set(&mut self.most_remembered, limits.remembered_ports);
        set(
            &mut self.excluded,
            layer
                .excluded_ports
                .map(|ports| ports.into_iter().map(|ports| ports.range()).collect()),
        );
        edit(&mut self.templates, layer.instance_templates, |before, offset| {
            *before.get_or_insert_default() = offset;
        });
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

/// Puts each edit over what has its name; none removes it.
fn edit<K: Ord, V, E>(
    map: &mut BTreeMap<K, V>,
    edits: BTreeMap<K, Option<E>>,
    put: impl Fn(&mut Option<V>, E),
) {
    for (name, edit) in edits {
        let mut value = map.remove(&name);
        match edit {
            Some(edit) => put(&mut value, edit),
            None => value = None,
        }
        if let Some(value) = value {
            map.insert(name, value);
        }
    }
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
    edit(&mut auto.rules, layer.rules, |before, rule| {
        let before = before.get_or_insert_default();
        before.chunk_size = rule.chunk_size.or(before.chunk_size);
        before.placement = rule.placement.or(before.placement);
        before.preferred_range_start = rule.preferred_range_start.or(before.preferred_range_start);
    });
}

/// Puts all edits over the types, then takes back those that do not fit until the rest does: types
/// may swap their ranges in one layer.
fn put_types(
    types: &mut Types,
    mut edits: BTreeMap<ServiceTypeName, Option<TypeLayer>>,
    excluded: &[PortRange],
    misfits: &mut Vec<Misfit>,
) {
    let excluded = excluded.iter().copied().collect::<PortSet>();
    loop {
        let mut tried = types.clone();
        let mut misfit = None;
        for (name, edit) in &edits {
            if let Err(problem) = put_type(&mut tried, name, edit.as_ref(), &excluded) {
                misfit.get_or_insert((name.clone(), problem));
            }
        }
        let Some((name, (field, message))) = misfit.or_else(|| overlap(&tried, &edits)) else {
            *types = tried;
            return;
        };
        misfits.push((format!("service_types.{name}{field}"), message));
        edits.remove(&name);
    }
}

type TypeMisfit = (&'static str, String);

fn put_type(
    types: &mut Types,
    name: &ServiceTypeName,
    edit: Option<&TypeLayer>,
    excluded: &PortSet,
) -> Result<(), TypeMisfit> {
    let Some(edit) = edit else {
        types.remove(name);
        return Ok(());
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
        // A range that somebody wrote is not automatic, whatever was there before.
        new.created.clone_from(&edit.created);
    }
    if edit.port_range.is_some() && edit.port_range != before.map(|t| t.port_range) {
        // What was added to another range does not belong to this one.
        new.more_ranges = Vec::new();
    }
    new.port_range = port_range;
    set(&mut new.more_ranges, edit.more_port_ranges.clone());
    set(&mut new.instance_behavior, edit.instance_behavior);
    set(&mut new.protocol, edit.protocol);
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
        // Those of a layer below that a new range leaves outside are nobody's mistake.
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

/// The first edit whose range overlaps another range.
fn overlap(
    types: &Types,
    edits: &BTreeMap<ServiceTypeName, Option<TypeLayer>>,
) -> Option<(ServiceTypeName, TypeMisfit)> {
    let new =
        edits.iter().filter_map(|(name, edit)| Some((name, edit.as_ref()?, types.get(name)?)));
    new.filter(|(_, edit, _)| edit.port_range.is_some() || edit.more_port_ranges.is_some()).find_map(
        |(name, edit, service_type)| {
            let ranges: Vec<_> = service_type.ranges().collect();
            let own = |(index, range): (usize, &PortRange)| {
                let with = ranges[..index].iter().find(|other| other.overlaps(*range))?;
                Some((*range, format!("the type's own range {with}")))
            };
            let others = |range: &PortRange| {
                types.iter().filter(|(other, _)| *other != name).find_map(|(other, t)| {
                    let with = t.ranges().find(|with| with.overlaps(*range))?;
                    let remedy = if t.created.is_some() {
                        format!(" (which appeared by itself: `styxy config undo-auto-allocation {other}` frees it)")
                    } else {
                        String::new()
                    };
                    Some((*range, format!("the range of {other}, {with}{remedy}")))
                })
            };
            let (range, with) = (ranges.iter().enumerate().find_map(own))
                .or_else(|| ranges.iter().find_map(others))?;
            let more = edit.port_range.is_none() || range != service_type.port_range;
            let field = if more { ".more_port_ranges" } else { ".port_range" };
            let message =
                format!("{range} overlaps {with}: choose ports that no other type has");
            Some((name.clone(), (field, message)))
        },
    )
}
