//! The installed service: its configuration, its state, its process.

use std::{collections::BTreeMap, env, fs, path::PathBuf, process::Command};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use styxy::config::Config;

/// Its unit.
pub const UNIT: &str = "styxy.service";

/// The type that most measurements ask for: ten thousand ports, none of which a browser refuses and
/// none of which the kernel gives away by itself.
pub const TYPE: &str = "bench";
/// Its ports.
pub const RANGE: (u16, u16) = (20_000, 29_999);
/// Room for sixty thousand leases and some more.
pub const WIDE: (u16, u16) = (2_000, 65_535);

/// A path in the user's home.
pub fn home(path: &str) -> PathBuf {
    PathBuf::from(env::var_os("HOME").expect("HOME")).join(path)
}

/// The state folder, as systemd 254 and newer have it.
pub fn state() -> PathBuf {
    home(".local/state/styxy/state").join(styxy::surroundings::machine::key())
}

/// The socket.
pub fn socket() -> PathBuf {
    PathBuf::from(env::var_os("XDG_RUNTIME_DIR").expect("XDG_RUNTIME_DIR")).join("styxy/http.sock")
}

/// Asks the user's manager.
pub fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").arg("--user").args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemctl {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Ends the service and all that it knows, and writes a configuration with this one type. The service
/// is not started.
pub fn reset(range: (u16, u16)) {
    // A service that has events to confirm would take its time to end.
    let _ = Command::new("systemctl").args(["--user", "kill", "--signal=KILL", UNIT]).output();
    systemctl(&["stop", UNIT]);
    systemctl(&["reset-failed", UNIT]);
    let _ = fs::remove_dir_all(state());
    let built_in = Config::built_in();
    let mut types: BTreeMap<_, _> =
        built_in.types.0.keys().map(|name| (name.as_str(), Json::Null)).collect();
    types.insert(TYPE, json!({"port_range": [range.0, range.1]}));
    let config = json!({
        // A service that ends in the middle of a measurement is another measurement.
        "idle_exit_seconds": 0,
        "limits": {"leases": 131_070},
        "service_types": types,
    });
    fs::create_dir_all(home(".config/styxy")).unwrap();
    fs::write(home(".config/styxy/config.json"), config.to_string()).unwrap();
}

/// Starts it anew, without any state.
pub fn fresh(range: (u16, u16)) {
    reset(range);
    systemctl(&["start", UNIT]);
}

/// Its process.
pub fn pid() -> u32 {
    systemctl(&["show", "--value", "--property=MainPID", UNIT]).parse().unwrap()
}

/// A file of /proc/PID.
pub fn proc(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Lets all threads of these processes run only on some processors (`sched_setaffinity(2)`).
pub fn run_on(processes: &[u32], is_one: impl Fn(usize) -> bool) {
    let mut set = CpuSet::new();
    (0..CpuSet::count())
        .filter(|processor| is_one(*processor))
        .for_each(|processor| set.set(processor).unwrap());
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let thread = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
            sched_setaffinity(Pid::from_raw(thread), &set).unwrap();
        }
    }
}
