//! Whether anybody still reads what is written.

use std::{io, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, poll};

/// Waits until there is something to read from the input; `false` if nobody reads the output any more.
pub(super) fn wait_for(input: &impl AsFd) -> io::Result<bool> {
    let output = io::stdout();
    let mut both = [PollFd::new(input, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
    wait(&mut both)?;
    Ok(both[1].revents().is_empty())
}

/// Waits until nobody reads the output any more: of a pipe or a socket whose other end is closed, or of a
/// terminal that is gone, poll(2) says so without being asked.
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
