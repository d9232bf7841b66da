//! The man pages: that they can be read, and that they say all that there is and nothing that is not.
//!
//! Where groff or mandoc is not installed, how they look is ignored.

#[path = "verbs/cases.rs"]
#[allow(dead_code, reason = "how a case ends is for another test")]
mod cases;
#[path = "../packaging/man.rs"]
mod generated;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use cases::CASES;
use clap::CommandFactory;
use libtest_mimic::{Arguments, Trial};
use serde_json::Value as Json;
use styxy::{
    audit::event::ACTIONS,
    cli::Cli,
    config::{BUILT_IN, SCHEMA},
    daemon::{EXIT_AGAIN, EXIT_TAKEN},
    error::ErrorKind,
    project::declared,
};

const BUS: &str = "org.styxy.Styxy1.5";
const HTTP: &str = "styxy-http.7";
const CONFIGURATION: &str = "styxy_config.5";
const PROJECT: &str = "styxy.json.5";
const UNITS: &str = "styxy.service.8";
const PORTSERVER: &str = "styxy-portserver.socket.8";
const TCP: &str = "styxy-tcp.socket.8";
const TROUBLE: &str = "styxy-troubleshooting.7";
const REMAP: &str = "styxy-remap.7";

fn main() -> ExitCode {
    let [has_groff, has_mandoc] = ["groff", "mandoc"].map(|name| {
        let mut program = Command::new(name);
        program.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        program.status().is_ok()
    });
    let mut trials = Vec::new();
    for (name, text) in pages() {
        let (renders, lints) = (text.clone(), text);
        let title = format!("{name}_renders_without_a_warning_in_80_columns");
        let trial = Trial::test(title, move || {
            self::renders(&renders);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!has_groff));
        let trial = Trial::test(format!("mandoc_finds_nothing_wrong_in_{name}"), move || {
            assert_eq!(linted(&lints), "");
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!has_mandoc));
    }
    let broken = Trial::test("mandoc_finds_what_is_wrong_in_a_page", || {
        let page = by_hand(TCP).replace(generated::DATE, "\"\"");
        assert!(linted(&page).contains("missing date"));
        Ok(())
    });
    trials.push(broken.with_ignored_flag(!has_mandoc));
    let recipes = Trial::test("every_line_of_the_recipes_can_be_copied_from_their_page", || {
        recipes();
        Ok(())
    });
    trials.push(recipes.with_ignored_flag(!has_groff));
    let tests: [(&str, fn()); 14] = [
        ("every_page_has_its_sections_in_the_order_of_man_pages_7", sections),
        ("every_page_of_a_verb_says_in_a_phrase_what_it_does", names),
        ("every_field_of_an_answer_in_json_is_explained", answers),
        ("every_verb_has_a_page_with_each_of_its_options", verbs),
        ("every_page_that_another_names_is_there", references),
        ("every_exit_status_of_the_command_and_the_service_is_listed_and_no_other", statuses),
        ("every_key_of_the_schema_is_explained_and_nothing_else", configuration),
        ("every_key_of_a_project_is_explained_and_nothing_else", project),
        ("every_limit_and_default_of_a_key_is_told", limits),
        ("every_member_of_the_bus_interface_is_explained_and_nothing_else", bus),
        ("every_request_is_explained_with_its_keys_and_nothing_else", requests),
        ("every_code_of_a_refusal_is_listed_with_its_status_and_no_other", refusals),
        ("every_event_of_a_stream_is_explained_with_its_limits_and_nothing_else", events),
        ("every_action_field_and_message_of_the_journal_is_explained_and_nothing_else", journal),
    ];
    trials.extend(tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The pages: those that are generated, and those that are written by hand.
fn pages() -> Vec<(String, String)> {
    let mut pages = generated::pages();
    let others = [BUS, HTTP, CONFIGURATION, PROJECT, UNITS, PORTSERVER, TCP, TROUBLE, REMAP];
    pages.extend(others.map(|name| (name.to_owned(), by_hand(name))));
    pages
}

fn by_hand(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man").join(name))
        .unwrap()
}

/// The page as people search it.
fn plain(page: &str) -> String {
    let page = page.replace("\\-", "-").replace("\\fB", "").replace("\\fI", "");
    page.replace("\\fR", "").replace("\\fP", "").replace("\\(aq", "'")
}

/// What stands between a heading and the next of its kind.
#[track_caller]
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(heading).unwrap_or_else(|| panic!("{heading} is missing"));
    let rest = &page[start + heading.len()..];
    let end = rest.find(&heading[..4]).into_iter().chain(rest.find("\n.SH")).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// The entries of a list: the words of each in front, and what is said of them.
fn entries(section: &str) -> Vec<(Vec<String>, String)> {
    let entries = section.split("\n.TP\n").skip(1);
    entries
        .map(|entry| {
            let (tag, text) = entry.split_once('\n').unwrap();
            let tag = tag.trim_start_matches(".BR ").trim_start_matches(".B ");
            let words = tag.split([' ', ',', '"']).filter(|word| !word.is_empty());
            (words.map(|word| word.replace("\\-", "-")).collect(), text.to_owned())
        })
        .collect()
}

fn words(section: &str) -> BTreeSet<String> {
    entries(section).into_iter().flat_map(|(words, _)| words).collect()
}

/// The page as a terminal of 80 columns shows it.
fn rendered(page: &str) -> String {
    let mut groff = Command::new("groff")
        .args(["-man", "-ww", "-Tutf8", "-Kutf8", "-rLL=78n", "-P-c", "-P-b", "-P-u"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = groff.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

fn renders(page: &str) {
    let text = rendered(page);
    assert!(text.contains("SEE ALSO"), "{text}");
    assert!(!text.contains("\u{2010}\n"), "a word is hyphenated: {text}");
    let title = format!(" {} \"styxy {}\" styxy\n", generated::DATE, env!("CARGO_PKG_VERSION"));
    assert!(page.lines().any(|line| line.starts_with(".TH ")) && page.contains(&title), "{title}");
    let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// What mandoc warns of.
fn linted(page: &str) -> String {
    let mut mandoc = Command::new("mandoc")
        .args(["-Tlint", "-W", "warning"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    mandoc.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    String::from_utf8(mandoc.wait_with_output().unwrap().stdout).unwrap()
}

fn sections() {
    for (name, page) in pages() {
        let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        let headings: Vec<_> = headings.map(|heading| heading.trim_matches('"')).collect();
        assert!(
            headings.is_sorted_by_key(|heading| generated::rank(heading)),
            "{name} {headings:?}"
        );
        let different: BTreeSet<_> = headings.iter().collect();
        assert_eq!(different.len(), headings.len(), "{name} {headings:?}");
        for needed in ["NAME", "DESCRIPTION", "SEE ALSO"] {
            assert!(headings.contains(&needed), "{name} has no {needed}");
        }
        let is_of_a_command = name.ends_with(".1");
        assert!(!is_of_a_command || headings.contains(&"EXIT STATUS"), "{name}");
    }
}

fn names() {
    for (file, page) in pages() {
        let name = section(&page, ".SH NAME\n").lines().next().unwrap_or_default();
        let name = plain(name);
        let (title, phrase) = name.split_once(" - ").unwrap_or_else(|| panic!("{file}: {name:?}"));
        assert!(file.starts_with(title.split(',').next().unwrap()), "{file}: {title}");
        assert!(phrase.starts_with(|c: char| c.is_lowercase()), "{file}: {phrase:?}");
        assert!(!phrase.ends_with('.') && phrase.len() < 110, "{file}: {phrase:?}");
    }
}

/// The words of what a page says of a verb's answer, and of what it refers to there.
fn explained(verb: &str, pages: &BTreeMap<String, String>, words: &mut BTreeSet<String>) {
    let page = &pages[&format!("styxy-{verb}.1")];
    let output = plain(section(page, ".SH OUTPUT"));
    let mut add = |text: &str| {
        let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.extend(parts.map(str::to_owned));
    };
    add(&output);
    if output.contains("LEASES") {
        add(section(&pages[BUS], ".SH LEASES"));
    }
    if output.contains("styxy_config (5)") {
        add(&pages[CONFIGURATION]);
    }
    for line in output.lines().filter_map(|line| line.strip_prefix(".BR styxy-")) {
        if let Some((other, _)) = line.split_once(" (1)") {
            explained(other, pages, words);
        }
    }
}

/// The names of the fields in a schema, however deep.
fn fields(schema: &Json, found: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        found.extend(properties.keys().cloned());
    }
    match schema {
        Json::Object(parts) => parts.values().for_each(|part| fields(part, found)),
        Json::Array(parts) => parts.iter().for_each(|part| fields(part, found)),
        _ => {}
    }
}

fn answers() {
    let pages: BTreeMap<_, _> = pages().into_iter().collect();
    let mut seen = BTreeSet::new();
    for case in CASES.iter().filter(|case| !case.schema.is_empty()) {
        let verb = case.line.split(' ').next().unwrap();
        let file = format!("tests/data/answers/{}.json", case.schema);
        let schema: Json = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let (mut known, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        explained(verb, &pages, &mut known);
        fields(&schema, &mut wanted);
        let missing: Vec<_> = wanted.difference(&known).collect();
        assert!(missing.is_empty(), "styxy-{verb}(1) does not explain {missing:?}");
        seen.insert(verb);
    }
    assert!(seen.len() > 20, "{seen:?}");
    let command = Cli::command();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let has_json =
            |verb: &clap::Command| verb.get_arguments().any(|one| one.get_id() == "json");
        if has_json(verb) || verb.get_subcommands().any(has_json) {
            let page = &pages[&format!("styxy-{}.1", verb.get_name())];
            assert!(page.contains("\n.SH OUTPUT\n"), "styxy-{}(1)", verb.get_name());
        }
    }
}

fn recipes() {
    let (_, page) = generated::pages().into_iter().find(|(name, _)| name.ends_with(".7")).unwrap();
    let page = rendered(&page);
    let shown: BTreeSet<_> = page.lines().map(str::trim).collect();
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md")).unwrap();
    let code = text.split("\n```").skip(1).step_by(2).flat_map(|block| block.lines().skip(1));
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let mut lines = 0;
    for line in code.chain(headings) {
        assert!(shown.contains(line.trim()), "{line:?} is not in {page}");
        lines += 1;
    }
    assert!(lines > 100, "only {lines} lines are seen");
}

fn verbs() {
    let pages = generated::pages();
    let page = |name: &str| {
        let file = format!("{name}.1");
        let page = pages.iter().find(|(name, _)| *name == file);
        plain(&page.unwrap_or_else(|| panic!("{file} is missing")).1)
    };
    let command = Cli::command();
    let top = page("styxy");
    let verbs: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    for &verb in &verbs {
        let name = format!("styxy-{}", verb.get_name());
        assert!(top.contains(&format!("\n.BR {name} (1)\n")), "{name} is not in styxy(1)");
        let page = page(&name);
        for part in verb.get_subcommands() {
            let heading = format!(".SS \"styxy {} {}", verb.get_name(), part.get_name());
            assert!(page.contains(&heading), "{heading}");
        }
        for command in verb.get_subcommands().chain([verb]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let option = argument.get_long().map(|long| format!("--{long}"));
                let names =
                    argument.get_value_names().filter(|_| argument.get_action().takes_values());
                let value = names.map(|names| names[0].to_string());
                for word in option.into_iter().chain(value) {
                    assert!(page.contains(&word), "{word} is not in {name}(1)");
                }
            }
        }
    }
    let of_verbs = pages.iter().filter(|(name, _)| name.ends_with(".1"));
    assert_eq!(of_verbs.count(), verbs.len() + 1);
}

fn statuses() {
    let generated = generated::pages().into_iter().collect::<std::collections::HashMap<_, _>>();
    let listed = |page: &str| -> BTreeSet<u8> {
        let words = words(section(page, ".SH EXIT STATUS")).into_iter();
        words.map(|word| word.parse().unwrap()).collect()
    };
    let refusals = ErrorKind::ALL.map(|kind| kind.names().exit);
    // A service that does not answer is no refusal.
    assert_eq!(listed(&generated["styxy.1"]), refusals.into_iter().chain([0, 3]).collect());
    assert_eq!(listed(&generated["styxy-daemon.1"]), [0, 1, 2, EXIT_TAKEN, EXIT_AGAIN].into());
    assert_eq!(listed(&by_hand(UNITS)), [0, 1, EXIT_TAKEN, EXIT_AGAIN].into());
    for verb in ["run", "exec"] {
        let page = &generated[&format!("styxy-{verb}.1")];
        let statuses = section(page, ".SH EXIT STATUS");
        assert!(statuses.contains("\n127 ") && statuses.contains(" 126 "), "{statuses}");
    }
    // The unit names the first by its word.
    let unit = fs::read_to_string("systemd/styxy.service").unwrap();
    assert_eq!(EXIT_TAKEN, 69, "UNAVAILABLE");
    assert!(unit.contains("\nRestartPreventExitStatus=UNAVAILABLE\n"));
    assert!(unit.contains(&format!("\nRestartForceExitStatus={EXIT_AGAIN} SIGKILL\n")));
}

fn references() {
    let pages = pages();
    let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
    let mut found = 0;
    for (page, text) in &pages {
        for line in plain(text).lines().filter_map(|line| line.strip_prefix(".BR ")) {
            let Some((name, section)) = line.split_once(" (") else { continue };
            if name.contains("styxy") && section.starts_with(|c: char| c.is_ascii_digit()) {
                let file = format!("{name}.{}", &section[..1]);
                assert!(names.contains(&file.as_str()), "{page} names {file}");
                found += 1;
            }
        }
    }
    assert!(found > 50, "only {found} references are seen");
}

/// The parts of the page on the configuration, and the definitions of the schema that they explain.
const PARTS: [(&str, &[&str]); 5] = [
    (".SH FIELDS", &[""]),
    (".SS limits", &["LimitsLayer"]),
    (".SS auto_allocation", &["AutoLayer", "RuleLayer"]),
    (".SS service_types", &["TypeLayer"]),
    (".SS programs", &["Program"]),
];

fn properties<'a>(schema: &'a Json, definition: &str) -> &'a serde_json::Map<String, Json> {
    let object = if definition.is_empty() { schema } else { &schema["$defs"][definition] };
    object["properties"].as_object().unwrap()
}

/// The fields are a part of their own: they end where the first object begins.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let part = section(page, heading);
    part.split("\n.SS").next().unwrap()
}

fn configuration() {
    let (page, schema) = (by_hand(CONFIGURATION), serde_json::from_str::<Json>(SCHEMA).unwrap());
    for (heading, definitions) in PARTS {
        let keys = definitions.iter().flat_map(|name| properties(&schema, name).keys().cloned());
        assert_eq!(words(part(&page, heading)), keys.collect(), "{heading}");
    }
    let (_, created) = entries(part(&page, ".SS service_types"))
        .into_iter()
        .find(|(words, _)| words[0] == "created")
        .unwrap();
    for key in properties(&schema, "Created").keys() {
        assert!(created.contains(&format!(".BR {key} ,")), "{key} is not in {created}");
    }
    // Every definition is one of these, or a kind of value.
    let explained = PARTS.iter().flat_map(|(_, definitions)| *definitions).copied();
    let explained: Vec<_> = explained.chain(["Created"]).collect();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let is_object = definition["properties"].is_object();
        assert_eq!(is_object, explained.contains(&name.as_str()), "{name}");
    }
}

fn project() {
    let schema: Json = serde_json::from_str(declared::SCHEMA).unwrap();
    let page = by_hand(PROJECT);
    let keys = |object: &Json| object["properties"].as_object().unwrap().keys().cloned().collect();
    let top = page.split(".SS ").next().unwrap();
    assert_eq!(words(section(top, ".SH FIELDS")), keys(&schema));
    assert_eq!(words(section(&page, ".SS services")), keys(&schema["$defs"]["Declaration"]));
    assert_eq!(words(section(&page, ".SS remap")), keys(&schema["$defs"]["Remap"]));
}

fn limits() {
    let (page, schema) = (by_hand(CONFIGURATION), serde_json::from_str::<Json>(SCHEMA).unwrap());
    let built_in: Json = serde_json::from_str(BUILT_IN).unwrap();
    let defaults = [&built_in, &built_in["limits"], &built_in["auto_allocation"]];
    let mut told = BTreeSet::new();
    for (index, (heading, definitions)) in PARTS.iter().enumerate() {
        for (keys, text) in entries(part(&page, heading)) {
            let text = plain(&text);
            // What a rule has instead comes later.
            for key in keys {
                let is_new = !told.contains(&(index, key.clone()));
                let property = &properties(&schema, definitions[0]).get(&key);
                let maximum = property.map(|property| &property["maximum"]);
                let default = defaults.get(index).map(|defaults| &defaults[&key]);
                for value in maximum.into_iter().chain(default) {
                    let value = match value {
                        Json::Number(_) | Json::Bool(_) => value.to_string(),
                        Json::String(word) if key != "$schema" => word.clone(),
                        _ => continue,
                    };
                    assert!(!is_new || text.contains(&value), "{key}: {value} is not in {text}");
                    told.insert((index, key.clone()));
                }
            }
        }
    }
    assert_eq!(told.len(), 19, "{told:?}");
    let types = plain(section(&page, ".SH BUILT\\-IN TYPES"));
    let built_in = built_in["service_types"].as_object().unwrap();
    for (name, built_in) in built_in {
        let [first, last] = [0, 1].map(|at| &built_in["port_range"][at]);
        let line = types.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or("");
        assert!(line.contains(&format!(" {first}-{last}")), "{name}: {line:?}");
    }
    assert_eq!(types.lines().filter(|line| line.contains('-')).count(), built_in.len());
}

fn bus() {
    let page = plain(&by_hand(BUS));
    let xml = fs::read_to_string("systemd/org.styxy.Styxy1.xml").unwrap();
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split('"').next().unwrap().to_owned())
    };
    let mut headings = BTreeSet::new();
    for kind in ["method", "signal"] {
        for member in xml.split(&format!("<{kind} ")).skip(1) {
            let member = member.split(&format!("</{kind}>")).next().unwrap();
            let name = attribute(&format!(" {member}"), "name").unwrap();
            let list = |is_out: bool| {
                let arguments = member.lines().filter(|line| line.contains("<arg "));
                let those = arguments.filter(|line| line.contains("direction=\"out\"") == is_out);
                let words = those.map(|line| {
                    format!(
                        "{} {}",
                        attribute(line, "type").unwrap(),
                        attribute(line, "name").unwrap()
                    )
                });
                words.collect::<Vec<_>>().join(", ")
            };
            let answer = list(true);
            let answer = match answer.as_str() {
                "" => String::new(),
                answer => format!(".TQ\n\\(-> {answer}\n"),
            };
            let heading = format!("{name}({})", list(false));
            assert!(page.contains(&format!("\n{heading}\n{answer}")), "{heading} {answer}");
            headings.insert(heading);
        }
    }
    let lists = [section(&page, ".SH METHODS"), section(&page, ".SH SIGNALS")].concat();
    let in_page = lists.lines().filter(|line| line.ends_with(')') && !line.starts_with('.'));
    assert_eq!(in_page.map(str::to_owned).collect::<BTreeSet<_>>(), headings);
    assert!(headings.len() > 25, "{headings:?}");

    let properties = xml.lines().filter(|line| line.contains("<property "));
    let properties = properties
        .flat_map(|line| [attribute(line, "name").unwrap(), attribute(line, "type").unwrap()]);
    assert_eq!(words(section(&page, ".SH PROPERTIES")), properties.collect());
    let errors = ErrorKind::ALL.map(|kind| kind.names().code.to_owned());
    assert_eq!(words(section(&page, ".SH ERRORS")), errors.into());
}

fn requests() {
    let page = by_hand(HTTP);
    let entries = entries(section(&page, ".SH OPERATIONS"));
    let document: Json =
        serde_json::from_str(&fs::read_to_string("config/openapi.json").unwrap()).unwrap();
    let mut known = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = vec![method.to_uppercase(), path.clone()];
            let (_, text) = entries
                .iter()
                .find(|(words, _)| *words == name)
                .unwrap_or_else(|| panic!("{name:?} is not explained"));
            let parameters = operation["parameters"].as_array().unwrap().iter();
            let parameters = parameters.filter(|parameter| parameter["in"] == "query");
            let mut keys: Vec<_> =
                parameters.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            if let Some(body) = body.as_str() {
                let body = document.pointer(&format!("{}/properties", &body[1..])).unwrap();
                keys.extend(body.as_object().unwrap().keys().map(String::as_str));
            }
            let is_part = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let text: BTreeSet<_> = text.split(is_part).collect();
            for key in keys {
                assert!(text.contains(key), "{key} is not in {name:?}");
            }
            known.insert(name);
        }
    }
    let explained: BTreeSet<_> = entries.into_iter().map(|(words, _)| words).collect();
    assert_eq!(explained, known);
    assert!(known.len() > 40, "{known:?}");
}

/// The texts in a part of a source file.
fn texts(file: &str, after: &str, before: &str) -> BTreeSet<String> {
    let source = fs::read_to_string(file).unwrap();
    let part = source.split_once(after).unwrap().1.split_once(before).unwrap().0;
    part.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn refusals() {
    let entries = entries(section(&by_hand(HTTP), ".SH ERRORS"));
    let listed: BTreeSet<_> = entries.into_iter().map(|(words, _)| words).collect();
    let names = ErrorKind::ALL.map(ErrorKind::names);
    let of_kinds = names.map(|names| vec![names.code.to_owned(), names.status.to_string()]);
    let of_kinds = BTreeSet::from(of_kinds);
    let others: BTreeSet<_> = listed.difference(&of_kinds).map(|words| words[0].clone()).collect();
    let mut known = texts("src/http/access.rs", "fn code(", "fn status(");
    for code in ["NotFound", "MethodNotAllowed", "JournalUnavailable"] {
        let routes = fs::read_to_string("src/http/routes.rs").unwrap();
        assert!(routes.contains(&format!("{code:?}")), "{code}");
        known.insert(code.to_owned());
    }
    assert_eq!(others, known);
    assert!(of_kinds.is_subset(&listed), "{listed:?}");
}

fn events() {
    let page = by_hand(HTTP);
    let mut known = texts("src/change/announced.rs", "fn event(", "fn fields(");
    known.extend(["ready", "reset"].map(str::to_owned));
    assert_eq!(words(section(&page, ".SH EVENTS")), known);
    for (file, name, heading) in [
        ("src/broker/following.rs", "MOST_FOLLOWERS: usize", ".SH EVENTS"),
        ("src/broker/following.rs", "MOST_PAGES: usize", ".SH EVENTS"),
        ("src/http/events.rs", "RETRY: u32", ".SH EVENTS"),
        ("src/http/routes.rs", "LARGEST_BODY: usize", ".SH LIMITS"),
        ("src/socket.rs", "MOST_CONNECTIONS: usize", ".SH LIMITS"),
        ("src/http/bounds.rs", "PATIENCE: Duration", ".SH LIMITS"),
        ("src/http/connection.rs", "SILENCE: Duration", ".SH LIMITS"),
    ] {
        let source = fs::read_to_string(file).unwrap();
        let value = source.split_once(&format!("const {name} = ")).unwrap().1;
        let value = value.split_once(';').unwrap().0;
        let value: String = value.chars().filter(char::is_ascii_digit).collect();
        let mut numbers = section(&page, heading).split(|c: char| !c.is_ascii_digit());
        assert!(numbers.any(|number| number == value), "{name}: {value}");
    }
}

fn journal() {
    let page = by_hand(UNITS);
    let section = section(&page, ".SH JOURNAL");
    let fields = include_str!("../src/audit/event.rs").split('"');
    let mut known: BTreeSet<_> =
        fields.filter(|word| word.starts_with("STYXY_")).map(str::to_owned).collect();
    known.extend(ACTIONS.map(str::to_owned));
    assert_eq!(words(section), known);
    let ids = |text: &str, mark: &str| -> BTreeSet<String> {
        let ids = text.lines().filter_map(|line| line.strip_prefix(mark));
        let is_id = |id: &&str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        ids.filter(is_id).map(str::to_owned).collect()
    };
    let catalog = fs::read_to_string("systemd/styxy.catalog").unwrap();
    assert_eq!(ids(section, ""), ids(&catalog, "-- "));
    let named: Vec<_> =
        catalog.lines().filter_map(|line| line.strip_prefix("Documentation: man:")).collect();
    assert_eq!(named.len(), ids(&catalog, "-- ").len(), "each entry names a page");
    let pages: BTreeSet<_> = pages().into_iter().map(|(name, _)| name).collect();
    for page in named {
        let file = page.trim_end_matches(')').replace('(', ".");
        assert!(pages.contains(&file), "{page}");
    }
}
