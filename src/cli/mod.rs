//! The command line, with one file for each verb. A verb turns arguments into a call, and an answer into text.

// Help texts are printed verbatim.
#![allow(clippy::doc_markdown)]

mod agents;
mod allocate;
mod audit;
mod browse;
mod check;
mod cleanup;
mod completions;
mod config;
mod daemon;
mod doctor;
#[cfg(feature = "project")]
mod environment;
mod exec;
mod forget;
mod generator;
mod http;
mod import;
#[cfg(feature = "project")]
mod init;
mod instances;
mod lease;
mod lease_options;
mod list;
#[cfg(feature = "mcp")]
mod mcp;
#[cfg_attr(not(feature = "project"), path = "needs/missing.rs")]
mod needs;
mod open;
mod output;
mod own;
mod owner;
mod port;
mod port_users;
mod programs;
mod project;
mod reader;
mod release;
mod remap;
mod renew;
mod run;
mod scan;
mod screen;
mod seconds;
mod service;
mod setup;
mod status;
mod suggest;
mod table;
mod token;
mod top;
mod types;
mod typos;
mod unit;
#[cfg(feature = "project")]
mod up;
mod watch;

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
};
use nix::errno::Errno;
use serde_json::{Value as Json, json};

use self::{
    output::{ago, cleaned, confirm, in_shell, print, print_json, print_list, short, text},
    seconds::seconds,
};
use crate::{
    client::{self, Call, Failure, Patience},
    daemon::{EXIT_AGAIN, EXIT_TAKEN},
    error::{Error, ErrorKind},
    kernel::manager,
    surroundings::user,
    word::{counted, disturbs, visible},
};

/// Lease ports, so that dev servers, databases, tests and agents never collide.
#[derive(Debug, Parser)]
#[command(name = "styxy", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// Give up if the service, or what else the command waits for, has not answered by then. TIME is in seconds or has a unit: 90s,
    /// 10m, 12h, 1d
    #[arg(long, global = true, value_name = "TIME", default_value_t = Patience::LIMIT.as_secs(),
        value_parser = seconds(1..=86_400), display_order = 998)]
    timeout: u64,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 refused (see stderr), 2 wrong usage, 3 the service cannot be reached";

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Exec(exec::Exec),
    #[cfg(feature = "project")]
    Up(up::Up),
    Unit(unit::Unit),
    Allocate(allocate::Allocate),
    Release(release::Release),
    List(list::List),
    Top(top::Top),
    Port(port::Find),
    Check(check::Check),
    Scan(scan::Scan),
    Suggest(suggest::Suggest),
    #[cfg(feature = "project")]
    Env(environment::Env),
    #[cfg(feature = "project")]
    Init(init::Init),
    Audit(audit::Audit),
    Types(types::Types),
    Instances(instances::Instances),
    Watch(watch::Watch),
    Cleanup(cleanup::Cleanup),
    Config(config::Config),
    Open(open::Open),
    Browse(browse::Browse),
    Http(http::Http),
    Token(token::Token),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Setup(setup::Setup),
    Renew(renew::Renew),
    Forget(forget::Forget),
    Import(import::Import),
    Agents(agents::Agents),
    #[cfg(feature = "mcp")]
    Mcp(mcp::Mcp),
    Completions(completions::Completions),
    Daemon(daemon::Daemon),
    #[command(hide = true)]
    Generator(generator::Generator),
    #[command(hide = true)]
    RemapSupervisor(remap::Supervisor),
    #[command(hide = true)]
    RemapExec(remap::Start),
    #[command(hide = true)]
    Watcher(run::Watcher),
    #[cfg(feature = "project")]
    #[command(hide = true)]
    Keeper(up::Keep),
}

impl Verb {
    /// Whether it uses the user's folders, or the service whose state is there.
    fn needs_a_home(&self) -> bool {
        match self {
            Self::Completions(_) | Self::Agents(_) | Self::Watcher(_) | Self::RemapExec(_) => false,
            #[cfg(feature = "project")]
            Self::Keeper(_) => false,
            // systemd sets the folders of a service that it starts as a unit.
            Self::Daemon(_) => !manager::started_this_process(),
            _ => true,
        }
    }

    /// Whether it prints nothing but its answer.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Run(verb) => verb.is_quiet(),
            Self::Exec(verb) => verb.is_quiet(),
            Self::Allocate(verb) => verb.is_quiet(),
            _ => false,
        }
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// Print JSON, and nothing else, on stdout
    #[arg(long)]
    json: bool,
}

/// Why a verb did not succeed.
enum CliError {
    /// The request was refused, or the service cannot be reached.
    Failure(Failure),
    /// The answer is no, and has been printed.
    No,
    /// The output cannot be written; its reader may be gone.
    Output(io::Error),
    /// Another system error.
    System(io::Error),
    /// The daemon could not run.
    Daemon(crate::daemon::Failure),
    /// The command could not be executed: the message, and the exit code.
    Exec(String, u8),
    /// The daemon asks for an immediate restart: `RestartForceExitStatus=` of the unit.
    Again,
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl CliError {
    /// Reports the error, and returns the exit code.
    fn told(self) -> ExitCode {
        match self {
            Self::No => ExitCode::from(1),
            Self::Again => ExitCode::from(EXIT_AGAIN),
            // As in `styxy list | head -1`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Output(error) => {
                complain(&format!("the answer could not be printed: {error}"), 1)
            }
            Self::System(error) => complain(&error, 1),
            Self::Daemon(failure) => {
                let code = if failure.is_taken { EXIT_TAKEN } else { 1 };
                complain(&failure, code)
            }
            Self::Exec(words, code) => complain(&words, code),
            Self::Failure(failure) => {
                let code = match &failure {
                    Failure::Refused { kind, .. } => kind.map_or(1, |kind| kind.names().exit),
                    Failure::Unreachable(_) | Failure::BrokenOff(_) => 3,
                };
                if wants_json() {
                    note(&failure_in_json(&failure));
                    ExitCode::from(code)
                } else {
                    complain(&failure, code)
                }
            }
        }
    }
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    if completions::answered() {
        return ExitCode::SUCCESS;
    }
    let Cli { timeout, verb } = parse();
    if let Err(stop) = has_descriptors() {
        return stop.told();
    }
    if let Some(words) = verb.needs_a_home().then(|| user().refusal()).flatten() {
        return complain(&words, 1);
    }
    let tell: fn(&str) = if verb.is_quiet() { |_| {} } else { |what| say(&what) };
    let limit = Duration::from_secs(timeout);
    client::set_patience(Patience { limit, tell, complain: |why| say(&why) });
    let result = match verb {
        Verb::Run(verb) => verb.run(),
        Verb::Exec(verb) => verb.run(),
        #[cfg(feature = "project")]
        Verb::Up(verb) => verb.run(),
        Verb::Unit(verb) => verb.run(),
        Verb::Allocate(verb) => verb.run(),
        Verb::Release(verb) => verb.run(),
        Verb::List(verb) => verb.run(),
        Verb::Top(verb) => verb.run(),
        Verb::Port(verb) => verb.run(),
        Verb::Check(verb) => verb.run(),
        Verb::Scan(verb) => verb.run(),
        Verb::Suggest(verb) => verb.run(),
        #[cfg(feature = "project")]
        Verb::Env(verb) => verb.run(),
        #[cfg(feature = "project")]
        Verb::Init(verb) => verb.run(),
        Verb::Audit(verb) => verb.run(),
        Verb::Types(verb) => verb.run(),
        Verb::Instances(verb) => verb.run(),
        Verb::Watch(verb) => verb.run(),
        Verb::Cleanup(verb) => verb.run(),
        Verb::Config(verb) => verb.run(),
        Verb::Open(verb) => verb.run(),
        Verb::Browse(verb) => verb.run(),
        Verb::Http(verb) => verb.run(),
        Verb::Token(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Doctor(verb) => verb.run(),
        Verb::Setup(verb) => verb.run(),
        Verb::Renew(verb) => verb.run(),
        Verb::Forget(verb) => verb.run(),
        Verb::Import(verb) => verb.run(),
        Verb::Agents(verb) => verb.run(),
        #[cfg(feature = "mcp")]
        Verb::Mcp(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Daemon(verb) => verb.run(),
        Verb::Generator(verb) => verb.run(),
        Verb::RemapSupervisor(verb) => verb.run(),
        Verb::RemapExec(verb) => verb.run(),
        Verb::Watcher(verb) => {
            verb.run();
            Ok(())
        }
        #[cfg(feature = "project")]
        Verb::Keeper(_) => up::Keep::run(),
    };
    result.map_or_else(CliError::told, |()| ExitCode::SUCCESS)
}

/// How many files a command must be able to open at least; without them, the runtime would panic.
const DESCRIPTORS: usize = 16;

/// Checks that this process can open files, and says what to do if it cannot.
fn has_descriptors() -> Result<(), CliError> {
    let opened: io::Result<Vec<_>> = (0..DESCRIPTORS / 2).map(|_| io::pipe()).collect();
    match opened.map(drop).map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
        Err(Some(Errno::EMFILE)) => Err(refused_with(
            format!(
                "a command must be able to open {DESCRIPTORS} files, and the limit does not let it"
            ),
            "raise the limit, as with `ulimit -n 1024`, or close files that this process was started with",
        )),
        Err(Some(Errno::ENFILE)) => Err(refused_with(
            "this machine has as many files open as it can",
            "end programs, or raise fs.file-max (sysctl)",
        )),
        _ => Ok(()),
    }
}

/// Whether JSON was requested. Arguments after `--` belong to another command.
fn wants_json() -> bool {
    env::args_os().take_while(|word| word != "--").any(|word| word == "--json")
}

/// A failure for programs, in the same form as over HTTP.
fn failure_in_json(failure: &Failure) -> Json {
    let (code, suggestions) = match failure {
        Failure::Refused { kind, suggestions, .. } => {
            (kind.map_or("Refused", |kind| kind.names().code), suggestions.as_slice())
        }
        Failure::Unreachable(_) => ("Unreachable", [].as_slice()),
        Failure::BrokenOff(_) => ("BrokenOff", [].as_slice()),
    };
    let sentence = failure.to_string();
    // The sentence ends with the first suggestion.
    let first = suggestions.first().map(|first| format!("; {first}"));
    let error = first.and_then(|first| sentence.strip_suffix(&first)).unwrap_or(&sentence);
    json!({"success": false, "code": code, "error": error, "suggestions": suggestions})
}

/// Wrong usage for programs, in the same form as a failure: the first paragraph, and the tips.
fn usage_in_json(rendered: &str) -> Json {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let error = text.split("\n\n").next().unwrap_or_default();
    let error: Vec<_> = error.lines().map(str::trim).collect();
    let tips = text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
    let suggestions: Vec<_> = tips.collect();
    let code = ErrorKind::InvalidArgument.names().code;
    json!({"success": false, "code": code, "error": error.join(" "), "suggestions": suggestions})
}

/// Parses the command line. Error messages show control characters in arguments escaped.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        let arguments: Vec<_> = std::env::args_os().collect();
        if arguments.iter().any(|argument| argument.to_string_lossy().contains(disturbs)) {
            let said: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
            for (kind, value) in said {
                error.insert(kind, without_effect(value));
            }
        }
        let tip = run::missing_dashes(&error, &arguments);
        if let Some(tip) = tip.or_else(|| scan::in_one_word(&error, &arguments)) {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        if error.use_stderr() && wants_json() {
            note(&usage_in_json(&error.render().to_string()));
            std::process::exit(error.exit_code());
        }
        // Requested text, such as the help, is output like any other.
        if error.print().is_err() && !error.use_stderr() {
            std::process::exit(1);
        }
        std::process::exit(error.exit_code())
    })
}

fn without_effect(value: ContextValue) -> ContextValue {
    // Styled text may have several lines, intentionally.
    let lines = |styled: StyledStr| -> StyledStr {
        let lines: Vec<_> = styled.to_string().lines().map(visible).collect();
        lines.join("\n").into()
    };
    match value {
        ContextValue::String(text) => ContextValue::String(visible(&text)),
        ContextValue::Strings(texts) => {
            ContextValue::Strings(texts.iter().map(|text| visible(text)).collect())
        }
        ContextValue::StyledStr(styled) => ContextValue::StyledStr(lines(styled)),
        ContextValue::StyledStrs(styled) => {
            ContextValue::StyledStrs(styled.into_iter().map(lines).collect())
        }
        other => other,
    }
}

fn complain(words: &dyn Display, code: u8) -> ExitCode {
    say(words);
    ExitCode::from(code)
}

/// Prints a message for people on stderr, with the characters that affect a terminal escaped.
fn say(words: &dyn Display) {
    let words = words.to_string();
    note(&format_args!("styxy: {}", words.lines().map(visible).collect::<Vec<_>>().join("\n")));
}

/// Writes a line on stderr.
fn note(line: &dyn Display) {
    // An error cannot be reported anywhere else.
    let _ = writeln!(io::stderr(), "{line}");
}

fn ask(call: &Call) -> Result<Json, CliError> {
    Ok(cleaned(block_on(client::call(call))??))
}

fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

/// Turns a wrong argument into an error of the same form as the service's.
fn usage(error: &Error) -> CliError {
    failure(&Error { kind: ErrorKind::InvalidArgument, ..error.clone() })
}

/// Turns an error of the command itself into one of the same form as the service's.
fn failure(error: &Error) -> CliError {
    let (kind, suggestions) = (Some(error.kind), error.suggestions.clone());
    CliError::Failure(Failure::Refused { kind, message: error.to_string(), suggestions })
}

/// A refusal by the command itself.
fn refused(message: String) -> CliError {
    CliError::Failure(Failure::Refused { kind: None, message, suggestions: Vec::new() })
}

/// A refusal by the command itself that says what to do, in the same form as the service's.
fn refused_with(what: impl Display, suggestion: &str) -> CliError {
    let (message, suggestions) = (format!("{what}; {suggestion}"), vec![suggestion.to_owned()]);
    CliError::Failure(Failure::Refused { kind: None, message, suggestions })
}
