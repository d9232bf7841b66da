//! What people look at for longer: `list --watch` and `watch`, on a terminal that tmux draws.

mod support;

use std::{
    net::TcpListener,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Trial};
use support::{Home, namespaces::find};

const CASES: &[(&str, fn())] = &[
    ("a_watched_list_fills_80_and_200_columns_and_follows_what_happens", fills),
    ("a_watched_list_takes_the_size_that_the_terminal_gets", resized),
    ("a_watched_list_that_is_too_long_is_cut", cut),
    ("ctrl_c_and_sigterm_give_the_terminal_back_as_it_was", given_back),
    ("a_watched_list_goes_on_where_ctrl_c_is_ignored", ignored),
    ("ctrl_z_gives_the_terminal_back_and_fg_takes_it_again_and_q_ends_it", stopped),
    ("a_terminal_that_does_not_know_its_size_gets_whole_lines", without_a_size),
    ("watched_events_are_a_line_each_and_end_with_ctrl_c", events),
];

fn main() -> ExitCode {
    let is_missing = find("tmux").is_none();
    if is_missing {
        eprintln!("SKIPPED: tmux is missing (Debian: tmux)");
    }
    let trials = CASES.iter().map(|(name, test)| {
        let trial = Trial::test(*name, || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(is_missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn fills() {
    for width in [80, 200] {
        let terminal = Terminal::new(width, 16);
        let home = &terminal.home;
        terminal.type_in("styxy list --watch");
        terminal.until(|shown| shown == "no port is leased");
        let project = "/srv/somewhere/deep/down/in/many/folders/a-checkout-of-the-shop";
        home.ok(&["allocate", "mine", "--name", "web", "--project", project]);
        let _listener = TcpListener::bind(("127.0.0.1", home.port(0))).unwrap();
        home.ok(&["allocate", "mine", "--name", "the-name-of-a-service", "--instance", "agent-7"]);
        terminal.until(|shown| shown.contains("listening") && shown.contains("claimed"));
        let shown = terminal.shown();
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[0].starts_with("PORT       STATE      TYPE  NAME"), "{shown}");
        assert!(lines[0].ends_with("LEASE"), "{shown}");
        assert!(
            lines[1].starts_with(&format!("{}/tcp  listening  mine  web", home.port(0))),
            "{shown}"
        );
        if width == 200 {
            assert_eq!(lines.len(), 3, "{shown}");
            assert!(lines[1].contains(project), "{shown}");
            assert!(
                lines[2].contains("the-name-of-a-service") && lines[2].contains("agent-7"),
                "{shown}"
            );
        } else {
            // A lease is a line, and of a path the end is seen.
            assert_eq!(lines.len(), 3, "{shown}");
            assert!(lines[1].contains("of-the-shop "), "{shown}");
            assert!(lines[2].contains("agent-7"), "{shown}");
        }
        terminal.is_readable();
        let leases = home.ok(&["list", "--json"]);
        assert!(leases.contains("the-name-of-a-service"), "{leases}");
        home.ok(&["release", "--type", "mine", "--yes"]);
        terminal.until(|shown| shown == "no port is leased");
    }
}

fn resized() {
    let terminal = Terminal::new(120, 16);
    let project = "/srv/somewhere/deep/down/in/many/folders/a-checkout-of-the-shop";
    terminal.home.ok(&["allocate", "mine", "--name", "web", "--project", project]);
    terminal.type_in("styxy list --watch");
    terminal.until(|shown| shown.lines().count() == 2 && shown.contains(project));
    terminal.tmux(&["resize-window", "-x", "60", "-y", "12"]);
    let is_redrawn = |shown: &str| {
        let begins = shown.lines().next().is_some_and(|line| line.ends_with("LEASE"));
        begins
            && !shown.contains(project)
            && shown.contains("the-shop ")
            && shown.lines().count() == 2
    };
    terminal.until(is_redrawn);
    terminal.tmux(&["resize-window", "-x", "140", "-y", "20"]);
    terminal.until(|shown| shown.lines().count() == 2 && shown.contains(project));
}

fn cut() {
    let terminal = Terminal::new(100, 7);
    terminal.home.ok(&["allocate", "mine", "--count", "10"]);
    terminal.type_in("styxy list --watch");
    terminal.until(|shown| shown.starts_with("PORT") && shown.contains("… and "));
    let shown = terminal.shown();
    assert_eq!(shown.lines().last(), Some("… and 6 lines more"), "{shown}");
}

fn given_back() {
    for end in ["C-c", "TERM", "C-\\"] {
        let terminal = Terminal::new(100, 12);
        terminal.home.ok(&["allocate", "mine"]);
        terminal.type_in("echo here it was");
        terminal.until(|shown| shown.contains("\nhere it was"));
        terminal.type_in("styxy list --watch");
        terminal.until(|shown| shown.starts_with("PORT"));
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "1 0");
        let code = if let "C-c" | "C-\\" = end {
            terminal.tmux(&["send-keys", end]);
            if end == "C-c" { 130 } else { 131 }
        } else {
            // The shell's only child.
            let shell = terminal.asked("#{pane_pid}");
            let script = format!("kill -TERM $(cat /proc/{shell}/task/{shell}/children)");
            assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
            143
        };
        terminal.type_in("echo ended with $?");
        terminal.until(|shown| shown.contains(&format!("\nended with {code}")));
        let shown = terminal.shown();
        assert!(shown.contains("\nhere it was\n") && !shown.contains("PORT"), "{shown}");
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
        // It takes commands again, and shows them.
        terminal.type_in("echo as $((1 + 1)) before");
        terminal.until(|shown| shown.contains("$ echo as $((1 + 1)) before\nas 2 before\n"));
    }
}

fn ignored() {
    let terminal = Terminal::new(100, 12);
    terminal.type_in("trap '' INT; styxy list --watch");
    terminal.until(|shown| shown == "no port is leased");
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.home.ok(&["allocate", "mine"]);
    terminal.until(|shown| shown.starts_with("PORT"));
    assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "1 0");
}

fn stopped() {
    let terminal = Terminal::new(100, 12);
    terminal.home.ok(&["allocate", "mine"]);
    let before = terminal.modes();
    terminal.type_in("styxy list --watch");
    terminal.until(|shown| shown.starts_with("PORT"));
    for _ in 0..2 {
        terminal.tmux(&["send-keys", "C-z"]);
        terminal.until(|shown| shown.contains("Stopped") && !shown.contains("PORT"));
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
        assert_eq!(terminal.modes(), before);
        terminal.type_in("fg");
        terminal.until(|shown| shown.starts_with("PORT"));
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "1 0");
        terminal.tmux(&["send-keys", "x"]);
    }
    terminal.tmux(&["send-keys", "q"]);
    terminal.type_in("echo ended with $?");
    terminal.until(|shown| shown.contains("\nended with 0"));
    assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
    assert_eq!(terminal.modes(), before);
}

fn without_a_size() {
    let terminal = Terminal::new(200, 20);
    let project = "/srv/somewhere/deep/down/in/many/folders/a-checkout-of-the-shop";
    terminal.home.ok(&["allocate", "mine", "--count", "10", "--project", project]);
    terminal.type_in("stty rows 0 cols 0; styxy list");
    terminal.until(|shown| shown.lines().filter(|line| line.contains(project)).count() == 10);
    terminal.type_in("clear; styxy list --watch");
    terminal.until(|shown| shown.lines().filter(|line| line.contains(project)).count() == 10);
    assert!(!terminal.shown().contains("more"), "{}", terminal.shown());
}

fn events() {
    for width in [80, 200] {
        let terminal = Terminal::new(width, 16);
        let home = &terminal.home;
        home.ok(&["list"]);
        terminal.type_in("styxy watch");
        // When it begins to look is not known.
        terminal.until(|shown| {
            let port = home.ok(&["allocate", "mine", "--name", "web", "--quiet"]);
            std::thread::sleep(std::time::Duration::from_millis(600));
            home.ok(&["release", &port]);
            shown.contains("granted") && shown.contains("released")
        });
        let shown = terminal.shown();
        for line in shown.lines().skip(1).filter(|line| line.contains("granted")) {
            assert!(
                line.contains(&format!("  granted    {}/tcp  mine  web  ~", home.port(0))),
                "{shown}"
            );
        }
        terminal.is_readable();
        terminal.tmux(&["send-keys", "C-c"]);
        terminal.type_in("echo ended with $?");
        terminal.until(|shown| shown.contains("\nended with 130"));
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
    }
}

/// A terminal with a shell in it, of a tmux of its own.
struct Terminal {
    home: Home,
}

impl Terminal {
    fn new(width: u16, height: u16) -> Self {
        let terminal = Self { home: Home::with_type() };
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["-x", &width, "-y", &height];
        // dash neither edits lines nor colours anything.
        terminal
            .tmux(&[&["-f", "/dev/null", "new-session", "-d"], &size[..], &["exec sh"]].concat());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let styxy = self.home.styxy();
        let folder = std::path::Path::new(styxy.get_program()).parent().unwrap().to_owned();
        let mut command = Command::new(find("tmux").unwrap());
        command.arg("-u").arg("-S").arg(self.home.path("tmux")).args(arguments).env_clear();
        command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", format!("{}:/usr/bin:/bin", folder.display())).env("PS1", "$ ");
        command.env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh").env("TERM", "screen");
        let output = command.current_dir(self.home.path("")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types `line` when the shell has asked for one: what comes earlier is shown where it disturbs.
    #[track_caller]
    fn type_in(&self, line: &str) {
        self.until(|shown| shown.ends_with('$'));
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn asked(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim_end().to_owned()
    }

    /// The settings of the terminal (stty(1)), when the shell waits for a line.
    fn modes(&self) -> String {
        self.until(|shown| shown.ends_with('$'));
        let tty = self.asked("#{pane_tty}");
        let modes = Command::new("stty").args(["-F", &tty, "-g"]).output().unwrap();
        String::from_utf8(modes.stdout).unwrap()
    }

    /// What is on the screen, without what is empty at the ends.
    fn shown(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p"]);
        let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
        lines.join("\n").trim_end().to_owned()
    }

    #[track_caller]
    fn until(&self, is_so: impl Fn(&str) -> bool) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !is_so(&self.shown()) {
            assert!(std::time::Instant::now() < end, "it shows:\n{}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Whether all of it can be read on a light and on a dark background: bold, or in one of the colours that every
    /// terminal has tuned to its own background, without the white and the black among them.
    fn is_readable(&self) {
        let shown = self.tmux(&["capture-pane", "-pe"]);
        let mut colours = 0;
        for sequence in shown.split("\u{1b}[").skip(1) {
            let codes = sequence.split('m').next().unwrap();
            // 38;5;2 is 32 in another way.
            let is_colour = |code: &str| ["1", "2", "3", "4", "5", "6"].contains(&code);
            let colour = codes.strip_prefix("38;5;").or(codes.strip_prefix('3'));
            let is_plain = ["", "0", "1", "39", "49"].contains(&codes);
            assert!(is_plain || colour.is_some_and(is_colour), "{codes}: {shown:?}");
            colours += u32::from(!is_plain);
        }
        assert!(colours > 0, "nothing is coloured: {shown:?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
