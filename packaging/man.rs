//! Writes the man pages of the command into a folder: `cargo run --example man -- FOLDER`.
//!
//! What the definition of the command line says comes from there. What it cannot say is written by hand: for each
//! verb in packaging/man/verbs/, and as pages of their own beside them. `recipes` makes a page of docs/recipes.md.

mod recipes;

use std::{env, fs, io, path::Path};

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;

/// What the generator writes in front of each section; it is wanted once.
const PREAMBLE: [&str; 2] = [r".ie \n(.g .ds Aq \(aq", r".el .ds Aq '"];

#[allow(dead_code, reason = "the tests of the pages have this file, too")]
fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).expect("the folder for the pages");
    fs::create_dir_all(&folder)?;
    pages().into_iter().try_for_each(|(name, text)| fs::write(Path::new(&folder).join(name), text))
}

/// The pages: the name of the file, and what it says.
pub fn pages() -> Vec<(String, String)> {
    let mut command = styxy::cli::Cli::command().disable_help_subcommand(true);
    command = command.subcommand_help_heading("COMMANDS");
    command.build();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs.chain([&command]).map(page).chain([recipes::page()]).collect()
}

fn page(command: &Command) -> (String, String) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let is_verb = name != command.get_name();
    let by_hand = by_hand(command.get_name());
    let (description, sections) = by_hand.split_at(by_hand.find(".SH ").unwrap_or(0));
    let (sections, see_also) = sections.split_at(sections.find(".SH SEE ALSO").unwrap_or(0));
    let man = Man::new(in_sentences(command));
    let mut page = beginning(name, 1);
    page += &rendered(|out| {
        man.render_name_section(out)?;
        man.render_synopsis_section(out)?;
        man.render_description_section(out)
    });
    page += description;
    page += &rendered(|out| {
        if !is_verb {
            man.render_subcommands_section(out)?;
        }
        man.render_options_section(out)
    });
    if is_verb && command.has_subcommands() {
        page += ".SH COMMANDS\n";
        page.extend(command.get_subcommands().map(subcommand));
    }
    (format!("{name}.1"), page + sections + &examples(command) + see_also)
}

/// What a page begins with. `.nh` holds up to the next heading and the register for all of the page: a word that is
/// hyphenated can't be copied.
fn beginning(name: &str, section: u8) -> String {
    let [first, second] = PREAMBLE;
    let (title, version) = (escaped(name), env!("CARGO_PKG_VERSION"));
    format!(
        "{first}\n{second}\n.TH {title} {section} \"\" \"styxy {version}\" styxy\n.nh\n.nr HY 0\n.ad l\n"
    )
}

/// A command of a verb, as a part of the verb's page.
fn subcommand(command: &Command) -> String {
    let command = in_sentences(command);
    let usage = command.get_overridden_usage().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command);
    let text = rendered(|out| {
        man.render_description_section(out)?;
        man.render_options_section(out)
    });
    let text = text.replace(".SH DESCRIPTION\n", "").replace(".SH OPTIONS\n", "");
    format!(".SS \"{}\"\n{text}", escaped(&usage))
}

/// The command with a synopsis as its help has it, for the generator's own leaves out what values are called; and
/// with a full stop, which help texts do without.
fn in_sentences(command: &Command) -> Command {
    let usage = command.clone().render_usage().to_string();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_default();
    let (first, rest) = about.split_once("\n\n").unwrap_or((&about, ""));
    let about = format!("{first}.\n\n{rest}");
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let command = command.clone().override_usage(usage).long_about(about.trim_end().to_owned());
    command.mut_args(in_one_line)
}

/// The argument with its possible values in its text, unless each has a text of its own.
fn in_one_line(argument: Arg) -> Arg {
    if argument.get_id() == "help" {
        // A page has no summary to be seen.
        return argument.help("Print help").long_help("Print help");
    }
    let values = argument.get_possible_values();
    if values.is_empty() || values.iter().any(|value| value.get_help().is_some()) {
        return argument;
    }
    let values: Vec<_> = values.iter().map(|value| value.get_name()).collect();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    argument.help(format!("{help}: {}", values.join(", "))).hide_possible_values(true)
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut page = Vec::new();
    render(&mut page).expect("a vector takes all that is written");
    let page = String::from_utf8(page).expect("a page is text");
    let lines = page.lines().filter(|line| !PREAMBLE.contains(line));
    lines.map(|line| line.to_owned() + "\n").collect()
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
    format!(".SH EXAMPLES\n.EX\n{}\n.EE\n", lines.join("\n"))
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
