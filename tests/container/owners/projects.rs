//! The same project gets the same port again, and each checkout and worktree is a project.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value as Json, json};

use super::client::{kill_service, systemctl};
use crate::{inside::Dice, machine::Machine};

pub fn keep(machine: &Machine) {
    let result = machine.inside("owners projects 100");
    eprintln!("{}: {}", machine.name(), result["summary"].as_str().unwrap());
}

/// Starts and stops a server in each of some folders, in random order, as far as ports go.
pub fn inside(rounds: u32) -> Json {
    let folders = repositories();
    let mut ports = HashMap::new();
    let mut running = HashMap::new();
    for folder in &folders {
        let lease = allocate(folder, "web");
        ports.insert(folder, lease["port"].clone());
        running.insert(folder, lease["lease_id"].clone());
    }
    let different: HashSet<_> = ports.values().collect();
    assert_eq!(different.len(), folders.len(), "{ports:?}");

    let stranger = Path::new("/var/tmp");
    let mut dice = Dice(20);
    let (mut starts, mut restarts) = (0, 0);
    for round in 0..rounds {
        let folder = &folders[usize::try_from(dice.below(folders.len() as u64)).unwrap()];
        if let Some(lease_id) = running.remove(folder) {
            styxy(folder, &["release", lease_id.as_str().unwrap()]);
        } else {
            // From anywhere within.
            let within = ["", "src", "src/deep"][usize::try_from(dice.below(3)).unwrap()];
            let lease = allocate(&folder.join(within), "web");
            assert_eq!(lease["port"], ports[folder], "{} in round {round}", folder.display());
            running.insert(folder, lease["lease_id"].clone());
            starts += 1;
        }
        if round % 10 == 5 {
            let lease = allocate(stranger, &format!("other{round}"));
            assert!(!different.contains(&lease["port"]), "{lease}");
            styxy(stranger, &["release", lease["lease_id"].as_str().unwrap()]);
        }
        if round % 25 == 12 {
            if restarts % 2 == 0 {
                systemctl(&["restart", "styxy.service"]);
            } else {
                kill_service();
            }
            restarts += 1;
        }
    }
    for (folder, lease_id) in running {
        styxy(folder, &["release", lease_id.as_str().unwrap()]);
    }
    forget(&folders);
    json!({"summary": format!(
        "{} projects kept their ports over {rounds} stops and starts ({starts} starts), and \
         {restarts} restarts of the service",
        folders.len(),
    )})
}

/// A port of each kind is forgotten, and the others are not.
fn forget(folders: &[PathBuf]) {
    let (one, other) = (&folders[0], &folders[1]);
    // Ports that nobody would get by chance.
    for (folder, name, port) in
        [(one, "web", "3060"), (one, "admin", "3061"), (one, "api", "3062"), (other, "web", "3063")]
    {
        let arguments = ["allocate", "dev", "--json", "--name", name, "--port", port];
        let lease: Json = serde_json::from_str(&styxy(folder, &arguments)).unwrap();
        styxy(folder, &["release", lease["lease_id"].as_str().unwrap()]);
    }
    let had = |folder: &Path, name: &str| -> u64 {
        let dry_run = ["allocate", "dev", "--dry-run", "--name", name];
        styxy(folder, &dry_run).trim().parse().unwrap()
    };
    assert_eq!(styxy(&one.join("src"), &["forget", "--name", "admin"]), "forgot 1 port\n");
    assert_eq!([had(one, "web"), had(one, "api"), had(other, "web")], [3060, 3062, 3063]);
    assert_ne!(had(one, "admin"), 3061);
    assert_eq!(styxy(one, &["forget", "--name", "admin"]), "forgot 0 ports\n");
    assert_eq!(styxy(one, &["forget"]), "forgot 2 ports\n");
    kill_service();
    assert_eq!(had(other, "web"), 3063);
    for (name, port) in [("web", 3060), ("api", 3062)] {
        assert_ne!(had(one, name), port);
    }
}

fn allocate(folder: &Path, name: &str) -> Json {
    serde_json::from_str(&styxy(folder, &["allocate", "dev", "--name", name, "--json"])).unwrap()
}

/// Runs the command in a folder, and returns what it printed.
fn styxy(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("styxy").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Two checkouts of one repository, and two worktrees of the first, as git makes them (gitrepository-
/// layout(5)).
fn repositories() -> Vec<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let [first, second, fix, feature] =
        ["shop", "shop-again", "shop-fix", "shop-feature"].map(|name| home.join(name));
    for checkout in [&first, &second] {
        fs::create_dir_all(checkout.join(".git/refs")).unwrap();
        fs::write(checkout.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    }
    for worktree in [&fix, &feature] {
        let private = first.join(".git/worktrees").join(worktree.file_name().unwrap());
        fs::create_dir_all(&private).unwrap();
        fs::create_dir_all(worktree).unwrap();
        let link = worktree.join(".git");
        fs::write(private.join("gitdir"), format!("{}\n", link.display())).unwrap();
        fs::write(private.join("commondir"), "../..\n").unwrap();
        fs::write(&link, format!("gitdir: {}\n", private.display())).unwrap();
    }
    for folder in [&first, &second, &fix, &feature] {
        fs::create_dir_all(folder.join("src/deep")).unwrap();
    }
    vec![first, second, fix, feature]
}
