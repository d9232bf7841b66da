//! The file with the token for HTTP over TCP: whatever is in its place, the file and the service agree afterwards, or the
//! command says what to do.

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
    thread,
};

use nix::{sys::signal::Signal, sys::stat::Mode, unistd::mkfifo};
use styxy::token::TokenHash;
use support::{Home, end, said};

const OLD: &str = "a-token-of-styxy-1.x-that-is-long-enough";

fn file(home: &Home) -> PathBuf {
    home.path(".styxy/auth.token")
}

/// Puts this into the place of the token.
fn put(home: &Home, bytes: &[u8], mode: u32) {
    fs::create_dir_all(home.path(".styxy")).unwrap();
    fs::write(file(home), bytes).unwrap();
    fs::set_permissions(file(home), Permissions::from_mode(mode)).unwrap();
}

/// Whether the service knows the token in the file.
fn agrees(home: &Home) -> bool {
    let token = fs::read_to_string(file(home)).unwrap();
    let status = home.http("GET", "/status", "").body;
    status["token"] == TokenHash::of(&token).fingerprint()
}

/// Why the command refuses.
#[track_caller]
fn refused(home: &Home, arguments: &[&str]) -> String {
    let output = home.run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    said(&output)
}

#[test]
fn a_token_is_shown_masked_and_replaced_by_another() {
    let home = Home::new();
    let service = home.service();
    assert!(refused(&home, &["token", "show"]).contains("styxy http enable"));
    put(&home, OLD.as_bytes(), 0o600);
    assert_eq!(home.ok(&["token", "show"]), "a-to***ough, in ~/.styxy/auth.token");
    let whole = home.styxy().args(["token", "show"]).env("STYXY_SHOW_FULL_KEY", "true").output();
    assert_eq!(whole.unwrap().stdout, format!("{OLD}\n").as_bytes());
    let told = home.ok(&["token", "rotate"]);
    let token = fs::read_to_string(file(&home)).unwrap();
    assert!(token.len() == 64 && told.contains(&format!("{}***{}", &token[..4], &token[60..])));
    assert_eq!(fs::metadata(file(&home)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(agrees(&home));
    assert_eq!(fs::read_dir(home.path(".styxy")).unwrap().count(), 1, "nothing is left over");
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_no_token_is_not_used_and_can_be_replaced() {
    let home = Home::new();
    let service = home.service();
    for (bytes, mode, why) in [
        (&b""[..], 0o600, "it is empty"),
        (b"short", 0o600, "32 to 1000 characters"),
        (b"0123456789abcdef0123456789abcdef\nand a second line", 0o600, "no spaces"),
        (&[0xff; 64], 0o600, "printable ASCII"),
        (&[b'a'; 5_000], 0o600, "32 to 1000 characters"),
        (OLD.as_bytes(), 0o644, "others may read"),
    ] {
        put(&home, bytes, mode);
        let words = refused(&home, &["token", "show"]);
        assert!(words.contains(why) && words.contains("styxy token rotate"), "{words}");
        assert!(home.ok(&["http", "status"]).contains("styxy token rotate"));
        home.ok(&["token", "rotate"]);
        assert!(agrees(&home), "{why}");
    }
    fs::remove_file(file(&home)).unwrap();
    mkfifo(&file(&home), Mode::from_bits_truncate(0o600)).unwrap();
    assert!(refused(&home, &["token", "show"]).contains("not a regular file"));
    home.ok(&["token", "rotate"]);
    assert!(agrees(&home));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_in_the_way_is_named_and_changes_nothing() {
    let home = Home::new();
    let service = home.service();
    let folder = home.path(".styxy");
    fs::write(&folder, "").unwrap();
    let move_away = |arguments: &[&str]| {
        let words = refused(&home, arguments);
        assert!(words.contains("move away"), "{words}");
    };
    move_away(&["token", "rotate"]);
    fs::remove_file(&folder).unwrap();
    symlink("nowhere", &folder).unwrap();
    move_away(&["token", "rotate"]);
    fs::remove_file(&folder).unwrap();
    fs::create_dir_all(file(&home)).unwrap();
    move_away(&["token", "show"]);
    let known = || home.http("GET", "/status", "").body["token"].clone();
    let before = known();
    move_away(&["token", "rotate"]);
    assert_eq!(known(), before, "the service was told nothing");
    // As the message has it.
    let words = refused(&home, &["token", "rotate"]);
    let command = words.split('`').find(|part| part.starts_with("mv ")).unwrap();
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    home.ok(&["token", "rotate"]);
    assert!(agrees(&home));
    fs::remove_file(file(&home)).unwrap();
    symlink("nowhere", file(&home)).unwrap();
    move_away(&["token", "show"]);
    home.ok(&["token", "rotate"]);
    assert!(agrees(&home));

    // Where others may write, the token may be theirs.
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    for verb in ["show", "rotate"] {
        let words = refused(&home, &["token", verb]);
        assert!(
            words.contains("can be changed by every user") && words.contains("chmod o-w"),
            "{words}"
        );
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    home.ok(&["token", "rotate"]);
    end(service, Signal::SIGTERM);
}

#[test]
fn of_several_that_replace_it_at_once_the_last_one_wins_in_both_places() {
    let home = Home::new();
    let service = home.service();
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| home.ok(&["token", "rotate"]));
            }
        });
        assert!(agrees(&home));
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn without_a_service_that_can_be_told_the_token_stays() {
    let home = Home::new();
    put(&home, OLD.as_bytes(), 0o600);
    home.close_doors();
    let output = home.run(&["token", "rotate", "--timeout", "2"]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    home.open_doors();
    assert_eq!(fs::read_to_string(file(&home)).unwrap(), OLD);
    assert_eq!(fs::read_dir(home.path(".styxy")).unwrap().count(), 1, "nothing is left over");
}
