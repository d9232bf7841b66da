//! `GET /metrics`: JSON as 1.x had it, the text format of Prometheus (0.0.4), or `OpenMetrics`.

use std::{fmt, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use serde_json::{Map, Value as Body, json};

use super::super::routes::{Failure, Parameters, read_query};
use crate::{
    broker::{
        Broker,
        metrics::{self, Kind, Metric, Metrics, Timing},
    },
    error::Error,
    request::{mismatch, unknown},
    value::Value,
};

/// The media type of `OpenMetrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The form of an answer.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Prometheus,
    OpenMetrics,
}

impl Form {
    fn of(parameters: Parameters, headers: &HeaderMap) -> Result<Self, Failure> {
        let mut form = None;
        for (key, value) in read_query(parameters?)? {
            form = Some(match (key.as_str(), value) {
                ("format", Value::Str(name)) if name == "prometheus" => Self::Prometheus,
                ("format", Value::Str(name)) if name == "openmetrics" => Self::OpenMetrics,
                ("format", Value::Str(name)) if name == "json" => Self::Json,
                ("format", other) => {
                    let known = "json, prometheus or openmetrics";
                    return Err(mismatch(&key, known, &other).into());
                }
                _ => return Err(unknown("parameter", &key, &["format"]).into()),
            });
        }
        // Whoever scrapes names what it can read, the best first.
        let accepted =
            headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let by_header = || {
            accepted.split(',').find_map(|range| match range.split(';').next()?.trim() {
                "application/openmetrics-text" => Some(Self::OpenMetrics),
                "text/plain" => Some(Self::Prometheus),
                "application/json" => Some(Self::Json),
                _ => None,
            })
        };
        Ok(form.or_else(by_header).unwrap_or(Self::Json))
    }
}

pub(in crate::http) async fn metrics(
    State(broker): State<Arc<Broker>>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let form = Form::of(parameters, &headers)?;
    let metrics = broker.metrics();
    let mut body = String::new();
    let (media_type, written) = match form {
        Form::Json => return Ok(Json(json(&metrics)).into_response()),
        Form::Prometheus => {
            (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut body, &registry(metrics)))
        }
        Form::OpenMetrics => (OPEN_METRICS, text::encode(&mut body, &registry(metrics))),
    };
    written.map_err(|_| Error::invalid("the metrics can't be written down"))?;
    Ok(([(CONTENT_TYPE, media_type)], body).into_response())
}

fn registry(metrics: Metrics) -> Registry {
    let mut registry = Registry::with_prefix("styxy");
    registry.register_collector(Box::new(metrics));
    registry
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Metric { name, help, kind, unit, samples } in &self.metrics {
            let shown = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let unit = unit.map(|unit| match unit {
                metrics::Unit::Bytes => Unit::Bytes,
                metrics::Unit::Seconds => Unit::Seconds,
            });
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), shown)?;
            for (labels, value) in samples {
                let labels: Vec<_> =
                    labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
                let mut sample = metric.encode_family(&labels)?;
                match kind {
                    Kind::Counter => sample.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                    Kind::Gauge => sample.encode_gauge(value)?,
                }
            }
        }
        for Timing { name, help, times } in &self.timings {
            encoder
                .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
                .encode_histogram::<NoLabelSet>(
                    times.sum(),
                    times.count(),
                    &times.buckets(),
                    None,
                )?;
        }
        Ok(())
    }
}

/// The number without a fraction, if it has none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are neither large nor negative"
)]
fn whole(value: f64) -> Body {
    if value.fract() == 0.0 { (value as u64).into() } else { value.into() }
}

/// As 1.x named and grouped them: a counter by its name with its labels.
fn json(metrics: &Metrics) -> Body {
    let (mut counters, mut gauges) = (Map::new(), Map::new());
    for Metric { name, kind, unit, samples, .. } in &metrics.metrics {
        let unit = match unit {
            Some(metrics::Unit::Bytes) => "_bytes",
            Some(metrics::Unit::Seconds) => "_seconds",
            None => "",
        };
        let total = if *kind == Kind::Counter { "_total" } else { "" };
        for (labels, value) in samples {
            let labels: Vec<_> =
                labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
            let labels =
                if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let name = format!("{name}{unit}{total}{labels}");
            if *kind == Kind::Counter {
                counters.insert(name, whole(*value));
            } else {
                gauges.insert(name, json!({"value": whole(*value)}));
            }
        }
    }
    let histograms = metrics.timings.iter().map(|Timing { name, times, .. }| {
        let buckets = times.buckets().map(|(bound, count)| (bound.to_string(), json!(count)));
        let buckets = Map::from_iter(buckets);
        let histogram = json!({"count": times.count(), "sum": times.sum(), "buckets": buckets});
        (format!("{name}_seconds"), histogram)
    });
    json!({
        "success": true,
        "counters": counters,
        "gauges": gauges,
        "histograms": histograms.collect::<Map<_, _>>(),
        "system": {"pid": std::process::id()},
    })
}
