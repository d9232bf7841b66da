//! Tables for people, the same for every verb: a bold header if colours are supported, two spaces between
//! columns, and no empty columns.
//!
//! Widths are those on the screen (UAX #11). If the terminal is too narrow, paths are shortened first and
//! keep their ends, then texts, which keep their beginnings; then prose is wrapped between words; then
//! whatever is widest shrinks. In a pipe or a file, and on a terminal of unknown size, everything is printed
//! in full.

use std::{io, ops::Range};

use rustix::termios::{Winsize, tcgetwinsize};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::output::colours;

/// The space between two columns.
pub(super) const GAP: &str = "  ";

/// So much of a text or a path must be seen for [`Table::fits`].
const LEAST: usize = 8;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    kind: Kind,
}

/// The content of a column, which decides how it shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Ports, states, times: short, and meaningless if cut.
    Short,
    /// The same, aligned to the right.
    Number,
    /// Paths, whose ends matter most.
    Path,
    /// Names and the like.
    Text,
    /// Sentences.
    Prose,
}

impl Kind {
    /// As much of the text as there is room for.
    fn cut(self, text: &str, width: usize) -> String {
        if self == Self::Path { end_of(text, width) } else { beginning_of(text, width) }
    }

    /// The text as it is shown, aligned in a column of this width.
    fn fill(self, text: &str, shown: &str, width: usize) -> String {
        let room = " ".repeat(width.saturating_sub(text.width()));
        if self == Self::Number { room + shown } else { shown.to_owned() + &room }
    }
}

impl Column {
    /// What its header says.
    pub(super) const fn title(&self) -> &'static str {
        self.title
    }
}

/// A column of short values, which are cut last.
pub(super) const fn short(title: &'static str) -> Column {
    Column { title, kind: Kind::Short }
}

/// A column of numbers.
pub(super) const fn number(title: &'static str) -> Column {
    Column { title, kind: Kind::Number }
}

/// A column of paths.
pub(super) const fn path(title: &'static str) -> Column {
    Column { title, kind: Kind::Path }
}

/// A column of names and the like.
pub(super) const fn text(title: &'static str) -> Column {
    Column { title, kind: Kind::Text }
}

/// A column of sentences.
pub(super) const fn prose(title: &'static str) -> Column {
    Column { title, kind: Kind::Prose }
}

/// The colours that every terminal adapts to its own background (ECMA-48, SGR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// A cell: one column of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) colour: Option<Colour>,
}

impl Cell {
    /// A cell in this colour, if colours are supported.
    pub(super) fn painted(text: &str, colour: Option<Colour>) -> Self {
        Self { text: text.to_owned(), colour }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A table, filled row by row.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [impl Into<Cell>; N]) {
        self.rows.push(cells.map(Into::into));
    }

    /// The table as shown on stdout.
    pub(super) fn draw(&self) -> String {
        self.render(columns(), colours())
    }

    fn render(&self, most: Option<usize>, has_colours: bool) -> String {
        let widths = self.widths(most);
        let header = self.columns.map(|column| Cell::from(column.title));
        let header = self.lines(&header, &widths, |line| bold(line, has_colours));
        let rows = self.rows.iter().flat_map(|row| {
            let is_painted = has_colours && row.iter().any(|cell| cell.colour.is_some());
            let row = if is_painted { row.clone() } else { row.clone().map(|c| c.text.into()) };
            self.lines(&row, &widths, |line| line)
        });
        header.into_iter().chain(rows).collect::<Vec<_>>().join("\n")
    }

    /// The header and these rows, each a line: the cells of the columns that are not empty, cut and filled to the
    /// width of their column. Together with a [`GAP`] between two they are at most so wide, unless even a column of
    /// width 1 is too much. For tables without prose.
    pub(super) fn fitted(&self, most: usize, rows: Range<usize>) -> Vec<Vec<Cell>> {
        let widths = self.widths(Some(most));
        let header = self.columns.map(|column| Cell::from(column.title));
        let rows = rows.filter_map(|row| self.rows.get(row));
        let fitted = |row: &[Cell; N]| {
            let cells = (0..N).filter(|index| widths[*index] > 0);
            let fitted = cells.map(|index| {
                let kind = self.columns[index].kind;
                let cut = kind.cut(&row[index].text, widths[index]);
                Cell { text: kind.fill(&cut, &cut, widths[index]), colour: row[index].colour }
            });
            fitted.collect()
        };
        [&header].into_iter().chain(rows).map(fitted).collect()
    }

    /// Whether a screen of this width has room for it: nothing short is cut, and of a text or a path a part is
    /// seen that says something.
    pub(super) fn fits(&self, most: usize) -> bool {
        let natural = self.widths(None);
        let least = |index: usize| match self.columns[index].kind {
            Kind::Path | Kind::Text | Kind::Prose => natural[index].min(LEAST),
            Kind::Short | Kind::Number => natural[index],
        };
        let used = (0..N).filter(|index| natural[*index] > 0);
        used.map(|index| least(index) + GAP.len()).sum::<usize>() <= most + GAP.len()
    }

    /// Empties the column with this title, so that the others have its room.
    pub(super) fn without(&mut self, title: &str) {
        for index in (0..N).filter(|index| self.columns[*index].title == title) {
            self.rows.iter_mut().for_each(|row| row[index] = Cell::default());
        }
    }

    /// The width of each column; 0 if it is empty.
    fn widths(&self, most: Option<usize>) -> [usize; N] {
        let mut widths: [usize; N] = std::array::from_fn(|index| {
            let lines = self.rows.iter().flat_map(|row| row[index].text.lines());
            let widest = lines.map(UnicodeWidthStr::width).max().unwrap_or(0);
            if widest == 0 { 0 } else { widest.max(self.columns[index].title.width()) }
        });
        let Some(most) = most else { return widths };
        let all = |widths: &[usize; N]| {
            let used = widths.iter().filter(|width| **width > 0);
            used.map(|width| width + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
        };
        // Prose is not broken within a word, so no column of it is narrower than its longest word.
        let words: [usize; N] = std::array::from_fn(|index| {
            let words = self.rows.iter().flat_map(|row| row[index].text.split_whitespace());
            match self.columns[index].kind {
                Kind::Prose => words.map(UnicodeWidthStr::width).max().unwrap_or(0),
                _ => 0,
            }
        });
        for (kinds, least) in [
            (&[Kind::Path][..], 20),
            (&[Kind::Text], 16),
            (&[Kind::Prose], 24),
            (&[Kind::Path, Kind::Text], 10),
            (&[Kind::Path, Kind::Text, Kind::Prose], 6),
            (&[Kind::Path, Kind::Text, Kind::Short, Kind::Number], 1),
        ] {
            while all(&widths) > most {
                let may = |index: &usize| {
                    kinds.contains(&self.columns[*index].kind)
                        && widths[*index] > least.max(words[*index])
                };
                let Some(widest) = (0..N).filter(may).max_by_key(|index| widths[*index]) else {
                    break;
                };
                widths[widest] -= 1;
            }
        }
        widths
    }

    /// The lines of one row.
    fn lines(
        &self,
        row: &[Cell; N],
        widths: &[usize; N],
        style: impl Fn(String) -> String,
    ) -> Vec<String> {
        let parts: [Vec<String>; N] = std::array::from_fn(|index| {
            let (text, width) = (row[index].text.as_str(), widths[index]);
            match self.columns[index].kind {
                Kind::Prose => text.lines().flat_map(|line| wrapped(line, width)).collect(),
                kind => vec![kind.cut(text, width)],
            }
        });
        let height = parts.iter().map(Vec::len).max().unwrap_or(0);
        (0..height)
            .map(|line| {
                let cells = (0..N).filter(|index| widths[*index] > 0).map(|index| {
                    let text = parts[index].get(line).map_or("", String::as_str);
                    let painted = painted(text, row[index].colour);
                    self.columns[index].kind.fill(text, &painted, widths[index])
                });
                style(cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned())
            })
            .collect()
    }
}

/// The width of the terminal on stdout; `None` if there is none, or if its width is unknown: a size of 0
/// means that nobody has set it (`docker exec -t`, expect).
fn columns() -> Option<usize> {
    let known = |size: Winsize| (size.ws_col > 0).then_some(size.ws_col.into());
    tcgetwinsize(io::stdout()).ok().and_then(known)
}

/// The text, wrapped between words to the width of the terminal.
pub(super) fn folded(text: &str) -> String {
    let Some(width) = columns() else { return text.to_owned() };
    text.lines().flat_map(|line| wrapped(line, width)).collect::<Vec<_>>().join("\n")
}

/// A text in a colour.
pub(super) fn painted(text: &str, colour: Option<Colour>) -> String {
    match colour {
        Some(colour) if !text.is_empty() => format!("\u{1b}[{}m{text}\u{1b}[0m", colour as u8),
        _ => text.to_owned(),
    }
}

fn bold(text: String, has_colours: bool) -> String {
    if has_colours { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text }
}

/// The beginning of a text, with an ellipsis if it is cut.
pub(super) fn beginning_of(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let left = room.checked_sub(c.width().unwrap_or(0));
        room = left.unwrap_or(0);
        left.is_some()
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// The end of a path, with an ellipsis if it is cut: whole names if they fit, as in `…/shop/web`.
pub(super) fn end_of(path: &str, width: usize) -> String {
    if path.width() <= width {
        return path.to_owned();
    }
    let room = width.saturating_sub(1);
    let ends = path.match_indices('/').map(|(at, _)| &path[at..]);
    if let Some(end) = ends.into_iter().find(|end| end.len() > 1 && end.width() <= room) {
        return format!("…{end}");
    }
    // Not even the last name fits.
    let mut from = path.len();
    for (at, _) in path.char_indices().rev() {
        if path[at..].width() > room {
            break;
        }
        from = at;
    }
    format!("…{}", &path[from..])
}

/// Wraps a text to lines that are at most so wide: between words, or else within a word.
pub(super) fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for mut line in wrapped(text, width) {
        while line.width() > width {
            let mut used = 0;
            let mut fits = |c: char| {
                used += c.width().unwrap_or(0);
                used <= width
            };
            // A character that is wider than the line has one of its own.
            let first = line.chars().next().map_or(0, char::len_utf8);
            let at = line.find(|c| !fits(c)).unwrap_or(line.len()).max(first);
            let rest = line.split_off(at);
            lines.push(std::mem::replace(&mut line, rest));
        }
        lines.push(line);
    }
    lines
}

/// Wraps a text between words. A word that is wider than a line has a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Table<4> {
        let mut table = Table::new([short("PORT"), text("NAME"), path("PROJECT"), number("AGE")]);
        table.row(["3000/tcp", "web", "/srv/somewhere/deep/down/component-library", "7 s"]);
        table.row(["3001/tcp", "", "~/shop", "12 min"]);
        table
    }

    #[test]
    fn everything_is_written_out_where_no_width_is_known() {
        assert_eq!(
            leases().render(None, false),
            "PORT      NAME  PROJECT                                        AGE\n\
             3000/tcp  web   /srv/somewhere/deep/down/component-library     7 s\n\
             3001/tcp        ~/shop                                      12 min"
        );
    }

    #[test]
    fn paths_give_way_first_and_keep_their_last_names() {
        assert_eq!(
            leases().render(Some(50), false),
            "PORT      NAME  PROJECT                        AGE\n\
             3000/tcp  web   …/down/component-library       7 s\n\
             3001/tcp        ~/shop                      12 min"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_whatever_its_width() {
        let mut table =
            Table::new([short("PORT"), text("TYPE"), path("PROJECT"), prose("WHY"), number("N")]);
        table.row([
            "3000/tcp",
            "component-library",
            "/srv/日本語/プロジェクト/店",
            "it is free",
            "1",
        ]);
        table.row(["3001/tcp", "ｗｉｄｅ", "/a/b", "the port that this project had last", "12345"]);
        for width in 40..120 {
            for line in table.render(Some(width), false).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn columns_are_as_wide_as_what_is_seen() {
        let mut table = Table::new([text("NAME"), short("PORT")]);
        table.row(["日本", "1"]);
        table.row(["e\u{301}te\u{301}", "2"]);
        assert_eq!(table.render(None, false), "NAME  PORT\n日本  1\ne\u{301}te\u{301}   2");
    }

    #[test]
    fn sentences_go_on_below_between_two_words() {
        let mut table = Table::new([short("PORT"), prose("WHY")]);
        table.row(["3000", "the port that this project had last"]);
        let shown = table.render(Some(26), false);
        assert_eq!(shown, "PORT  WHY\n3000  the port that this\n      project had last");
        assert_eq!(wrapped("a considerably-long-word b", 6), ["a", "considerably-long-word", "b"]);
    }

    #[test]
    fn names_give_way_before_ports_and_prose_is_as_wide_as_its_longest_word() {
        let mut table = Table::new([short("PORTS"), text("ORIGIN"), prose("DESCRIPTION")]);
        table.row(["11510-11519", "automatic, for styxy[4711]", "Authentication services"]);
        assert_eq!(
            table.render(Some(38), false),
            "PORTS        ORIGIN     DESCRIPTION\n\
             11510-11519  automati…  Authentication\n\
             \x20                       services"
        );
    }

    #[test]
    fn a_column_in_which_nothing_stands_is_left_out() {
        let mut table = Table::new([short("PORT"), text("NAME"), number("AGE")]);
        table.row(["3000", "", "1 s"]);
        assert_eq!(table.render(None, false), "PORT  AGE\n3000  1 s");
    }

    #[test]
    fn colours_have_no_width() {
        let mut table = Table::new([short("STATE"), short("PORT")]);
        table.row([Cell::painted("ok", Some(Colour::Green)), "1".into()]);
        let shown = table.render(Some(80), true);
        assert_eq!(shown, "\u{1b}[1mSTATE  PORT\u{1b}[0m\n\u{1b}[32mok\u{1b}[0m     1");
        assert_eq!(table.render(Some(80), false), "STATE  PORT\nok     1");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(beginning_of("component-library", 9), "componen…");
        assert_eq!(beginning_of("店店店", 4), "店…");
        assert_eq!(end_of("/srv/a/shop", 8), "…/a/shop");
        assert_eq!(end_of("/srv/component-library", 8), "…library");
        assert_eq!(end_of("~/shop", 6), "~/shop");
    }
}
