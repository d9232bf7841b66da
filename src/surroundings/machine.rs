//! Which registry belongs to this machine: its folder below the user's state folder.
//!
//! A home may be shared by several machines or containers, and a machine may have several networks. Leases are
//! for the ports of one network of one machine, so each has its own folder, named by [`key`].
//!
//! The state folder itself is the one of the unit, whoever asks: see [`state_folder`].

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

use crate::{
    atomic_file,
    kernel::{
        clock,
        network::{self, Network},
        process,
    },
};

use super::user;

/// The first version of systemd that keeps the state of a user unit below `~/.local/state`; earlier ones keep
/// it below `~/.config` (`StateDirectory=` in systemd.exec(5)).
const MOVED: u32 = 254;

/// A folder that exists while systemd is the system manager (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// The name of the folder for the network and the machine of this process.
pub fn key() -> &'static str {
    &here().1
}

/// Whether a name has the form of a [`key`], of any machine.
pub fn is_key(name: &str) -> bool {
    let is_hash = |part: &str| {
        part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    match name.split_once('-') {
        Some((machine, network)) => is_hash(machine) && is_hash(network),
        None => is_hash(name),
    }
}

/// Whether a name is the key of another network of this machine, in this boot or an earlier one.
pub fn is_key_of_other_network(name: &str) -> bool {
    is_other_network(key(), name)
}

fn is_other_network(own: &str, name: &str) -> bool {
    let machine = own.split('-').next().unwrap_or(own);
    let network = name.strip_prefix(machine).and_then(|rest| rest.strip_prefix('-'));
    is_key(name) && network.is_some() && name != own
}

/// Whether a state directly in the state folder belongs to this machine and network. Versions before 2.0 did
/// not distinguish them: they mostly ran in the machine's own network, or in a container that has no other.
pub fn has_unnamed_state() -> bool {
    is_in_own_network() || !Path::new(SYSTEMD).is_dir()
}

/// Whether this process is in the machine's network, and not in that of a sandbox or of a container without its
/// own manager.
pub fn is_in_own_network() -> bool {
    here().0 == Network::Machine
}

/// Whether the process at the other end of a socket is in the same network. If that cannot be seen, it is
/// assumed to be in the machine's.
pub fn is_in_this_network(pid: Option<u32>) -> bool {
    pid.and_then(network::same).unwrap_or_else(is_in_own_network)
}

/// The file that records which network is the machine's.
const NOTE: &str = "machine-network";

/// Records for sandboxes which network is the machine's: in a PID namespace of its own, a sandbox cannot see
/// the PID 1 that would show it. `folder` is one in which a service of this machine listens. Creates nothing
/// where everybody can see it.
pub fn note_network(folder: &Path) {
    if let Some(number) = network::of_booted_container() {
        // Without it, a sandbox uses its own service.
        let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let _ = atomic_file::replace(&folder.join(NOTE), number.to_string().as_bytes());
    }
}

/// Whether this is the recorded network, in any folder in which a service of this machine may listen: a sandbox
/// hides some of them.
fn is_noted(number: u64, machine: &str) -> bool {
    let user = user();
    let by_default = PathBuf::from(format!("/run/user/{}", user.uid()));
    let runtime = [Some(by_default.as_path()), user.runtime().ok()].into_iter().flatten();
    let folders =
        runtime.map(|runtime| runtime.join("styxy")).chain(user.possible_registries(machine));
    folders.into_iter().any(|folder| noted(&folder.join(NOTE)) == Some(number))
}

/// The number in a note of this boot: numbers of an earlier boot may be reused. The time of the note decides,
/// because the boot id may be the container's in one `/proc` and the machine's in another.
fn noted(note: &Path) -> Option<u64> {
    let written = fs::metadata(note).and_then(|note| note.modified()).ok()?;
    let is_of_this_boot = written >= clock::boot();
    is_of_this_boot.then(|| fs::read_to_string(note).ok()?.parse().ok()).flatten()
}

/// A process can change its network, but this one does not.
fn here() -> &'static (Network, String) {
    static HERE: OnceLock<(Network, String)> = OnceLock::new();
    HERE.get_or_init(|| {
        let (machine_id, boot_id) = (machine_id(), process::boot_id());
        let machine = Here {
            machine_id: machine_id.as_deref(),
            boot_id: &boot_id,
            processes: fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino()),
            network: Network::Machine,
        };
        let network = match network::here() {
            Network::Other(number) if is_noted(number, &machine.key()) => Network::Machine,
            network => network,
        };
        (network, Here { network, ..machine }.key())
    })
}

/// What distinguishes machines and networks.
#[derive(Clone, Copy, Debug)]
struct Here<'a> {
    machine_id: Option<&'a str>,
    boot_id: &'a str,
    /// The PID namespace (`pid_namespaces(7)`).
    processes: u64,
    network: Network,
}

impl Here<'_> {
    /// Hashed, because the machine id is confidential (machine-id(5)).
    fn key(self) -> String {
        let machine = match self.machine_id {
            Some(id) => hash(&[id]),
            // Some containers have no machine id.
            None => hash(&[self.boot_id, &self.processes.to_string()]),
        };
        match self.network {
            Network::Machine => machine,
            Network::Other(number) => {
                format!("{machine}-{}", hash(&[self.boot_id, &number.to_string()]))
            }
        }
    }
}

/// 16 hexadecimal digits.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new_with_prefix("styxy");
    for part in parts {
        hash.update([0]);
        hash.update(part);
    }
    let digest = hash.finalize();
    let start: &[u8; 8] = digest.first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*start))
}

fn machine_id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| {
        let id = fs::read_to_string(path).ok()?.trim().to_ascii_lowercase();
        // An image has "uninitialized" or nothing there.
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then_some(id)
    })
}

/// The state folder that systemd gives to this user's unit, for a service that systemd did not start. `state`
/// and `config` are the candidates.
pub fn state_folder(state: &Path, config: &Path) -> PathBuf {
    choose(state, config, systemd_version()).to_owned()
}

fn choose<'a>(state: &'a Path, config: &'a Path, systemd: Option<u32>) -> &'a Path {
    match systemd {
        Some(version) if version < MOVED => config,
        // A newer version keeps using the folder of an older one, and links to it.
        Some(_) if !state.exists() && config.exists() => config,
        _ => state,
    }
}

/// The version of the running systemd, if there is one.
fn systemd_version() -> Option<u32> {
    if !Path::new(SYSTEMD).is_dir() {
        return None;
    }
    let output = Command::new("systemctl").arg("--version").stderr(Stdio::null()).output().ok()?;
    version_of(&String::from_utf8_lossy(&output.stdout))
}

/// `systemd 252 (252.39-1~deb12u2)`; development versions have a suffix.
fn version_of(line: &str) -> Option<u32> {
    let number = line.strip_prefix("systemd ")?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Here<'_> = Here {
        machine_id: Some("3d1219c7c4c5404aaa1f6d2a48adfda4"),
        boot_id: "c5a6a9f2-0d3c-4a32-9a13-5f3c4d8f7a11",
        processes: 4_026_531_836,
        network: Network::Machine,
    };

    #[test]
    fn a_machine_keeps_its_folder_over_a_boot() {
        let later = Here { boot_id: "another", processes: 1, ..HERE };
        assert_eq!(later.key(), HERE.key());
    }

    #[test]
    fn machines_that_share_a_home_have_folders_of_their_own() {
        let other = Here { machine_id: Some("00000000000000000000000000000001"), ..HERE };
        assert_ne!(other.key(), HERE.key());
        // Containers from one image, without an id.
        let one = Here { machine_id: None, ..HERE };
        let two = Here { machine_id: None, processes: 4_026_532_000, ..HERE };
        assert_ne!(one.key(), two.key());
    }

    #[test]
    fn each_network_of_a_machine_has_a_folder_of_its_own_for_this_boot() {
        let one = Here { network: Network::Other(17), ..HERE };
        let two = Here { network: Network::Other(18), ..HERE };
        let later = Here { boot_id: "another", ..one };
        let mut keys = [HERE.key(), one.key(), two.key(), later.key()];
        assert!(keys[1].starts_with(&keys[0]), "the machine is seen from the name");
        keys.sort();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    }

    #[test]
    fn the_folders_of_other_networks_of_this_machine_are_known_by_their_names() {
        let machine = HERE.key();
        let network = |number| Here { network: Network::Other(number), ..HERE }.key();
        let elsewhere = Here { machine_id: None, ..HERE };
        let there = Here { network: Network::Other(17), ..elsewhere }.key();
        for key in [&machine, &network(17), &elsewhere.key(), &there] {
            assert!(is_key(key), "{key}");
        }
        for name in ["", "lock", "merged.17", "0123456789abcdef-", "0123456789ABCDEF", "17-17"] {
            assert!(!is_key(name), "{name}");
        }
        assert!(is_other_network(&machine, &network(17)));
        assert!(is_other_network(&network(18), &network(17)));
        for (own, name) in [
            (&machine, &machine),
            (&network(17), &network(17)),
            (&network(17), &machine),
            (&machine, &elsewhere.key()),
            (&machine, &there),
            (&network(17), &there),
        ] {
            assert!(!is_other_network(own, name), "{own} {name}");
        }
    }

    #[test]
    fn the_machines_id_is_not_to_be_had_from_the_folders_name() {
        assert!(!HERE.machine_id.unwrap().contains(&HERE.key()[..8]));
        assert!(HERE.key().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn a_service_that_systemd_did_not_start_uses_the_folder_of_the_unit() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let config = home.path().join("config");
        let chosen = |version| choose(&state, &config, version).file_name().unwrap().to_owned();
        // Neither exists yet.
        assert_eq!(chosen(None), "state");
        assert_eq!(chosen(Some(252)), "config");
        assert_eq!(chosen(Some(257)), "state");
        // An older systemd has created its folder; a newer one links to it when it starts the unit.
        fs::create_dir(&config).unwrap();
        assert_eq!(chosen(Some(252)), "config");
        assert_eq!(chosen(Some(257)), "config");
        std::os::unix::fs::symlink(&config, &state).unwrap();
        assert_eq!(chosen(Some(257)), "state");
        // Both exist.
        fs::remove_file(&state).unwrap();
        fs::create_dir(&state).unwrap();
        assert_eq!(chosen(Some(252)), "config");
        assert_eq!(chosen(Some(257)), "state");
        assert_eq!(chosen(None), "state");
    }

    #[test]
    fn the_version_of_systemd_is_read_in_all_its_spellings() {
        assert_eq!(version_of("systemd 252 (252.39-1~deb12u2)\n+PAM"), Some(252));
        assert_eq!(version_of("systemd 257~rc1\n"), Some(257));
        assert_eq!(version_of("systemd 254"), Some(254));
        assert_eq!(version_of("something else"), None);
    }
}
