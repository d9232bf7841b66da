//! Which files are in force when some of them are invalid or unreadable.

use std::{fs, os::unix::fs::symlink};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{
    super::*,
    folders::{DROP_IN, Folders, name_of},
    range_of,
};

const GOOD: &str = r#"{"service_types": {"mine": {"port_range": [7000, 7009]}}}"#;
/// Half of it is valid, and must not count.
const BROKEN: &str = r#"{"service_types": {"mine": {"port_range": [7100, 7109]}}, "limits": 5}"#;

fn automatic(name: &str, first: u16) -> String {
    let last = first + 9;
    format!(
        r#"{{"service_types": {{"{name}": {{"port_range": [{first}, {last}],
        "created": {{"at": "2026-01-31T12:00:00Z", "placement": "after"}}}}}}}}"#
    )
}

fn has(config: &Config, name: &str) -> bool {
    config.types.0.contains_key(&name.parse().unwrap())
}

#[test]
fn the_last_good_files_stay_in_force_also_for_the_next_service() {
    let folders = Folders::with(&[("user/config.json", GOOD)]);
    let mut files = folders.files();
    let good = files.load();
    assert_eq!(good.problems, []);
    assert_eq!(range_of(&good.config, "mine"), "7000-7009");

    folders.write("user/config.json", BROKEN);
    for loaded in [files.load(), files.load(), folders.files().load()] {
        assert_eq!(loaded.config, good.config);
        assert_eq!(loaded.origins, good.origins);
        let problems = folders.problems(&loaded);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("user/config.json:1:69: limits: "), "{problems:?}");
    }
    assert_eq!(files.in_force()[0].text, GOOD);
    assert_eq!(files.origins(), good.origins);

    // Another mistake changes nothing.
    folders.write("user/config.json", "{");
    assert_eq!(files.load().config, good.config);
    assert_eq!(folders.files().load().config, good.config);
}

#[test]
fn names_that_begin_with_a_dot_are_nobodys() {
    let folders = Folders::with(&[
        ("user/config.json", GOOD),
        ("user/config.d/.hidden.json", BROKEN),
        ("user/config.d/._web.json", "\u{0}\u{5}\u{16}\u{7}"),
        ("user/config.d/.json", BROKEN),
    ]);
    // Emacs keeps such a link while somebody edits the file.
    symlink("dev@host.4711:1795435566", folders.path("user/config.d/.#web.json")).unwrap();
    assert_eq!(range_of(&folders.good(), "mine"), "7000-7009");
}

#[test]
fn a_file_that_is_too_large_for_a_configuration_is_not_read() {
    let folders = Folders::with(&[("user/config.json", GOOD)]);
    // A terabyte takes no longer than a megabyte.
    for size in [(1 << 20) + 1, 1 << 40] {
        fs::create_dir_all(folders.path("user/config.d")).unwrap();
        fs::File::create(folders.path("user/config.d/big.json")).unwrap().set_len(size).unwrap();
        let read = folders.read();
        let problems = folders.problems(&read);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("user/config.d/big.json: has more than 1048576 bytes"));
        assert_eq!(range_of(&read.config, "mine"), "7000-7009");
    }
}

#[test]
fn thousands_of_types_that_overlap_are_told_at_once() {
    use std::fmt::Write;
    let mut text = r#"{"service_types": {"dev": {"port_range": [3000, 3099]}"#.to_owned();
    for number in 0..9_000 {
        let first = 20_000 + number % 7;
        let _ = write!(text, r#", "t{number:04}": {{"port_range": [{first}, 20010]}}"#);
    }
    let folders = Folders::with(&[("user/config.json", &(text + "}}"))]);
    let before = std::time::Instant::now();
    let merged = folders.read();
    // All but the last one.
    assert_eq!(merged.problems.len(), 8_999);
    assert!(has(&merged.config, "t8999") && !has(&merged.config, "t0000"));
    // This takes a quarter of a second; starting over after each problem took minutes.
    assert!(before.elapsed().as_secs() < 60, "{:?}", before.elapsed());
}

#[test]
fn a_file_that_is_gone_is_no_mistake() {
    let folders = Folders::with(&[("user/config.json", GOOD)]);
    let mut files = folders.files();
    assert!(has(&files.load().config, "mine"));
    folders.remove("user/config.json");
    let loaded = files.load();
    assert_eq!((loaded.config, loaded.problems), (Config::built_in(), Vec::new()));
    assert_eq!(files.in_force(), []);
}

#[test]
fn mended_files_are_in_force_at_once_and_are_the_last_good_ones_then() {
    let folders = Folders::with(&[("user/config.json", GOOD)]);
    let mut files = folders.files();
    files.load();
    folders.write("user/config.json", BROKEN);
    files.load();
    folders.write("user/config.json", BROKEN.replace(", \"limits\": 5", ""));
    let mended = files.load();
    assert_eq!(mended.problems, []);
    assert_eq!(range_of(&mended.config, "mine"), "7100-7109");

    folders.write("user/config.json", "{");
    assert_eq!(files.load().config, mended.config);
    assert_eq!(folders.files().load().config, mended.config);
}

#[test]
fn no_file_at_all_is_a_good_configuration_to_stay_with() {
    let folders = Folders::new();
    let mut files = folders.files();
    assert_eq!(files.load().config, Config::built_in());
    folders.write("user/config.json", BROKEN);
    for loaded in [files.load(), files.load(), folders.files().load()] {
        assert_eq!(loaded.config, Config::built_in());
        assert_eq!(loaded.problems.len(), 1);
    }
}

#[test]
fn before_there_was_a_good_file_what_is_good_of_the_present_ones_counts() {
    let folders = Folders::with(&[("user/config.json", BROKEN)]);
    let mut files = folders.files();
    let first = files.load();
    assert_eq!(first.problems.len(), 1);
    assert_eq!(range_of(&first.config, "mine"), "7100-7109");
    // They were not good, so others that are not good, either, replace them.
    folders.write("user/config.json", r#"{"idle_exit_seconds": 5, "limits": 5}"#);
    for loaded in [files.load(), folders.files().load()] {
        assert_eq!(loaded.config.idle_exit.as_secs(), 5);
        assert!(!has(&loaded.config, "mine"));
    }
    folders.write("user/config.json", GOOD);
    let mended = files.load();
    assert_eq!(mended.problems, []);
    folders.write("user/config.json", BROKEN);
    assert_eq!(files.load().config, mended.config);
}

#[test]
fn a_damaged_copy_of_the_last_good_files_counts_as_none() {
    let folders =
        Folders::with(&[("user/config.json", GOOD), ("state/styxy/copy.json", "[{\"path\"")]);
    let mut files = folders.files();
    assert_eq!(files.load().problems, []);
    folders.write("user/config.json", BROKEN);
    assert_eq!(range_of(&folders.files().load().config, "mine"), "7000-7009");
}

#[test]
fn the_drop_in_goes_on_while_a_persons_file_is_broken() {
    let folders =
        Folders::with(&[("user/config.json", GOOD), (DROP_IN, &automatic("grafana", 10_000))]);
    let mut files = folders.files();
    files.load();
    folders.write("user/config.json", BROKEN);
    let second = automatic("kibana", 10_100);
    folders.write(DROP_IN, &second);
    for mut files in [files, folders.files()] {
        let loaded = files.load();
        assert_eq!(range_of(&loaded.config, "mine"), "7000-7009");
        assert_eq!(range_of(&loaded.config, "kibana"), "10100-10109");
        assert!(!has(&loaded.config, "grafana"));
        assert_eq!(files.drop_in_text(), Some(second.as_str()));
        let names: Vec<_> = files.in_force().iter().map(|text| name_of(&text.path)).collect();
        assert_eq!(names, ["styxy-auto.json", "config.json"]);
    }
    folders.remove(DROP_IN);
    assert!(!has(&folders.files().load().config, "kibana"));
}

#[test]
fn a_broken_drop_in_takes_no_type_away() {
    let text = automatic("grafana", 10_000);
    let folders = Folders::with(&[("user/config.json", GOOD), (DROP_IN, &text)]);
    let mut files = folders.files();
    let good = files.load();
    let overlapping = automatic("grafana", 3_000);
    for broken in ["", "{", &text[..text.len() / 2], &overlapping, "{\"service_types\": 5}"] {
        folders.write(DROP_IN, broken);
        for loaded in [files.load(), folders.files().load()] {
            assert_eq!(loaded.config, good.config, "{broken}");
            let problems = folders.problems(&loaded);
            assert!(problems[0].starts_with(DROP_IN), "{problems:?}");
        }
        assert_eq!(files.drop_in_text(), Some(text.as_str()));
    }
}

#[test]
fn a_drop_in_that_the_service_has_written_is_in_force() {
    let folders = Folders::with(&[("etc/config.json", "{}"), ("user/config.json", GOOD)]);
    let mut files = folders.files();
    files.load();
    assert_eq!(files.drop_in_text(), None);
    let text = automatic("grafana", 10_000);
    let drop_in = Text { path: files.drop_in(), text: text.clone() };
    let texts = files.with_drop_in(Some(drop_in));
    files.set_in_force(texts);
    assert_eq!(files.drop_in_text(), Some(text.as_str()));
    let names: Vec<_> = files.in_force().iter().map(|text| name_of(&text.path)).collect();
    assert_eq!(names, ["config.json", "styxy-auto.json", "config.json"]);
    assert_eq!(files.with_drop_in(None).len(), 2);

    // It stays in force when a person makes a mistake.
    folders.write(DROP_IN, &text);
    folders.write("user/config.json", BROKEN);
    let loaded = files.load();
    assert_eq!(range_of(&loaded.config, "mine"), "7000-7009");
    assert!(has(&loaded.config, "grafana"));
}

#[test]
fn a_drop_in_that_is_a_link_is_written_where_it_leads_to() {
    let folders = Folders::with(&[("dotfiles/auto.json", &automatic("grafana", 10_000))]);
    fs::create_dir_all(folders.path("user/config.d")).unwrap();
    symlink("../../dotfiles/auto.json", folders.path(DROP_IN)).unwrap();
    let lock = || DropIn::try_lock(&folders.path(DROP_IN), &folders.path("state/backups"));
    let mut drop_in = lock().unwrap().unwrap();
    assert!(lock().unwrap().is_none(), "it is locked");
    assert_eq!(drop_in.text(), Some(automatic("grafana", 10_000).as_str()));
    let text = drop_in.with_auto_allocation(false).unwrap();
    drop_in.replace(&text).unwrap();
    drop(drop_in);
    assert!(fs::symlink_metadata(folders.path(DROP_IN)).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(folders.path("dotfiles/auto.json")).unwrap(), text);
    assert_eq!(lock().unwrap().unwrap().text(), Some(text.as_str()));

    // In the sandbox of the unit, nothing outside of the folder exists.
    folders.remove("dotfiles/auto.json");
    let error = lock().unwrap_err().to_string();
    assert!(error.contains("is a link to a file that the service cannot see"), "{error}");
    assert!(fs::symlink_metadata(folders.path(DROP_IN)).unwrap().is_symlink());
}

#[test]
fn an_administrators_file_of_that_name_is_not_the_services_drop_in() {
    let theirs = DROP_IN.replace("user", "etc");
    let folders = Folders::with(&[(&theirs, r#"{"idle_exit_seconds": 5}"#)]);
    let mut files = folders.files();
    files.load();
    assert_eq!(files.drop_in_text(), None);
    let ours = Text { path: files.drop_in(), text: automatic("grafana", 10_000) };
    let config = merge(&files.with_drop_in(Some(ours))).config;
    assert!(has(&config, "grafana"));
    assert_eq!(config.idle_exit.as_secs(), 5);
}

#[test]
fn folders_that_are_not_there_are_no_problem() {
    let folders = Folders::new();
    assert_eq!(folders.good(), Config::built_in());
}

#[test]
fn what_cannot_be_read_is_told_and_the_last_good_files_stay_in_force() {
    type Make = fn(&Folders);
    let make: [(&str, Make, &str); 5] = [
        (
            "a folder in the place of a file",
            |f| fs::create_dir_all(f.path("user/config.d/1.json")).unwrap(),
            "user/config.d/1.json: is not a file: move it away",
        ),
        (
            "a file in the place of a folder",
            |f| f.write("user/config.d", ""),
            "user/config.d: cannot be read (Not a directory",
        ),
        (
            "a link to nothing",
            |f| {
                fs::create_dir_all(f.path("user/config.d")).unwrap();
                symlink("nothing", f.path("user/config.d/1.json")).unwrap();
            },
            "user/config.d/1.json: is a link to a file that the service cannot see: `styxy config reload`",
        ),
        (
            "a link to itself",
            |f| {
                fs::create_dir_all(f.path("user/config.d")).unwrap();
                symlink("1.json", f.path("user/config.d/1.json")).unwrap();
            },
            "user/config.d/1.json: cannot be read (Too many levels",
        ),
        (
            "a pipe that nobody writes to",
            |f| {
                fs::create_dir_all(f.path("user/config.d")).unwrap();
                mkfifo(&f.path("user/config.d/1.json"), Mode::S_IRWXU).unwrap();
            },
            "user/config.d/1.json: is not a file: move it away",
        ),
    ];
    for (what, make, expected) in make {
        let folders = Folders::with(&[("user/config.json", GOOD)]);
        let mut files = folders.files();
        let good = files.load().config;
        make(&folders);
        folders.write("user/config.json", "{}");
        for loaded in [files.load(), folders.files().load()] {
            let problems = folders.problems(&loaded);
            assert_eq!(problems.len(), 1, "{what}: {problems:?}");
            assert!(problems[0].starts_with(expected), "{what}: {problems:?}");
            assert_eq!(loaded.config, good, "{what}");
        }
    }
}

#[test]
fn what_the_user_must_not_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folders = Folders::with(&[("user/config.json", GOOD)]);
    let path = folders.path("user/config.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let problems = folders.problems(&folders.read());
    // Root may read everything.
    let expected = usize::from(!nix::unistd::geteuid().is_root());
    assert_eq!(problems.len(), expected, "{problems:?}");
    assert!(problems.iter().all(|p| p.contains("make it readable")), "{problems:?}");
}
