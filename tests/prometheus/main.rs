//! What `GET /metrics` says is what Prometheus and Grafana are told to expect: the alert rules, the dashboard and the page about
//! them.
//!
//! Prometheus' own promtool is the judge, as `fetch` finds it. Where it can't be had, its tests are ignored.

#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use clap::CommandFactory;
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use styxy::cli::Cli;
use support::{Home, end};

const RULES: &str = "packaging/prometheus/styxy.rules.yml";
const RULES_TEST: &str = "tests/prometheus/rules.yml";
const DASHBOARD: &str = "packaging/grafana/styxy.json";
const PAGE: &str = "docs/monitoring.md";

/// The labels that Prometheus adds, and the one of histograms.
const LABELS: [&str; 3] = ["instance", "job", "le"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let is_there = arguments.list || fetch();
    if !is_there {
        eprintln!("SKIPPED: promtool can't be had (Debian: promtool, before 13 prometheus)");
    }
    let judged: [(&str, fn()); 4] = [
        ("promtool_finds_nothing_wrong_with_the_metrics", metrics),
        ("each_alert_fires_when_it_should_and_only_then", rules),
        ("promtool_can_read_every_query_of_the_dashboard", queries),
        ("the_example_of_the_page_is_a_configuration", configuration),
    ];
    let others: [(&str, fn()); 4] = [
        ("every_metric_that_an_alert_or_a_panel_names_is_there_with_its_labels", named),
        ("every_alert_says_what_it_is_and_what_to_do_and_is_tested", alerts),
        ("the_dashboard_can_be_imported", dashboard),
        ("the_page_has_every_metric_and_no_other", page),
    ];
    let trials = [(judged, !is_there), (others, false)].into_iter().flat_map(|(tests, ignored)| {
        tests.map(|(name, test)| {
            let trial = Trial::test(name, move || {
                test();
                Ok(())
            });
            trial.with_ignored_flag(ignored)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

// ---- promtool ------------------------------------------------------------------------------------

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("promtool")
}

fn fetch() -> bool {
    let fetched = Command::new(file("tests/prometheus/fetch")).arg(folder()).status();
    fetched.is_ok_and(|status| status.success())
}

/// Has it check something, about which it must say nothing bad.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new(folder().join("promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    // It may end before it has read all.
    let _ = running.stdin.take().unwrap().write_all(input.as_bytes());
    let output = running.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(output.status.success(), "{arguments:?}: {}\n{}", said[0], said[1]);
}

fn metrics() {
    promtool(&["check", "metrics"], &exposition());
}

fn rules() {
    let rules = file(RULES);
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules.to_str().unwrap()], "");
    promtool(&["test", "rules", file(RULES_TEST).to_str().unwrap()], "");
}

fn queries() {
    // What Grafana fills in.
    let filled = |query: String| {
        query
            .replace("$__rate_interval", "5m")
            .replace("$__range", "6h")
            .replace("$instance", ".+")
            .replace('$', "a variable that is not known here: $")
    };
    let rules = queries_of_dashboard().into_iter().enumerate();
    let rules: Vec<_> = rules
        .map(|(at, query)| json!({"record": format!("query:{at}"), "expr": filled(query)}))
        .collect();
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.json");
    fs::write(&file, rules.to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

fn configuration() {
    let page = text(PAGE);
    let (_, example) = page.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    // It wants to see the files that are named there.
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().to_str().unwrap();
    assert_eq!(example.matches(" /etc/prometheus/").count(), 2, "{example}");
    let example = example.replace("/etc/prometheus", etc);
    fs::write(folder.path().join("styxy.token"), "secret").unwrap();
    fs::create_dir(folder.path().join("rules")).unwrap();
    fs::copy(file(RULES), folder.path().join("rules/styxy.rules.yml")).unwrap();
    let config = folder.path().join("prometheus.yml");
    fs::write(&config, example).unwrap();
    promtool(&["check", "config", config.to_str().unwrap()], "");
}

// ---- names ---------------------------------------------------------------------------------------

/// What a service says that has granted, refused and released.
fn exposition() -> String {
    let home = Home::with_type();
    let service = home.service();
    let ask = |body: Json| home.http("POST", "/allocate", &body.to_string());
    assert_eq!(ask(json!({"service_type": "mine"})).status, 200);
    let wanted = json!({"service_type": "mine", "port": home.port(0), "strict": true});
    assert_eq!(ask(wanted).status, 409);
    let lease = ask(json!({"service_type": "mine"})).body;
    let id = lease["lease_id"].as_str().unwrap();
    assert_eq!(home.http("DELETE", &format!("/allocate/{id}"), "").status, 200);
    let (_, text) = home.scrape("text/plain");
    end(service, Signal::SIGTERM);
    text
}

/// The type of a metric, and its labels.
type Shape = (String, BTreeSet<String>);

/// The metrics, by their names.
fn shapes(exposition: &str) -> BTreeMap<String, Shape> {
    let mut shapes = BTreeMap::<String, Shape>::new();
    for line in exposition.lines() {
        if let Some(metric) = line.strip_prefix("# TYPE ") {
            let (name, kind) = metric.split_once(' ').unwrap();
            shapes.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, _)) = line.split_once(' ').filter(|_| !line.starts_with('#')) {
            let name = series.split('{').next().unwrap();
            let part = ["_bucket", "_sum", "_count"].iter().find_map(|p| name.strip_suffix(p));
            let metric = if shapes.contains_key(name) { name } else { part.unwrap() };
            shapes.get_mut(metric).unwrap().1.extend(matched(series));
        }
    }
    shapes
}

/// The labels between braces.
fn matched(query: &str) -> impl Iterator<Item = String> {
    let lists = query.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let labels = lists.flat_map(|list| list.split(','));
    labels.map(|label| label.split(['=', '!']).next().unwrap().trim().to_owned())
}

/// The words of a query that name metrics of styxy.
fn metrics_of(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("styxy_"))
}

fn named() {
    let shapes = shapes(&exposition());
    let rules = text(RULES);
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let queries: Vec<_> = alerts.map(str::to_owned).chain(queries_of_dashboard()).collect();
    assert!(queries.len() > 30, "{queries:#?}");
    for query in queries {
        let mut labels = BTreeSet::from(LABELS.map(str::to_owned));
        for name in metrics_of(&query) {
            let of_histogram = || {
                let name = ["_bucket", "_sum", "_count"].iter().find_map(|p| name.strip_suffix(p));
                shapes.get(name?).filter(|(kind, _)| kind == "histogram")
            };
            let shape = shapes.get(name).filter(|(kind, _)| kind != "histogram");
            let shape = shape.or_else(of_histogram);
            let (_, known) = shape.unwrap_or_else(|| panic!("{name} is not there: {query}"));
            labels.extend(known.iter().cloned());
        }
        let grouped = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        let grouped = grouped.flat_map(|list| list.split(", ")).map(str::to_owned);
        let unknown: Vec<_> =
            matched(&query).chain(grouped).filter(|label| !labels.contains(label)).collect();
        assert!(unknown.is_empty(), "{unknown:?} is not there: {query}");
    }
}

fn alerts() {
    let (rules, tested) = (text(RULES), text(RULES_TEST));
    let mut names = BTreeSet::new();
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        names.insert(name);
        for key in ["severity: ", "summary: ", "description: >-\n"] {
            assert!(alert.contains(key), "{name}: {key}");
        }
        assert!(alert.contains('`'), "{name}: no command helps to find out more");
    }
    let fires = tested.split("alertname=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert_eq!(fires.collect::<BTreeSet<_>>(), names);
    commands(&rules).iter().for_each(|command| is_possible(command));
}

/// What a text says to type.
fn commands(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let commands = quoted.map(|command| command.split_whitespace().collect::<Vec<_>>().join(" "));
    commands.filter(|command| command.starts_with("styxy ")).collect()
}

#[track_caller]
fn is_possible(command: &str) {
    let words: Vec<_> = command.split(' ').collect();
    // `styxy run` stands for any command.
    if words != ["styxy", "run"] {
        let parsed = Cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}

// ---- dashboard -----------------------------------------------------------------------------------

fn read_dashboard() -> Json {
    serde_json::from_str(&text(DASHBOARD)).unwrap()
}

fn list<'a>(of: &'a Json, key: &str) -> &'a Vec<Json> {
    of[key].as_array().unwrap_or_else(|| panic!("{key} is no list in {of}"))
}

/// The queries of its variables and of its panels.
fn queries_of_dashboard() -> Vec<String> {
    let dashboard = read_dashboard();
    let panels = list(&dashboard, "panels").iter();
    let charts = panels.filter(|panel| panel["type"] != "row");
    let queries = charts.flat_map(|panel| list(panel, "targets"));
    queries.map(|query| query["expr"].as_str().unwrap().to_owned()).collect()
}

fn dashboard() {
    let dashboard = read_dashboard();
    // The form that Grafana 11 writes; newer ones read it. An id would replace another dashboard.
    assert_eq!(dashboard["schemaVersion"], 39);
    assert_eq!((&dashboard["id"], &dashboard["title"]), (&Json::Null, &json!("styxy")));
    let [source, instance] = list(&dashboard["templating"], "list").as_slice() else {
        panic!("not two variables: {}", dashboard["templating"])
    };
    assert_eq!((&source["name"], &source["type"]), (&json!("datasource"), &json!("datasource")));
    assert_eq!((&source["query"], &instance["name"]), (&json!("prometheus"), &json!("instance")));
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    assert_eq!(instance["datasource"], chosen);
    let asked = instance["definition"].as_str().unwrap();
    let names: Vec<_> = metrics_of(asked).collect();
    assert_eq!(names, ["styxy_build_info"]);
    assert_eq!(instance["query"]["query"], asked);

    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels") {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty());
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        let mut cells = (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row)));
        assert!(cells.all(|cell| places.insert(cell)), "{title} is on another panel");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], chosen, "{title}");
        let mut letters = BTreeSet::new();
        for target in list(panel, "targets") {
            assert_eq!(target["datasource"], chosen, "{title}");
            assert!(letters.insert(target["refId"].as_str().unwrap()), "{title}");
            let [query, legend] = ["expr", "legendFormat"].map(|key| target[key].as_str().unwrap());
            assert!(query.contains("instance=~\"$instance\""), "{title}: {query}");
            for label in legend.split("{{").skip(1).map(|rest| rest.split('}').next().unwrap()) {
                let is_shown = query.contains(&format!("by ({label})")) || label == "instance";
                assert!(is_shown, "{title}: {label}");
            }
        }
        commands(panel["description"].as_str().unwrap()).iter().for_each(|c| is_possible(c));
    }
}

// ---- the page ------------------------------------------------------------------------------------

fn page() {
    let page = text(PAGE);
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `styxy_"));
    let told: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.replace('`', "")).collect();
            let [name, kind, labels, meaning] = [0, 1, 2, 3].map(|at| cells[at].trim().to_owned());
            assert!(!meaning.is_empty(), "{row}");
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
            (format!("styxy_{name}"), (kind, labels.collect()))
        })
        .collect();
    let mut shapes = shapes(&exposition());
    // Prometheus makes several series of a histogram by it.
    shapes.values_mut().for_each(|(_, labels)| labels.retain(|label| label != "le"));
    assert_eq!(told, shapes);
    let typed = page.lines().filter_map(|line| line.strip_prefix("$ styxy "));
    typed.for_each(|command| is_possible(&format!("styxy {command}")));
    for (file, installed) in [(RULES, "prometheus/"), (DASHBOARD, "grafana/")] {
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("/usr/share/doc/styxy/{installed}{name}")), "{file}");
    }
}
