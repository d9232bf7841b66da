//! The configuration as a file, and the origin of each value.

use serde_json::Value as Json;

use super::{
    Config, Origin, Origins,
    layer::{AutoLayer, Excluded, Layer, LimitsLayer, RuleLayer, TypeLayer},
};
use crate::{
    auto_allocation::AutoRule,
    service_type::{Claims, ServiceType},
};

/// The configuration as one layer with all fields.
pub(super) fn layer(config: &Config) -> Layer {
    let auto = &config.auto;
    let rule = |rule: &AutoRule| RuleLayer {
        chunk_size: rule.chunk_size,
        placement: rule.placement,
        preferred_range_start: rule.preferred_range_start,
    };
    Layer {
        schema: None,
        idle_exit_seconds: Some(config.idle_exit.as_secs()),
        unused_seconds: Some(config.unused),
        claimed_seconds: Some(config.claimed),
        limits: Some(LimitsLayer {
            leases: Some(config.max_leases),
            leases_per_instance: Some(config.max_per_instance),
            leases_per_project: Some(config.max_per_project),
            range_percent_per_instance: Some(config.percent_per_instance),
            range_percent_per_project: Some(config.percent_per_project),
            guards: Some(config.max_guards),
            remembered_ports: Some(config.max_remembered),
            instances: Some(config.max_instances),
        }),
        excluded_ports: Some(config.excluded.iter().copied().map(Excluded::of).collect()),
        instance_templates: config.templates.iter().map(|(n, o)| (n.clone(), Some(*o))).collect(),
        auto_allocation: Some(AutoLayer {
            enabled: Some(auto.enabled),
            default_chunk_size: Some(auto.chunk_size),
            placement: Some(auto.placement),
            min_port: Some(auto.min_port),
            max_port: Some(auto.max_port),
            preserve_gaps: Some(auto.preserve_gaps),
            gap_size: Some(auto.gap_size),
            rules: auto.rules.iter().map(|(p, r)| (p.clone(), Some(rule(r)))).collect(),
        }),
        service_types: (config.types.0.iter())
            .map(|(name, service_type)| (name.clone(), Some(type_layer(service_type))))
            .collect(),
        programs: config.programs.iter().map(|(n, p)| (n.clone(), Some(p.clone()))).collect(),
    }
}

/// A service type as a layer gives it.
pub(super) fn type_layer(service_type: &ServiceType) -> TypeLayer {
    let kept_by = service_type.kept_by();
    let ServiceType {
        port_range,
        more_ranges,
        preferred_ports,
        instance_behavior,
        claims,
        hold: _,
        protocol,
        wait_ms,
        description,
        examples,
        created,
    } = service_type.clone();
    TypeLayer {
        port_range: Some(port_range),
        more_port_ranges: (!more_ranges.is_empty()).then_some(more_ranges),
        preferred_ports: Some(preferred_ports),
        instance_behavior: Some(instance_behavior),
        claims: (claims != Claims::default()).then_some(claims),
        hold: Some(kept_by),
        protocol: Some(protocol),
        wait_ms: (wait_ms != 0).then_some(wait_ms),
        description: (!description.is_empty()).then_some(description),
        examples: (!examples.is_empty()).then_some(examples),
        created,
    }
}

/// The configuration as JSON; with origins, each value as `{"value": …, "origin": "file:line"}`.
pub fn show(config: &Config, origins: Option<&Origins>) -> Json {
    let json = serde_json::to_value(layer(config)).unwrap_or_default();
    match origins {
        Some(origins) => with_origins(json, "", origins),
        None => json,
    }
}

fn with_origins(json: Json, field: &str, origins: &Origins) -> Json {
    // A value that a layer gives as a whole has one origin.
    let Json::Object(fields) = json else {
        let origin = match origins.get(field) {
            None | Some(Origin::BuiltIn) => "built in".to_owned(),
            Some(file) => file.to_string(),
        };
        return serde_json::json!({"value": json, "origin": origin});
    };
    let fields = fields.into_iter().map(|(name, value)| {
        let inner = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        let value = with_origins(value, &inner, origins);
        (name, value)
    });
    Json::Object(fields.collect())
}
