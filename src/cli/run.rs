use std::{
    collections::{HashMap, HashSet},
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    process::Command,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value as Json;

use super::{
    Stop, ask,
    lease::found,
    note,
    owner::put_own_process,
    port::{of_project, url},
    programs::{self, Help},
    refused, say, text, usage,
    wanted::{Wanted, allocate, notes},
};
use crate::{
    client::{self, Call},
    error::Error,
    kernel::{diag, probe},
    port::{Port, Protocol},
    request::MOST_PORTS,
    service_type::Hold,
    value::Fields,
    word::visible,
};

/// How often it is looked whether a server has ended.
const AGAIN: Duration = Duration::from_millis(20);

/// Lease a port and run a command with it in $PORT
///
/// The command replaces styxy: it gets all signals, and its exit code is the exit code.
/// The lease belongs to the command, and ends with it.
///
/// A program that is known not to read PORT, such as Vite, gets the option or the variable with which it listens there,
/// also through a script of package.json; stderr says so.
///
/// PORT, STYXY_PORT and STYXY_LEASE_ID are set, and HOST, unless it is set, to 127.0.0.1 (::1 on hosts without it). In the arguments,
/// {port} is replaced by the port, {port_1} by the next of several, and {NAME} by that of --env NAME=TYPE; what is another
/// language's, such as ${PORT}, $ENV{port} or {{port}}, stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy run dev -- npm run dev\n  \
    styxy run docs --port 4100 -- mkdocs serve -a localhost:{port}\n  \
    styxy run --env WEB=dev --env API=api -- ./start-both")]
pub(super) struct Run {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE", required_unless_present = "env")]
    service_type: Option<String>,
    /// Put the port into this variable instead of PORT; with NAME=TYPE, lease another port for it, of the service
    /// that is called like the variable (WEB and WEB_PORT: web) or as given
    #[arg(long, value_name = "NAME[=TYPE[:SERVICE]]")]
    env: Vec<Variable>,
    /// Lease this many consecutive ports: PORT, PORT_1, …
    #[arg(long, requires = "service_type", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: Option<u16>,
    /// How the port is kept until it is used: guard (the service keeps it bound) or none
    #[arg(long)]
    hold: Option<Hold>,
    /// Put the port of another service of this project, which has one, into a variable; SERVICE is its name, its type, or
    /// TYPE:NAME
    #[arg(long, value_name = "SERVICE=NAME")]
    with: Vec<With>,
    /// The same as a URL: http://127.0.0.1:PORT
    #[arg(long, value_name = "SERVICE=NAME")]
    with_url: Vec<With>,
    /// Wait at most this long for a server that still has the port, though the command that it was started by is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    grace: u64,
    /// Start the command as it is given, even if it is known not to read PORT, or not to share it with a guard
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    telling: Telling,
    #[command(flatten)]
    wanted: Wanted,
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
    /// Print it as JSON, a line for each lease, on stderr, because stdout is the command's
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// A variable of the environment, and the type of the port that it is for.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    service_type: Option<String>,
    /// The service, if it is not called after the variable.
    service_name: Option<String>,
}

impl FromStr for Variable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, service_type) = match text.split_once('=') {
            Some((name, service_type)) => (name, Some(service_type)),
            None => (text, None),
        };
        let (service_type, service_name) = match service_type.and_then(|t| t.split_once(':')) {
            Some((service_type, service_name)) => (Some(service_type), Some(service_name)),
            None => (service_type, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || !name.chars().all(is_name)
            || name.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(Error::invalid(format!(
                "{name:?} is not the name of a variable: use letters, digits and underscores"
            )));
        }
        let [service_type, service_name] =
            [service_type, service_name].map(|word| word.map(str::to_owned));
        Ok(Self { name: name.to_owned(), service_type, service_name })
    }
}

/// Another service, and the variable that its port is put into.
#[derive(Clone, Debug)]
struct With {
    service: String,
    variable: String,
}

impl FromStr for With {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (service, variable) = text.split_once('=').ok_or_else(|| {
            Error::invalid("which variable gets the port?").suggest("write SERVICE=NAME")
        })?;
        let Variable { name, .. } = variable.parse()?;
        if variable.contains('=') {
            return Err(Error::invalid("give one variable for each service"));
        }
        Ok(Self { service: service.to_owned(), variable: name })
    }
}

impl Run {
    pub(super) fn is_quiet(&self) -> bool {
        self.telling.quiet
    }

    pub(super) fn run(self) -> Result<(), Stop> {
        // A script that has it works for whoever wants no ports from here.
        if env::var_os("STYXY").is_some_and(|value| value == "0") {
            let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
            return Err(not_started(&self.command[0], &error));
        }
        let wanted = self.wanted.options()?;
        let mut variables = Vec::new();
        let leases = self.leases()?;
        let with = self.with.iter().map(|with| (with, false));
        let with: Vec<_> = with.chain(self.with_url.iter().map(|with| (with, true))).collect();
        have_one_value(&self.env, &leases, with.iter().map(|(with, _)| *with))?;
        // A service that is missing is said before anything is leased.
        let of_others = with.into_iter().map(|(With { service, variable }, is_url)| {
            let lease = of_project(service)?;
            let value = if is_url { url(&lease) } else { lease["port"].to_string() };
            Ok((variable.clone(), value))
        });
        let of_others = of_others.collect::<Result<Vec<_>, Stop>>()?;
        let mut help = self.help();
        let without_guard = help.as_ref().is_some_and(|help| help.has_no_guard);
        let hold = self.hold.or(without_guard.then_some(Hold::None));
        for (index, leased) in leases.into_iter().enumerate() {
            let mut options = wanted.clone();
            options.put_some("count", leased.count.map(u32::from));
            options.put_some("hold", hold.map(Hold::as_str));
            put_own_process(&mut options);
            options.put("use_claim", true);
            if index > 0 {
                // What is asked of the first port is not asked of the others.
                options.0.retain(|(key, _)| !["port", "template", "strict"].contains(key));
            }
            if leased.has_own_name
                && (leased.name.is_some() || options.get("service_name").is_none())
            {
                options.0.retain(|(key, _)| *key != "service_name");
                options.put("service_name", leased.own_name());
            }
            let answer = self.lease(leased.service_type, options)?;
            refuse_to_run_twice(&answer)?;
            self.telling.tell(&answer, leased.variable, (index == 0).then_some(&self.wanted));
            if index == 0 {
                variables = environment(leased.variable, &answer);
            } else {
                variables.push((leased.variable.to_owned(), answer["port"].to_string()));
            }
            variables
                .extend(leased.others.iter().map(|v| (v.name.clone(), answer["port"].to_string())));
        }
        if let (Some(help), Some((_, port))) = (&mut help, variables.first()) {
            help.fill(port);
        }
        let sentence = help.as_ref().and_then(Help::sentence);
        if let Some(sentence) = sentence.filter(|_| !self.telling.quiet && !self.telling.json) {
            say(&sentence);
        }
        let command =
            help.as_ref().map_or_else(|| self.command.clone(), |h| h.apply(&self.command));
        variables.extend(of_others);
        let mut prepared = prepare(&command, &variables);
        prepared.envs(help.map(|help| help.variables).unwrap_or_default());
        let error = prepared.exec();
        Err(not_started(&self.command[0], &error))
    }

    /// Leases a port. If it is not the service's first one because the server before is still ending, that is waited for.
    fn lease(&self, service_type: &str, options: Fields) -> Result<Json, Stop> {
        let answer = allocate(service_type, options.clone())?;
        if self.wanted.names_a_port() || answer["slot"].is_null() {
            return Ok(answer);
        }
        let Some(port) = port_of_the_ending(&answer)? else { return Ok(answer) };
        if !self.telling.quiet && !self.telling.json {
            say(&format!("waiting for port {port}, whose server is still ending ..."));
        }
        let end = Instant::now() + Duration::from_secs(self.grace);
        while Instant::now() < end {
            thread::sleep(AGAIN);
            if diag::has_listener(port, Protocol::Tcp).unwrap_or(true) {
                continue;
            }
            client::begin_again();
            // The service hears of it by itself, a moment later.
            if port_of_the_ending(&answer)? == Some(port) {
                continue;
            }
            ask(&Call::Release { lease_id: text(&answer, "lease_id").to_owned() })?;
            return allocate(service_type, options);
        }
        Ok(answer)
    }

    /// What the command needs to listen on its own port, if it has one.
    fn help(&self) -> Option<Help> {
        if self.plain {
            return None;
        }
        let folder = env::current_dir().ok()?;
        let is_set = |name: &str| env::var_os(name).is_some();
        let mut help = programs::help(&self.command, &programs::known(), &folder, is_set)?;
        if self.service_type.is_none() || self.count.is_some_and(|count| count > 1) {
            help.add_nothing();
        }
        // What is said on the command line counts more.
        help.has_no_guard &= self.hold.is_none();
        Some(help)
    }

    /// What is to be leased, the command's own port first.
    fn leases(&self) -> Result<Vec<Leased<'_>>, Stop> {
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
            let error = Error::invalid(format!("--env {name} names no type"));
            let remedy = format!("give one before --, or write --env {name}=TYPE");
            return Err(usage(&error.suggest(remedy)));
        }
        let leases: Vec<_> = further.collect();
        if leases.len() > 1 && self.wanted.names_a_port() {
            let error =
                Error::invalid("--port or --template is for one port, and several are asked for");
            return Err(usage(&error.suggest("give the type of that port before --env")));
        }
        Ok(leases)
    }
}

/// One lease of the command.
struct Leased<'a> {
    service_type: &'a str,
    /// The variable that gets the port.
    variable: &'a str,
    /// Further variables for the same port.
    others: Vec<&'a Variable>,
    count: Option<u16>,
    /// What the service is called.
    name: Option<&'a str>,
    /// Whether it is called after its variable, so that two of a type are told apart.
    has_own_name: bool,
}

impl Leased<'_> {
    /// The name of the service that is called after its variable: `web` for WEB and WEB_PORT.
    fn own_name(&self) -> String {
        if let Some(name) = self.name {
            return name.to_owned();
        }
        let name = self.variable.to_ascii_lowercase();
        name.strip_suffix("_port").filter(|rest| !rest.is_empty()).unwrap_or(&name).to_owned()
    }

    /// The variables and placeholders of the command's own port, each with the place of its port in the block.
    fn names_of_own(&self) -> Vec<(String, u16)> {
        let all_of_block = ["port", self.variable].into_iter().flat_map(|name| {
            let further = (1..self.count.unwrap_or(1)).map(move |n| (format!("{name}_{n}"), n));
            [(name.to_owned(), 0)].into_iter().chain(further)
        });
        let others = self.others.iter().map(|other| (other.name.clone(), 0));
        all_of_block.chain(others).chain([("STYXY_PORT".to_owned(), 0)]).collect()
    }
}

/// Makes sure that no variable gets two values, of which the command would see one.
fn have_one_value<'a>(
    given: &[Variable],
    leases: &[Leased],
    with: impl Iterator<Item = &'a With>,
) -> Result<(), Stop> {
    let clash = |name: &str, why: &str| {
        let error = Error::invalid(format!("the variable {name} {why}"));
        usage(&error.suggest("give each port a variable of its own"))
    };
    let mut names = HashSet::new();
    if let Some(again) = given.iter().find(|variable| !names.insert(&variable.name)) {
        return Err(clash(&again.name, "is given twice, and a variable has one value"));
    }
    let mut ports = HashMap::from([("STYXY_LEASE_ID".to_owned(), None)]);
    let own = leases.first().into_iter().flat_map(Leased::names_of_own);
    let own = own.map(|(name, place)| (name, Some((0, place))));
    let further = leases.iter().enumerate().skip(1);
    let further = further.map(|(index, leased)| (leased.variable.to_owned(), Some((index, 0))));
    for (name, port) in own.chain(further) {
        if ports.get(&name).is_some_and(|other| *other != port) {
            return Err(clash(&name, "is the name of something else that styxy tells the command"));
        }
        ports.insert(name, port);
    }
    for With { variable, .. } in with {
        if ports.insert(variable.clone(), None).is_some() {
            return Err(clash(
                variable,
                "is the name of something else that styxy tells the command",
            ));
        }
    }
    Ok(())
}

impl Telling {
    /// Says in one line which port it is; with what was wanted, also why it is not another.
    pub(super) fn tell(self, answer: &Json, variable: &str, wanted: Option<&Wanted>) {
        if self.quiet {
            return;
        }
        let message = sentence(answer, wanted.and_then(|wanted| wanted.why_another(answer)));
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
    if let Some(name) = answer["service_name"].as_str() {
        line = format!("{line} {name}");
    }
    for note in why_another.into_iter().chain(notes(answer)) {
        line = format!("{line}; {note}");
    }
    line
}

/// The port of an earlier lease of the service whose owner is gone and whose server is not, yet.
fn port_of_the_ending(answer: &Json) -> Result<Option<Port>, Stop> {
    let mut filter = Fields::default();
    for key in ["project_path", "service_type", "service_name"] {
        filter.put_some(key, answer[key].as_str());
    }
    let slot = |lease: &Json| lease["slot"].as_u64().unwrap_or(1);
    let is_it = |lease: &&Json| {
        lease["state"] == "orphaned"
            && slot(lease) < slot(answer)
            && ["service_name", "package_path"].iter().all(|key| lease[key] == answer[key])
    };
    let leases = found(filter)?;
    let first = leases.iter().filter(is_it).min_by_key(|lease| slot(lease));
    Ok(first.and_then(|lease| lease["port"].as_u64().and_then(Port::new)))
}

/// A second one of what runs once is not started.
pub(super) fn refuse_to_run_twice(answer: &Json) -> Result<(), Stop> {
    if answer["existing"] != true || answer["claim"] == true {
        return Ok(());
    }
    let (service_type, held) = (text(answer, "service_type"), text(answer, "held"));
    Err(refused(format!(
        "{service_type} runs once, and it has port {} ({held}): connect to it instead of starting another",
        answer["port"]
    )))
}

/// The variables that tell a command its lease: those of the port, of the ports that follow it, and of the lease.
pub(super) fn environment(name: &str, answer: &Json) -> Vec<(String, String)> {
    let first = (name.to_owned(), answer["port"].to_string());
    let others = answer["ports"].as_array().into_iter().flatten().skip(1).enumerate();
    let others = others.map(|(index, port)| (format!("{name}_{}", index + 1), port.to_string()));
    let of_lease = [
        ("STYXY_PORT".to_owned(), answer["port"].to_string()),
        ("STYXY_LEASE_ID".to_owned(), text(answer, "lease_id").to_owned()),
    ];
    std::iter::once(first).chain(others).chain(of_lease).collect()
}

/// The command with its variables, and with the ports in its arguments.
pub(super) fn prepare(command: &[OsString], variables: &[(String, String)]) -> Command {
    // {PORT} is what other languages write for the variable itself.
    let is_own = |name: &str| ["PORT", "STYXY_"].iter().any(|own| name.starts_with(own));
    let named = variables.iter().filter(|(name, _)| !is_own(name));
    let mut placeholders: Vec<_> =
        named.map(|(name, value)| (format!("{{{name}}}"), value.as_str())).collect();
    if let Some((name, _)) = variables.first() {
        // {port} and {port_1} whatever the variable is called.
        let own = variables.iter().filter_map(|(other, value)| {
            Some((format!("{{port{}}}", other.strip_prefix(name.as_str())?), value.as_str()))
        });
        placeholders.extend(own.collect::<Vec<_>>());
    }
    let arguments = command[1..].iter().map(|argument| filled(argument, &placeholders));
    let mut prepared = Command::new(&command[0]);
    if env::var_os("HOST").is_none() {
        prepared.env("HOST", probe::loopback().to_string());
    }
    // A variable for a port may be called HOST, too.
    prepared.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    prepared
}

fn filled(argument: &OsStr, placeholders: &[(String, &str)]) -> OsString {
    let mut bytes = argument.as_bytes().to_vec();
    for (placeholder, value) in placeholders {
        let wanted = placeholder.as_bytes();
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(wanted.len()).position(|part| part == wanted) {
            let (start, end) = (at + found, at + found + wanted.len());
            if is_of_another_language(&bytes[..start], &bytes[end..]) {
                at = end;
                continue;
            }
            bytes.splice(start..end, value.bytes());
            at = start + value.len();
        }
    }
    OsString::from_vec(bytes)
}

/// Whether braces between these are none of ours: `${port}` of shells, `$ENV{port}` of Perl, `{{port}}` of templates.
fn is_of_another_language(before: &[u8], after: &[u8]) -> bool {
    let is_of_word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let word = before.iter().rev().take_while(is_of_word).count();
    let sign = before.len().checked_sub(word + 1).map(|at| before[at]);
    sign == Some(b'$') || before.ends_with(b"{") || after.starts_with(b"}")
}

/// Why the command could not be started, with the exit code that shells give.
pub(super) fn not_started(program: &OsStr, error: &io::Error) -> Stop {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Stop::Exec(format!("{} cannot be run: {error}", visible(&program.to_string_lossy())), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stand_in_for_placeholders_wherever_they_are() {
        let variables = [("PORT", "3000"), ("PORT_1", "3001"), ("API", "8000")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let command = [
            "serve",
            "-p{port}",
            "{port}{port_1}",
            "{API}/{api}",
            "{}",
            "a$:{port}",
            // What is another language's stays.
            "${PORT}",
            "{PORT}",
            "${port}",
            "$ENV{port}",
            "{{port}}",
            "${API}",
        ];
        let command = command.map(OsString::from);
        let prepared = prepare(&command, &variables);
        let arguments: Vec<_> = prepared.get_args().collect();
        let others = ["${PORT}", "{PORT}", "${port}", "$ENV{port}", "{{port}}", "${API}"];
        assert_eq!(arguments[..5], ["-p3000", "30003001", "8000/{api}", "{}", "a$:3000"]);
        assert_eq!(arguments[5..], others);
    }

    #[test]
    fn a_service_is_called_after_its_variable_or_as_given() {
        let own_name = |variable: &str, name| {
            let (others, count, has_own_name) = (Vec::new(), None, true);
            Leased { service_type: "dev", variable, others, count, name, has_own_name }.own_name()
        };
        let names = ["WEB", "WEB_PORT", "PORT", "_PORT", "API_PORT_2"].map(|v| own_name(v, None));
        assert_eq!(names, ["web", "web", "port", "_port", "api_port_2"]);
        assert_eq!(own_name("WEB_PORT", Some("front")), "front");
        let variable: Variable = "DB=database:orders".parse().unwrap();
        let words = [variable.service_type, variable.service_name].map(Option::unwrap);
        assert_eq!(words, ["database", "orders"]);
    }

    #[test]
    fn a_variable_may_name_a_type_of_its_own() {
        let variable: Variable = "API=api".parse().unwrap();
        assert_eq!(variable.service_type.as_deref(), Some("api"));
        assert!("PORT".parse::<Variable>().unwrap().service_type.is_none());
        for wrong in ["", "=api", "1A", "A-B", "A B=x"] {
            assert!(wrong.parse::<Variable>().is_err(), "{wrong}");
        }
    }
}
