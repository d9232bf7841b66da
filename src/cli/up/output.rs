//! The lines of several processes, each behind the name of its own.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::Command,
};

use super::child::Line;

/// Colours that can be told apart on dark and on light ground: cyan, yellow, green, magenta, blue, red.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Writes the lines.
pub(super) struct Lines {
    /// What stands before the lines of each process.
    prefixes: Vec<String>,
}

impl Lines {
    pub(super) fn new(names: &[&str]) -> Self {
        Self::with(names, has_colours())
    }

    fn with(names: &[&str], has_colours: bool) -> Self {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let prefix = |(at, name): (usize, &&str)| {
            let prefix = format!("{name:width$} |");
            let colour = COLOURS[at % COLOURS.len()];
            if has_colours {
                format!("\x1b[{colour}m{prefix}\x1b[0m ")
            } else {
                format!("{prefix} ")
            }
        };
        Self { prefixes: names.iter().enumerate().map(prefix).collect() }
    }

    /// Writes the lines, each where its process has written it.
    pub(super) fn write(&self, lines: &[Line]) -> io::Result<()> {
        let all = |is_error: bool| -> Vec<u8> {
            let lines = lines.iter().filter(|line| line.is_error == is_error);
            lines.flat_map(|line| self.whole(line)).collect()
        };
        io::stderr().write_all(&all(true))?;
        let mut out = io::stdout().lock();
        out.write_all(&all(false))?;
        out.flush()
    }

    fn whole(&self, line: &Line) -> Vec<u8> {
        let mut whole = self.prefixes[line.of].clone().into_bytes();
        whole.extend_from_slice(&line.text);
        if !whole.ends_with(b"\n") {
            whole.push(b'\n');
        }
        whole
    }
}

/// Whether people see the output, and in colours.
fn has_colours() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_set("NO_COLOR")
}

/// Has the command write in colours although it writes into a pipe, if it would on this terminal.
pub(super) fn ask_for_colours(command: &mut Command) {
    if !has_colours() {
        return;
    }
    // If it is empty it means nothing, but Node.js warns of the two together.
    command.env_remove("NO_COLOR");
    for name in ["FORCE_COLOR", "CLICOLOR_FORCE"] {
        if env::var_os(name).is_none() {
            command.env(name, "1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_stands_behind_the_name_of_its_process() {
        let line = |of, text: &[u8]| Line { of, is_error: false, text: text.to_vec() };
        let plain = Lines::with(&["web", "worker"], false);
        assert_eq!(plain.whole(&line(0, b"hello\n")), b"web    | hello\n");
        assert_eq!(plain.whole(&line(1, b"half \xff")), b"worker | half \xff\n");
        let coloured = Lines::with(&["web", "worker"], true);
        assert_eq!(coloured.whole(&line(1, b"x\n")), b"\x1b[33mworker |\x1b[0m x\n");
    }
}
