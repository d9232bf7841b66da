//! Notifications to the service manager that started this process (`sd_notify(3)`).
//!
//! The variables of systemd's protocols are inherited by every child of a unit. They are meant for this process
//! only if systemd started it itself: then `$SYSTEMD_EXEC_PID` contains its PID (systemd.exec(5), since 248).
//! Otherwise nothing is sent.

use std::{
    env,
    io::{self, PipeReader},
    os::fd::{AsFd, BorrowedFd},
    process,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// Whether systemd started this process itself.
pub fn started_this_process() -> bool {
    let pid = env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse().ok());
    pid == Some(process::id())
}

/// Notifies the manager. Returns whether the message was sent.
pub fn tell(states: &[NotifyState<'_>]) -> bool {
    started_this_process() && sd_notify::notify(states).is_ok()
}

/// Notifies the manager, and passes it descriptors. Returns whether the message was sent.
pub fn hand_over(states: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> bool {
    started_this_process() && sd_notify::notify_with_fds(states, descriptors).is_ok()
}

/// The interval in which the manager expects keep-alive messages (`WatchdogSec=`); `None` without a watchdog.
pub fn watchdog() -> Option<Duration> {
    started_this_process().then(sd_notify::watchdog_enabled).flatten()
}

/// A pipe that hangs up when the manager has processed all earlier notifications (`BARRIER=1`); at once if there
/// is no manager.
pub fn barrier() -> io::Result<PipeReader> {
    let (ours, theirs) = io::pipe()?;
    hand_over(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()]);
    Ok(ours)
}

/// Waits until the manager has processed all earlier notifications.
pub async fn settled() {
    let ours = barrier().and_then(|barrier| pipe::Receiver::from_owned_fd(barrier.into()));
    if let Ok(mut ours) = ours {
        // No timeout is needed: without the manager, this process would be killed.
        let _ = ours.read(&mut [0]).await;
    }
}
