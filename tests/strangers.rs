//! Several users of one machine: what one of them puts in another's way is not used. Needs root, to be several users.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    process::{Command, Output},
};

/// Runs a script in a mount, PID and network namespace with a `/tmp` of its own, in which `/tmp/styxy` is the
/// command, and `as UID COMMAND…` runs something as that user in an empty environment. `None` without root.
fn script(script: &str) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be several users");
        return None;
    }
    let script = format!(
        r#"mount -t tmpfs -o mode=1777 tmpfs /tmp; touch /tmp/styxy; mount --bind "$0" /tmp/styxy
        ip link set lo up; cd /
        as() {{ local uid=$1; shift; setpriv --reuid=$uid --regid=$uid --clear-groups env -i PATH=/usr/bin:/bin "$@"; }}
        {script}"#
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-euc",
        ])
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_styxy"))
        .output()
        .unwrap();
    Some(output)
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[test]
fn a_folder_in_tmp_that_another_user_has_made_is_not_used() {
    let Some(output) = script(
        r#"as 54002 mkdir -m 0777 /tmp/styxy-54001
        as 54001 /tmp/styxy allocate dev --name web
        as 54001 /tmp/styxy allocate dev --name web --json | grep -o '"port":[^,]*'
        ls /tmp/styxy-54001
        ls -d /tmp/styxy-54001-* | wc -l"#,
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.last(), Some(&"1"), "{}", said(&output));
    assert!(lines.len() == 3, "nothing is in the other's folder: {lines:?}");
}

#[test]
fn a_user_without_a_home_has_one_service() {
    let Some(output) = script(
        r"as 54001 /tmp/styxy allocate dev
        as 54001 HOME=/ /tmp/styxy allocate dev --new
        as 54001 HOME=/nonexistent XDG_RUNTIME_DIR=/nonexistent /tmp/styxy allocate dev --new
        as 54001 HOME=/tmp /tmp/styxy list --json | grep -c lease_id
        as 54002 /tmp/styxy list",
    ) else {
        return;
    };
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines, ["3000", "3001", "3002", "3", "no port is leased"], "{}", said(&output));
}

#[test]
fn root_is_told_whose_service_it_is() {
    let Some(output) = script(
        r"as 54001 /tmp/styxy allocate dev
        curl -sS --unix-socket /tmp/styxy-54001/state/*/http.sock http://localhost/status -w ' %{http_code}'",
    ) else {
        return;
    };
    let said = said(&output);
    assert!(
        said.contains("another user") && said.contains("sudo") && said.ends_with(" 403"),
        "{said}"
    );
}

#[test]
fn root_in_a_users_home_touches_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be several users");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    // The first ordinary number that has a name everywhere.
    chown(home.path(), Some(1), Some(1)).unwrap();
    for verb in [&["allocate", "dev"][..], &["list"], &["run", "dev", "--", "true"], &["daemon"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_styxy"));
        command.args(verb).env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {}", said(&output));
        assert!(
            said(&output).contains("daemon's home: run styxy without sudo"),
            "{}",
            said(&output)
        );
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    assert_eq!(fs::metadata(home.path()).unwrap().uid(), 1);
}
