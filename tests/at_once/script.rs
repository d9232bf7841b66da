//! What an agent does: random verbs, right ones and slightly wrong ones, and what each may answer.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Mutex, RwLock},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::dice::Dice;

/// How many agents there are.
pub const AGENTS: usize = 8;
/// How many verbs each gives.
const STEPS: usize = 200;
/// How many ports the types have.
#[allow(dead_code, reason = "in a machine every port is free")]
pub const PORTS: u16 = 70;

/// A type for each agent alone; none of the names is a slip of another.
const OWN_TYPES: [&str; AGENTS] =
    ["orchard", "glacier", "mosaic", "harbour", "lantern", "pumpkin", "saffron", "thunder"];

/// The types that all agents use: a roomy one, one that is soon full, and one that runs once.
pub fn configuration(first: u16) -> String {
    let range = |from, to| format!(r#""port_range": [{}, {}]"#, first + from, first + to);
    format!(
        r#"{{"service_types": {{"web": {{{}}}, "tiny": {{{}}}, "hearth": {{{}, "instance_behavior": "single"}}}}}}"#,
        range(0, 59),
        range(60, 65),
        range(66, 69)
    )
}

/// An exit code, and what is said with it.
type May = (i32, &'static str);

const FULL: May = (1, "is free: of ");
const NO_BLOCK: May = (1, "consecutive TCP ports that are free");
const DONE: &[May] = &[(0, "")];
const GRANT: &[May] = &[(0, ""), FULL];

/// What is slightly wrong, and how that is answered.
const WRONG: &[(&[&str], May)] = &[
    (&["allocate", "wbe"], (1, "did you mean \"web\"?")),
    (&["allocate", "two words"], (2, "service_type \"two words\" is not valid")),
    (&["allocate", "web", "--name", "the shop's front end"], (2, "service_name")),
    (&["allocate", "web", "--strict"], (2, "--port")),
    (&["allocate", "web", "--count", "0"], (2, "--count")),
    (&["allocate", "web", "--owner", "nobody"], (2, "is not an owner")),
    (&["allocate", "web", "--owner", "pid:4194304"], (2, "not a live process")),
    (&["allocate", "web", "--owner", "unit:none.service"], (2, "unit")),
    (&["allocate", "web", "--nmae", "a"], (2, "--name")),
    (&["allocate", "web", "--template", "stagign"], (2, "did you mean \"staging\"?")),
    (&["allocate", "hearth", "--count", "2"], (2, "runs once")),
    (&["release"], (2, "no lease is named")),
    (&["release", "shop"], (1, "no service of this package has that name")),
    (&["release", "00000000-0000-4000-8000-000000000000"], (1, "there is no live lease")),
    (&["release", "1"], (1, "there is no lease")),
    (&["renew", "shop"], (1, "no service of this package has that name")),
    (&["renew", "00000000-0000-4000-8000-000000000000"], (1, "no live lease")),
    (&["lsit"], (2, "'list'")),
    (&["list", "--type", "no such"], (2, "service_type")),
    (&["list", "--type", "wbe"], (1, "did you mean \"web\"?")),
    (&["list", "--project", "/no/such/folder"], (2, "there is no folder")),
    (&["list", "--mine", "--project", "/"], (2, "cannot be used with")),
    (&["check", "0"], (2, "from 1 to 65535")),
    (&["check", "70000"], (2, "from 1 to 65535")),
    (&["scan", "9-1"], (2, "9-1")),
    (&["suggest", "wbe"], (1, "did you mean \"web\"?")),
    (&["forget", "--port", "x"], (2, "is not a port")),
    (&["cleanup", "--older-than", "soon"], (2, "soon")),
    (&["audit", "--action", "alocate"], (2, "allocate")),
    (&["run", "web"], (2, "COMMAND")),
    (&["run", "wbe", "--", "true"], (1, "did you mean \"web\"?")),
    (&["run", "--env", "WEB", "--", "true"], (2, "has no type")),
    (&["run", "web", "--", "/no/such/program"], (127, "cannot be run")),
    (&["exec", "web", "--", "/etc/passwd"], (126, "cannot be run")),
];

/// What changes nothing, and is always answered.
const QUESTIONS: &[&[&str]] = &[
    &["list"],
    &["list", "--type", "web"],
    &["types"],
    &["types", "--json"],
    &["instances"],
    &["instances", "--json"],
    &["status"],
    &["status", "--json"],
    &["scan"],
    &["scan", "--protocol", "tcp", "--json"],
    &["suggest"],
    &["suggest", "hearth", "--json"],
    &["cleanup"],
    &["cleanup", "--json"],
    &["audit", "-n", "5"],
    &["audit", "-n", "5", "--json"],
    &["audit", "--stats", "--json"],
    &["audit", "--action", "release", "--project", "."],
];

/// What a verb with `--json` lists.
fn leases_of(answer: &[u8]) -> Vec<Json> {
    let answer: Json = serde_json::from_slice(answer).unwrap();
    answer["leases"].as_array().unwrap().clone()
}

/// What all agents have in common.
pub struct Stage<'a> {
    styxy: &'a (dyn Fn() -> Command + Sync),
    folders: Vec<PathBuf>,
    first: u16,
    /// Who has what, as those know it who were granted it.
    held: Mutex<Vec<Held>>,
    /// Written while something is done to the leases of all.
    peace: RwLock<()>,
    /// How often each verb ended in which way.
    counts: Mutex<BTreeMap<(String, i32), u32>>,
}

/// A lease that an agent has.
struct Held {
    lease: Grant,
    listener: Option<TcpListener>,
}

#[derive(Clone, Debug, PartialEq)]
struct Grant {
    agent: usize,
    port: u64,
    protocol: &'static str,
    service_type: &'static str,
    lease_id: Option<String>,
    has_ttl: bool,
}

impl<'a> Stage<'a> {
    pub fn new(styxy: &'a (dyn Fn() -> Command + Sync), folders: Vec<PathBuf>, first: u16) -> Self {
        let (held, peace, counts) = Default::default();
        Self { styxy, folders, first, held, peace, counts }
    }

    /// Lets all agents do their scripts, and sees that nothing is left.
    pub fn play(&self) -> String {
        let seed = env::var("STYXY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        eprintln!("the seed is {seed} (STYXY_TEST_SEED sets another)");
        thread::scope(|scope| {
            let agents: Vec<_> = (0..AGENTS)
                .map(|number| {
                    let dice = Dice(seed * 1_000 + number as u64);
                    scope.spawn(move || Agent { stage: self, number, dice }.act())
                })
                .collect();
            for agent in agents {
                agent.join().expect("an agent sees nothing wrong");
            }
        });
        // The last short commands may have ended just now.
        let end = Instant::now() + Duration::from_secs(60);
        let leases = || (self.styxy)().args(["list", "--json"]).output().unwrap().stdout;
        while !leases_of(&leases()).is_empty() {
            assert!(Instant::now() < end, "left: {}", String::from_utf8_lossy(&leases()));
            thread::sleep(Duration::from_millis(50));
        }
        let counts = self.counts.lock().unwrap();
        let told: Vec<_> =
            counts.iter().map(|((verb, code), n)| format!("{verb} {code}: {n}")).collect();
        for verb in ["allocate", "release", "renew", "run", "exec", "check", "suggest"] {
            let codes: Vec<_> = counts.keys().filter(|(v, _)| v == verb).map(|(_, c)| *c).collect();
            assert!(codes.len() > 1 && codes[0] == 0, "{verb} did not do both: {told:?}");
        }
        told.join(", ")
    }

    /// Notes a new lease; nobody else may have that port.
    fn note(&self, new: Grant, listener: Option<TcpListener>) {
        let mut held = self.held.lock().unwrap();
        let clashes = |old: &&Grant| {
            let protocols = [old.protocol, new.protocol];
            old.port == new.port && (protocols[0] == protocols[1] || protocols.contains(&"both"))
        };
        if let Some(old) = held.iter().map(|held| &held.lease).find(clashes) {
            panic!("two have a port at a time: {old:?} and {new:?}");
        }
        held.push(Held { lease: new, listener });
    }
}

struct Agent<'a> {
    stage: &'a Stage<'a>,
    number: usize,
    dice: Dice,
}

impl Agent<'_> {
    fn act(&mut self) {
        for _ in 0..STEPS {
            match self.dice.below(20) {
                0..6 => self.allocate(),
                6..9 => self.release(),
                9 => self.renew(),
                10..12 => self.run(),
                12 => self.list_mine(),
                13..15 => self.check(),
                15 => self.others(),
                16 => self.clean_up(),
                17..19 => self.ask(),
                _ => self.slip(),
            }
        }
        // Together they make every mistake at least once.
        for (arguments, answer) in WRONG.iter().skip(self.number).step_by(AGENTS) {
            self.styxy(arguments, &[*answer]);
        }
        let _peace = self.stage.peace.read().unwrap();
        self.give_back(&["release", "--project", "--yes"], |_| true);
    }

    fn own_type(&self) -> &'static str {
        OWN_TYPES[self.number]
    }

    fn instance(&self) -> String {
        format!("agent-{}", self.number)
    }

    fn some_port(&mut self) -> String {
        (u64::from(self.stage.first) + self.dice.below(66)).to_string()
    }

    fn allocate(&mut self) {
        let service_type =
            *self.dice.pick(&["web", "web", "web", "tiny", self.own_type(), "hearth"]);
        let (instance, port) = (self.instance(), self.some_port());
        let ways: &[(&[&str], &[May])] = &[
            (&[], GRANT),
            (&["--name", "api"], GRANT),
            (&["--name", "db.main", "--hold", "none"], GRANT),
            (&["--port", &port], GRANT),
            (
                &["--port", &port, "--strict"],
                &[(0, ""), FULL, (1, "is leased to"), (1, "in use"), (1, "runs once")],
            ),
            (&["--template", "main"], GRANT),
            (&["--protocol", "udp"], &[(0, ""), (1, "is free: of ")]),
            (&["--protocol", "both"], GRANT),
            (&["--count", "3"], &[(0, ""), NO_BLOCK, (2, "runs once")]),
            (&["--ttl", "600"], GRANT),
            (&["--ttl", "3600", "--name", "cache"], GRANT),
            (&["--owner", "parent"], GRANT),
            (&["--instance", &instance], GRANT),
            (&["--dry-run"], GRANT),
        ];
        let (options, may) = *self.dice.pick(ways);
        // What runs once has the protocol of whoever asked first.
        let (options, may) = match (service_type, options) {
            ("hearth", ["--protocol", ..]) => (&[][..], GRANT),
            _ => (options, may),
        };
        let form = *self.dice.pick(&["--json", "--json", "--json", "--quiet"]);
        let arguments = [&["allocate", service_type, form, "--new"], options].concat();
        let _peace = self.stage.peace.read().unwrap();
        let output = self.styxy(&arguments, may);
        if !output.status.success() || options == ["--dry-run"] || service_type == "hearth" {
            return;
        }
        // JSON, or each number on a line of its own.
        let answer: Json = match form {
            "--json" => serde_json::from_slice(&output.stdout).unwrap(),
            _ => Json::Null,
        };
        let ports: Vec<u64> = match (&answer["ports"], &answer["port"]) {
            (Json::Array(ports), _) => ports.iter().filter_map(Json::as_u64).collect(),
            (_, Json::Number(port)) => port.as_u64().into_iter().collect(),
            _ => {
                let lines = String::from_utf8(output.stdout).unwrap();
                lines.lines().map(|line| line.parse().unwrap()).collect()
            }
        };
        for port in ports {
            let protocol = match options {
                ["--protocol", "udp"] => "udp",
                ["--protocol", "both"] => "both",
                _ => "tcp",
            };
            let is_block = options[..options.len().min(1)] == ["--count"];
            let lease_id = answer["lease_id"].as_str().filter(|_| !is_block).map(str::to_owned);
            // A server, now and then: it binds, because nobody else has the port.
            let serves = protocol == "tcp" && self.dice.one_in(3);
            let listen = || TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap()));
            let listener = serves.then(|| listen().expect("a leased port can be listened on"));
            let (agent, has_ttl) = (self.number, options.contains(&"--ttl"));
            let lease = Grant { agent, port, protocol, service_type, lease_id, has_ttl };
            self.stage.note(lease, listener);
        }
    }

    /// One of its own leases.
    fn some_lease(&mut self) -> Option<Grant> {
        let held = self.stage.held.lock().unwrap();
        let own: Vec<_> = held.iter().filter(|held| held.lease.agent == self.number).collect();
        if own.is_empty() {
            return None;
        }
        let lease = self.dice.pick(&own);
        Some(lease.lease.clone())
    }

    fn release(&mut self) {
        let _peace = self.stage.peace.read().unwrap();
        let Some(lease) = self.some_lease() else { return };
        let own_type = self.own_type();
        match self.dice.below(12) {
            0 => self.give_back(&["release", "--project", "--yes"], |_| true),
            1 => self.give_back(&["release", "--type", own_type, "-y"], |held| {
                held.service_type == own_type
            }),
            2 => self.give_back(
                &["release", "--project", ".", "--type", "tiny", "--yes", "--json"],
                |held| held.service_type == "tiny",
            ),
            3 => {
                // It does not matter whose it is: it is everybody's.
                self.styxy(&["release", "--type", "hearth", "--yes"], DONE);
            }
            _ => {
                let port = lease.port.to_string();
                let which = lease.lease_id.as_ref().unwrap_or(&port);
                // The port alone would mean that of the other protocol, too, whoever has it.
                let mut arguments = vec!["release", which, "--protocol", lease.protocol];
                arguments.extend(self.dice.one_in(2).then_some("--json"));
                self.give_back(&arguments, |held| *held == lease);
            }
        }
    }

    /// Releases, which must succeed; from before that moment on others may be granted the ports.
    fn give_back(&mut self, arguments: &[&str], which: impl Fn(&Grant) -> bool) {
        self.stage
            .held
            .lock()
            .unwrap()
            .retain(|held| held.lease.agent != self.number || !which(&held.lease));
        // The agent's own type appears with its first lease.
        self.styxy(arguments, &[(0, ""), (1, "there is no service type")]);
    }

    fn renew(&mut self) {
        let _peace = self.stage.peace.read().unwrap();
        // Rather one with a time limit.
        let some: Vec<_> = (0..3).filter_map(|_| self.some_lease()).collect();
        match some.iter().find(|lease| lease.has_ttl).or(some.first()).cloned() {
            Some(Grant { lease_id: Some(lease_id), has_ttl: true, .. }) => {
                self.styxy(&["renew", &lease_id, "--json"], DONE);
            }
            Some(Grant { lease_id: Some(lease_id), has_ttl: false, .. }) => {
                self.styxy(&["renew", &lease_id], &[(1, "has no time limit")]);
            }
            _ => {}
        }
    }

    /// A command that runs for a moment, and in that moment has a port.
    fn run(&mut self) {
        if self.dice.one_in(2) {
            let verb = *self.dice.pick(&["run", "exec"]);
            let (program, code) = *self.dice.pick(&[("true", 0), ("false", 1)]);
            self.styxy(&[verb, "web", "--name", "once", "--", program], &[(code, "port "), FULL]);
            return;
        }
        let script = "echo $PORT; read -r _; exit 0";
        let mut command = self.command(&["run", "web", "--quiet", "--", "sh", "-c", script]);
        let peace = self.stage.peace.read().unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if let Ok(port) = line.trim().parse() {
            let (agent, protocol, service_type) = (self.number, "tcp", "web");
            let (lease_id, has_ttl) = (None, false);
            let lease = Grant { agent, port, protocol, service_type, lease_id, has_ttl };
            self.stage.note(lease.clone(), None);
            self.stage.held.lock().unwrap().retain(|held| held.lease != lease);
        }
        drop(peace);
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        self.judge(&["run", "web"], &output, GRANT);
    }

    /// All that it has is in the list of its project, and nothing else but what ends just now.
    fn list_mine(&mut self) {
        let _peace = self.stage.peace.read().unwrap();
        let output = self.styxy(&["list", "--mine", "--json"], DONE);
        let listed = leases_of(&output.stdout);
        let held = self.stage.held.lock().unwrap();
        let held = held.iter().map(|held| &held.lease);
        let own: Vec<_> = held.filter(|held| held.agent == self.number).collect();
        for held in &own {
            let is_listed = listed.iter().any(|lease| {
                lease["port"] == held.port
                    && lease["protocol"] == held.protocol
                    && lease["service_type"] == held.service_type
            });
            assert!(is_listed, "port {} is not listed: {listed:?}", held.port);
        }
        for lease in listed {
            let is_own = own.iter().any(|held| lease["port"] == held.port);
            let is_over = lease["owner"] == "process" || lease["service_type"] == "hearth";
            assert!(is_own || is_over, "{lease} is listed, and was released");
        }
    }

    fn check(&mut self) {
        let _peace = self.stage.peace.read().unwrap();
        if let Some(Grant { port, protocol, lease_id, .. }) = self.some_lease()
            && self.dice.one_in(2)
        {
            let port = port.to_string();
            let output =
                self.styxy(&["check", &port, "--protocol", protocol, "--json"], &[(1, "")]);
            let answer: Json = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["reason"], "leased", "{answer}");
            let told = answer["lease"]["lease_id"].as_str().map(str::to_owned);
            assert!(lease_id.is_none() || told == lease_id, "{answer}");
            return;
        }
        let port = self.some_port();
        let output = self
            .styxy(&["check", &port], &[(0, "is free"), (1, "is leased to"), (1, "is in use by")]);
        assert!(output.stderr.is_empty(), "{output:?}");
    }

    fn others(&mut self) {
        let (port, folder) = (self.some_port(), self.stage.folders[self.number].clone());
        let folder = folder.to_str().unwrap();
        let range = format!("{port}-65535");
        let ways: &[(&[&str], &[May])] = &[
            (&["forget"], DONE),
            (&["forget", "--name", "api", "--json"], DONE),
            (&["forget", "--project", folder, "--port", &port], DONE),
            (&["scan", &port], DONE),
            (&["scan", &range, "--json"], DONE),
            (&["list", "--project", folder, "--json"], DONE),
            (&["suggest", "web", "--count", "2", "--json"], GRANT),
        ];
        let (arguments, may) = *self.dice.pick(ways);
        self.styxy(arguments, may);
    }

    /// Takes away whatever nobody owns, also from others; who has it knows it at once.
    fn clean_up(&mut self) {
        if !self.dice.one_in(4) {
            self.styxy(&["cleanup", "--older-than", "3600", "--yes"], DONE);
            return;
        }
        let _war = self.stage.peace.write().unwrap();
        let output = self.styxy(&["cleanup", "--older-than", "0", "--yes", "--json"], DONE);
        let gone = leases_of(&output.stdout);
        let is_gone = |held: &Held| {
            let is_it = |lease: &Json| {
                lease["port"] == held.lease.port && lease["protocol"] == held.lease.protocol
            };
            gone.iter().any(is_it)
        };
        let mut held = self.stage.held.lock().unwrap();
        let listening = held.iter().find(|held| held.listener.is_some() && is_gone(held));
        assert!(listening.is_none(), "a lease was cleaned up that is in use");
        held.retain(|held| !is_gone(held));
    }

    fn ask(&mut self) {
        let arguments = *self.dice.pick(QUESTIONS);
        self.styxy(arguments, DONE);
    }

    fn slip(&mut self) {
        let (arguments, answer) = self.dice.pick(WRONG);
        self.styxy(arguments, &[*answer]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = (self.stage.styxy)();
        command.args(arguments).current_dir(&self.stage.folders[self.number]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn styxy(&self, arguments: &[&str], may: &[May]) -> Output {
        let output = self.command(arguments).output().unwrap();
        self.judge(arguments, &output, may);
        output
    }

    /// Whether a person would call it right.
    #[track_caller]
    fn judge(&self, arguments: &[&str], output: &Output, may: &[May]) {
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = format!("agent {}, {arguments:?}: {:?}\n{out}{err}", self.number, output.status);
        let code = output.status.code().unwrap_or_else(|| panic!("{told}"));
        let is_right = |(expected, words): &May| {
            code == *expected && (out.contains(words) || err.contains(words))
        };
        assert!(may.iter().any(is_right), "{told}");
        assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{told}");
        let has_answer = arguments[0] == "check" || !err.trim().is_empty();
        assert!(code == 0 || has_answer, "refused without a word: {told}");
        let is_harmless = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n');
        assert!(is_harmless(&out) && is_harmless(&err), "{told}");
        if arguments.contains(&"--json") && !out.is_empty() {
            assert!(serde_json::from_str::<Json>(&out).is_ok(), "{told}");
        }
        let mut counts = self.stage.counts.lock().unwrap();
        *counts.entry((arguments[0].to_owned(), code)).or_default() += 1;
    }
}
