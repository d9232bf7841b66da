//! What the page looks like.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use super::model::{Focus, Model};
use crate::cli::{
    list::COLUMNS,
    table::{Cell, Colour, GAP, Table, beginning_of},
};

/// The columns that a narrow screen lacks, the least important first.
const HIDDEN: [&str; 6] = ["LEASE", "AGE", "OWNER", "TYPE", "PROJECT", "STATE"];

impl Model {
    /// Draws the page as large as it is.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let mut lines: Vec<Line<'_>> = Vec::with_capacity(self.height);
        if self.has_summary() {
            let summary = beginning_of(&self.summary(), self.width);
            lines.push(Line::styled(
                summary,
                if self.is_text() { self.bold() } else { Style::new() },
            ));
        }
        if self.is_text() {
            let text = self.text().into_iter().skip(self.first_line).take(self.room());
            lines.extend(text.map(Line::from));
        } else {
            lines.extend(self.table());
        }
        let bottom = self.bottom();
        let last = self.height.saturating_sub(bottom.len());
        lines.resize(last, Line::default());
        lines.extend(bottom.iter().map(|line| Line::from(line.as_str())));
        let area = frame.area();
        for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
            frame.render_widget(line, Rect { y, height: 1, ..area });
        }
        if let (Focus::Filter | Focus::Release(_), Some(line)) = (&self.focus, bottom.last()) {
            let x = u16::try_from(line.width()).unwrap_or(u16::MAX);
            let right = area.width.saturating_sub(1);
            frame.set_cursor_position((area.x + x.min(right), area.bottom().saturating_sub(1)));
        }
    }

    /// The header and the rows that are on the screen.
    fn table(&self) -> Vec<Line<'static>> {
        if self.rows.is_empty() {
            let none = if self.count() == 0 { "no port is leased" } else { "no lease matches" };
            let header = self.has_header().then(Line::default);
            let none = (self.room() > 0).then(|| beginning_of(none, self.width).into());
            return header.into_iter().chain(none).collect();
        }
        // All rows, so that the columns stay where they are when the table is scrolled.
        let mut table = Table::new(COLUMNS);
        for listed in (0..self.rows.len()).filter_map(|row| self.row(row)) {
            table.row(listed.cells.clone());
        }
        for title in HIDDEN {
            if !table.fits(self.width) {
                table.without(title);
            }
        }
        let rows = self.first..self.first + self.room();
        let mut lines = Vec::new();
        for (index, cells) in table.fitted(self.width, rows).into_iter().enumerate() {
            let line = self.line(cells);
            match index.checked_sub(1) {
                None if self.has_header() => lines.push(line.style(self.bold())),
                None => {}
                Some(row) if self.first + row == self.at => {
                    let used = line.width();
                    let mut line = line.style(Modifier::REVERSED);
                    line.push_span(" ".repeat(self.width.saturating_sub(used)));
                    lines.push(line);
                }
                Some(_) => lines.push(line),
            }
        }
        lines
    }

    fn line(&self, cells: Vec<Cell>) -> Line<'static> {
        let mut line = Line::default();
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                line.push_span(GAP);
            }
            let colour = cell.colour.filter(|_| self.has_colours).map(|colour| match colour {
                Colour::Red => Color::Red,
                Colour::Green => Color::Green,
                Colour::Yellow => Color::Yellow,
            });
            line.push_span(match colour {
                Some(colour) => Span::styled(cell.text, colour),
                None => cell.text.into(),
            });
        }
        line
    }

    /// As the headers of all tables are: bold if there are colours.
    fn bold(&self) -> Style {
        if self.has_colours { Modifier::BOLD.into() } else { Style::new() }
    }
}
