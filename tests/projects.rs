//! Which project a command is for, wherever it runs.

#[path = "support/mod.rs"]
mod support;

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value as Json;
use support::{Home, listed};

/// Runs the command in that folder.
fn run_in(home: &Home, folder: &Path, arguments: &[&str]) -> Output {
    home.styxy().args(arguments).current_dir(folder).output().unwrap()
}

#[track_caller]
fn ok_in(home: &Home, folder: &Path, arguments: &[&str]) -> String {
    let output = run_in(home, folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn folder(home: &Home, name: impl AsRef<OsStr>) -> PathBuf {
    let folder = home.path(".").join(name.as_ref());
    fs::create_dir_all(&folder).unwrap();
    fs::canonicalize(folder).unwrap()
}

fn leases(home: &Home, filter: &[&str]) -> Vec<Json> {
    home.list("leases", &[&["list"], filter].concat())
}

/// The verbs that take a filter and find nothing.
const FILTERING: [&[&str]; 4] =
    [&["list"], &["list", "--json"], &["release", "--yes"], &["forget"]];

#[test]
fn a_type_that_does_not_exist_is_no_success() {
    let home = Home::with_type();
    let lamp = folder(&home, "lamp");
    for verb in FILTERING {
        ok_in(&home, &lamp, &[verb, &["--type", "mine"]].concat());
        let typo = run_in(&home, &lamp, &[verb, &["--type", "mien"]].concat());
        let said = String::from_utf8(typo.stderr).unwrap();
        assert_eq!((typo.status.code(), &*typo.stdout), (Some(1), &b""[..]), "{verb:?}: {said}");
        assert!(said.contains("there is no service type"), "{said}");
        assert!(said.contains("did you mean") && said.contains("mine"), "{said}");
    }
}

#[test]
fn a_lease_and_a_remembered_port_may_outlive_their_type_and_their_folder() {
    let home = Home::with_type();
    let gone = folder(&home, "gone");
    let name = gone.to_str().unwrap();
    for project in [name, &name.replace("gone", "gnoe")] {
        home.ok(&["allocate", "mine", "--project", project]);
    }
    home.configure("{}");
    home.ok(&["config", "reload"]);
    fs::remove_dir(&gone).unwrap();
    assert!(!home.ok(&["types"]).contains("mine"));
    let filter = ["--project", name, "--type", "mine"];
    assert_eq!(leases(&home, &filter).len(), 1);
    // The state is what does not match.
    let state = [&["list", "--state", "orphaned"], &filter[..]].concat();
    assert_eq!(home.ok(&state), "no lease matches");
    home.ok(&[&["release"], &filter[..]].concat());
    for verb in ["list", "release"] {
        assert_eq!(home.ok(&[&[verb], &filter[..]].concat()), "no lease matches");
    }
    assert_eq!(home.ok(&[&["forget"], &filter[..]].concat()), "forgot 1 port");
    for verb in FILTERING {
        let none = home.run(&[verb, &["--project", name]].concat());
        let said = String::from_utf8(none.stderr).unwrap();
        assert_eq!(none.status.code(), Some(2), "{verb:?}: {said}");
        assert!(said.contains("there is no folder"), "{said}");
        assert!(said.contains("nothing is leased or remembered for it"), "{said}");
        assert!(said.contains("did you mean") && said.contains("/gnoe"), "{said}");
    }
    // A folder whose path only a stand-in can name is one.
    let odd = folder(&home, "two\nlines");
    assert_eq!(home.ok(&["list", "--project", odd.to_str().unwrap()]), "no lease matches");
    assert_eq!(home.run(&["list", "--package", "apps/nope"]).status.code(), Some(2));
}

#[test]
fn in_a_folder_that_is_gone_no_verb_means_all_projects() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--project", "/a"]);
    home.ok(&["allocate", "mine", "--project", "/b"]);
    let gone = folder(&home, "gone");
    let in_gone = |arguments: &[&str]| {
        let styxy = home.styxy();
        let mut shell = std::process::Command::new("/bin/sh");
        shell.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        fs::create_dir_all(&gone).unwrap();
        shell.args(["-c", r#"rmdir "$0"; exec "$@""#]).arg(&gone).arg(styxy.get_program());
        shell.args(arguments).current_dir(&gone).output().unwrap()
    };
    for arguments in [
        &["release", "--project", "--type", "mine", "--yes"][..],
        &["release", "--project", ".", "--type", "mine", "--yes"],
        &["release", "--project", "sub", "--type", "mine", "--yes"],
        &["forget", "--type", "mine"],
        &["list", "--mine"],
        &["list", "--project", "."],
        &["audit", "--project", "."],
        &["suggest"],
        &["suggest", "mine"],
        &["allocate", "mine"],
        &["run", "mine", "--", "true"],
        &["exec", "mine", "--", "true"],
    ] {
        let output = in_gone(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("this folder no longer exists; cd to another one"), "{said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(leases(&home, &[]).len(), 2);
    // What names its project needs no folder.
    assert!(in_gone(&["list", "--project", "/a"]).status.success());
    assert!(in_gone(&["release", "--project", "/a", "--yes"]).status.success());
    assert_eq!(leases(&home, &["--project", "/b"]).len(), 1);
    assert_eq!(home.ok(&["forget", "--project", "/b"]), "forgot 1 port");
}

#[test]
fn folders_with_odd_names_are_projects_of_their_own() {
    let home = Home::with_type();
    let long: OsString = vec!["x".repeat(200); 6].join("/").into();
    let odd = [b"caf\xe9".to_vec(), b"caf\xe8".to_vec(), b"two\nlines".to_vec()];
    let names = odd.map(OsString::from_vec).into_iter().chain([long]);
    let folders: Vec<_> = names.map(|name| folder(&home, name)).collect();
    let ports: Vec<_> =
        folders.iter().map(|folder| ok_in(&home, folder, &["allocate", "mine"])).collect();
    home.ok(&["allocate", "mine", "--project", "/b"]);
    for (folder, port) in folders.iter().zip(&ports) {
        let mine = listed("leases", ok_in(&home, folder, &["list", "--mine", "--json"]));
        assert_eq!(mine.len(), 1, "{folder:?}: {mine:?}");
        assert_eq!(mine[0]["port"].to_string(), *port);
        let path = mine[0]["project_path"].as_str().unwrap();
        assert!(path.starts_with("/…/") && path.len() <= 1_000, "{path}");
        // By its path and by its name in the list, from anywhere.
        let mut list = home.styxy();
        let output = list.args(["list", "--json", "--project"]).arg(folder).output().unwrap();
        assert_eq!(listed("leases", output.stdout), mine);
        assert_eq!(leases(&home, &["--project", path]), mine);
    }
    // Only its own lease is released, and it gets its port again after all the others.
    for folder in folders.iter().rev() {
        ok_in(&home, folder, &["release", "--project", "--type", "mine", "--yes"]);
    }
    assert_eq!(leases(&home, &[]).len(), 1);
    for (folder, port) in folders.iter().zip(&ports).rev() {
        assert_eq!(ok_in(&home, folder, &["allocate", "mine"]), *port);
    }
    for folder in &folders {
        assert_eq!(ok_in(&home, folder, &["forget"]), "forgot 1 port");
    }
    assert_eq!(home.ok(&["forget", "--project", "/b"]), "forgot 1 port");
}

#[test]
fn any_folder_of_a_project_names_the_project() {
    let home = Home::with_type();
    let top = folder(&home, "shop");
    let inner = folder(&home, "shop/src/web");
    folder(&home, "shop/.git");
    let port = ok_in(&home, &top, &["allocate", "mine"]);
    let json = |words: &[&str]| -> Json {
        serde_json::from_str(&ok_in(&home, &inner, &[words, &["--json"]].concat())).unwrap()
    };
    let inside = inner.to_str().unwrap();
    for project in [".", "..", "../..", inside] {
        let listed = json(&["list", "--project", project]);
        assert_eq!(listed["leases"][0]["port"].to_string(), port, "{project}");
        let next = json(&["allocate", "mine", "--dry-run", "--project", project]);
        assert_eq!(next["project_path"], top.to_str().unwrap());
    }
    let said = ok_in(&home, &inner, &["audit", "--print", "--project", "."]);
    assert!(said.contains(&format!("STYXY_PROJECT_PATH={}", top.display())), "{said}");
    ok_in(&home, &inner, &["release", "--project", ".", "--yes"]);
    assert!(leases(&home, &[]).is_empty());
    assert_eq!(ok_in(&home, &top, &["forget", "--project", "src"]), "forgot 1 port");
}
