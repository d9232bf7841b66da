//! Notices when stdout has no reader any more.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};

/// Waits until stdout has no reader: the other end of a pipe or a socket is closed, or the terminal is gone.
/// poll(2) reports this even if no event is requested.
pub(super) fn gone() -> io::Result<()> {
    let output = io::stdout();
    let mut output = [PollFd::new(&output, PollFlags::empty())];
    loop {
        match poll(&mut output, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
