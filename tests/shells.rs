//! Completion in real shells, at a terminal: what stands on the line after a press of the tabulator.
//!
//! A shell that is not installed is ignored.

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use nix::pty::openpty;
use support::Home;

/// A shell, and how it is used as people do.
#[derive(Clone, Copy)]
struct Shell {
    name: &'static str,
    /// Without this file it is ignored.
    needs: &'static str,
    arguments: &'static [&'static str],
    /// Reads the script that the command prints.
    load: &'static str,
    /// Makes Ctrl-X print the line between `<<` and `>>`.
    show: &'static str,
}

const BASH: Shell = Shell {
    name: "bash",
    needs: "/bin/bash",
    arguments: &["--norc", "--noprofile", "-i"],
    load: "source <(styxy completions bash)",
    show: r#"bind -x '"\C-x": printf "<<%s>>" "$READLINE_LINE"'; bind 'set enable-bracketed-paste off'"#,
};

/// As a package installs it: bash-completion reads the script when it is wanted first.
const BASH_INSTALLED: Shell = Shell {
    needs: "/usr/share/bash-completion/bash_completion",
    load: "source /usr/share/bash-completion/bash_completion",
    ..BASH
};

const ZSH: Shell = Shell {
    name: "zsh",
    needs: "/bin/zsh",
    arguments: &["-f", "-i"],
    load: "autoload -U compinit; compinit -D -u; source <(styxy completions zsh)",
    show: r"show() { print -rn -- '<<'$BUFFER'>>' }; zle -N show; bindkey '^X' show; bindkey '^I' complete-word",
};

/// As a package installs it: a function that is loaded when it is wanted first.
const ZSH_INSTALLED: Shell =
    Shell { load: "fpath=($HOME/functions $fpath); autoload -U compinit; compinit -D -u", ..ZSH };

/// What a tabulator makes of a line, in bash and in zsh; `PORT` stands for what the test has leased.
const LINES: [(&str, &str, &str); 6] = [
    ("completes_a_verb", "styxy rel", "styxy release "),
    ("completes_a_port_that_is_leased", "styxy release ", "styxy release PORT "),
    ("completes_a_type_behind_an_equals_sign", "styxy list --type=mi", "styxy list --type=mine "),
    (
        "goes_on_behind_a_beginning",
        "styxy allocate mine --owner pi",
        "styxy allocate mine --owner pid:",
    ),
    (
        "completes_another_command_after_the_dashes",
        "styxy run mine -- nproces",
        "styxy run mine -- nprocessor ",
    ),
    ("completes_nothing_where_nothing_is_known", "styxy nonsense x", "styxy nonsense x"),
];

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (how, shell) in [
        ("bash", BASH),
        ("bash_installed", BASH_INSTALLED),
        ("zsh", ZSH),
        ("zsh_installed", ZSH_INSTALLED),
    ] {
        let mut add = |promise: &str, test: Box<dyn FnOnce() + Send>| {
            let trial = Trial::test(format!("{how}_{promise}"), move || {
                test();
                Ok(())
            });
            trials.push(trial.with_ignored_flag(!Path::new(shell.needs).exists()));
        };
        for (promise, line, completed) in LINES {
            add(promise, Box::new(move || completes(shell, line, completed)));
        }
        add("takes_nothing_in_a_path_for_a_command", Box::new(move || quotes(shell)));
        add("goes_on_behind_a_colon", Box::new(move || colons(shell)));
    }
    for (promise, line, completed) in [
        ("completes_a_verb", "styxy rel", "release\tRelease leased ports\n"),
        ("completes_a_port_that_is_leased", "styxy release ", "PORT\tmine web ~\n"),
        ("completes_a_type_behind_an_equals_sign", "styxy list --type=mi", "--type=mine\n"),
        ("completes_another_command_after_the_dashes", "styxy run mine -- nproces", "nprocessor"),
        ("completes_nothing_where_nothing_is_known", "styxy nonsense x", ""),
    ] {
        let test = move || {
            fish(line, completed);
            Ok(())
        };
        let trial = Trial::test(format!("fish_{promise}"), test);
        trials.push(trial.with_ignored_flag(!Path::new("/usr/bin/fish").exists()));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A home with a lease.
struct Leased {
    home: Home,
    port: String,
}

impl Leased {
    fn new() -> Self {
        let home = Home::with_type();
        let port = home.ok(&["allocate", "mine", "--name", "web"]);
        // A program that only this test has.
        fs::create_dir(home.path("programs")).unwrap();
        symlink("/bin/true", home.path("programs/nprocessor")).unwrap();
        let install = |shell: &str, folder: &str, file: &str| {
            fs::create_dir_all(home.path(folder)).unwrap();
            fs::write(home.path(folder).join(file), home.ok(&["completions", shell])).unwrap();
        };
        install("bash", ".local/share/bash-completion/completions", "styxy");
        install("zsh", "functions", "_styxy");
        Self { home, port }
    }

    /// The shell, in which `styxy` is the one that is tested.
    fn shell(&self, shell: &str) -> Command {
        let styxy = self.home.styxy();
        let folder = Path::new(styxy.get_program()).parent().unwrap();
        let mut command = Command::new(shell);
        let variables = styxy.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(variables).current_dir(self.home.path("")).env(
            "PATH",
            format!("{}:{}:/usr/bin:/bin", folder.display(), self.home.path("programs").display()),
        );
        command
    }
}

/// A shell at a terminal of its own.
struct Terminal {
    shell: Child,
    keys: File,
}

impl Terminal {
    fn start(shell: Shell, leased: &Leased) -> Self {
        let pty = openpty(None, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = leased.shell(shell.name);
        let child = command
            .args(shell.arguments)
            .env("TERM", "dumb")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut terminal = Self { shell: child, keys: pty.master.into() };
        let load = format!("stty -echo; {}; {}; PS1=; echo rea''dy\n", shell.load, shell.show);
        terminal.keys.write_all(load.as_bytes()).unwrap();
        let said = terminal.read_until("ready");
        // What is before the first prompt's end is the shell's own.
        let complaint = said.lines().find(|line| line.contains("styxy:") || line.contains("error"));
        assert_eq!(complaint, None, "{said}");
        terminal
    }

    /// The line after a tabulator.
    fn complete(&mut self, line: &str) -> String {
        // Ctrl-U takes away what was there before.
        self.keys.write_all(format!("\x15{line}\t\x18").as_bytes()).unwrap();
        let said = self.read_until(">>");
        let line = said.rsplit_once("<<").unwrap_or_else(|| panic!("{said:?}")).1;
        line.trim_end_matches(">>").to_owned()
    }

    fn read_until(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        loop {
            let mut bytes = [0; 1024];
            let read = self.keys.read(&mut bytes).unwrap();
            said.extend(&bytes[..read]);
            let text = String::from_utf8_lossy(&said);
            if text.contains(end) {
                return text.into_owned();
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Asks until it is so: a service on a busy machine may not answer in time, and then is not waited for.
fn assert_in_the_end(mut ask: impl FnMut() -> String, answer: &str) {
    let asked = (0..20).map(|_| ask()).find(|asked| asked == answer);
    assert_eq!(asked.unwrap_or_else(ask), answer);
}

fn completes(shell: Shell, line: &str, completed: &str) {
    let leased = Leased::new();
    let mut terminal = Terminal::start(shell, &leased);
    assert_in_the_end(|| terminal.complete(line), &completed.replace("PORT", &leased.port));
}

fn quotes(shell: Shell) {
    let leased = Leased::new();
    leased.home.ok(&["allocate", "mine", "--project", "/of-no-machine/a;b $(c)"]);
    let mut terminal = Terminal::start(shell, &leased);
    let completed = r"styxy list --project /of-no-machine/a\;b\ \$\(c\) ";
    assert_in_the_end(|| terminal.complete("styxy list --project /of-no-machine/a"), completed);
}

fn colons(shell: Shell) {
    let leased = Leased::new();
    leased.home.ok(&["allocate", "mine", "--project", "/of-no-machine/a:b=c:d"]);
    let mut terminal = Terminal::start(shell, &leased);
    for (line, completed) in [
        ("styxy list --project /of-no-machine/a", "styxy list --project /of-no-machine/a:b=c:d "),
        ("styxy list --project /of-no-machine/a:", "styxy list --project /of-no-machine/a:b=c:d "),
        (
            "styxy list --project /of-no-machine/a:b=c:",
            "styxy list --project /of-no-machine/a:b=c:d ",
        ),
        ("styxy list --project=/of-no-machine/a:b", "styxy list --project=/of-no-machine/a:b=c:d "),
        // A word behind one that has a colon.
        ("styxy allocate --owner unit:a.service mi", "styxy allocate --owner unit:a.service mine "),
    ] {
        assert_in_the_end(|| terminal.complete(line), completed);
    }
    if shell.name == "bash" {
        for quote in ["'", "\""] {
            let completed = format!("styxy list --project {quote}/of-no-machine/a:b=c:d{quote} ");
            let line = format!("styxy list --project {quote}/of-no-machine/a");
            assert_in_the_end(|| terminal.complete(&line), &completed);
        }
    }
}

fn fish(line: &str, completed: &str) {
    let leased = Leased::new();
    let ask = || {
        let output = leased
            .shell("fish")
            .args(["--no-config", "-c"])
            .arg(format!("styxy completions fish | source; complete -C '{line}'"))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        let said = String::from_utf8(output.stdout).unwrap();
        // How fish describes programs is its own.
        if said.starts_with("nprocessor\t") { "nprocessor".to_owned() } else { said }
    };
    assert_in_the_end(ask, &completed.replace("PORT", &leased.port));
}
