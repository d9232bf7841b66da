//! Starting a private service, where neither a bus nor systemd does it. It serves the socket of the
//! user's runtime folder, so the next command finds it, and it ends by itself when it is idle.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::http;
use crate::{machine, surroundings::user};

/// How long a service may take to begin; a cold disk is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a service and waits until it listens. Two commands that do so at once get one service: the
/// state folder's lock lets only one of them live, and the other command waits for that one.
pub(super) async fn start() -> Result<(), String> {
    let state = user().make_state()?.join(machine::key());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|error| format!("{}: {error}", state.display()))?;
    let log_path = state.join("service.log");
    let log = open_log(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(["daemon", "--detach"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = child.stdout.take();
    // The line that says that it listens, or the end.
    let began = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.is_some_and(|output| {
            BufReader::new(output).read_line(&mut line).is_ok_and(|read| read > 0)
        })
    });
    let began = tokio::time::timeout(PATIENCE, began).await;
    if matches!(began, Ok(Ok(true))) {
        // It may end before this process does, and is to leave nothing behind then.
        thread::spawn(move || child.wait());
        return Ok(());
    }
    let _ = child.wait();
    let others = async {
        while http::connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(2), others).await.is_ok() {
        return Ok(());
    }
    Err(last_line(&log_path))
}

fn open_log(path: &Path) -> std::io::Result<File> {
    const ENOUGH: u64 = 1024 * 1024;
    let long = fs::metadata(path).is_ok_and(|metadata| metadata.len() > ENOUGH);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if long {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    options.open(path)
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().unwrap_or("it ended without a word").to_owned()
}
