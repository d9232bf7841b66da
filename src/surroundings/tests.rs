use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use tempfile::TempDir;

use super::*;

/// A user with these variables, whose passwd entry has this home.
fn read(variables: &[(&str, &Path)], home: Option<&Path>) -> User {
    let own = own();
    let variable = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.as_os_str().to_owned())
    };
    let entry = |uid| match home {
        Some(home) if uid == own => Some(Entry { name: "dev".to_owned(), home: home.to_owned() }),
        _ => None,
    };
    User::read(own, &variable, &entry)
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn folders() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&other).unwrap();
    (folder, one, other)
}

#[test]
fn a_home_that_cannot_be_used_gives_way_to_the_one_of_the_passwd_entry() {
    let (folder, named, entry) = folders();
    fs::write(folder.path().join("file"), "").unwrap();
    let home = |home: &Path| read(&[("HOME", home)], Some(&entry)).home().map(Path::to_owned);
    assert_eq!(home(&named).as_ref(), Some(&named));
    let bad = [
        Path::new(""),
        Path::new("/"),
        Path::new("relative"),
        &folder.path().join("gone"),
        &folder.path().join("file"),
    ];
    for bad in bad {
        assert_eq!(home(bad).as_ref(), Some(&entry), "{}", bad.display());
    }
    assert_eq!(read(&[], Some(&entry)).home(), Some(&*entry));
    assert_eq!(read(&[("HOME", Path::new("/"))], None).home(), None);
}

#[test]
fn the_folders_are_those_of_the_xdg_specification_and_no_units() {
    let (_folder, home, other) = folders();
    let user = read(&[("HOME", &home)], None);
    assert_eq!(user.state(), Some(home.join(".local/state/styxy/state").join(machine::key())));
    assert_eq!(user.config(), [Path::new("/etc/styxy"), &home.join(".config/styxy")]);
    let variables =
        [("HOME", &*home), ("XDG_STATE_HOME", &other), ("XDG_CONFIG_HOME", Path::new("relative"))];
    let user = read(&variables, None);
    assert_eq!(user.state(), Some(other.join("styxy/state").join(machine::key())));
    assert_eq!(user.config()[1], home.join(".config/styxy"));
    let variables = [
        ("HOME", &*home),
        ("STATE_DIRECTORY", &other),
        ("CONFIGURATION_DIRECTORY", &other),
        ("RUNTIME_DIRECTORY", &other),
    ];
    let user = read(&variables, None);
    assert!(!format!("{user:?}").contains(other.to_str().unwrap()));
}

#[test]
fn a_state_folder_that_cannot_be_made_gives_way_to_the_one_of_the_home() {
    let (folder, home, _) = folders();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let user = read(&[("HOME", &home), ("XDG_STATE_HOME", &file)], None);
    assert_eq!(user.state(), Some(home.join(".local/state/styxy/state").join(machine::key())));
}

#[test]
fn a_runtime_directory_that_cannot_be_used_is_named_with_the_reason() {
    let (folder, runtime, _) = folders();
    fs::set_permissions(&runtime, Permissions::from_mode(0o700)).unwrap();
    // A user who owns nothing in /run/user.
    let trouble = |path: Option<&Path>| super::runtime(own() + 1, path.map(Path::as_os_str));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    for (path, word) in [
        (Some(Path::new("relative")), "not an absolute path"),
        (Some(Path::new("/nonexistent")), "does not exist"),
        (Some(&*file), "no directory"),
        (Some(&*runtime), "belongs to"),
        (Some(Path::new("/run/user/1000/snap.code")), "a snap's own"),
        (None, "not set"),
    ] {
        let words = trouble(path).unwrap_err();
        assert!(words.contains(word) && words.contains("XDG_RUNTIME_DIR"), "{words}");
    }
    assert!(suitable(own(), &open).unwrap_err().contains("other users"));
    assert_eq!(super::runtime(own(), Some(runtime.as_os_str())), Ok(runtime));
}

#[test]
fn what_is_not_the_users_own_in_tmp_is_not_used() {
    let parent = tempfile::tempdir().unwrap();
    let temporary = Temporary::within(own(), parent.path().to_owned());
    let taken = parent.path().join(format!("styxy-{}", own()));
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).unwrap();
    // A link to a folder that would be suitable, and a folder that is open to others.
    symlink(&elsewhere, &taken).unwrap();
    let open = parent.path().join(format!("styxy-{}-open", own()));
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(temporary.find(), None);
    let made = temporary.find_or_make().unwrap();
    assert!(made.parent() == Some(parent.path()) && made != taken && made != open);
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
    assert_eq!(temporary.find(), Some(made.clone()));
    // It stays in use when the name is free again.
    fs::remove_file(&taken).unwrap();
    assert_eq!(temporary.find_or_make(), Ok(made));
}

#[test]
fn two_who_make_the_folder_at_once_get_the_same_one() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(parent.path().join(format!("styxy-{}", own())), "somebody was first").unwrap();
    let temporary = Temporary::within(own(), parent.path().to_owned());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let temporary = temporary.clone();
            std::thread::spawn(move || temporary.find_or_make().unwrap())
        })
        .collect();
    let made: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(made.iter().all(|folder| *folder == made[0]), "{made:?}");
}

#[tokio::test]
async fn a_service_is_reached_in_a_folder_with_a_long_path() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a".repeat(150)).join("b".repeat(150));
    let door = Door::new(own(), deep);
    assert!(matches!(door.connect().await, Err(door::Closed::Nobody(..))));
    let listener = door.listen().unwrap();
    assert_eq!(fs::metadata(door.path()).unwrap().mode() & 0o777, 0o600);
    door.connect().await.unwrap();
    assert!(door.listen().unwrap_err().contains("a live service"));
    drop(listener);
    assert!(matches!(door.connect().await, Err(door::Closed::Nobody(..))));
    door.listen().unwrap();
}

#[tokio::test]
async fn a_folder_or_a_listener_of_another_user_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let own_door = Door::new(own(), folder.path().to_owned());
    let _listener = own_door.listen().unwrap();
    let others = Door::new(own() + 1, folder.path().to_owned());
    assert!(matches!(others.connect().await, Err(door::Closed::Others(..))));
    assert!(others.listen().unwrap_err().contains("is not used"));
}

#[test]
fn what_to_do_about_the_state_depends_on_who_starts_the_service() {
    let (_folder, home, _) = folders();
    let user = read(&[("HOME", &home)], None);
    assert_eq!((user.obstacle(), user.obstacle_of_unit()), (None, None));
    let state = user.state().unwrap();
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    for (place, what) in [
        (&|path: &Path| fs::write(path, "").unwrap(), "is no directory"),
        (&|path: &Path| symlink("nowhere", path).unwrap(), "is a broken link"),
    ] as [(&dyn Fn(&Path), &str); 2]
    {
        place(&state);
        let (own, units) = (user.obstacle().unwrap(), user.obstacle_of_unit().unwrap());
        assert!(own.contains(what) && own.ends_with("or set XDG_STATE_HOME"), "{own}");
        // systemd determines the folder of a unit.
        assert!(units.contains(what) && !units.contains("XDG_STATE_HOME"), "{units}");
        assert!(units.contains("systemctl --user restart styxy.service"), "{units}");
        fs::remove_file(&state).unwrap();
    }
}
