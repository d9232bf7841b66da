//! Reads one file, field by field. An invalid field is reported and ignored.

use std::str::FromStr;

use jsonc_parser::{ast::Value, common::Ranged};

use super::{
    json::{Node, Source},
    layer::{AutoLayer, Excluded, Layer, LimitsLayer, RuleLayer, TypeLayer},
    program::read_programs,
};
use crate::{
    auto_allocation::Placement,
    error::Error,
    port::{PortRange, Protocol},
    service_type::{Claims, Created, Hold, InstanceBehavior},
    time::Timestamp,
};

/// The longest time in the configuration, in seconds: a year.
const YEAR: u64 = 31_536_000;
/// The longest time that a request may wait for a port, in milliseconds: a minute.
const MOST_WAIT: u64 = 60_000;

/// Reads a layer. Only the service's own drop-in may say how a type was created.
pub(super) fn layer(source: &mut Source<'_>, is_drop_in: bool) -> Layer {
    let mut layer = Layer::default();
    source.parse(|source, name, node| match name {
        "$schema" => layer.schema = source.string(node).map(str::to_owned),
        "idle_exit_seconds" => layer.idle_exit_seconds = source.number(node, 0, YEAR),
        "unused_seconds" => layer.unused_seconds = source.number(node, 1, YEAR),
        "claimed_seconds" => layer.claimed_seconds = source.number(node, 1, YEAR),
        "limits" => layer.limits = Some(limits(source, node)),
        "excluded_ports" => layer.excluded_ports = source.list(node, excluded),
        "instance_templates" => source.fields(node, |source, name, node| {
            if let Some(name) = named(source, name, node)
                && let Some(offset) = unless_null(node, || source.small(node, 0, 1_000))
            {
                layer.instance_templates.insert(name, offset);
            }
        }),
        "auto_allocation" => layer.auto_allocation = Some(auto(source, node)),
        "service_types" => source.fields(node, |source, name, node| {
            if let Some(name) = named(source, name, node)
                && let Some(edit) = unless_null(node, || service_type(source, node, is_drop_in))
            {
                layer.service_types.insert(name, edit);
            }
        }),
        "programs" => layer.programs = read_programs(source, node),
        _ => source.unknown(
            node,
            name,
            &[
                "auto_allocation",
                "claimed_seconds",
                "excluded_ports",
                "idle_exit_seconds",
                "instance_templates",
                "limits",
                "programs",
                "service_types",
                "unused_seconds",
            ],
        ),
    });
    layer
}

/// Parses the name of a field, or reports that it is invalid.
fn named<T: FromStr<Err = Error>>(
    source: &mut Source<'_>,
    name: &str,
    node: Node<'_>,
) -> Option<T> {
    let parsed = name.parse();
    parsed.map_err(|error: Error| source.note(node.value.range(), node.field, error.message)).ok()
}

/// `Some(None)` for null, which removes the entry.
#[allow(clippy::option_option)] // wrong, null, or a value
pub(super) fn unless_null<T>(
    node: Node<'_>,
    read: impl FnOnce() -> Option<T>,
) -> Option<Option<T>> {
    if matches!(node.value, Value::NullKeyword(_)) { Some(None) } else { read().map(Some) }
}

fn limits(source: &mut Source<'_>, node: Node<'_>) -> LimitsLayer {
    let mut limits = LimitsLayer::default();
    source.fields(node, |source, name, node| match name {
        "leases" => limits.leases = source.size(node, 1, 131_070),
        "leases_per_instance" => limits.leases_per_instance = source.size(node, 1, 131_070),
        "leases_per_project" => limits.leases_per_project = source.size(node, 1, 131_070),
        "range_percent_per_instance" => {
            limits.range_percent_per_instance = source.size(node, 1, 100);
        }
        "range_percent_per_project" => limits.range_percent_per_project = source.size(node, 1, 100),
        "guards" => limits.guards = source.size(node, 0, 65_535),
        "remembered_ports" => limits.remembered_ports = source.size(node, 1, 1_000_000),
        "instances" => limits.instances = source.size(node, 1, 100_000),
        _ => source.unknown(
            node,
            name,
            &[
                "guards",
                "instances",
                "leases",
                "leases_per_instance",
                "leases_per_project",
                "range_percent_per_instance",
                "range_percent_per_project",
                "remembered_ports",
            ],
        ),
    });
    limits
}

fn excluded(source: &mut Source<'_>, node: Node<'_>) -> Option<Excluded> {
    if matches!(node.value, Value::Array(_)) {
        return range(source, node).map(Excluded::Range);
    }
    source.port(node).map(Excluded::Port)
}

fn range(source: &mut Source<'_>, node: Node<'_>) -> Option<PortRange> {
    let ports = source.list(node, Source::port)?;
    let &[first, last] = ports.as_slice() else {
        source.note(
            node.value.range(),
            node.field,
            format!("a range has two ports, not {}: write [first, last]", ports.len()),
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

fn auto(source: &mut Source<'_>, node: Node<'_>) -> AutoLayer {
    let mut auto = AutoLayer::default();
    source.fields(node, |source, name, node| match name {
        "enabled" => auto.enabled = source.boolean(node),
        "default_chunk_size" => auto.default_chunk_size = source.small(node, 1, 1_000),
        "placement" => auto.placement = placement(source, node),
        "min_port" => auto.min_port = source.port(node),
        "max_port" => auto.max_port = source.port(node),
        "preserve_gaps" => auto.preserve_gaps = source.boolean(node),
        "gap_size" => auto.gap_size = source.small(node, 0, 1_000),
        "rules" => source.fields(node, |source, name, node| {
            if let Some(pattern) = named(source, name, node)
                && let Some(rule) = unless_null(node, || Some(rule(source, node)))
            {
                auto.rules.insert(pattern, rule);
            }
        }),
        _ => source.unknown(
            node,
            name,
            &[
                "default_chunk_size",
                "enabled",
                "gap_size",
                "max_port",
                "min_port",
                "placement",
                "preserve_gaps",
                "rules",
            ],
        ),
    });
    auto
}

fn placement(source: &mut Source<'_>, node: Node<'_>) -> Option<Placement> {
    source.one_of(node, &Placement::ALL.map(|placement| (placement.as_str(), placement)))
}

fn rule(source: &mut Source<'_>, node: Node<'_>) -> RuleLayer {
    let mut rule = RuleLayer::default();
    source.fields(node, |source, name, node| match name {
        "chunk_size" => rule.chunk_size = source.small(node, 1, 1_000),
        "placement" => rule.placement = placement(source, node),
        "preferred_range_start" => rule.preferred_range_start = source.port(node),
        _ => source.unknown(node, name, &["chunk_size", "placement", "preferred_range_start"]),
    });
    rule
}

fn service_type(source: &mut Source<'_>, node: Node<'_>, is_drop_in: bool) -> Option<TypeLayer> {
    let mut edit = TypeLayer::default();
    source.fields(node, |source, name, node| match name {
        "port_range" => edit.port_range = range(source, node),
        "more_port_ranges" => edit.more_port_ranges = source.list(node, range),
        "preferred_ports" => edit.preferred_ports = source.list(node, Source::port),
        "instance_behavior" => {
            let words = [InstanceBehavior::Multi, InstanceBehavior::Single];
            edit.instance_behavior = source.one_of(node, &words.map(|b| (b.as_str(), b)));
        }
        "claims" => {
            let words = [Claims::All, Claims::Named];
            edit.claims = source.one_of(node, &words.map(|c| (c.as_str(), c)));
        }
        "hold" => {
            let words = [Hold::Guard, Hold::None];
            edit.hold = source.one_of(node, &words.map(|hold| (hold.as_str(), hold)));
        }
        "protocol" => {
            let words = [Protocol::Tcp, Protocol::Udp, Protocol::Both];
            edit.protocol = source.one_of(node, &words.map(|p| (p.as_str(), p)));
        }
        "wait_ms" => edit.wait_ms = source.number(node, 0, MOST_WAIT),
        "description" => edit.description = source.words(node, 500),
        "examples" => {
            edit.examples = source.list(node, |source, node| source.words(node, 500));
        }
        "created" if is_drop_in => edit.created = created(source, node),
        "created" => source.note(
            node.value.range(),
            node.field,
            "only the service's own file may have this field: leave it out",
        ),
        _ => source.unknown(
            node,
            name,
            &[
                "claims",
                "description",
                "examples",
                "hold",
                "instance_behavior",
                "more_port_ranges",
                "port_range",
                "preferred_ports",
                "protocol",
                "wait_ms",
            ],
        ),
    });
    matches!(node.value, Value::Object(_)).then_some(edit)
}

fn created(source: &mut Source<'_>, node: Node<'_>) -> Option<Created> {
    let (mut at, mut found, mut by) = (None, None, None);
    source.fields(node, |source, name, node| match name {
        "at" => at = time(source, node),
        "placement" => found = placement(source, node),
        "by" => by = source.words(node, 100),
        _ => source.unknown(node, name, &["at", "by", "placement"]),
    });
    let lacks = |name| !source.places.contains_key(&format!("{}.{name}", node.field));
    if matches!(node.value, Value::Object(_)) && (lacks("at") || lacks("placement")) {
        source.note(node.value.range(), node.field, "needs a time (at) and a placement: add them");
    }
    Some(Created { at: at?, placement: found?, by })
}

fn time(source: &mut Source<'_>, node: Node<'_>) -> Option<Timestamp> {
    let text = source.string(node)?;
    // No time has more than 40 characters.
    let time = text.parse().ok().filter(|_| text.chars().count() <= 40);
    if time.is_none() {
        source.mismatch(node, "a time such as 2026-01-31T12:00:00Z");
    }
    time
}
