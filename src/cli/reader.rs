//! Notices when stdout has no reader any more.

use std::{io, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, poll};

/// Waits until the input is readable; returns `false` if stdout has no reader any more.
pub(super) fn wait_for(input: &impl AsFd) -> io::Result<bool> {
    let output = io::stdout();
    let mut both = [PollFd::new(input, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
    wait(&mut both)?;
    Ok(both[1].revents().is_empty())
}

/// Waits until stdout has no reader: the other end of a pipe or a socket is closed, or the terminal is gone.
/// poll(2) reports this even if no event is requested.
pub(super) fn gone() -> io::Result<()> {
    let output = io::stdout();
    wait(&mut [PollFd::new(&output, PollFlags::empty())])
}

fn wait(descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(descriptors, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
