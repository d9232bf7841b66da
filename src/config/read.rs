//! One layer: its fields are read, checked and put over what is in force.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jsonc_parser::{
    ast::Value,
    common::{Range, Ranged},
};

use super::{
    Config, Problem,
    json::{Node, Source},
};
use crate::{
    port::{Port, PortRange},
    registry::PortSet,
    service_type::{Hold, InstanceBehavior, ServiceType, ServiceTypeName},
};

/// Puts the good fields of a layer over the configuration, and notes the others.
pub(super) fn apply(config: &mut Config, file: &Path, text: &str, problems: &mut Vec<Problem>) {
    let mut edits = Vec::new();
    let mut source = Source { file, text, problems };
    source.parse(|source, name, node| match name {
        // For editors; nothing is fetched.
        "$schema" => {}
        "idle_exit_seconds" => {
            if let Some(seconds) = source.number(node, 0, 31_536_000) {
                config.idle_exit = Duration::from_secs(seconds);
            }
        }
        "unused_seconds" => {
            if let Some(seconds) = source.number(node, 1, 31_536_000) {
                config.unused = seconds;
            }
        }
        "limits" => source.fields(node, |source, name, node| match name {
            "leases" => set(&mut config.most_leases, source.number(node, 1, 131_070)),
            "guards" => set(&mut config.most_guards, source.number(node, 0, 65_535)),
            "remembered_ports" => {
                set(&mut config.most_remembered, source.number(node, 1, 1_000_000));
            }
            _ => source.unknown(node, name, &["guards", "leases", "remembered_ports"]),
        }),
        "excluded_ports" => {
            if let Some(ports) = source.list(node, excluded) {
                config.excluded = PortSet::default();
                ports.into_iter().for_each(|range| config.excluded.insert_range(range));
            }
        }
        "service_types" => source.fields(node, |source, name, node| match name.parse() {
            Ok(name) => edits.push(edit(source, name, node)),
            Err(error) => {
                let error: crate::error::Error = error;
                source.note(node.value.range(), node.field, error.message);
            }
        }),
        _ => source.unknown(
            node,
            name,
            &["excluded_ports", "idle_exit_seconds", "limits", "service_types", "unused_seconds"],
        ),
    });
    merge(config, edits, &mut source);
}

fn set(field: &mut usize, value: Option<u64>) {
    if let Some(value) = value.and_then(|value| value.try_into().ok()) {
        *field = value;
    }
}

/// A port, or a pair of first and last.
fn excluded(source: &mut Source<'_>, node: Node<'_>) -> Option<PortRange> {
    if matches!(node.value, Value::Array(_)) {
        return range(source, node);
    }
    let port = source.port(node)?;
    PortRange::new(port, port)
}

fn range(source: &mut Source<'_>, node: Node<'_>) -> Option<PortRange> {
    let ports = source.list(node, Source::port)?;
    let &[first, last] = ports.as_slice() else {
        source.note(
            node.value.range(),
            node.field,
            format!("a range has two ports, [first, last], not {}", ports.len()),
        );
        return None;
    };
    let range = PortRange::new(first, last);
    if range.is_none() {
        source.note(
            node.value.range(),
            node.field,
            format!("the range is reversed: write [{last}, {first}]"),
        );
    }
    range
}

/// What a layer says of one service type. What it doesn't say stays as it was.
struct Edit {
    name: ServiceTypeName,
    place: Range,
    removed: bool,
    range: Option<(PortRange, Range)>,
    preferred: Option<(Vec<Port>, Range)>,
    behavior: Option<InstanceBehavior>,
    hold: Option<Hold>,
    description: Option<String>,
}

fn edit(source: &mut Source<'_>, name: ServiceTypeName, node: Node<'_>) -> Edit {
    let place = node.value.range();
    let mut edit = Edit {
        name,
        place,
        removed: matches!(node.value, Value::NullKeyword(_)),
        range: None,
        preferred: None,
        behavior: None,
        hold: None,
        description: None,
    };
    if edit.removed {
        return edit;
    }
    source.fields(node, |source, name, node| {
        let place = node.value.range();
        match name {
            "port_range" => edit.range = range(source, node).map(|range| (range, place)),
            "preferred_ports" => {
                edit.preferred = source.list(node, Source::port).map(|ports| (ports, place));
            }
            "instance_behavior" => {
                let words = [InstanceBehavior::Multi, InstanceBehavior::Single];
                edit.behavior = source.one_of(node, &words.map(|b| (b.as_str(), b)));
            }
            "hold" => {
                let words = [Hold::Guard, Hold::None].map(|hold| (hold.as_str(), hold));
                edit.hold = source.one_of(node, &words);
            }
            "description" => edit.description = source.string(node).map(str::to_owned),
            _ => source.unknown(
                node,
                name,
                &["description", "hold", "instance_behavior", "port_range", "preferred_ports"],
            ),
        }
    });
    edit
}

/// Puts all edits over the types, then takes back those that do not fit until the rest does: types
/// may swap their ranges in one layer.
fn merge(config: &mut Config, mut edits: Vec<Edit>, source: &mut Source<'_>) {
    loop {
        let mut types = config.types.0.clone();
        let mut misfit = None;
        for (index, edit) in edits.iter().enumerate() {
            if let Err(problem) = put(&mut types, edit) {
                misfit.get_or_insert((index, problem));
            }
        }
        let misfit = misfit.or_else(|| overlap(&types, &edits));
        let Some((index, (place, field, message))) = misfit else {
            config.types.0 = types;
            return;
        };
        let field = format!("service_types.{}{field}", edits[index].name);
        source.note(place, &field, message);
        edits.remove(index);
    }
}

type Misfit = (Range, &'static str, String);

fn put(types: &mut BTreeMap<ServiceTypeName, ServiceType>, edit: &Edit) -> Result<(), Misfit> {
    if edit.removed {
        types.remove(&edit.name);
        return Ok(());
    }
    let before = types.get(&edit.name);
    let port_range = edit.range.map(|(range, _)| range).or(before.map(|t| t.port_range));
    let Some(port_range) = port_range else {
        return Err((
            edit.place,
            "",
            "a new service type needs a port_range: add \"port_range\": [first, last]".to_owned(),
        ));
    };
    let preferred_ports = match &edit.preferred {
        Some((ports, place)) => {
            if let Some(port) = ports.iter().find(|port| !port_range.contains(**port)) {
                let message = format!("{port} is outside the type's port_range, {port_range}");
                return Err((*place, ".preferred_ports", message));
            }
            ports.clone()
        }
        // Those of a layer below that a new range leaves outside are nobody's mistake.
        None => before.map_or_else(Vec::new, |t| {
            let ports = t.preferred_ports.iter().copied();
            ports.filter(|port| port_range.contains(*port)).collect()
        }),
    };
    let service_type = ServiceType {
        port_range,
        preferred_ports,
        instance_behavior: edit
            .behavior
            .or(before.map(|t| t.instance_behavior))
            .unwrap_or_default(),
        hold: edit.hold.or(before.map(|t| t.hold)).unwrap_or(Hold::Guard),
        description: edit
            .description
            .clone()
            .or(before.map(|t| t.description.clone()))
            .unwrap_or_default(),
    };
    types.insert(edit.name.clone(), service_type);
    Ok(())
}

/// The first edit whose range overlaps another type's.
fn overlap(
    types: &BTreeMap<ServiceTypeName, ServiceType>,
    edits: &[Edit],
) -> Option<(usize, Misfit)> {
    edits.iter().enumerate().find_map(|(index, edit)| {
        let (range, place) = edit.range.filter(|_| types.contains_key(&edit.name))?;
        let (other, with) =
            types.iter().find(|(name, t)| **name != edit.name && t.port_range.overlaps(range))?;
        let message = format!(
            "{range} overlaps the range of {other}, {}: choose ports that no other type has",
            with.port_range
        );
        Some((index, (place, ".port_range", message)))
    })
}
