//! Folders made with bad intent, or without care.

use std::{fs, os::unix::fs::symlink, time::Duration};

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use super::{folder, needs, script, short, told};

#[test]
fn a_broken_file_is_skipped_and_the_rest_counts() {
    let good = ("compose.yaml", "services: {db: {image: mongo, ports: [27017:27017]}}");
    for (name, text) in [
        ("package.json", "{"),
        ("package.json", "[1, {\"scripts\": 3}]"),
        ("package.json", "{\"scripts\": [\"vite\"], \"workspaces\": 7, \"dependencies\": null}"),
        ("Cargo.toml", "[[["),
        ("pyproject.toml", "project = 'x'"),
        ("pnpm-workspace.yaml", "packages: *none"),
        ("vite.config", "export"),
        ("go.mod", "\u{0}\u{0}"),
        ("Procfile", ":::"),
        (".env", "=\nPORT\nPORT=no"),
    ] {
        assert_eq!(told(&[good, (name, text)]), ["database db 27017"], "{text}");
    }
    for text in
        ["services: [", "a: &a [*a]", "- x", "services: 3", "--- {}\n--- {}", "? {a: b}\n: c"]
    {
        assert_eq!(told(&[("compose.yaml", text)]), [""; 0], "{text}");
    }
    let text = "services:\n  3: {image: redis, ports: !reset ['6380:6379']}\n  bad: {ports: {a: b}}\n  no:";
    assert_eq!(told(&[("compose.yml", text)]), ["infrastructure 3 6380"]);
}

#[test]
fn names_become_fit_to_be_used_and_reasons_fit_to_be_shown() {
    let long = "n".repeat(300);
    let compose = format!(
        "services:\n  \"a b/\\e[31mc\": {{image: redis, ports: [1:1]}}\n  \"äö\": {{image: redis, ports: [2:2]}}\n  {long}: {{image: redis, ports: [3:3]}}\n"
    );
    let folder = folder(&[("compose.yaml", &compose)]);
    let needs = needs(folder.path()).needs;
    assert_eq!(short(&needs)[..2], ["infrastructure a-b-31mc 1", "infrastructure - 2"]);
    assert_eq!(needs[2].service_name, Some("n".repeat(90)));
    for need in &needs {
        assert!(!need.because.contains('\u{1b}'), "{}", need.because);
        assert!(need.because.chars().count() < 200, "{}", need.because);
    }
}

#[test]
fn what_cannot_be_read_is_reported_with_its_line() {
    let cases = [
        (
            "package.json",
            "{\"scripts\": {\"dev\": \"vite\",}\n}",
            "package.json:1:1: this is not JSON: nothing follows this comma",
        ),
        ("apps/web/package.json", "", "apps/web/package.json:1:1: the file is empty"),
        ("deno.json", "{\n\"tasks\": [}", "deno.json:2:1: "),
        ("Cargo.toml", "[package]\nname = ", "Cargo.toml:2:1: "),
        ("compose.yaml", "services:\n  a: {image: [}", "compose.yaml:2:1: "),
    ];
    for (name, text, expected) in cases {
        let files = [(name, text), ("mkdocs.yml", "dev_addr: 127.0.0.1:8001"), (".git/HEAD", "")];
        let needs = needs(folder(&files).path());
        assert_eq!(short(&needs.needs), ["docs - 8001"], "the rest counts");
        let [skipped] = needs.skipped.as_slice() else { panic!("{name}: {:?}", needs.skipped) };
        let skipped = skipped.to_string();
        assert!(skipped.starts_with(expected) && skipped.ends_with("it is not read"), "{skipped}");
    }
    let comments = [("deno.json", "{\n// ours\n\"tasks\": {},\n}"), ("package.json", "{}")];
    assert_eq!(needs(folder(&comments).path()).skipped, []);
}

#[test]
fn what_is_read_is_not_reported() {
    let build = "implementation 'org.springframework.boot:spring-boot-starter-web'";
    let settings = |text| [("build.gradle", build), ("src/main/resources/application.yml", text)];
    let filled_in = needs(folder(&settings("server.port: 8081\nversion: @version@")).path());
    assert_eq!(
        (short(&filled_in.needs), filled_in.skipped),
        (vec!["api - 8081".to_owned()], vec![])
    );
    let broken = needs(folder(&settings("server.port: 8081\n---\na: 1\n---\nb: [")).path());
    assert_eq!(short(&broken.needs), ["api - 8081"]);
    let place = broken.skipped[0].place;
    assert_eq!(place, Some((5, 1)), "{:?}", broken.skipped);
    let angular = "{// ours\n\"projects\": {\"web\": {\"architect\": {\"serve\": {}}}}}";
    let angular = needs(folder(&[("angular.json", angular)]).path());
    assert_eq!((short(&angular.needs).len(), angular.skipped), (1, vec![]));
}

#[test]
fn a_file_of_more_than_a_mebibyte_is_not_read() {
    let package = |size: usize| format!("{}{}", script("vite"), " ".repeat(size));
    assert_eq!(told(&[("package.json", &package(1 << 19))]), ["dev - -"]);
    assert_eq!(told(&[("package.json", &package(1 << 20))]), [""; 0]);
}

#[test]
fn no_link_leads_out_of_the_folder_and_nothing_installed_counts() {
    let outside =
        folder(&[("package.json", &script("vite")), ("web/package.json", &script("vite"))]);
    let inside = folder(&[
        (
            "pnpm-workspace.yaml",
            "packages: ['../*', 'links/*', '/tmp/*', 'node_modules/*', 'a/../../*']",
        ),
        ("node_modules/x/package.json", &script("vite")),
        ("links/own/package.json", &script("next dev")),
        ("a/readme", ""),
    ]);
    let links = inside.path().join("links");
    symlink(outside.path().join("package.json"), inside.path().join("package.json")).unwrap();
    symlink(outside.path().join("web"), links.join("out")).unwrap();
    symlink(inside.path().join("node_modules/x"), links.join("installed")).unwrap();
    symlink("own", links.join("same")).unwrap();
    symlink("loop", links.join("loop")).unwrap();
    symlink(inside.path(), links.join("up")).unwrap();
    assert_eq!(short(&needs(inside.path()).needs), ["dev - - links/own"]);
    // The folder itself may be reached by a link.
    let link = outside.path().join("link");
    symlink(inside.path(), &link).unwrap();
    assert_eq!(short(&needs(&link).needs), ["dev - - links/own"]);
}

#[test]
fn a_pipe_in_place_of_a_file_keeps_nobody_waiting() {
    let folder = folder(&[("compose.yaml", "services: {db: {image: mysql}}")]);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&folder.path().join("package.json"), mode).unwrap();
    assert_eq!(short(&needs(folder.path()).needs), ["database db -"]);
}

#[test]
fn a_workspace_without_end_ends_at_two_hundred_members() {
    let folder = folder(&[("package.json", r#"{"workspaces": ["p/*"]}"#)]);
    for index in 0..300 {
        let member = folder.path().join(format!("p/{index:03}"));
        fs::create_dir_all(&member).unwrap();
        fs::write(member.join("package.json"), script("vite")).unwrap();
    }
    let needs = needs(folder.path()).needs;
    assert_eq!(needs.len(), 200);
    assert_eq!(needs[199].package.to_str(), Some("p/199"));
}

/// The processor time of this thread: how long it waits for its turn is others' doing.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
fn hostile_files_of_the_allowed_size_end_soon_and_break_nothing() {
    let most = (1 << 20) - 100;
    let bomb: String = (1..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        format!("{text}a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))
    });
    let services: Vec<String> =
        (0..20_000).map(|n| format!("  s{n}: {{image: redis, ports: ['{n}:1']}}\n")).collect();
    let services = services.concat();
    let workspaces = format!("{{\"workspaces\": [{}\"x\"]}}", "\"*/*/*/*\",".repeat(80_000));
    let patterns = format!("{{\"workspaces\": [\"a/*\", \"!{}\"]}}", "**/".repeat(200_000));
    // Each script calls the two hundred after it, and each anchor merges the one before it twice.
    let calls = |next: usize| {
        (next..next + 200).map(|n| format!("npm run {n}")).collect::<Vec<_>>().join(" & ")
    };
    let scripts: Vec<_> = (0..250).map(|n| format!("\"{n}\": \"{}\"", calls(n + 1))).collect();
    let scripts = format!(r#"{{"scripts": {{"dev": "npm run 0", {}}}}}"#, scripts.join(", "));
    let merges: Vec<_> = (1..40)
        .map(|n| format!("x-a{n}: &a{n} {{<<: [*a{0}, *a{0}], b{n}: 1}}\n", n - 1))
        .collect();
    // Scripts with names that are looked for among all others, and many that name a package.
    let names: Vec<_> = (0..40_000).map(|n| format!("\"api{n}:linux\": \"node\"")).collect();
    let names = format!(r#"{{"scripts": {{{}}}}}"#, names.join(", "));
    let packages: Vec<_> =
        (0..200).map(|n| format!("\"{n}\": \"{}\"", "PORT=1 yarn -C a x;".repeat(200))).collect();
    let packages = format!(r#"{{"scripts": {{{}}}}}"#, packages.join(", "));
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            format!("\"{n}\": {{\"dependencies\": [{}\"0\"]}}", "\"dev\", \"1\", ".repeat(300))
        })
        .collect();
    let tasks = format!(r#"{{"tasks": {{"dev": "deno task 0", {}}}}}"#, tasks.join(", "));
    let commands: Vec<_> = (0..200)
        .map(|n| format!("  s{n}: {{command: *c, image: redis, depends_on: *d}}\n"))
        .collect();
    let awaited: Vec<_> = (0..9_000).map(|n| format!("s{n}: {{condition: x}}")).collect();
    let commands = format!(
        "x-c: &c '{}'\nx-d: &d {{{}}}\nservices:\n{}",
        "celer ".repeat(100_000),
        awaited.join(", "),
        commands.concat()
    );
    let merges = format!("x-a0: &a0 {{b: 1}}\n{}services: {{web: {{<<: *a39}}}}", merges.concat());
    for (name, text) in [
        ("package.json", scripts),
        ("package.json", names),
        ("package.json", packages),
        ("deno.json", tasks),
        ("compose.yaml", commands),
        ("compose.yaml", merges),
        ("compose.yaml", bomb),
        ("compose.yaml", "[".repeat(most)),
        ("compose.yaml", "- ".repeat(most / 2)),
        ("compose.yaml", format!("services:\n{services}")),
        ("compose.yaml", format!("services: {{a: {{ports: ['{}']}}}}", "${a:-".repeat(most / 10))),
        ("package.json", "[".repeat(most)),
        ("package.json", format!("{{\"a\":{}", "{\"a\":".repeat(most / 10))),
        ("package.json", workspaces),
        ("package.json", patterns),
        ("package.json", script(&"'\" ".repeat(most / 10))),
        ("package.json", script(&"concurrently 'a b' ".repeat(most / 30))),
        ("Cargo.toml", format!("a = {}", "[".repeat(most / 2))),
        ("Cargo.toml", "[a.".repeat(most / 4)),
        ("vite.config.ts", "server:{".repeat(most / 8)),
        ("vite.config.ts", "server:{port:[".repeat(most / 20)),
        ("vite.config.ts", "`".repeat(most)),
        (".env", "A=$A\n".repeat(most / 6)),
        ("Procfile", "web: vite\n".repeat(most / 12)),
        ("go.mod", "require ".repeat(most / 9)),
    ] {
        let folder = folder(&[(name, &text), ("a/package.json", "{}")]);
        let start = spent();
        let needs = needs(folder.path()).needs;
        assert!(needs.len() <= 500);
        let (took, text) = (spent().saturating_sub(start), &text[..text.len().min(30)]);
        assert!(took.as_secs() < 20, "{name}: {text}: {took:?}");
    }
}

#[test]
fn patterns_end_after_so_many_steps_and_it_is_said_that_there_may_be_more() {
    let folder =
        |patterns: &str| folder(&[("package.json", &format!("{{\"workspaces\": [{patterns}]}}"))]);
    let make = |root: &std::path::Path, outer, inner| {
        for (outer, inner) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            fs::create_dir_all(root.join(format!("packages/{outer}/{inner}"))).unwrap();
        }
    };
    let good = folder("\"packages/*\", \"packages/*/*\", \"!**/9\"");
    make(good.path(), 20, 10);
    fs::write(good.path().join("packages/1/2/package.json"), script("vite")).unwrap();
    assert!(!needs(good.path()).is_cut_short);
    assert_eq!(short(&needs(good.path()).needs), ["dev - - packages/1/2"]);

    let many = format!("{}\"x\"", "\"packages/**/**/*\", \"*/**/*\",".repeat(49));
    let stars = format!("\"packages/*/{}\"", "*a".repeat(10_000));
    let refused = format!("\"packages/*/*\", \"!{}x\"", "**/".repeat(11));
    let bad = folder("");
    make(bad.path(), 20, 100);
    for (outer, inner) in (0..3).flat_map(|o| (0..100).map(move |i| (o, i))) {
        let deep = bad.path().join(format!("packages/{outer}/{inner}"));
        fs::write(deep.join("package.json"), "{}").unwrap();
    }
    for patterns in [many, format!("{stars},{stars}"), refused] {
        let package = format!("{{\"workspaces\": [{patterns}]}}");
        fs::write(bad.path().join("package.json"), package).unwrap();
        assert!(needs(bad.path()).is_cut_short, "{}", &patterns[..30]);
    }
}

/// Files that are examined, and the start of one that is worth parsing.
const FILES: [(&str, &str); 22] = [
    ("package.json", "{\"scripts\": {\"dev\": \""),
    ("package.json", "{\"workspaces\": [\""),
    ("pnpm-workspace.yaml", "packages:\n  - "),
    ("compose.yaml", "services:\n  a:\n    ports:\n      - "),
    ("compose.yaml", "services:\n  "),
    ("vite.config.ts", "x = { server: { port: "),
    ("Cargo.toml", "[workspace]\nmembers = ["),
    ("Cargo.toml", "[dependencies]\n"),
    ("pyproject.toml", "[project]\ndependencies = ['"),
    ("requirements.txt", ""),
    ("Gemfile", "gem "),
    ("config/puma.rb", "port "),
    ("go.mod", "require "),
    ("Procfile", "web: vite "),
    (".env", "PORT="),
    ("manage.py", "django"),
    ("package.json", "{\"workspaces\": [\"a\"], \"scripts\": {\"dev\": \"PORT=1 pnpm -F "),
    ("Taskfile.yml", "tasks:\n  dev:\n    vars: {PORT: 1}\n    cmds: ['vite --port {{"),
    ("deno.json", "{\"tasks\": {\"dev\": {\"dependencies\": [\""),
    (".flaskenv", "FLASK_RUN_PORT="),
    (".env", "LISTEN_ADDR="),
    ("compose.yaml", "services:\n  a:\n    image: node\n    volumes: [.:/a]\n    extends: "),
];

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        // Fragments that the parsers look for, in an order in which nobody writes them.
        "([-{}\\[\\]\"'$:|&;,.*/!#=<>@ \n]|PORT|port|server|vite|--port|-p|\\$\\{|:-|8080|web|é){0,60}"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn no_content_of_any_file_panics_and_every_name_is_valid(
        which in 0..FILES.len(),
        begun: bool,
        content in content(),
        ending in prop_oneof![Just(""), Just("\"}}"), Just("\"]}"), Just("']")],
    ) {
        let (name, beginning) = FILES[which];
        let folder = folder(&[(name, "")]);
        let beginning = if begun { beginning.as_bytes() } else { b"" };
        fs::write(folder.path().join(name), [beginning, &content, ending.as_bytes()].concat()).unwrap();
        for need in needs(folder.path()).needs {
            if let Some(name) = &need.service_name {
                prop_assert!(name.parse::<crate::lease::ServiceName>().is_ok(), "{}", name);
            }
            prop_assert!(!need.because.chars().any(char::is_control), "{:?}", need.because);
        }
    }
}
