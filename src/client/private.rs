//! Starting a private service, where neither a bus nor systemd does it. It listens beside the lock of the
//! state, so the next command finds it, and it ends by itself when it is idle.
//!
//! Where a systemd manager of the user runs (and only the package is missing), the manager starts it, so that
//! it does not end with the cron job or the unit that its first command was part of. Elsewhere it is forked off
//! and drops everything that it inherits.

use std::{env, fs, os::unix::fs::DirBuilderExt, path::Path, process::Stdio, time::Duration};

use nix::libc::ECHILD;
use tokio::{
    net::unix::pipe::Receiver,
    process::Command,
    time::{Instant, sleep, timeout_at},
};

use super::http;
use crate::{
    daemon::{READY, TAKEN},
    surroundings::{Seen, machine, passed_on, user},
};

/// How long a service may take to start; a cold disk is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of its transient unit.
const UNIT: &str = "styxy-private.service";

/// Why a service did not start.
enum StartError {
    /// Another one holds the state: it is starting or stopping.
    Busy(String),
    /// It cannot start.
    Failed(String),
}

/// Starts a service and waits until it listens. Two commands that do so at once get one service: the
/// state folder's lock lets only one of them live, and the other command waits for that one.
pub(super) async fn start() -> Result<(), String> {
    let state = user().make_state()?.join(machine::key());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|error| format!("{}: {error}", state.display()))?;
    let until = Instant::now() + PATIENCE;
    if by_manager(&state, until).await {
        return Ok(());
    }
    loop {
        let error = match forked(until).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if http::connect().await.is_ok() {
            return Ok(());
        }
        match error {
            StartError::Busy(_) if Instant::now() < until => sleep(Duration::from_millis(20)).await,
            StartError::Busy(why) | StartError::Failed(why) => return Err(why),
        }
    }
}

/// Has the user's manager start it; whether it did. It refuses if there is one already, which then serves, or if
/// the service would not see the same folders and ports as this command.
async fn by_manager(state: &Path, until: Instant) -> bool {
    let (Ok(runtime), true) = (user().runtime(), user().has_manager()) else { return false };
    let (Ok(program), Some(seen)) = (env::current_exe(), Seen::of(state)) else { return false };
    let mut command = Command::new("systemd-run");
    command
        .args(["--user", "--quiet", "--collect", "--service-type=notify"])
        .arg(format!("--unit={UNIT}"))
        .arg("--description=Port allocation, started by a command")
        // As in styxy.service: its guards survive a crash, and a hopeless start is not retried.
        .args(["--property=Restart=on-failure", "--property=RestartPreventExitStatus=1 69"])
        .args(["--property=RestartForceExitStatus=75", "--property=SuccessExitStatus=75"])
        .args(["--property=FileDescriptorStoreMax=700", "--property=LimitNOFILE=65536"])
        .args(["--property=UMask=0077", "--property=StandardOutput=null"]);
    for (name, value) in passed_on() {
        let mut setting = name.clone();
        setting.push("=");
        setting.push(&value);
        command.arg("--setenv").arg(setting);
    }
    command
        .arg("--")
        .arg(program)
        .args(["daemon", "--as-seen", &seen.to_string()])
        .env_clear()
        .envs(passed_on())
        .env("XDG_RUNTIME_DIR", runtime)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let began = timeout_at(until, command.status()).await;
    matches!(began, Ok(Ok(status)) if status.success()) || http::connect().await.is_ok()
}

/// Double-forks it. The intermediate process exits at once, so that nobody who waits for children ever sees the
/// service.
async fn forked(until: Instant) -> Result<(), StartError> {
    let failed = |error: std::io::Error| StartError::Failed(error.to_string());
    let program = env::current_exe().map_err(failed)?;
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let parent = Command::new(program)
        .args(["daemon", "--detach"])
        .current_dir("/")
        .env_clear()
        .envs(passed_on())
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer)
        .status();
    match timeout_at(until, parent).await.map_err(|_| slow())? {
        // Where SIGCHLD is ignored, the kernel reaps it.
        Err(error) if error.raw_os_error() != Some(ECHILD) => return Err(failed(error)),
        _ => {}
    }
    let reader = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    let said = timeout_at(until, first_words(&reader)).await.map_err(|_| slow())?;
    // A service that gives way reports that twice; the second line is for people.
    if let Some(busy) = said.lines().find_map(|line| line.strip_prefix(TAKEN)) {
        return Err(StartError::Busy(busy.to_owned()));
    }
    match said.lines().next_back().unwrap_or("it exited without a message") {
        ready if ready.starts_with(READY) => Ok(()),
        last => Err(StartError::Failed(last.to_owned())),
    }
}

fn slow() -> StartError {
    StartError::Failed(format!("it does not listen after {} s", PATIENCE.as_secs()))
}

/// Its output until it is ready or has exited.
async fn first_words(reader: &Receiver) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while reader.readable().await.is_ok() {
        match reader.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => said.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}
