//! What was measured: rows, as a table and as a file.

use std::{fmt, fs};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// All rows.
#[derive(Default)]
pub struct Results(Vec<Row>);

/// One measured number.
#[derive(Serialize)]
pub struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The same of what it is compared with.
    floor: Option<f64>,
    /// What is wanted of the value.
    target: Option<String>,
    met: Option<bool>,
}

impl Row {
    /// A number that is only told.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, floor: None, target: None, met: None }
    }

    /// Beside what it is compared with.
    pub fn floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// At most so many times the floor.
    pub fn at_most_times(self, times: f64) -> Self {
        let limit = self.floor.map_or(f64::NAN, |floor| floor * times);
        let met = self.value <= limit;
        self.target(format!("≤ {times} × floor"), met)
    }

    /// At least so many times the floor.
    pub fn at_least_times(self, times: f64) -> Self {
        let limit = self.floor.map_or(f64::NAN, |floor| floor * times);
        let met = self.value >= limit;
        self.target(format!("≥ {times} × floor"), met)
    }

    /// At most so much.
    pub fn at_most(self, limit: f64) -> Self {
        let met = self.value <= limit;
        self.target(format!("≤ {limit}"), met)
    }

    /// Just so much.
    pub fn exactly(self, wanted: f64) -> Self {
        let met = (self.value - wanted).abs() < f64::EPSILON;
        self.target(format!("{wanted}"), met)
    }

    fn target(mut self, target: String, met: bool) -> Self {
        (self.target, self.met) = (Some(target), Some(met));
        self
    }
}

impl Results {
    /// Notes a row.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Writes all rows as a list of JSON objects.
    pub fn save(&self, path: &str) {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap();
        text.push('\n');
        fs::write(path, text).unwrap();
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["what", "styxy", "floor", "ratio", "target", "met"]);
        for row in &self.0 {
            let number = |number: f64| format!("{} {}", rounded(number), row.unit);
            table.add_row([
                row.name.clone(),
                number(row.value),
                row.floor.map(number).unwrap_or_default(),
                row.floor.map(|floor| format!("{:.2}", row.value / floor)).unwrap_or_default(),
                row.target.clone().unwrap_or_default(),
                row.met.map(|met| if met { "yes" } else { "NO" }).unwrap_or_default().to_owned(),
            ]);
        }
        for column in 1..4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{table}")
    }
}

/// Three digits, or all before the point.
fn rounded(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}
