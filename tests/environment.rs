//! `styxy env` and `styxy suggest` in the folder of a project: one port for each service that it needs.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Output,
};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Home, end, listed, said};

/// A home whose types have ports that no other test has, and in it two worktrees of a project: a web server with
/// a port of its own, an API, and two databases.
fn two_worktrees() -> (Home, [PathBuf; 2]) {
    let home = Home::with_ports(20);
    let range = |first: u16| {
        format!(r#"{{"port_range": [{}, {}]}}"#, home.port(first), home.port(first + 4))
    };
    home.configure(&format!(
        r#"{{"service_types": {{"dev": {}, "api": {}, "database": {}}}}}"#,
        range(0),
        range(5),
        range(10)
    ));
    let worktrees = ["one", "two"].map(|name| {
        let top = home.path(name);
        let write = |path: &str, text: &str| {
            let path = top.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(top.join(".git")).unwrap();
        write("package.json", r#"{"workspaces": ["apps/*"]}"#);
        let vite = format!(r#"{{"scripts": {{"dev": "vite --port {}"}}}}"#, home.port(19));
        write("apps/web/package.json", &vite);
        write("apps/back/package.json", r#"{"scripts": {"dev": "nest start --watch"}}"#);
        let compose = "services:\n  a: {image: mysql, ports: ['3306']}\n  b: {image: postgres, ports: ['5432']}\n";
        write("compose.yaml", compose);
        fs::canonicalize(top).unwrap()
    });
    (home, worktrees)
}

fn run(home: &Home, folder: &Path, arguments: &[&str]) -> Output {
    home.styxy().args(arguments).current_dir(folder).output().unwrap()
}

#[track_caller]
fn ok(home: &Home, folder: &Path, arguments: &[&str]) -> String {
    let output = run(home, folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The ports of web, back, a and b.
#[track_caller]
fn ports(home: &Home, folder: &Path) -> [u16; 4] {
    let object: Json =
        serde_json::from_str(&ok(home, folder, &["env", "--format", "json"])).unwrap();
    let port = |name: &str| object[format!("{name}_PORT")].as_str().unwrap().parse().unwrap();
    ["WEB", "BACK", "A", "B"].map(port)
}

#[test]
fn asked_again_the_services_of_a_worktree_have_the_same_ports_and_those_of_another_have_others() {
    let (home, [one, two]) = two_worktrees();
    let service = home.service();
    let first = ports(&home, &one);
    assert_eq!(first, [19, 5, 10, 11].map(|index| home.port(index)));
    let other = ports(&home, &two);
    assert_eq!(other, [0, 6, 12, 13].map(|index| home.port(index)));
    for (folder, expected) in [(&one, first), (&two, other), (&one.join("apps/web"), first)] {
        assert_eq!(ports(&home, folder), expected);
    }
    assert_eq!(home.leases().len(), 8);
    // A service that starts anew knows them.
    end(service, Signal::SIGKILL);
    assert_eq!([ports(&home, &one), ports(&home, &two)], [first, other]);
    // So does one that leases them anew.
    for folder in [&one, &two] {
        home.ok(&["release", "--project", folder.to_str().unwrap(), "--yes"]);
    }
    assert_eq!([ports(&home, &two), ports(&home, &one)], [other, first]);
}

#[test]
fn a_port_that_somebody_else_has_is_replaced_and_what_is_leased_stays() {
    let (home, [one, two]) = two_worktrees();
    let foreign = [19, 10].map(|index| TcpListener::bind(("127.0.0.1", home.port(index))).unwrap());
    let output = run(&home, &one, &["env"]);
    let why = format!(
        "port {} for dev@apps/web, not {named} as in apps/web/package.json: TCP port {named} is in use by ",
        home.port(0),
        named = home.port(19)
    );
    assert!(said(&output).contains(&why), "{output:?}");
    let first = ports(&home, &one);
    assert_eq!(first, [0, 5, 11, 12].map(|index| home.port(index)));
    drop(foreign);
    assert_eq!(ports(&home, &one), first);
    assert_eq!(said(&run(&home, &one, &["env"])), "", "it is said once");
    // A server of its own does not move it, either.
    let _own = TcpListener::bind(("127.0.0.1", first[1])).unwrap();
    assert_eq!(ports(&home, &one), first);
    assert_eq!(ports(&home, &two)[0], home.port(19));
}

#[test]
fn suggest_shows_what_env_leases_and_run_has_it() {
    let (home, [one, _]) = two_worktrees();
    let suggested =
        |folder: &Path| listed("suggestions", ok(&home, folder, &["suggest", "--json"]));
    let port = |need: &Json| u16::try_from(need["port"].as_u64().unwrap()).unwrap();
    let before: Vec<_> = suggested(&one).iter().map(port).collect();
    assert_eq!(home.leases().len(), 0);
    let [web, back, a, b] = ports(&home, &one);
    assert_eq!(before, [web, back, a, b]);
    let after = suggested(&one);
    assert_eq!(after.iter().map(port).collect::<Vec<_>>(), before);
    assert!(after.iter().all(|need| need["reason"] == "existing"), "{after:?}");
    let need = &after[0];
    assert_eq!((&need["command"], &need["line"]), (&"npm run dev".into(), &1.into()), "{need}");
    assert_eq!((&need["file"], &need["usual"]), (&"apps/web/package.json".into(), &5173.into()));
    // In the folder of a package, only that is listed.
    let package = one.join("apps/back");
    assert_eq!(suggested(&package).iter().map(port).collect::<Vec<_>>(), [back]);
    let shown = ok(&home, &package, &["suggest", "--project", one.to_str().unwrap()]);
    assert!(shown.contains("apps/web") && shown.contains("apps/back"), "{shown}");
    let run = ["run", "api", "--plain", "-q", "--", "sh", "-c", "echo $PORT"];
    assert_eq!(ok(&home, &package, &run), format!("{back}\n"));
    assert_eq!(ok(&home, &package, &["port", "a"]), format!("{a}\n"));
    // It has no name: it is called like its folder.
    assert_eq!(ok(&home, &one, &["port", "web"]), format!("{web}\n"));
    assert_eq!(ok(&home, &one, &["port", "back"]), format!("{back}\n"));
    assert!(!home.styxy().args(["port", "none"]).current_dir(&one).status().unwrap().success());
}

#[test]
fn each_shell_gets_its_own_words_and_a_package_its_port() {
    let (home, [one, _]) = two_worktrees();
    let [web, back, a, _] = ports(&home, &one);
    let printed = ok(&home, &one, &["env"]);
    assert!(!printed.contains(" PORT="), "there are two servers: {printed}");
    let of_back = ok(&home, &one.join("apps/back"), &["env"]);
    assert!(of_back.starts_with(&format!("export PORT={back}\n")), "{of_back}");
    assert!(of_back.contains(&format!("export WEB_PORT={web}\n")), "{of_back}");
    for (format, line) in [
        ("sh", format!("export A_PORT={a}\n")),
        ("fish", format!("set -gx A_PORT {a}\n")),
        ("dotenv", format!("A_PORT={a}\n")),
        ("github", format!("A_PORT={a}\n")),
    ] {
        let printed = ok(&home, &one, &["env", "--format", format]);
        assert!(format!("\n{printed}").contains(&format!("\n{line}")), "{printed}");
        assert!(printed.contains("WEB_URL") && !printed.contains("A_URL"), "{printed}");
    }
    let evaluated = home.styxy().get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    let styxy = home.styxy();
    shell.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.args(["-c", r#"eval "$("$0" env)"; "$0" env --check && echo $BACK_URL"#]).arg(evaluated);
    let output = shell.current_dir(&one).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&format!(":{back}\n")), "{output:?}");
}

#[test]
fn a_file_is_written_when_something_has_changed_and_a_check_says_whether() {
    let (home, [one, _]) = two_worktrees();
    let file = one.join(".env.local");
    let check = |arguments: &[&str]| run(&home, &one, &[&["env", "--check"], arguments].concat());
    let is_true = |output: &Output| output.status.code() == Some(0);
    assert!(!is_true(&check(&["--file", ".env.local"])) && home.leases().is_empty());
    fs::write(&file, "SECRET=1\n").unwrap();
    ok(&home, &one, &["env", "--file", ".env.local"]);
    let written = fs::read_to_string(&file).unwrap();
    let [.., b] = ports(&home, &one);
    assert!(
        written.starts_with("SECRET=1\n") && written.contains(&format!("\nB_PORT={b}\n")),
        "{written}"
    );
    assert!(is_true(&check(&["--file", ".env.local"])));
    let inode = fs::metadata(&file).unwrap().ino();
    ok(&home, &one, &["env", "--file", ".env.local"]);
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    // The port is another one now.
    ok(&home, &one, &["allocate", "database", "--name", "b", "--port", &home.port(14).to_string()]);
    let differs = check(&["--file", ".env.local"]);
    assert!(!is_true(&differs));
    assert!(said(&differs).contains(&format!("(B_PORT={})", home.port(14))), "{differs:?}");
    let told = check(&[]);
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(
        told.contains(&format!("B_PORT is not set, but {} in the project", home.port(14))),
        "{told}"
    );
    ok(&home, &one, &["env", "--file", ".env.local"]);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        written.replace(&b.to_string(), &home.port(14).to_string())
    );
}

#[test]
fn what_was_written_into_a_file_is_no_wish_of_the_project() {
    let (home, [one, two]) = two_worktrees();
    let package = one.join("apps/back");
    ok(&home, &package, &["env", "--file", ".env"]);
    ok(&home, &one, &["env", "--file", ".env"]);
    let written = fs::read_to_string(one.join(".env")).unwrap();
    for _ in 0..2 {
        ok(&home, &one, &["env", "--file", ".env"]);
        assert_eq!(fs::read_to_string(one.join(".env")).unwrap(), written);
        ok(&home, &one, &["env", "--file", ".env", "--check"]);
    }
    fs::copy(one.join(".env"), two.join(".env")).unwrap();
    assert_eq!(ports(&home, &two), [0, 6, 12, 13].map(|index| home.port(index)));
}

#[test]
fn one_service_without_a_port_does_not_keep_the_others_from_theirs() {
    let (home, [one, _]) = two_worktrees();
    let range = format!("[{0}, {0}]", home.port(10));
    let config = fs::read_to_string(home.config().join("config.json")).unwrap();
    let ten = format!("[{}, {}]", home.port(10), home.port(14));
    home.configure(&config.replace(&ten, &range));
    let output = run(&home, &one, &["env"]);
    let [printed, told] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        printed.contains("WEB_PORT=") && printed.contains("A_PORT=") && told.contains("database"),
        "{printed}{told}"
    );
    assert!(!printed.contains(" B_PORT="), "{printed}");
    assert_eq!(run(&home, &one, &["env", "--file", ".env"]).status.code(), Some(1));
    assert!(!one.join(".env").exists());
    // Nor does a type that has no port at all.
    ok(&home, &one, &["release", "database:a"]);
    ok(&home, &one, &["allocate", "database", "--name", "other"]);
    let suggested = run(&home, &one, &["suggest", "--json"]);
    assert!(said(&suggested).contains("database:a gets no port: "), "{suggested:?}");
    let shown = listed("suggestions", suggested.stdout);
    assert_eq!(shown.iter().filter(|need| need["port"].is_null()).count(), 2, "{shown:?}");
    let printed = run(&home, &one, &["env"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("WEB_PORT="), "{printed:?}");
    let check = run(&home, &one, &["env", "--check"]);
    assert!(!String::from_utf8_lossy(&check.stderr).contains("null"), "{check:?}");
}

#[test]
fn a_project_that_shows_nothing_is_told_how_to_ask() {
    let home = Home::new();
    let output = home.run(&["env"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && told.contains("says which ports it needs"), "{told}");
}
