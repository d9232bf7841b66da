//! The service manager that has started this process, and what it is told (`sd_notify(3)`).
//!
//! The variables of systemd's protocols are inherited by every child of a unit. They are meant for this
//! process only if systemd has started it itself: then its PID is in `$SYSTEMD_EXEC_PID` (systemd.exec(5),
//! since 248). To anybody else's manager nothing is said.

use std::{
    env,
    io::{self, PipeReader},
    os::fd::{AsFd, BorrowedFd},
    process,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// Whether systemd has started this very process.
pub fn started_this_process() -> bool {
    let pid = env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse().ok());
    pid == Some(process::id())
}

/// Tells the manager; whether it was told.
pub fn tell(states: &[NotifyState<'_>]) -> bool {
    started_this_process() && sd_notify::notify(states).is_ok()
}

/// Tells the manager, and hands it descriptors; whether it was told.
pub fn hand_over(states: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> bool {
    started_this_process() && sd_notify::notify_with_fds(states, descriptors).is_ok()
}

/// How often the manager wants a sign of life at the least (`WatchdogSec=`).
pub fn watchdog() -> Option<Duration> {
    started_this_process().then(sd_notify::watchdog_enabled).flatten()
}

/// A pipe that hangs up when the manager has worked through all that it was told before (`BARRIER=1`); at
/// once, if there is no manager.
pub fn barrier() -> io::Result<PipeReader> {
    let (ours, theirs) = io::pipe()?;
    hand_over(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()]);
    Ok(ours)
}

/// Waits until the manager has worked through what it was told.
pub async fn settled() {
    let ours = barrier().and_then(|barrier| pipe::Receiver::from_owned_fd(barrier.into()));
    if let Ok(mut ours) = ours {
        // The manager is alive, or this process would be ended by it.
        let _ = ours.read(&mut [0]).await;
    }
}
