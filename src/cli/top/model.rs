//! The page as a value: keys and news change it, and `draw` shows it. It asks nobody, and needs no terminal.

use std::collections::VecDeque;

use serde_json::Value as Json;

use super::{
    details::Details,
    keys::Key,
    sort::Sort,
    source::{Job, words},
};
use crate::{
    cli::{
        CliError,
        lease::{service, shown},
        list::{COLUMNS, owner, row, with_backends},
        short,
        table::{Cell, broken},
        text,
    },
    client::Failure,
    word::counted,
};

/// What a key leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Nothing but that the page is drawn again.
    Draw,
    /// The page is closed.
    Quit,
    /// Something is asked of the service.
    Do(Job),
}

/// The page.
#[derive(Debug)]
pub(super) struct Model {
    /// All leases, in the order of `styxy list`.
    leases: Vec<Listed>,
    /// Those that are shown, as indexes of `leases`.
    pub(super) rows: Vec<usize>,
    /// The id of the selected lease.
    selected: String,
    /// The index of its row, which the next one has when it ends.
    pub(super) at: usize,
    /// The index of the first row on the screen.
    pub(super) first: usize,
    /// What is searched for.
    pub(super) filter: String,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    /// What the keys are for at present.
    pub(super) focus: Focus,
    /// The lease that is looked at.
    pub(super) details: Option<Details>,
    /// The first line on the screen, of help or details.
    pub(super) first_line: usize,
    /// What has happened, until the next key.
    pub(super) message: String,
    /// Whether the message only says what is waited for.
    is_waiting: bool,
    /// The ports whose releases were not answered yet, in the order in which they are carried out.
    releasing: VecDeque<String>,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) has_colours: bool,
}

/// What the keys are for.
#[derive(Debug, PartialEq)]
pub(super) enum Focus {
    /// The table, or the details that are open.
    Page,
    /// The filter, which is being typed.
    Filter,
    /// The question whether this lease is to be released.
    Release(Json),
    Help,
}

/// A lease, and how it is shown.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) lease: Json,
    pub(super) cells: [Cell; COLUMNS.len()],
    /// What a filter is compared with.
    words: String,
}

impl Listed {
    fn new(lease: &Json, shown: usize) -> Self {
        let cells = row(lease, shown);
        let keys = ["project_path", "package_path", "instance_id", "comm", "program", "lease_id"];
        let fields = keys.map(|key| text(lease, key));
        let mut words: Vec<_> = cells.iter().map(|cell| cell.text.as_str()).collect();
        // The age is no text to look for: every `1` would match it.
        words.remove(Sort::Age.column());
        words.extend(fields);
        Self { words: words.join("\n").to_lowercase(), cells, lease: lease.clone() }
    }

    fn id(&self) -> &str {
        text(&self.lease, "lease_id")
    }
}

impl Model {
    pub(super) fn new(leases: &[Json], has_colours: bool) -> Self {
        let mut model = Self {
            leases: Vec::new(),
            rows: Vec::new(),
            selected: String::new(),
            at: 0,
            first: 0,
            filter: String::new(),
            sort: Sort::default(),
            is_reversed: false,
            focus: Focus::Page,
            details: None,
            first_line: 0,
            message: String::new(),
            is_waiting: false,
            releasing: VecDeque::new(),
            width: 80,
            height: 24,
            has_colours,
        };
        model.update(leases);
        model
    }

    /// The terminal has this size.
    pub(super) fn resize(&mut self, width: u16, height: u16) {
        (self.width, self.height) = (width.into(), height.into());
        self.scroll();
    }

    /// These are the leases now. Returns what there is to do, and whether a lease came, went or changed its state.
    pub(super) fn update(&mut self, leases: &[Json]) -> (Action, bool) {
        let states = |leases: &[Listed]| -> Vec<_> {
            let state = |listed: &Listed| (listed.id().to_owned(), listed.lease["state"].clone());
            leases.iter().map(state).collect()
        };
        let before = states(&self.leases);
        let shown = shown(leases);
        let listed = with_backends(leases).into_iter();
        self.leases = listed.map(|lease| Listed::new(lease, shown)).collect();
        self.stop_waiting();
        self.arrange();
        let mut action = Action::Draw;
        if let Some(details) = &mut self.details
            && details.update(leases)
        {
            action = Action::Do(Job::Look(details.lease.clone()));
        }
        self.scroll();
        (action, before != states(&self.leases))
    }

    /// Who uses the port of a lease was looked up.
    pub(super) fn looked(&mut self, id: &str, users: Vec<String>) {
        self.stop_waiting();
        if let Some(details) = self.details.as_mut().filter(|details| details.id() == id) {
            details.users = users;
        }
        self.scroll();
    }

    /// A release is done, or was refused.
    pub(super) fn released(&mut self, result: Result<String, CliError>) {
        self.releasing.pop_front();
        self.tell(result.unwrap_or_else(|error| {
            // Without an answer it may have been done, or be done later.
            let what = match error {
                CliError::Failure(Failure::Unreachable(_) | Failure::BrokenOff(_)) => {
                    "it is not known whether it was released"
                }
                _ => "not released",
            };
            format!("{what}: {}", words(&error))
        }));
    }

    /// The service is waited for.
    pub(super) fn waits(&mut self, what: String) {
        if self.message.is_empty() {
            self.tell(what);
            self.is_waiting = true;
        }
    }

    /// The ports whose releases were asked for and are not answered yet.
    pub(super) fn releasing(&self) -> impl Iterator<Item = &str> {
        self.releasing.iter().map(String::as_str)
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: Key) -> Action {
        self.message.clear();
        self.is_waiting = false;
        // Where the terminal does not make a signal of it.
        let action = if key == Key::Control('c') {
            Action::Quit
        } else {
            match std::mem::replace(&mut self.focus, Focus::Page) {
                Focus::Release(lease) => self.answer(key, lease),
                Focus::Filter => self.filter_key(key),
                Focus::Help => self.help_key(key),
                Focus::Page => self.page_key(key),
            }
        };
        self.scroll();
        action
    }

    /// The answer to the question: everything but a yes means no.
    fn answer(&mut self, key: Key, lease: Json) -> Action {
        if let Key::Char('y' | 'Y') = key {
            self.releasing.push_back(port(&lease));
            return Action::Do(Job::Release(lease));
        }
        "not released".clone_into(&mut self.message);
        Action::Draw
    }

    fn filter_key(&mut self, key: Key) -> Action {
        match key {
            Key::Enter => return Action::Draw,
            Key::Escape => {
                self.filter.clear();
                self.arrange();
                return Action::Draw;
            }
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Control('u') => self.filter.clear(),
            Key::Control('w') => {
                let word = self.filter.trim_end();
                let before = word.trim_end_matches(|c: char| !c.is_whitespace()).len();
                self.filter.truncate(before);
            }
            Key::Char(c) if !crate::word::disturbs(c) => self.filter.push(c),
            other => {
                self.select(other);
            }
        }
        self.focus = Focus::Filter;
        self.arrange();
        Action::Draw
    }

    fn help_key(&mut self, key: Key) -> Action {
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Escape | Key::Enter | Key::Char('?') => {
                self.first_line = 0;
                return Action::Draw;
            }
            other => self.turn(other),
        }
        self.focus = Focus::Help;
        Action::Draw
    }

    fn page_key(&mut self, key: Key) -> Action {
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('?') => {
                self.first_line = 0;
                self.focus = Focus::Help;
            }
            Key::Char('r') => {
                let open = self.details.as_ref().map(|details| &details.lease);
                if let Some(lease) = open.or_else(|| self.selected()) {
                    self.focus = Focus::Release(lease.clone());
                }
            }
            Key::Escape | Key::Enter | Key::Char('d') if self.details.is_some() => {
                self.details = None;
            }
            other if self.details.is_some() => self.turn(other),
            Key::Enter | Key::Char('d') => {
                if let Some(lease) = self.selected().cloned() {
                    self.first_line = 0;
                    self.details = Some(Details::new(lease.clone()));
                    return Action::Do(Job::Look(lease));
                }
            }
            Key::Escape => {
                self.filter.clear();
                self.arrange();
            }
            Key::Char('/') => self.focus = Focus::Filter,
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.arrange();
            }
            Key::Char('S') => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            other => self.select(as_key(other)),
        }
        Action::Draw
    }

    /// Moves the selection.
    fn select(&mut self, key: Key) {
        self.at = moved(key, self.at, self.room());
        self.at = self.at.min(self.rows.len().saturating_sub(1));
        self.selected = self.row(self.at).map(Listed::id).unwrap_or_default().to_owned();
    }

    /// Moves a text.
    fn turn(&mut self, key: Key) {
        self.first_line = moved(as_key(key), self.first_line, self.room());
    }

    /// The lease of a row.
    pub(super) fn row(&self, row: usize) -> Option<&Listed> {
        self.leases.get(*self.rows.get(row)?)
    }

    /// The selected lease.
    pub(super) fn selected(&self) -> Option<&Json> {
        self.row(self.at).map(|listed| &listed.lease)
    }

    /// How many leases there are.
    pub(super) fn count(&self) -> usize {
        self.leases.len()
    }

    /// Filters and sorts the rows, and finds the selected lease among them, or else the one in its place.
    fn arrange(&mut self) {
        let filter = self.filter.to_lowercase();
        let wanted: Vec<_> = filter.split_whitespace().collect();
        let leases = &self.leases;
        let matches = |index: &usize| wanted.iter().all(|word| leases[*index].words.contains(word));
        self.rows = (0..leases.len()).filter(matches).collect();
        self.rows.sort_by(|a, b| self.sort.compare(&leases[*a], &leases[*b]));
        if self.is_reversed {
            self.rows.reverse();
        }
        let is_selected = |row: &usize| leases[*row].id() == self.selected;
        let found = self.rows.iter().position(is_selected);
        self.at = found.unwrap_or(self.at).min(self.rows.len().saturating_sub(1));
        self.selected = self.row(self.at).map(Listed::id).unwrap_or_default().to_owned();
    }

    /// Keeps what matters on the screen.
    fn scroll(&mut self) {
        let room = self.room();
        let last = self.rows.len().saturating_sub(room);
        self.first = self.first.min(self.at).max((self.at + 1).saturating_sub(room)).min(last);
        self.first_line = self.first_line.min(self.text().len().saturating_sub(room));
    }

    fn tell(&mut self, message: String) {
        self.message = message;
        self.is_waiting = false;
        self.scroll();
    }

    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            self.message.clear();
        }
    }

    /// The last lines of the screen: a question, what is typed, a message, or else keys to press.
    pub(super) fn bottom(&self) -> Vec<String> {
        let (text, most) = match &self.focus {
            Focus::Release(lease) => (question(lease), self.height),
            Focus::Filter => (format!("/{}", self.filter), 1),
            _ if !self.message.is_empty() => (self.message.clone(), self.height.div_ceil(3)),
            _ => (self.hints(), 1),
        };
        let mut lines = broken(&text, self.width);
        // The end of a question says what to press, and that of what is typed is where the cursor is.
        if matches!(self.focus, Focus::Release(_) | Focus::Filter) {
            lines.drain(..lines.len().saturating_sub(most));
        }
        lines.truncate(most);
        lines
    }

    /// The keys, as many as there is room for.
    fn hints(&self) -> String {
        let hints = match (&self.focus, &self.details) {
            (Focus::Help, _) => ["Esc back", "q quit", "j k scroll"].as_slice(),
            (_, Some(_)) => &["Esc back", "q quit", "r release", "? help", "j k scroll"],
            _ => &["? help", "q quit", "/ filter", "s sort", "d details", "r release"],
        };
        let mut line = String::new();
        for hint in hints {
            let gap = if line.is_empty() { "" } else { "   " };
            if line.len() + gap.len() + hint.len() <= self.width {
                line.extend([gap, hint]);
            }
        }
        line
    }

    /// How many lines there are for rows, or for a text.
    pub(super) fn room(&self) -> usize {
        let above = usize::from(self.has_summary()) + usize::from(self.has_header());
        self.height.saturating_sub(above + self.bottom().len())
    }

    /// Whether there is room for a first line that says what the page shows.
    pub(super) fn has_summary(&self) -> bool {
        self.height >= 5
    }

    /// Whether there is a line with the titles of the columns.
    pub(super) fn has_header(&self) -> bool {
        !self.is_text() && self.height >= 4
    }

    /// Whether a text is shown, and not the table.
    pub(super) fn is_text(&self) -> bool {
        self.focus == Focus::Help || self.details.is_some()
    }

    /// The text that is shown instead of the table.
    pub(super) fn text(&self) -> Vec<String> {
        match &self.details {
            _ if self.focus == Focus::Help => super::help::text(self.width),
            Some(details) => details.text(self.width),
            None => Vec::new(),
        }
    }

    /// The first line of the screen.
    pub(super) fn summary(&self) -> String {
        if self.focus == Focus::Help {
            return "The keys of styxy top".to_owned();
        }
        if let Some(details) = &self.details {
            return details.title();
        }
        let (count, shown) = (self.leases.len(), self.rows.len());
        let all = counted(count as u64, "lease");
        let verb = if count == 1 || shown == 1 { "matches" } else { "match" };
        let mut words = match self.filter.trim() {
            "" => all,
            filter if shown == count => format!("{all} {verb} {filter}"),
            filter => format!("{shown} of {all} {verb} {filter}"),
        };
        words.extend([", by ", self.sort.name()]);
        if self.is_reversed {
            words += ", reversed";
        }
        words
    }
}

/// The key that a letter stands for, where letters are no text: as in vi(1) and less(1).
fn as_key(key: Key) -> Key {
    match key {
        Key::Char('j') => Key::Down,
        Key::Char('k') => Key::Up,
        Key::Char('g') => Key::Home,
        Key::Char('G') => Key::End,
        other => other,
    }
}

/// The place after a key that moves it. The caller knows the last one.
fn moved(key: Key, at: usize, page: usize) -> usize {
    match key {
        Key::Up => at.saturating_sub(1),
        Key::Down => at + 1,
        Key::PageUp => at.saturating_sub(page.max(1)),
        Key::PageDown => at + page.max(1),
        Key::Home => 0,
        Key::End => usize::MAX / 2,
        _ => at,
    }
}

fn port(lease: &Json) -> String {
    format!("{}/{}", lease["port"], text(lease, "protocol"))
}

/// The question before a release, as `styxy release` asks it.
fn question(lease: &Json) -> String {
    let project = lease["package_path"].as_str().unwrap_or(text(lease, "project_path"));
    let mut words = vec![format!("Release port {} of {}", port(lease), service(lease))];
    words.extend([short(project), owner(lease)]);
    words.retain(|word| !word.is_empty());
    format!("{}? [y/N] ", words.join(", "))
}
