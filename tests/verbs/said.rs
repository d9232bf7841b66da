//! What people see, word for word: transcripts, in snapshots. After a change that is meant, `INSTA_UPDATE=always` with
//! these tests writes them anew.

use std::{fs, net::TcpListener};

use super::{home, styxy};
use crate::support::Home;

/// What is asked and answered, one after the other.
struct Transcript(Home, String);

impl Transcript {
    /// Waits until the leases of commands that have ended are over.
    fn settle(&mut self) -> &mut Self {
        let leases = || self.0.http("GET", "/allocations", "").body["allocations"].clone();
        self.0.until(|| leases().as_array().unwrap().iter().all(|lease| lease["pid"].is_null()));
        self
    }

    fn say(&mut self, line: &str) -> &mut Self {
        let Self(home, text) = self;
        let words = (0..9).fold(line.to_owned(), |line, i| {
            line.replace(&format!("PORT{i}"), &home.port(i).to_string())
        });
        let output = styxy(home).env("TZ", "UTC").args(words.split(' ')).output().unwrap();
        let (out, err) = (output.stdout, output.stderr);
        let said = young(String::from_utf8([out, err].concat()).unwrap());
        let said = (0..9)
            .fold(said, |said, i| said.replace(&home.port(i).to_string(), &format!("PORT{i}")));
        let folder = home.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        let said = said
            .replace(&folder, "/home/dev")
            .replace(styxy::surroundings::machine::key(), "[machine]");
        text.extend(["$ styxy ", line, "\n", &said]);
        if let Some(code @ 1..) = output.status.code() {
            text.extend(["(exit code ", &code.to_string(), ")\n"]);
        }
        self
    }

    #[track_caller]
    fn is(&self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for (what, instead) in [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "LEASE-ID"),
            (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
            (r"\b[0-9a-f]{8}\b", "LEASE"),
            (r"(?m)\d s( *LEASE)?$", "0 s$1"),
            // On a slow machine.
            (r"(?m)^styxy: waiting for .*\n", ""),
            (r"has \d+-\d+", "has 10000-10009"),
            (r"PID \d+", "PID 4711"),
            (r"process \d+", "process 4711"),
            (r"\[\d+\]", "[4711]"),
            (r"test-verbs|verbs-[0-9a-f]+", "verbs"),
        ] {
            settings.add_filter(what, instead);
        }
        settings.bind(|| insta::assert_snapshot!(name, self.1));
    }
}

/// On a slow machine leases are ten seconds old, or more, and the column of their ages is wider.
fn young(said: String) -> String {
    let age = |line: &str| {
        let (rest, _) = line.rsplit_once("  ")?;
        (rest.ends_with("AGE") || rest.ends_with(" s")).then(|| rest.len() - 3)
    };
    let is_old =
        |line: &str| age(line).is_some_and(|age| line.as_bytes()[age - 1].is_ascii_digit());
    if !said.lines().any(is_old) {
        return said;
    }
    let narrower = said.lines().map(|line| match age(line) {
        Some(age) => format!("{}{}\n", &line[..age - 1], &line[age..]),
        None => format!("{line}\n"),
    });
    narrower.collect()
}

fn transcript() -> Transcript {
    Transcript(home(), String::new())
}

#[test]
fn leases_are_told_in_tables_and_sentences() {
    let mut told = transcript();
    let _listener = TcpListener::bind(("127.0.0.1", told.0.port(3))).unwrap();
    told.say("list")
        .say("allocate mine --name web")
        .say("allocate mine --port PORT4 --project /srv/shop --ttl 600")
        .say("allocate mine --instance agent-7 --protocol udp --hold none --project /srv/shop")
        .say("allocate once --ttl 60")
        .say("allocate once")
        .say("list")
        .say("list --project /srv/nothing")
        .say("suggest mine --count 2")
        .say("suggest once")
        .say("check PORT0")
        .say("check PORT5")
        .say("run mine --port PORT3 -- true")
        .say("run mine --port PORT0 --name lamp -- true")
        .say("run once -- true")
        .settle()
        .say("cleanup")
        .say("cleanup --older-than 0")
        .say("release --type mine")
        .say("release PORT0")
        .say("release --project /srv/shop --yes")
        .say("forget --project /srv/shop")
        .is("leases");
}

#[test]
fn refusals_say_what_and_why_and_what_to_do() {
    let mut told = transcript();
    let _listener = TcpListener::bind(("127.0.0.1", told.0.port(3))).unwrap();
    told.say("allocate mien")
        .say("allocate a,type")
        .say("allocate mine --name a,name")
        .say("allocate mine --port 0")
        .say("allocate mine --strict")
        .say("allocate mine --owner somebody")
        .say("allocate mine --owner pid:4194304")
        .say("allocate mine --owner unit:web.service")
        .say("allocate mine --template stagign")
        .say("allocate mine --hold forever")
        .say("allocate once --count 2")
        .say("allocate mine --new --count 8")
        .say("allocate mine --new --count 3 --quiet")
        .say("allocate mine --port PORT0 --strict")
        .say("allocate mine --new --count 3")
        .say("release")
        .say("release no:thing")
        .say("release nothing")
        .say("release PORT6")
        .say("release --instance nobody")
        .say("renew 00000000-0000-4000-8000-000000000000")
        .say("check 65536")
        .say("scan 9-1")
        .say("scan 9870 9880")
        .say("suggest mien")
        .say("suggest")
        .say("run mine")
        .say("run mine --env 1A -- true")
        .say("run mine -- /no/such/program")
        .say("allocate mine --ttl soon")
        .say("exec mine --protocol both -- true")
        .say("audit --since soon")
        .say("config restore 99")
        .say("config undo-auto-allocation mine")
        .say("lsit")
        .say("list --typ mine")
        .say("list --typ mine --json")
        .say("allocate mine --hold socket --json")
        .say("release --json")
        .is("refusals");
}

#[test]
fn the_configuration_is_told_with_its_mistakes() {
    let mut told = transcript();
    told.say("config validate").say("config backups").say("config auto-allocation");
    let file = told.0.config().join("config.d/50-wrong.json");
    fs::write(&file, r#"{"service_types": {"mine": {"prot_range": [1, 2], "hold": "forever"}}}"#)
        .unwrap();
    told.say("config validate").say("config reload").say("status").say("doctor");
    // What it says of this machine depends on the machine.
    let of_machine = ["ephemeral", "guards", "ports ", "journal", "units", "free in", "remembered"];
    let lines = told.1.lines().filter(|line| !of_machine.iter().any(|word| line.contains(word)));
    told.1 = lines.map(|line| line.to_owned() + "\n").collect();
    told.is("configuration");
}

#[test]
fn where_no_service_can_be_it_is_said_why() {
    let home = Home::new();
    home.close_doors();
    let mut told = Transcript(home, String::new());
    told.say("status").say("allocate dev").say("list --json").is("nowhere");
}
