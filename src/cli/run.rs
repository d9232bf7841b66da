//! `styxy run`: leases ports for a command, which then replaces styxy.
//!
//! - `others`: the ports of other services
//! - `variables`: the variables that tell the command its ports, and their services
//! - `arguments`: the command with its environment and arguments
//! - `nested`: the lease of an enclosing `styxy run`
//! - `watcher`: checks that the command listens on its port

mod arguments;
mod nested;
mod others;
mod variables;
mod watcher;

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use clap::{
    Args,
    error::{ContextKind, ContextValue},
};
use nix::errno::Errno;
use serde_json::Value as Json;

pub(super) use self::arguments::{Replacing, environment, unless_off};
pub(super) use self::watcher::Watcher;
use self::{
    nested::{outer, unused},
    others::With,
    variables::{Leased, Set, Variable, have_one_value},
    watcher::watch,
};
use super::{
    CliError, ask,
    lease_options::{LeaseOptions, allocate, earlier, notes, runs_already},
    note,
    port_users::{IGNORES_PORT, note_of, users},
    programs::{self, Help, Hint},
    refused,
    remap::{Remapping, run_guarded},
    say, seconds, text, usage,
};
use crate::{
    client::{self, Call},
    config::Programs,
    error::Error,
    kernel::{diag, listeners::listeners},
    port::{Port, PortRange, Protocol},
    request::MOST_PORTS,
    service_type::Hold,
    value::Fields,
    word::visible,
};

/// The interval between checks whether a server has ended.
const AGAIN: Duration = Duration::from_millis(20);

/// Lease a port and run a command with it in $PORT
///
/// The command replaces styxy: it gets all signals, and its exit code is the exit code.
/// The lease belongs to the command, and ends with it.
///
/// styxy adds the option or variable that sets the port for programs known not to read PORT, such as Vite, also in a
/// script of package.json; stderr says so.
///
/// It sets PORT, STYXY_PORT and STYXY_LEASE_ID, and HOST to 127.0.0.1 (::1 on hosts without it) unless it is set. In
/// the arguments, {port} is replaced by the port, {port_1} by the next one of several, and {port:NAME} by the port
/// in the variable NAME of --env or --with. A placeholder stays as it is within other braces, and where it belongs
/// to another language, as in ${port} and in a program for node -e.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy run dev -- npm run dev\n  \
    styxy run docs --port 4100 -- mkdocs serve -a localhost:{port}\n  \
    styxy run --env WEB=dev --env API=api -- ./start-both\n  \
    styxy run --with-url api=API_URL -- npm test")]
pub(super) struct Run {
    /// The class of service: dev, api, database, …; with --env NAME=TYPE or --with it may be left out
    #[arg(value_name = "TYPE", required_unless_present_any = ["env", "with", "with_url", "remap", "map"])]
    service_type: Option<String>,
    /// Put the port into this variable instead of PORT; with NAME=TYPE, lease another port for it, for the service
    /// named after the variable (WEB and WEB_PORT: web) or as given
    #[arg(long, value_name = "NAME[=TYPE[:SERVICE]]")]
    env: Vec<Variable>,
    /// Lease this many consecutive ports: PORT, PORT_1, …
    #[arg(long, requires = "service_type", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: Option<u16>,
    /// How the port is kept until it is used: guard (the service keeps it bound) or none
    #[arg(long, value_parser = Hold::without_socket)]
    hold: Option<Hold>,
    /// Keep the port guarded until the command binds it, also if its program does not set SO_REUSEADDR; sudo and su do not work in the
    /// command then
    #[arg(long, conflicts_with_all = ["hold", "count", "protocol", "mapping"])]
    guarded: bool,
    /// Put the port that another service of this project has into a variable. SERVICE is its name, its type, or TYPE:NAME;
    /// PACKAGE is the folder of its package, from the top of the project
    #[arg(long, value_name = "SERVICE[@PACKAGE]=NAME")]
    with: Vec<With>,
    /// The same as a URL, as `styxy port --format url` prints it
    #[arg(long, value_name = "SERVICE[@PACKAGE]=NAME")]
    with_url: Vec<With>,
    /// Set this variable for the command; {port} in it is replaced as in the arguments
    #[arg(long, value_name = "NAME=VALUE")]
    setenv: Vec<Set>,
    /// Wait at most this long for a server that still has the port although the command that started it has exited
    #[arg(long, value_name = "TIME", default_value_t = 2, value_parser = seconds(0..=600))]
    grace: u64,
    /// Start the command as given, even if it is known not to read PORT or not to set SO_REUSEADDR
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    replacing: Replacing,
    #[command(flatten)]
    telling: Telling,
    #[command(flatten)]
    wanted: LeaseOptions,
    #[command(flatten)]
    remapping: Remapping,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How it is said which port it is.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Telling {
    /// Do not print a line about the port
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Print a line of JSON for each lease on stderr, because stdout belongs to the command
    #[arg(long, conflicts_with = "quiet")]
    pub(super) json: bool,
}

impl Run {
    pub(super) fn is_quiet(&self) -> bool {
        self.telling.quiet
    }

    pub(super) fn run(mut self) -> Result<(), CliError> {
        unless_off(&self.command)?;
        // What cannot be started needs no port, and is not remembered as what ran here.
        if !self.setenv.iter().any(|set| set.name == "PATH") && !is_there(&self.command[0]) {
            return Err(not_started(&self.command[0], &Errno::ENOENT.into()));
        }
        self.wanted.for_command(&self.command);
        if self.remapping.is_on() {
            return self.remapping.run(
                self.service_type,
                &self.wanted,
                self.telling,
                &self.command,
            );
        }
        let wanted = self.wanted.options()?;
        let leases = self.leases()?;
        let with = self.with.iter().map(|with| (with, false));
        let with: Vec<_> = with.chain(self.with_url.iter().map(|with| (with, true))).collect();
        let others = with.iter().map(|(with, _)| with.variable.as_str());
        let others = others.chain(self.setenv.iter().map(|set| set.name.as_str()));
        have_one_value(&self.env, &leases, others)?;
        let (known, none) = (programs::known(), Programs::new());
        let programs = if self.plain { &none } else { &known };
        let mut help = self.help(programs);
        let without_guard = help.as_ref().is_some_and(|help| help.has_no_guard);
        let hold = self.hold.or(without_guard.then_some(Hold::None));
        let around = outer();
        let asked = leases.iter().enumerate().map(|(index, leased)| {
            let mut options = leased.options(wanted.clone(), hold, index == 0);
            if index == 0 {
                programs::put_name(&self.command, &known, &mut options);
                options.put_some("within", around.map(|id| id.to_string()));
            }
            options
        });
        let asked: Vec<_> = asked.collect();
        let own: Vec<_> = leases.iter().map(|leased| leased.service_type).zip(&asked).collect();
        // Errors in these are reported before anything is leased.
        let of_others = with.into_iter().map(|(with, is_url)| {
            let lease = with.lease(is_url, &self.wanted.project()?, &own)?;
            if let Some(note) = self.may_speak().then(|| note_of(&lease)).flatten() {
                say(&note);
            }
            Ok(with.value(is_url, &lease))
        });
        let of_others = of_others.collect::<Result<Vec<_>, CliError>>()?;
        let (mut variables, mut own) = (Vec::new(), Json::Null);
        for (index, (leased, options)) in leases.into_iter().zip(asked).enumerate() {
            let answer = self.lease(leased.service_type, options)?;
            let around = around.filter(|_| index == 0);
            if around.is_none_or(|around| text(&answer, "lease_id") != around.to_string()) {
                refuse_to_run_twice(&answer)?;
            }
            if let Some(around) = around
                && let Some(lease) = unused(around, &answer)?
            {
                self.tell_of_outer(&lease);
            }
            self.telling.tell(&answer, leased.variable, (index == 0).then_some(&self.wanted));
            if index == 0 {
                variables = environment(leased.variable, &answer);
                own = answer.clone();
            } else {
                variables.push((leased.variable.to_owned(), answer["port"].to_string()));
            }
            variables
                .extend(leased.others.iter().map(|v| (v.name.clone(), answer["port"].to_string())));
        }
        if let (Some(help), Some((_, port))) = (&mut help, variables.first()) {
            help.fill(port);
        }
        let variable = variables.first().map_or("PORT", |(name, _)| name);
        let needs_more = help.as_ref().is_none_or(|help| !help.adds()) && self.may_speak();
        let hint = needs_more.then(|| self.hint(programs, variable)).flatten();
        let sentences = [
            help.as_ref().and_then(Help::sentence),
            hint.as_ref().map(|hint| hint.sentence(variable)),
            self.named_and_in_use(&own, variable),
        ];
        for sentence in sentences.into_iter().flatten().filter(|_| self.may_speak()) {
            say(&sentence);
        }
        let command =
            help.as_ref().map_or_else(|| self.command.clone(), |h| h.apply(&self.command));
        let own_variable = variables.first().map(|(name, _)| name.clone());
        variables.extend(of_others);
        let own_variable = own_variable.as_deref();
        let mut prepared = self.replacing.prepare(&command, own_variable, &variables);
        for Set { name, value } in &self.setenv {
            prepared.env(name, self.replacing.fill(value.as_ref(), own_variable, &variables));
        }
        prepared.envs(help.map(|help| help.variables).unwrap_or_default());
        self.watch(&own, hint);
        if self.guarded {
            return run_guarded(&own, &mut prepared, self.telling);
        }
        let error = prepared.exec();
        Err(not_started(&self.command[0], &error))
    }

    /// Reports that nothing uses the lease of the enclosing `styxy run`.
    fn tell_of_outer(&self, lease: &Json) {
        if self.may_speak() {
            let sentence = format!(
                "the outer styxy run has leased port {} for another {}, and nothing uses it yet: leave out one of the \
                 two, or run both in one folder with the same --name",
                lease["port"],
                text(lease, "service_type")
            );
            say(&sentence);
        }
    }

    /// Whether messages for people may go to stderr.
    fn may_speak(&self) -> bool {
        !self.telling.quiet && !self.telling.json
    }

    /// Whether the command has exactly one port to listen on.
    fn has_one_port(&self) -> bool {
        self.service_type.is_some() && self.count.is_none_or(|count| count == 1)
    }

    /// Leases a port. If the service's first port is still in use by the previous server, which is ending,
    /// waits for it, at most for the grace time.
    fn lease(&self, service_type: &str, options: Fields) -> Result<Json, CliError> {
        let answer = allocate(service_type, options.clone())?;
        if self.wanted.names_a_port() || answer["slot"].is_null() {
            return Ok(answer);
        }
        let Some(port) = port_of_the_ending(&answer)? else { return Ok(answer) };
        if !self.telling.quiet && !self.telling.json {
            say(&format!("waiting for port {port}, whose server is still shutting down ..."));
        }
        let end = Instant::now() + Duration::from_secs(self.grace);
        while Instant::now() < end {
            thread::sleep(AGAIN);
            if diag::has_listener(port, Protocol::Tcp).unwrap_or(true) {
                continue;
            }
            client::begin_again();
            // The service notices this by itself, a moment later.
            if port_of_the_ending(&answer)? == Some(port) {
                continue;
            }
            ask(&Call::Release { lease_id: text(&answer, "lease_id").to_owned() })?;
            return allocate(service_type, options);
        }
        Ok(answer)
    }

    /// What the command needs to listen on its own port, if it has exactly one.
    fn help(&self, programs: &Programs) -> Option<Help> {
        let folder = env::current_dir().ok()?;
        let mut help = programs::help(&self.command, programs, &folder, |name| self.sets(name))?;
        if !self.has_one_port() {
            help.add_nothing();
        }
        // What was asked for takes precedence.
        help.has_no_guard &= self.hold.is_none() && !self.guarded;
        Some(help)
    }

    /// Whether the environment of the command has a variable anyway.
    fn sets(&self, name: &str) -> bool {
        env::var_os(name).is_some() || self.setenv.iter().any(|set| set.name == name)
    }

    /// Advice for a program that needs arguments where none can be added.
    fn hint(&self, programs: &Programs, variable: &str) -> Option<Hint> {
        let folder = env::current_dir().ok().filter(|_| self.has_one_port())?;
        programs::hint(&self.command, programs, &folder, variable, |name| self.sets(name))
    }

    /// Whether it matters on which port the command listens.
    fn is_watched(&self) -> bool {
        let has_further = self.env.iter().any(|variable| variable.service_type.is_some());
        self.may_speak() && !self.plain && self.has_one_port() && !has_further
    }

    /// Who has the port that the command line, or its script, names instead of the leased one.
    fn named_and_in_use(&self, answer: &Json, variable: &str) -> Option<String> {
        let folder = env::current_dir().ok().filter(|_| self.is_watched())?;
        let named = programs::named(&self.command, &folder)?;
        let port = named.port;
        if answer["port"] == port.get() || !diag::is_listened(port, Protocol::Tcp) {
            return None;
        }
        let user =
            users(listeners(PortRange::only(port), Protocol::Tcp).ok()?).into_iter().next()?;
        let (place, instead) = named.place(variable);
        let who = user.describe();
        Some(format!("{place} names port {port}, which is in use by {who}; write {instead} there"))
    }

    /// Starts the watcher that checks whether the command listens on its port.
    fn watch(&self, answer: &Json, hint: Option<Hint>) {
        let port = answer["port"].as_u64().and_then(Port::new).filter(|_| self.is_watched());
        if let Some(port) = port.filter(|_| answer["protocol"] == "tcp") {
            let remedy = hint.map_or(IGNORES_PORT.to_owned(), |hint| hint.remedy());
            // The command can run without the watcher.
            let _ = watch(port, &remedy);
        }
    }

    /// The leases to request, the command's own port first.
    fn leases(&self) -> Result<Vec<Leased<'_>>, CliError> {
        let (own, further): (Vec<_>, Vec<_>) =
            self.env.iter().partition(|variable| variable.service_type.is_none());
        let further = further.into_iter().map(|variable| Leased {
            service_type: variable.service_type.as_deref().unwrap_or_default(),
            variable: &variable.name,
            others: Vec::new(),
            count: None,
            name: variable.service_name.as_deref(),
            has_own_name: true,
        });
        if let Some(service_type) = &self.service_type {
            let variable = own.first().map_or("PORT", |variable| &variable.name);
            let others = own.get(1..).unwrap_or_default().to_vec();
            let count = self.count;
            let first =
                Leased { service_type, variable, others, count, name: None, has_own_name: false };
            return Ok([first].into_iter().chain(further).collect());
        }
        if let Some(Variable { name, .. }) = own.first() {
            let error = Error::invalid(format!("--env {name} has no type"));
            let remedy = format!("give one before --, or write --env {name}=TYPE");
            return Err(usage(&error.suggest(remedy)));
        }
        let leases: Vec<_> = further.collect();
        let of_a_port = self.wanted.of_a_port().or(self.hold.map(|_| "--hold"));
        if leases.is_empty()
            && let Some(option) = of_a_port
        {
            let error = Error::invalid(format!(
                "{option} is for the command's own port, and without a type none is leased"
            ));
            return Err(usage(
                &error.suggest(format!("give a type before --, or leave out {option}")),
            ));
        }
        if leases.len() > 1 && self.wanted.names_a_port() {
            let error =
                Error::invalid("--port and --template are for one port, but several are requested");
            return Err(usage(&error.suggest("give the type of that port before --env")));
        }
        Ok(leases)
    }
}

impl Telling {
    /// Prints one line about the port; with the requested options, also why it is not the expected one.
    pub(super) fn tell(self, answer: &Json, variable: &str, wanted: Option<&LeaseOptions>) {
        if self.quiet {
            return;
        }
        let why =
            wanted.and_then(|wanted| wanted.why_another(answer).or_else(|| runs_already(answer)));
        let message = sentence(answer, why);
        if self.json {
            let mut line = answer.clone();
            line["variable"] = variable.into();
            line["message"] = message.into();
            note(&line);
        } else {
            say(&message);
        }
    }
}

fn sentence(answer: &Json, why_another: Option<String>) -> String {
    let ports: Vec<_> = match answer["ports"].as_array() {
        Some(ports) => ports.iter().map(Json::to_string).collect(),
        None => vec![answer["port"].to_string()],
    };
    let ports = match ports.as_slice() {
        [first, .., last] => format!("ports {first}-{last}"),
        only => format!("port {}", only.concat()),
    };
    let mut line = format!("{ports} for {}", text(answer, "service_type"));
    let service_type = &answer["service_type"];
    if let Some(name) = answer["service_name"].as_str().filter(|name| service_type != name) {
        line = format!("{line} {name}");
    }
    if let Some(why) = why_another {
        line = format!("{line}: {why}");
    }
    for note in notes(answer) {
        line = format!("{line}; {note}");
    }
    line
}

/// The port of an orphaned earlier lease of the service: its owner is gone, but its server still runs.
fn port_of_the_ending(answer: &Json) -> Result<Option<Port>, CliError> {
    let mut leases = earlier(answer)?.into_iter();
    let first = leases.find(|lease| lease["state"] == "orphaned");
    Ok(first.and_then(|lease| lease["port"].as_u64().and_then(Port::new)))
}

/// Refuses to start a second instance of a single-instance service.
pub(super) fn refuse_to_run_twice(answer: &Json) -> Result<(), CliError> {
    if answer["existing"] != true || answer["claim"] == true {
        return Ok(());
    }
    let (service_type, held) = (text(answer, "service_type"), text(answer, "held"));
    Err(refused(format!(
        "{service_type} runs once, and it has port {} ({held}): connect to it instead of starting another",
        answer["port"]
    )))
}

/// Whether there is such a program, as execvp(3) looks for it.
pub(super) fn is_there(program: &OsStr) -> bool {
    let folders = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    env::split_paths(&folders).any(|folder| folder.join(program).exists())
}

/// The correct command line, if the `--` before the command of `run` or `exec` is missing.
pub(super) fn missing_dashes(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let words: Vec<_> = arguments.iter().map(|word| visible(&word.to_string_lossy())).collect();
    let verb = words.iter().position(|word| ["run", "exec"].contains(&word.as_str()))?;
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_one = error.kind() == clap::error::ErrorKind::UnknownArgument
        && !unknown.starts_with('-')
        && !words.iter().any(|word| word == "--");
    // The word after the verb is the type.
    let command = (verb + 2..words.len()).find(|at| is_one && words[*at] == *unknown)?;
    let (before, command) = words[verb..].split_at(command - verb);
    // The type was left out, too: `styxy run npm run dev`.
    if let [verb, program] = before
        && PROGRAMS.contains(&program.as_str())
    {
        let command = command.join(" ");
        return Some(format!(
            "write a TYPE, such as dev, and -- before the command: styxy {verb} dev -- {program} {command}"
        ));
    }
    Some(format!(
        "write -- before the command: styxy {} -- {}",
        before.join(" "),
        command.join(" ")
    ))
}

/// Programs that start others and that nobody calls a service type.
const PROGRAMS: [&str; 20] = [
    "bash", "bun", "bundle", "bunx", "cargo", "deno", "docker", "go", "just", "make", "node",
    "npm", "npx", "php", "pnpm", "python", "python3", "sh", "uv", "yarn",
];

/// The error if the command could not be started, with the exit code that shells use.
pub(super) fn not_started(program: &OsStr, error: &io::Error) -> CliError {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let program = visible(&program.to_string_lossy());
    let mut message = format!("{program} cannot be run: {error}");
    if code == 127 && program.contains(' ') {
        message.push_str("; write the command and its arguments without quotes around them");
    }
    CliError::Exec(message, code)
}
