//! `styxy setup`, seen from outside, with a systemctl(1) that notes what it is asked. What systemd makes of the files is seen
//! in tests/container/setup.rs.

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value as Json;
use support::Home;

const UNIT: &str = ".local/share/systemd/user/styxy.service";
const SOCKET: &str = ".local/share/systemd/user/styxy.socket";
const SMALLER: &str = ".local/share/systemd/user/styxy.service.d/10-smaller-sandbox.conf";

/// Finds units in the home, and in the folder `package` in place of those of a package or an archive.
const SYSTEMCTL: &str = r#"#!/bin/sh
shift
echo "$*" >>"$HOME/asked"
[ "$1" = show ] || exit 0
case $2 in --property=UnitPath) echo "$HOME/.config/systemd/user $HOME/.local/share/systemd/user $HOME/package"; exit ;; esac
for folder in "$HOME/.config/systemd/user" "$HOME/.local/share/systemd/user" "$HOME/package"; do
    if [ -L "$folder/$2" ]; then
        printf 'LoadState=masked\nActiveState=inactive\nUnitFileState=masked\nFragmentPath=%s\n' "$folder/$2"
        exit
    fi
    if [ -e "$folder/$2" ]; then
        printf 'LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nFragmentPath=%s\n' "$folder/$2"
        exit
    fi
done
echo LoadState=not-found
"#;

/// The manager's answer to whether it can set up the sandbox.
const SYSTEMD_RUN: &str = r#"#!/bin/sh
[ ! -e "$HOME/forbidden" ] || echo 'unshare: forbidden'
"#;

/// A home whose user has a systemd.
struct Desk(Home);

impl Desk {
    fn new() -> Self {
        let home = Home::new();
        fs::create_dir(home.path("bin")).unwrap();
        fs::create_dir(home.path("package")).unwrap();
        for (program, text) in [("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)] {
            let path = home.path("bin").join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(home.path("runtime/systemd")).unwrap();
        fs::write(home.path("runtime/systemd/private"), "").unwrap();
        Self(home)
    }

    fn command(&self) -> Command {
        let mut command = self.0.styxy();
        command.env("PATH", self.0.path("bin"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().arg("setup").args(arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What is refused, in words.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// The steps of that kind, with the file or the command of each.
    fn steps(&self, arguments: &[&str], action: &str) -> Vec<String> {
        let answer = self.run(&[arguments, &["--json"]].concat());
        let answer: Json = serde_json::from_slice(&answer.stdout).unwrap();
        let steps = answer["steps"].as_array().unwrap().iter();
        let steps = steps.filter(|step| step["action"] == action);
        let what =
            |step: &Json| step["file"].as_str().or(step["command"].as_str()).map(str::to_owned);
        steps.map(|step| what(step).unwrap()).collect()
    }

    /// What `styxy doctor` finds about this: the first finding with something to do, if there is one.
    #[track_caller]
    fn finding(&self, check: &str) -> Json {
        let output = self.command().args(["doctor", "--json"]).output().unwrap();
        let findings: Json = serde_json::from_slice(&output.stdout).unwrap();
        let findings = findings["findings"].as_array().unwrap().iter();
        let findings = findings.filter(|finding| finding["check"] == check);
        findings.min_by_key(|finding| finding["remedy"].is_null()).unwrap().clone()
    }

    /// Runs what a remedy says.
    #[track_caller]
    fn shell(&self, line: &str) {
        let given = self.command();
        let _ = fs::remove_file(self.path("bin/styxy"));
        symlink(env!("CARGO_BIN_EXE_styxy"), self.path("bin/styxy")).unwrap();
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let mut command = Command::new("sh");
        command.args(["-c", line]).env_clear();
        command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What systemctl was asked to do since the last time.
    fn asked(&self) -> Vec<String> {
        let asked = self.read("asked");
        let _ = fs::remove_file(self.path("asked"));
        let changes = asked.lines().filter(|line| !line.starts_with("show "));
        changes.map(str::to_owned).collect()
    }

    /// All files of the folder for data.
    fn files(&self) -> Vec<PathBuf> {
        let (mut folders, mut files) = (vec![self.path(".local/share")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { &mut folders } else { &mut files }.push(entry.path());
            }
        }
        files
    }
}

fn text_of<'a>(finding: &'a Json, key: &str) -> &'a str {
    finding[key].as_str().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

#[test]
fn the_units_start_this_program_and_what_is_written_goes_again() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path(".local/share")).unwrap();
    let link = desk.path("bin/styxy");
    symlink(env!("CARGO_BIN_EXE_styxy"), &link).unwrap();
    let mut command = Command::new(&link);
    let given = desk.command();
    command.env_clear().envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.arg("setup").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\nwrote ~/.local/share/systemd/user/styxy.socket\n"));

    let program = fs::canonicalize(env!("CARGO_BIN_EXE_styxy")).unwrap();
    let unit = desk.read(UNIT);
    assert!(unit.contains(&format!("\nExecStart={} daemon\n", program.display())), "{unit}");
    assert!(desk.read(SOCKET).ends_with("\n[Install]\nWantedBy=sockets.target\n"));
    assert!(!desk.path(SMALLER).exists());
    let expected = [
        "daemon-reload",
        "reset-failed --quiet styxy.socket styxy.service",
        "--quiet enable --now styxy.socket",
    ];
    assert_eq!(desk.asked(), expected);

    // A second time, only what is asked of systemd is done again.
    let files = desk.files();
    assert!(files.len() > 15, "{files:?}");
    assert_eq!(desk.steps(&[], "keep").len(), files.len());
    assert_eq!(desk.asked(), expected);

    // What a stranger has beside it stays.
    fs::write(desk.path(".local/share/systemd/user/other.service"), "").unwrap();
    desk.ok(&["--undo"]);
    assert_eq!(desk.files(), [desk.path(".local/share/systemd/user/other.service")]);
    assert!(!desk.path(".local/share/man").exists(), "folders that are empty go, too");
    let sockets = "styxy.socket styxy-portserver.socket styxy-tcp.socket";
    assert_eq!(
        desk.asked(),
        [
            &format!("--quiet disable --now {sockets}"),
            "stop styxy.service",
            "daemon-reload",
            "reset-failed --quiet styxy.socket styxy.service",
        ]
    );
    assert_eq!(desk.ok(&["--undo"]), "styxy setup has written nothing here");
    assert_eq!(desk.asked(), [""; 0]);
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let desk = Desk::new();
    let told = desk.ok(&["--dry-run"]);
    assert!(told.contains("would write ~/.local/share/systemd/user/styxy.service\n"), "{told}");
    assert!(told.ends_with("would run `systemctl --user enable --now styxy.socket`"), "{told}");
    assert!(!desk.path(".local").exists());
    assert_eq!(desk.asked(), [""; 0]);
    let wanted = desk.steps(&["--dry-run"], "write");
    assert_eq!(desk.steps(&[], "write"), wanted);
    desk.asked();
    assert_eq!(desk.steps(&["--undo", "--dry-run"], "remove"), wanted);
    assert_eq!(desk.files().len(), wanted.len());
    assert_eq!(desk.asked(), [""; 0]);
}

#[test]
fn what_somebody_has_changed_or_written_is_named_and_stays() {
    let desk = Desk::new();
    let completion = desk.path(".local/share/bash-completion/completions/styxy");
    fs::create_dir_all(completion.parent().unwrap()).unwrap();
    fs::write(&completion, "complete -W run styxy\n").unwrap();
    let why = desk.refused(&[]);
    assert!(
        why.contains("nothing was done") && why.contains(completion.to_str().unwrap()),
        "{why}"
    );
    assert_eq!(desk.files(), std::slice::from_ref(&completion));
    fs::remove_file(&completion).unwrap();

    desk.ok(&[]);
    fs::write(desk.path(SOCKET), desk.read(SOCKET) + "# mine\n").unwrap();
    let why = desk.refused(&[]);
    let socket = desk.path(SOCKET).display().to_string();
    let command = format!("mv {socket} {socket}.old && styxy setup");
    assert!(why.contains("it has `# mine`") && why.contains(&format!("`{command}`")), "{why}");
    // Doctor says the same: what differs, and a command that works.
    let finding = desk.finding("installation");
    assert_eq!(finding["verdict"], "warning", "{finding}");
    assert!(text_of(&finding, "message").contains("it has `# mine`"), "{finding}");
    let remedy = text_of(&finding, "remedy");
    assert!(remedy.contains(&format!("`{command}`")) && remedy.contains("to keep it"), "{remedy}");
    desk.shell(&command);
    assert_eq!(desk.finding("installation")["verdict"], "ok");
    assert!(desk.read(&format!("{SOCKET}.old")).ends_with("# mine\n"));
    fs::rename(desk.path(&format!("{SOCKET}.old")), desk.path(SOCKET)).unwrap();
    desk.asked();
    let output = desk.run(&["--undo"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    let stays = "~/.local/share/systemd/user/styxy.socket stays, because it was changed";
    assert!(told.lines().any(|line| line == stays), "{told}");
    assert_eq!(desk.files(), [desk.path(SOCKET)]);
    assert!(desk.read(SOCKET).ends_with("# mine\n"));
    assert_eq!(
        desk.asked()[0],
        "--quiet disable --now styxy.socket styxy-portserver.socket styxy-tcp.socket"
    );
    // What is left is half an installation. Both ways out work.
    let remove = format!("rm {socket} && systemctl --user daemon-reload");
    assert!(text(&output.stderr).contains(&format!("`{remove}`")), "{}", text(&output.stderr));
    let finding = desk.finding("units");
    assert_eq!(finding["verdict"], "error", "{finding}");
    assert_eq!(finding["message"], "styxy.service is missing, and styxy.socket is there");
    let remedy = text_of(&finding, "remedy");
    assert!(remedy.contains(&format!("`{command}`")) && remedy.contains(&remove), "{remedy}");
    desk.shell(&command);
    assert_eq!(desk.finding("installation")["verdict"], "ok");
}

#[test]
fn doctor_names_the_unit_in_use_and_the_one_that_it_hides() {
    let desk = Desk::new();
    let [own, archive] = [".config/systemd/user", "package"].map(|folder| {
        let unit = desk.path(folder).join("styxy.service");
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        fs::write(&unit, "[Service]\nExecStart=/bin/styxy daemon\n").unwrap();
        fs::write(unit.with_extension("socket"), "").unwrap();
        unit
    });
    let finding = desk.finding("installation");
    assert_eq!(finding["verdict"], "warning", "{finding}");
    let message = text_of(&finding, "message");
    let words = format!("{} is in use and hides {}", own.display(), archive.display());
    assert!(
        message.contains(&words) && message.contains("systemctl --user cat styxy.service"),
        "{message}"
    );
    let aside = format!("mv {0} {0}.old && systemctl --user daemon-reload", own.display());
    assert!(text_of(&finding, "remedy").contains(&format!("`{aside}`")), "{finding}");
    desk.shell(&aside);
    // The socket still comes from there.
    let socket = own.with_extension("socket");
    let message = text_of(&desk.finding("installation"), "message").to_owned();
    assert!(message.contains(&format!("{} is in use", socket.display())), "{message}");
    fs::remove_file(socket).unwrap();
    assert_eq!(desk.finding("installation")["verdict"], "ok");

    // One that is masked is not in use, and is unmasked.
    for name in ["styxy.service", "styxy.socket"] {
        let mask = own.with_file_name(name);
        symlink("/dev/null", &mask).unwrap();
        let finding = desk.finding("units");
        assert_eq!(finding["message"], format!("{name} is masked"));
        let remedy = text_of(&finding, "remedy");
        assert!(remedy.starts_with(&format!("systemctl --user unmask {name}")), "{remedy}");
        assert_eq!(desk.finding("installation")["verdict"], "ok");
        fs::remove_file(mask).unwrap();
    }

    // An archive has its own way to be taken away.
    let installer = desk.path("opt/share/styxy/install.sh");
    fs::create_dir_all(installer.parent().unwrap()).unwrap();
    fs::write(&installer, "").unwrap();
    let start = desk.path("opt/bin/styxy");
    fs::write(&own, format!("[Service]\nExecStart={} daemon\n", start.display())).unwrap();
    let remedy = text_of(&desk.finding("installation"), "remedy").to_owned();
    let remove = format!("sudo {} --uninstall && systemctl", installer.display());
    assert!(remedy.contains(&remove), "{remedy}");
}

#[test]
fn nothing_is_written_where_a_folder_cannot_be_made() {
    let blocks: [fn(&Path); 3] = [
        |path| symlink("/nonexistent/folder", path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| symlink("/proc/self", path).unwrap(),
    ];
    for block in blocks {
        for folder in ["dbus-1", "man", "systemd"] {
            let desk = Desk::new();
            let path = desk.path(".local/share").join(folder);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            block(&path);
            let why = desk.refused(&[]);
            assert!(why.contains("nothing was done: ") && why.contains("move it away"), "{why}");
            let left: Vec<_> = fs::read_dir(desk.path(".local/share")).unwrap().flatten().collect();
            assert_eq!(left.len(), 1, "{left:?}");
            assert_eq!(desk.asked(), [""; 0]);
        }
    }
}

#[test]
fn what_an_older_version_has_written_is_brought_up_to_date() {
    let desk = Desk::new();
    desk.ok(&[]);
    desk.asked();
    // As if it had been written for another program: its line is right.
    let others = Desk::new();
    let program = others.path("styxy");
    fs::copy(env!("CARGO_BIN_EXE_styxy"), &program).unwrap();
    let output = Command::new(&program)
        .args(["setup"])
        .env_clear()
        .envs(desk.command().get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(desk.read(UNIT).contains(&format!("\nExecStart={} daemon\n", program.display())));
    assert_eq!(desk.asked().last().unwrap(), "try-restart styxy.service");
    let found = |verdict: &str| {
        let finding = desk.finding("installation");
        assert_eq!(finding["verdict"], verdict, "{finding}");
        finding.to_string()
    };
    assert!(found("warning").contains("another program"));
    fs::remove_file(&program).unwrap();
    assert!(found("error").contains("is gone"));
    let updated = desk.steps(&[], "update");
    assert_eq!(updated.len(), 2, "the unit and the service file of the bus: {updated:?}");
    found("ok");
    fs::create_dir(desk.path("other")).unwrap();
    fs::rename(desk.path(SOCKET), desk.path("other/styxy.socket")).unwrap();
    assert!(found("warning").contains("of another version, or are missing"));
}

#[test]
fn where_the_manager_cannot_set_up_the_sandbox_it_gets_a_smaller_one() {
    let desk = Desk::new();
    fs::write(desk.path("forbidden"), "").unwrap();
    let output = desk.run(&[]);
    assert!(text(&output.stderr).contains("smaller sandbox: unshare: forbidden"));
    assert!(desk.read(SMALLER).contains("\n# unshare: forbidden\n[Service]\nPrivateUsers=no\n"));
    // It is not needed any more.
    fs::remove_file(desk.path("forbidden")).unwrap();
    assert_eq!(desk.steps(&[], "remove"), [desk.path(SMALLER).to_str().unwrap()]);
    assert!(!desk.path(SMALLER).exists());
}

#[test]
fn beside_a_package_and_without_systemd_it_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let package = desk.path("package/styxy.service");
    fs::write(&package, "").unwrap();
    let why = desk.refused(&[]);
    assert!(why.contains(&format!("{} is its unit", package.display())), "{why}");
    assert!(why.contains("systemctl --user enable --now styxy.socket"), "{why}");
    assert!(desk.refused(&["--dry-run"]).contains("is its unit"));
    assert!(desk.files().is_empty());

    // A package that comes later is hidden by what it has written, which goes anyway.
    fs::remove_file(&package).unwrap();
    desk.ok(&[]);
    fs::write(&package, "").unwrap();
    fs::write(desk.path("package/styxy.socket"), "").unwrap();
    assert!(desk.refused(&[]).contains("styxy setup --undo"));
    desk.asked();
    desk.ok(&["--undo"]);
    assert_eq!(desk.asked().last().unwrap(), "--quiet start styxy.socket");

    fs::remove_dir_all(desk.path("package")).unwrap();
    let elsewhere = desk.command().arg("setup").env("XDG_DATA_HOME", desk.path("data")).output();
    let why = text(&elsewhere.unwrap().stderr);
    assert!(!desk.path("data").exists() && why.contains("another XDG_DATA_HOME"), "{why}");

    fs::remove_file(desk.path("runtime/systemd/private")).unwrap();
    for arguments in [[].as_slice(), &["--undo"]] {
        let why = desk.refused(arguments);
        assert!(why.contains("no systemd user manager answers"), "{why}");
        assert!(why.contains("log in as this user"), "{why}");
    }
    assert!(desk.files().is_empty());
}
