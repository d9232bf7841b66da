//! What people look at for longer: `list --watch`, `top` and `watch`, on a terminal that tmux draws.

mod support;

use std::{
    net::TcpListener,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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
    ("top_follows_what_other_commands_do_and_filters_as_is_typed", top::follows),
    ("top_follows_the_signals_of_the_bus_across_a_restart", top::on_the_bus),
    ("top_shows_who_listens_and_releases_after_a_yes", top::releases),
    ("top_releases_no_more_than_release_without_all", top::refused),
    ("top_needs_a_terminal_that_can_move_its_cursor", top::without_term),
    ("top_takes_every_size_that_the_terminal_gets", top::resized),
    ("however_top_ends_the_terminal_is_given_back", top::given_back),
    ("top_ends_with_its_service_if_there_can_be_no_other_and_says_why", top::without_a_service),
    ("a_release_that_is_asked_for_is_done_although_top_is_left", top::left_at_once),
    ("quitting_top_does_not_wait_for_a_service_that_hangs", top::left_hanging),
    ("ctrl_z_gives_the_terminal_back_and_fg_draws_top_again", top::stopped),
    ("top_ends_when_its_terminal_is_gone_even_if_it_may_not_hear_of_it", top::hung_up),
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
            kill(terminal.child(), Signal::SIGTERM).unwrap();
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

/// `styxy top`
mod top {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{TcpListener, Terminal};
    use crate::support::{bus::Bus, end, started};

    /// Opens it, with leases or without.
    fn opened(width: u16, height: u16) -> Terminal {
        let terminal = Terminal::new(width, height);
        terminal.type_in("styxy top");
        terminal
            .until(|shown| shown.contains("lease, by PORT") || shown.contains("leases, by PORT"));
        terminal
    }

    /// Whether the shell has its terminal again, and what is typed is shown.
    #[track_caller]
    fn is_given_back(terminal: &Terminal, code: u8, before: &str) {
        terminal.type_in("echo ended with $?");
        terminal.until(|shown| shown.contains(&format!("\nended with {code}")));
        assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
        assert_eq!(terminal.modes(), before);
    }

    pub fn follows() {
        let terminal = opened(100, 12);
        let home = &terminal.home;
        terminal.until(|shown| shown.contains("0 leases") && shown.contains("no port is leased"));
        home.ok(&["allocate", "mine", "--name", "web", "--instance", "agent-7"]);
        terminal.until(|shown| shown.contains("1 lease, by PORT") && shown.contains("agent-7"));
        home.ok(&["allocate", "mine", "--name", "api"]);
        terminal.until(|shown| shown.contains("2 leases, by PORT"));
        let _listener = TcpListener::bind(("127.0.0.1", home.port(1))).unwrap();
        // Nothing announces it, but it is looked after soon.
        terminal.until(|shown| shown.contains("listening"));
        terminal.is_readable();
        terminal.press(&["/"]);
        terminal.press(&["-l", "AGENT"]);
        terminal.until(|shown| {
            shown.starts_with("1 of 2 leases matches AGENT, by PORT")
                && !shown.contains("api")
                && shown.ends_with("\n/AGENT")
        });
        assert_eq!(terminal.asked("#{cursor_flag} #{cursor_x} #{cursor_y}"), "1 6 11");
        home.ok(&["release", "--instance", "agent-7", "--yes"]);
        terminal.until(|shown| shown.contains("no lease matches"));
        terminal.press(&["Escape"]);
        terminal.until(|shown| shown.starts_with("1 lease, by PORT") && shown.contains("api"));
        terminal.press(&["q"]);
    }

    pub fn on_the_bus() {
        let Some(bus) = Bus::start() else { return };
        let terminal = Terminal::new(100, 12);
        let home = &terminal.home;
        let service = || {
            let mut command = home.styxy();
            command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
            started(command)
        };
        let before = service();
        terminal.type_in(&format!("DBUS_SESSION_BUS_ADDRESS={} styxy top", bus.address));
        terminal.until(|shown| shown.contains("no port is leased"));
        home.ok(&["allocate", "mine", "--name", "web"]);
        terminal.until(|shown| shown.contains("1 lease, by PORT") && shown.contains("web"));
        end(before, Signal::SIGKILL);
        let after = service();
        home.ok(&["allocate", "mine", "--name", "api"]);
        terminal.until(|shown| shown.contains("2 leases, by PORT") && shown.contains("api"));
        home.ok(&["release", "--type", "mine", "--yes"]);
        terminal.until(|shown| shown.contains("no port is leased"));
        terminal.press(&["q"]);
        terminal.until(|shown| shown.ends_with('$'));
        end(after, Signal::SIGTERM);
    }

    pub fn releases() {
        let terminal = opened(120, 24);
        let home = &terminal.home;
        home.ok(&["allocate", "mine", "--name", "web"]);
        home.ok(&["allocate", "mine", "--name", "api"]);
        let _listener = TcpListener::bind(("127.0.0.1", home.port(1))).unwrap();
        terminal.until(|shown| shown.contains("2 leases, by PORT"));
        terminal.press(&["Down", "Enter"]);
        let port = home.port(1);
        let user = format!("TCP port {port} is listened on by ");
        terminal.until(|shown| shown.contains("state         listening"));
        let pid = format!("(PID {}", std::process::id());
        terminal.until(|shown| shown.contains(&user) && shown.contains(&pid));
        let shown = terminal.shown();
        let id = home.leases()[1]["lease_id"].as_str().unwrap().to_owned();
        assert!(shown.contains(&format!("lease_id      {id}")), "{shown}");
        terminal.press(&["Escape"]);
        terminal.until(|shown| shown.starts_with("2 leases"));

        terminal.press(&["r"]);
        let question = format!("Release port {port}/tcp of mine api, ~? [y/N]");
        terminal.until(|shown| shown.ends_with(&question));
        terminal.press(&["Enter"]);
        terminal.until(|shown| shown.ends_with("\nnot released"));
        assert_eq!(home.leases().len(), 2);
        terminal.press(&["r"]);
        terminal.press(&["y"]);
        let said = format!("released port {port} of mine api; ");
        terminal.until(|shown| shown.starts_with("1 lease,") && shown.contains(&said));
        assert_eq!(home.leases()[0]["service_name"], "web");
        terminal.press(&["q"]);
    }

    /// A command that uses what `allocate` has leased keeps it, as with `styxy release` without `--all`.
    pub fn refused() {
        let terminal = opened(120, 24);
        let home = &terminal.home;
        home.ok(&["allocate", "mine", "--name", "web"]);
        let mut run = home
            .styxy()
            .args(["run", "mine", "--name", "web", "--", "sleep", "100"])
            .spawn()
            .unwrap();
        terminal.until(|shown| shown.contains("sleep["));
        terminal.press(&["r"]);
        terminal.press(&["y"]);
        terminal.until(|shown| {
            shown.contains("keeps it until it exits, or until it is released again")
        });
        assert_eq!(home.leases().len(), 1);
        terminal.press(&["q"]);
        run.kill().unwrap();
        run.wait().unwrap();
    }

    pub fn without_term() {
        let terminal = Terminal::new(100, 12);
        let before = terminal.modes();
        for (at, term) in ["TERM=", "TERM=dumb", "env -u TERM"].into_iter().enumerate() {
            terminal.type_in(&format!("clear; {term} styxy top; echo number {at} ended with $?"));
            // Not what the one before has left; and what is typed before there is a prompt is shown before it.
            terminal.until(|shown| {
                shown.contains("TERM is empty, dumb or not set, so the cursor cannot be moved")
                    && shown.ends_with(&format!("\nnumber {at} ended with 1\n$"))
            });
        }
        is_given_back(&terminal, 0, &before);
    }

    pub fn resized() {
        let terminal = Terminal::new(100, 24);
        let home = &terminal.home;
        for name in ["web", "api", "worker"] {
            home.ok(&["allocate", "mine", "--name", name]);
        }
        terminal.type_in("styxy top");
        terminal.until(|shown| shown.contains("3 leases") && shown.contains("LEASE"));
        terminal.press(&["End"]);
        for (width, height) in [(20, 5), (3, 2), (1, 1), (40, 3), (200, 50), (20, 5)] {
            let size = [width, height].map(|n: u16| n.to_string());
            terminal.tmux(&["resize-window", "-x", &size[0], "-y", &size[1]]);
            terminal.until(|shown| match (width, height) {
                (1 | 3, _) => true,
                (40, _) => !shown.contains("leases") && shown.contains("  api  "),
                (20, _) => {
                    let lines: Vec<_> = shown.lines().collect();
                    lines.len() == 5
                        && lines[3].ends_with("  worker")
                        && lines[1].ends_with("NAME")
                        && lines[4] == "? help   q quit"
                }
                _ => shown.lines().count() == 50 && shown.contains("LEASE"),
            });
        }
        terminal.press(&["q"]);
        terminal.until(|shown| shown.ends_with('$'));
    }

    pub fn given_back() {
        for how in ["q", "C-c", "/ C-c", "? q", "TERM", "HUP", "QUIT"] {
            let terminal = Terminal::new(100, 12);
            let before = terminal.modes();
            terminal.type_in("styxy top");
            terminal.until(|shown| shown.contains("no port is leased"));
            assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "1 0");
            assert_ne!(terminal.settings(), before);
            let code = match how {
                "TERM" | "HUP" | "QUIT" => {
                    let signal: Signal = format!("SIG{how}").parse().unwrap();
                    kill(terminal.child(), signal).unwrap();
                    128 + u8::try_from(signal as i32).unwrap()
                }
                keys => {
                    keys.split(' ').for_each(|key| terminal.press(&[key]));
                    0
                }
            };
            is_given_back(&terminal, code, &before);
        }
    }

    pub fn without_a_service() {
        let terminal = Terminal::new(100, 12);
        let home = &terminal.home;
        home.ok(&["allocate", "mine", "--name", "web"]);
        let before = terminal.modes();
        terminal.type_in("styxy --timeout 3 top");
        terminal.until(|shown| shown.contains("1 lease"));
        // One that is killed is started again for the next list.
        let service = || home.try_http("GET", "/status", "").and_then(|a| a.body["pid"].as_i64());
        let kill = |pid, signal| kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
        let first = service().unwrap();
        kill(first, Signal::SIGKILL);
        terminal.press(&["s"]);
        home.until(|| service().is_some_and(|pid| pid != first));
        terminal.until(|shown| shown.contains("1 lease, by STATE") && shown.contains("web"));
        home.ok(&["allocate", "mine", "--name", "api"]);
        terminal.until(|shown| shown.contains("2 leases"));

        let second = service().unwrap();
        kill(second, Signal::SIGSTOP);
        terminal.until(|shown| shown.contains("did not answer within 3 s") && shown.ends_with('$'));
        is_given_back(&terminal, 3, &before);
        kill(second, Signal::SIGCONT);
    }

    pub fn left_at_once() {
        let terminal = opened(100, 12);
        let home = &terminal.home;
        home.ok(&["allocate", "mine", "--name", "web"]);
        terminal.until(|shown| shown.contains("1 lease,"));
        terminal.press(&["r", "y", "q"]);
        let said = format!("released port {} of mine web", home.port(0));
        terminal.until(|shown| shown.contains(&said) && shown.ends_with('$'));
        assert!(home.leases().is_empty());
    }

    pub fn left_hanging() {
        for quit in ["q", "C-c"] {
            let terminal = Terminal::new(160, 12);
            let home = &terminal.home;
            home.ok(&["allocate", "mine", "--name", "web"]);
            let before = terminal.modes();
            terminal.type_in("styxy --timeout 600 top");
            terminal.until(|shown| shown.contains("1 lease,"));
            let pid = home.http("GET", "/status", "").body["pid"].as_i64().unwrap();
            let service = Pid::from_raw(i32::try_from(pid).unwrap());
            kill(service, Signal::SIGSTOP).unwrap();
            terminal.press(&["r"]);
            terminal.until(|shown| shown.ends_with("[y/N]"));
            terminal.press(&["y"]);
            terminal.until(|shown| shown.contains("? help"));
            terminal.press(&[quit]);
            let said = format!(
                "it is not known whether port {}/tcp was released: the service has not answered yet",
                home.port(0)
            );
            terminal.until(|shown| shown.contains(&said) && shown.ends_with('$'));
            is_given_back(&terminal, 3, &before);
            kill(service, Signal::SIGCONT).unwrap();
        }
    }

    pub fn stopped() {
        let terminal = Terminal::new(100, 12);
        let home = &terminal.home;
        home.ok(&["allocate", "mine", "--name", "web"]);
        let before = terminal.modes();
        terminal.type_in("styxy top");
        terminal.until(|shown| shown.contains("1 lease,"));
        for count in 2..4 {
            terminal.press(&["C-z"]);
            terminal.until(|shown| shown.contains("Stopped") && !shown.contains("lease,"));
            assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "0 1");
            assert_eq!(terminal.modes(), before);
            home.ok(&["allocate", "mine", "--name", &format!("web-{count}")]);
            terminal.type_in("fg");
            terminal.until(|shown| shown.starts_with(&format!("{count} leases,")));
            let shown = terminal.shown();
            assert!(shown.contains("LEASE\n") && shown.contains("? help"), "{shown}");
            assert_eq!(terminal.asked("#{alternate_on} #{cursor_flag}"), "1 0");
        }
        terminal.press(&["q"]);
        is_given_back(&terminal, 0, &before);
    }

    pub fn hung_up() {
        for trap in ["", "trap '' HUP; "] {
            let terminal = Terminal::new(100, 12);
            let pane = terminal.asked("#{pane_id}");
            terminal.type_in(&format!("{trap}styxy top"));
            terminal.until(|shown| shown.contains("no port is leased"));
            let top = terminal.child();
            // tmux itself lives as long as it has a session.
            terminal.tmux(&["new-session", "-d", "exec sleep 1000"]);
            terminal.tmux(&["kill-pane", "-t", &pane]);
            // One that has ended and was not waited for has no program.
            terminal.home.until(|| std::fs::read_link(format!("/proc/{top}/exe")).is_err());
        }
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

    /// Presses these keys, by their names (tmux(1)).
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The shell's only child.
    fn child(&self) -> Pid {
        let shell = self.asked("#{pane_pid}");
        let children = format!("/proc/{shell}/task/{shell}/children");
        Pid::from_raw(std::fs::read_to_string(children).unwrap().trim().parse().unwrap())
    }

    fn asked(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim_end().to_owned()
    }

    /// The settings of the terminal (stty(1)), when the shell waits for a line.
    fn modes(&self) -> String {
        self.until(|shown| shown.ends_with('$'));
        self.settings()
    }

    /// The same, whoever has the terminal.
    fn settings(&self) -> String {
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
            // 7 swaps the two.
            let is_plain =
                codes.split(';').all(|code| ["", "0", "1", "7", "39", "49"].contains(&code));
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
