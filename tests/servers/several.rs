//! Recipes that start several services, and those that reach another machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{User, geteuid},
};
use serde_json::{Value as Json, json};

use super::{
    super::{NODE, PYTHON, Ready, Running, Stage, answers},
    Files, SERVER, missing, put, recipe, shell, stage, write,
};

/// The recipes that are run here, by their headings.
pub(super) const RECIPES: [&str; 9] = [
    "npm-run-all",
    "concurrently",
    PROCFILE,
    "process-compose",
    "tmux",
    "turbo",
    "nx",
    "SSH",
    "Docker on another machine",
];

/// Those of them for which something can't be had.
pub(super) const UNTRIED: [&str; 3] = [PROCFILE, "process-compose", "Docker on another machine"];

const PROCFILE: &str = "honcho, foreman and overmind";

pub(super) fn trials() -> Vec<Ready> {
    let starters = STARTERS.iter().map(|starter| {
        let test: Box<dyn FnOnce() + Send> = Box::new(|| two_worktrees(starter));
        let name = format!("four_services_of_{}_in_two_worktrees_keep_eight_ports", starter.name);
        (name, missing(starter.needs), test)
    });
    let pairs = PAIRS.iter().map(|pair| {
        let test: Box<dyn FnOnce() + Send> = Box::new(|| twice(pair));
        let word = pair.name.replace('-', "_");
        (format!("two_services_of_{word}_keep_their_ports"), missing(pair.needs), test)
    });
    let ssh: Box<dyn FnOnce() + Send> = Box::new(tunnel);
    let docker: Box<dyn FnOnce() + Send> = Box::new(on_another_machine);
    let hosts = [
        ("a_server_on_another_machine_is_reached_at_one_port", &["node"] as &[_], ssh),
        ("docker_on_another_machine_has_one_port_there", &[], docker),
    ];
    let hosts = hosts.into_iter().map(|(name, needs, test)| {
        let needs = [needs, &["ssh", "ssh-keygen", "sshd"]].concat();
        (name.to_owned(), missing(&needs), test)
    });
    starters.chain(pairs).chain(hosts).collect()
}

// ---- two services of one package -----------------------------------------------------------------

/// What starts the two services web and api.
struct Pair {
    name: &'static str,
    needs: &'static [&'static str],
    line: &'static str,
    stand_in: Option<(&'static str, &'static str)>,
}

const PAIRS: &[Pair] = &[
    Pair {
        name: "npm-run-all",
        needs: &["node", "npm", NODE],
        line: "npm run dev",
        stand_in: None,
    },
    Pair {
        name: "concurrently",
        needs: &["node", "npm", NODE],
        line: "npm run dev",
        stand_in: None,
    },
    Pair {
        name: "process-compose",
        needs: &["node", PYTHON],
        line: "process-compose up",
        stand_in: Some(("process-compose", OF_PROCESS_COMPOSE)),
    },
    Pair {
        name: "tmux",
        needs: &["node", "tmux"],
        line: "trap 'tmux kill-session -t shop; exit' TERM; sh dev.sh; sleep 1000 & wait",
        stand_in: None,
    },
];

const OF_PROCESS_COMPOSE: &str = r#"exec python3 -c '
import subprocess, yaml
processes = yaml.safe_load(open("process-compose.yaml"))["processes"].values()
for started in [subprocess.Popen(process["command"], shell=True) for process in processes]:
    started.wait()'"#;

fn twice(pair: &Pair) {
    let stage = stage();
    let folder = stage.home.path("server");
    for (name, text) in recipe(pair.name) {
        write(&folder, &name, &text);
    }
    write(&folder, "server.js", SERVER);
    if let Some((name, script)) = pair.stand_in {
        put(&stage, name, script);
    }
    let start = || {
        let mut command =
            shell(&stage, &format!("TMUX_TMPDIR=..; export TMUX_TMPDIR; {}", pair.line));
        let mut started = Running(command.process_group(0).spawn().unwrap());
        listen(&stage, &mut started, 2);
        let leases = stage.leases();
        let named = leases
            .iter()
            .map(|lease| (lease["service_name"].to_string(), lease["port"].as_u64().unwrap()));
        let ports: BTreeMap<_, _> = named.collect();
        killpg(started.pid(), Signal::SIGTERM).unwrap();
        started.0.wait().unwrap();
        stage.has_leases(0);
        ports
    };
    let ports = start();
    assert_eq!(ports.values().collect::<BTreeSet<_>>().len(), 2, "{ports:?}");
    assert_eq!(start(), ports);
}

/// Waits until that many servers listen on their leases.
fn listen(stage: &Stage, started: &mut Running, count: usize) {
    let listening = |leases: &[Json]| {
        leases.len() == count && leases.iter().all(|lease| lease["state"] == "listening")
    };
    started.until_or("all listen", || stage.said(), || listening(&stage.leases()));
}

// ---- several services of one repository ----------------------------------------------------------

const SERVICES: [&str; 4] = ["web", "admin", "api", "docs"];

/// What starts several services at once.
struct Starter {
    name: &'static str,
    /// The heading of its recipe.
    recipe: &'static str,
    needs: &'static [&'static str],
    line: &'static str,
    /// Writes what the page does not show.
    prepare: fn(&Path, &Files),
    /// Where in the repository a service is, and what `styxy port` is asked for it, there and from all the others.
    folder: fn(&str) -> String,
    asked: fn(&str) -> Vec<String>,
}

const STARTERS: &[Starter] = &[
    Starter {
        name: "turbo",
        recipe: "turbo",
        needs: &["git", "node", "npm", NODE],
        line: "exec node_modules/.bin/turbo run dev",
        ..PACKAGES
    },
    Starter {
        name: "nx",
        recipe: "nx",
        needs: &["git", "node", "npm", NODE],
        line: "export NX_DAEMON=false; exec node_modules/.bin/nx run-many -t dev",
        ..PACKAGES
    },
    Starter {
        name: "honcho",
        needs: &["git", "node", PYTHON],
        line: "exec honcho start",
        ..PROCESSES
    },
    Starter {
        name: "foreman",
        needs: &["git", "node", "foreman"],
        line: "exec foreman start",
        ..PROCESSES
    },
];

/// A package for each service.
const PACKAGES: Starter = Starter {
    name: "",
    recipe: "",
    needs: &[],
    line: "",
    prepare: |folder, files| {
        let manifest = json!({
            "private": true, "packageManager": "npm@11.0.0", "workspaces": ["apps/*"],
        });
        write(folder, "package.json", &manifest.to_string());
        let own = &files["apps/web/package.json"];
        for service in SERVICES {
            let manifest = own.replace(r#""web""#, &format!("{service:?}"));
            write(folder, &format!("apps/{service}/package.json"), &manifest);
            write(folder, &format!("apps/{service}/server.js"), SERVER);
        }
    },
    folder: |service| format!("apps/{service}"),
    asked: |service| ["dev", "--package", &format!("apps/{service}")].map(str::to_owned).to_vec(),
};

/// One package, whose services have names.
const PROCESSES: Starter = Starter {
    recipe: PROCFILE,
    prepare: |folder, _| write(folder, "server.js", SERVER),
    folder: |_| ".".to_owned(),
    asked: |service| {
        let service_type = if ["api", "docs"].contains(&service) { service } else { "dev" };
        [service_type, "--name", service].map(str::to_owned).to_vec()
    },
    ..PACKAGES
};

fn two_worktrees(starter: &Starter) {
    let stage = stage();
    let main = stage.home.path("server");
    let files = recipe(starter.recipe);
    for (name, text) in &files {
        write(&main, name, text);
    }
    (starter.prepare)(&main, &files);
    write(&main, ".gitignore", "node_modules\n.nx\n.turbo\nports\n");
    let other = stage.home.path("other");
    let line = format!(
        "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm a && git worktree add -q {}",
        other.display()
    );
    assert!(shell(&stage, &line).status().unwrap().success(), "{}", stage.said());
    symlink(main.join("node_modules"), other.join("node_modules")).unwrap();
    let start = || {
        let mut started = [&main, &other].map(|folder| {
            let mut command = shell(&stage, starter.line);
            Running(command.current_dir(folder).process_group(0).spawn().unwrap())
        });
        listen(&stage, &mut started[0], 8);
        // Each service is asked for from the place of each other.
        let mut ports = BTreeMap::new();
        for folder in [&main, &other] {
            for service in SERVICES {
                let found = SERVICES.map(|place| {
                    let mut command = stage.home.styxy();
                    command.current_dir(folder.join((starter.folder)(place)));
                    let output =
                        command.arg("port").args((starter.asked)(service)).output().unwrap();
                    assert!(output.status.success(), "{output:?}");
                    String::from_utf8(output.stdout).unwrap()
                });
                assert!(found.iter().all(|port| *port == found[0]), "{service}: {found:?}");
                ports.insert((folder.clone(), service), found[0].trim().to_owned());
            }
        }
        for running in &mut started {
            killpg(running.pid(), Signal::SIGTERM).unwrap();
            running.0.wait().unwrap();
        }
        stage.has_leases(0);
        ports
    };
    let ports = start();
    assert_eq!(ports.values().collect::<BTreeSet<_>>().len(), 8, "{ports:?}");
    assert_eq!(start(), ports);
}

// ---- another machine -----------------------------------------------------------------------------

/// This machine, as one that ssh(1) calls `host`; what is run there begins in the folder of the servers.
fn host(stage: &Stage) -> Running {
    let folder = stage.home.path("ssh");
    fs::create_dir(&folder).unwrap();
    if geteuid().is_root() {
        // Where the package makes it at each boot.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let keys = "for key in own hosts; do ssh-keygen -q -t ed25519 -N '' -f ../ssh/$key; done";
    assert!(shell(stage, keys).status().unwrap().success(), "{}", stage.said());
    let server = stage.home.path("server");
    let (server, at) = (server.display(), folder.display());
    let port = stage.home.port(8);
    let user = User::from_uid(geteuid()).unwrap().unwrap().name;
    // A login has neither the folders of the test nor its PATH.
    let kept = "export -p >../ssh/environment";
    assert!(shell(stage, kept).status().unwrap().success());
    let of_server = format!(
        "ListenAddress 127.0.0.1
        Port {port}
        HostKey {at}/hosts
        AuthorizedKeysFile {at}/own.pub
        StrictModes no
        UsePAM no
        PidFile none
        ForceCommand . {at}/environment; cd {server}; exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
    );
    let of_client = format!(
        "Host host
        HostName 127.0.0.1
        Port {port}
        User {user}
        IdentityFile {at}/own
        IdentitiesOnly yes
        StrictHostKeyChecking no
        UserKnownHostsFile /dev/null
        BatchMode yes\n"
    );
    write(&folder, "server", &of_server);
    write(&folder, "client", &of_client);
    let ssh = super::find("ssh").unwrap();
    put(stage, "ssh", &format!("exec {} -F {at}/client \"$@\"", ssh.display()));
    let sshd = super::find("sshd").unwrap();
    // It starts itself again for each connection, and wants to know where it is.
    let mut command = shell(stage, &format!("exec {} -D -e -f {at}/server", sshd.display()));
    let mut sshd = Running(command.process_group(0).spawn().unwrap());
    let is_up = || shell(stage, "ssh host true").status().unwrap().success();
    sshd.until_or("sshd answers", || stage.said(), is_up);
    sshd
}

fn tunnel() {
    let stage = stage();
    let _host = host(&stage);
    let folder = stage.home.path("server");
    write(&folder, "shop/server.js", SERVER);
    write(&folder, "tunnel.sh", &recipe("SSH")["tunnel.sh"]);
    let start = || {
        let lines =
            ["cd shop && exec styxy run dev --name web -- node server.js", "exec sh tunnel.sh"];
        let mut started =
            lines.map(|line| Running(shell(&stage, line).process_group(0).spawn().unwrap()));
        listen(&stage, &mut started[1], 2);
        let mut command = stage.home.styxy();
        let output = command.args(["port", "web"]).current_dir(&folder).output().unwrap();
        let port = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        started[1].until_or("it answers", || stage.said(), || answers(port));
        for running in &mut started {
            killpg(running.pid(), Signal::SIGTERM).unwrap();
            running.0.wait().unwrap();
        }
        stage.has_leases(0);
        port
    };
    let port = start();
    assert_eq!(start(), port);
}

fn on_another_machine() {
    let stage = stage();
    let _host = host(&stage);
    let folder = stage.home.path("server");
    fs::create_dir(folder.join("shop")).unwrap();
    write(&folder, "up.sh", &recipe("Docker on another machine")["up.sh"]);
    put(&stage, "docker", super::PUBLISHED);
    for _ in 0..3 {
        assert!(shell(&stage, "sh up.sh").status().unwrap().success(), "{}", stage.said());
    }
    let lease = stage.lease();
    assert!(lease["project_path"].as_str().unwrap().ends_with("/shop"), "{lease}");
    let ports = fs::read_to_string(folder.join("ports")).unwrap();
    assert_eq!(ports, format!("{}\n", lease["port"]).repeat(3));
}
