//! Shell completion. A small script for each shell runs this command, which completes its own subcommands and
//! options from their definition, and values from the current state.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
};

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};

use super::{Cli, CliError, print};
use crate::word::{disturbs, harmless};

mod values;

/// Marks a completion request: the arguments are the words of a line up to the cursor.
const VARIABLE: &str = "STYXY_COMPLETE";

/// Print a shell completion script
///
/// The package and `styxy setup` install it; without them, have your shell source it at startup. It completes the
/// names of existing types, leases, projects and instances.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    eval \"$(styxy completions bash)\"    # in ~/.bashrc\n  \
    eval \"$(styxy completions zsh)\"     # in ~/.zshrc, after compinit\n  \
    styxy completions fish | source     # in ~/.config/fish/config.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), CliError> {
        let script = match self.shell {
            Shell::Bash => include_str!("../../packaging/completions/styxy.bash"),
            Shell::Zsh => include_str!("../../packaging/completions/styxy.zsh"),
            Shell::Fish => include_str!("../../packaging/completions/styxy.fish"),
        };
        print(script.trim_end())
    }
}

/// Answers a completion request; `false` if this is not one. Prints a line for each candidate: the word, a
/// tab and a description. Errors are ignored, because a shell has no use for them.
pub(super) fn answered() -> bool {
    // Checked first, so that other commands do no work for this.
    if env::var_os(VARIABLE).is_none_or(|value| value.is_empty()) {
        return false;
    }
    let lines: String = candidates(env::args_os().skip(1).collect()).iter().map(line).collect();
    let _ = io::stdout().write_all(lines.as_bytes());
    true
}

fn candidates(words: Vec<OsString>) -> Vec<CompletionCandidate> {
    let Some(last) = words.len().checked_sub(1) else { return Vec::new() };
    let is_begun = !words[last].is_empty();
    let here = env::current_dir().ok();
    let found = complete(&mut completed(Cli::command()), words, last, here.as_deref());
    let mut found = found.unwrap_or_default();
    found.retain(|candidate| !candidate.get_value().to_string_lossy().chars().any(disturbs));
    // At an empty word, options would only obscure the values and subcommands.
    let is_option = |c: &CompletionCandidate| c.get_value().as_encoded_bytes().starts_with(b"-");
    if !is_begun && !found.iter().all(is_option) {
        found.retain(|candidate| !is_option(candidate));
    }
    found
}

fn line(candidate: &CompletionCandidate) -> String {
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.lines().next().unwrap_or_default();
    format!("{}\t{}\n", candidate.get_value().to_string_lossy(), harmless(help))
}

/// The command and its subcommands, with completers for their values.
fn completed(command: Command) -> Command {
    let verb = command.get_name().to_owned();
    command
        .mut_args(|argument| match values::of(&verb, argument.get_id().as_str()) {
            Some(values) => argument.add(ArgValueCompleter::new(values::fitting(values))),
            None => argument,
        })
        .mut_subcommands(completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments whose values cannot be guessed; a command is completed by the shell itself.
    const FREE: &str = "\
        styxy timeout, run count, run setenv, run grace, run port, run map, run reach, run command, exec port, exec command, \
        unit port, unit idle, unit patience, unit setenv, unit command, allocate count, allocate ttl, allocate port, port wait, port pid, suggest count, audit since, audit until, \
        audit lines, cleanup older_than, browse reach, browse arguments, renew ttl, daemon idle_exit, daemon as_seen";

    fn unknown(command: &Command, found: &mut Vec<String>) {
        for argument in command.get_arguments() {
            let is_known = argument.get::<ArgValueCompleter>().is_some()
                || !argument.get_possible_values().is_empty();
            if argument.get_action().takes_values() && !is_known {
                found.push(format!("{} {}", command.get_name(), argument.get_id()));
            }
        }
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.for_each(|command| unknown(command, found));
    }

    #[test]
    fn every_value_of_which_something_is_known_is_completed() {
        let mut found = Vec::new();
        unknown(&completed(Cli::command()), &mut found);
        assert_eq!(found.join(", "), FREE);
    }
}
