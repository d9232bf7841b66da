//! Writes the man pages of the command into a folder: `cargo run --example man -- FOLDER`.
//!
//! Arguments and options come from the definition of the command line. What that cannot say is written by hand: for each
//! verb in packaging/man/verbs/, and as whole pages beside them. `recipes` turns docs/recipes.md into a page. All follow
//! man-pages(7).

mod recipes;

use std::{env, fmt::Write, fs, io, path::Path};

use clap::{Arg, Command, CommandFactory};

/// The date of the pages, those written by hand included: the day of the release. It is a constant so that the same commit
/// makes the same pages.
pub const DATE: &str = "2026-11-28";

/// The sections that begin a page, in the order of man-pages(7).
pub const FIRST: [&str; 6] =
    ["NAME", "SYNOPSIS", "DESCRIPTION", "ARGUMENTS", "OPTIONS", "COMMANDS"];
/// Those that end a page. What only one page has comes between the two lists.
pub const LAST: [&str; 8] =
    ["OUTPUT", "EXIT STATUS", "ERRORS", "ENVIRONMENT", "FILES", "NOTES", "EXAMPLES", "SEE ALSO"];

const EXIT_STATUS: &str = "0 on success, 1 if the request is refused, 2 on wrong usage, 3 if the service cannot be \
    reached; see\n.BR styxy (1).\n";

#[allow(dead_code, reason = "the tests of the pages have this file, too")]
fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).expect("the folder for the pages");
    fs::create_dir_all(&folder)?;
    pages().into_iter().try_for_each(|(name, text)| fs::write(Path::new(&folder).join(name), text))
}

/// The pages: the name of the file, and its text.
pub fn pages() -> Vec<(String, String)> {
    let mut command = styxy::cli::Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs.chain([&command]).map(page).chain([recipes::page()]).collect()
}

fn page(command: &Command) -> (String, String) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let is_verb = name != command.get_name();
    let by_hand = by_hand(command.get_name());
    let (description, sections) = match by_hand.split_once(".SH ") {
        Some((description, sections)) => (description, sections.split("\n.SH ").collect()),
        None => ("", Vec::new()),
    };
    let mut page: Vec<_> = sections
        .into_iter()
        .map(|section| section.split_once('\n').expect("a heading is a line"))
        .map(|(heading, text)| (heading.trim_matches('"').to_owned(), text.trim_end().to_owned()))
        .collect();
    let mut add = |heading: &str, text: String| {
        if !text.is_empty() {
            page.push((heading.to_owned(), text.trim_end().to_owned()));
        }
    };
    add("NAME", format!("{} \\- {}", escaped(name), phrase(command)));
    add("SYNOPSIS", synopsis(command));
    add("DESCRIPTION", self::description(command) + description);
    add("ARGUMENTS", items(command, true));
    add("OPTIONS", items(command, false));
    let commands = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let commands: String =
        commands.map(|one| if is_verb { part(one) } else { verb(one) }).collect();
    add("COMMANDS", commands);
    add("EXAMPLES", examples(command));
    if !page.iter().any(|(heading, _)| heading == "EXIT STATUS") {
        page.push(("EXIT STATUS".to_owned(), EXIT_STATUS.trim_end().to_owned()));
    }
    // The examples of the help come before those that are written by hand.
    page.sort_by_key(|(heading, text)| (rank(heading), !text.starts_with(".EX")));
    page.dedup_by(|later, first| {
        let is_same = later.0 == first.0;
        if is_same {
            first.1 = format!("{}\n.PP\n{}", first.1, later.1);
        }
        is_same
    });
    let sections = page.iter().map(|(heading, text)| format!(".SH {heading}\n{text}\n"));
    (format!("{name}.1"), beginning(name, 1) + &sections.collect::<String>())
}

/// Where a section stands in a page.
pub fn rank(heading: &str) -> usize {
    let at = |list: &[&str]| list.iter().position(|known| *known == heading);
    let last = || at(&LAST).map(|at| FIRST.len() + 1 + at);
    at(&FIRST).or_else(last).unwrap_or(FIRST.len())
}

/// How a page begins. `.nh` holds up to the next heading and the register for the whole page: a hyphenated word can't be
/// copied.
fn beginning(name: &str, section: u8) -> String {
    let (title, version) = (escaped(name), env!("CARGO_PKG_VERSION"));
    format!(".TH {title} {section} {DATE} \"styxy {version}\" styxy\n.nh\n.nr HY 0\n.ad l\n")
}

/// What the command does, as NAME has it: whatis(1) shows it.
fn phrase(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let phrase = about.split(';').next().unwrap_or_default();
    let mut letters = phrase.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    escaped(&first.into_iter().chain(letters).collect::<String>())
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage: ").to_owned()
}

fn synopsis(command: &Command) -> String {
    let usage = usage(command);
    // The name is in lower case, and what stands for something else in capitals.
    let name = usage.split(" [").next().unwrap_or_default().split(" <").next().unwrap_or_default();
    format!("\\fB{}\\fR{}", escaped(name), placeholders(&usage[name.len()..]))
}

/// What stands for something else is in italics, instead of in angle brackets.
fn placeholders(usage: &str) -> String {
    let mut text = String::new();
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let mut rest = usage;
    while let Some(start) = rest.find(is_name) {
        let (before, name) = rest.split_at(start);
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        let _ = write!(text, "{}\\fI{}\\fR", escaped(before), escaped(&name[..end]));
        rest = &name[end..];
    }
    (text + &escaped(rest)).replace(['<', '>'], "")
}

fn description(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<_> = about.split("\n\n").map(sentence).collect();
    paragraphs.join("\n.PP\n") + "\n"
}

/// A verb in the list of all.
fn verb(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    format!(".TP\n.BR styxy\\-{} (1)\n{}\n", escaped(command.get_name()), sentence(&about))
}

/// A command of a verb, as a part of the verb's page.
fn part(command: &Command) -> String {
    let usage = escaped(&usage(command).replace(['<', '>'], ""));
    let items = items(command, true) + &items(command, false);
    format!(".SS \"{usage}\"\n{}{items}", description(command))
}

/// The arguments or the options of a command, in the order of its help.
fn items(command: &Command, are_arguments: bool) -> String {
    let mut items: Vec<_> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.is_positional() == are_arguments)
        .collect();
    items.sort_by_key(|argument| argument.get_display_order());
    items.into_iter().map(item).collect()
}

fn item(argument: &Arg) -> String {
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<_> =
        short.into_iter().chain(long).map(|name| format!("\\fB{}\\fR", escaped(&name))).collect();
    let takes_a_value = argument.get_action().takes_values();
    let value = argument.get_value_names().filter(|_| takes_a_value).map(|names| names[0].as_str());
    let is_optional = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
    let value = match value.map(placeholders) {
        Some(value) if names.is_empty() => value,
        Some(value) if is_optional => format!(" [{value}]"),
        Some(value) => format!(" {value}"),
        None => String::new(),
    };
    format!(".TP\n{}{value}\n{}", names.join(", "), explained(argument))
}

fn explained(argument: &Arg) -> String {
    // A page has no summary to be seen.
    let is_help = argument.get_id() == "help";
    let help = argument.get_long_help().filter(|_| !is_help).or(argument.get_help());
    let help = if is_help {
        "Print help".to_owned()
    } else {
        help.map(ToString::to_string).unwrap_or_default()
    };
    let (help, default) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, Some(default.trim_end_matches(']').to_owned())),
        None => (help.as_str(), None),
    };
    let of_clap = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let of_clap = of_clap.collect::<Vec<_>>().join(" ");
    let is_told = argument.get_action().takes_values() && !of_clap.is_empty();
    let default = default.or(is_told.then_some(of_clap));
    let values = argument.get_possible_values();
    let have_help = values.iter().any(|value| value.get_help().is_some());
    let names: Vec<_> = values.iter().map(|value| value.get_name()).collect();
    let is_in_help = names.iter().all(|name| help.contains(name));
    let mut paragraphs: Vec<_> = help.split("\n\n").map(sentence).collect();
    let first = &mut paragraphs[0];
    if argument.get_action().takes_values() && !have_help && !is_in_help {
        let _ = write!(first, " One of {}.", escaped(&names.join(", ")));
    }
    if let Some(default) = default {
        let _ = write!(first, " Default: {}", sentence(&default));
    }
    let mut text = paragraphs.join("\n.IP\n") + "\n";
    if have_help {
        text += ".RS\n";
        for value in values {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = write!(text, ".TP\n.B {}\n{}\n", escaped(value.get_name()), sentence(&help));
        }
        text += ".RE\n";
    }
    text
}

/// What is written by hand for a verb, if anything is: the rest of the description, and sections.
fn by_hand(verb: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man/verbs").join(verb);
    fs::read_to_string(file).unwrap_or_else(|_| ".SH SEE ALSO\n.BR styxy (1)\n".to_owned())
}

/// The examples of the help.
fn examples(command: &Command) -> String {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let Some(lines) = help.strip_prefix("Examples:\n") else { return String::new() };
    let lines: Vec<_> = lines.lines().map(|line| escaped(line.trim())).collect();
    format!(".EX\n{}\n.EE", lines.join("\n"))
}

/// A help text, which does without its last full stop, as a sentence. What it has in backticks is bold.
fn sentence(help: &str) -> String {
    let parts = help.trim().split('`').enumerate();
    let parts = parts.map(|(at, part)| match at % 2 {
        0 => escaped(part),
        _ => format!("\\fB{}\\fR", escaped(part)),
    });
    let text = parts.collect::<String>();
    // troff takes a line with one of these in front for a request.
    let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
    let stop = if text.ends_with(['.', '…', ':']) { "" } else { "." };
    format!("{guard}{text}{stop}")
}

/// A text of which troff takes nothing for its own.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += r"\e",
            '-' => escaped += r"\-",
            '\'' => escaped += r"\(aq",
            '"' => escaped += r"\(dq",
            '~' => escaped += r"\(ti",
            '^' => escaped += r"\(ha",
            '`' => escaped += r"\(ga",
            c => escaped.push(c),
        }
    }
    escaped
}
