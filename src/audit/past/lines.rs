//! Reading line by line from what may take long, as long as somebody wants it.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::PastError;

/// What bounds the reading of events.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The reading ends when this hangs up: nobody wants the events any more.
    pub wanted_by: Option<BorrowedFd<'a>>,
    /// The most bytes of events that are kept in memory: older ones are left out.
    pub most_bytes: Option<usize>,
    /// Called when journalctl is started; what it returns is called for each line, and dropped at the end.
    pub watch: fn() -> Box<dyn Fn()>,
}

impl Limits<'_> {
    /// Whether so many bytes are too many.
    pub(super) fn are_exceeded_by(&self, bytes: usize) -> bool {
        self.most_bytes.is_some_and(|most| bytes > most)
    }

    /// Waits until the input is readable, or nobody wants it.
    fn wait_for(&self, input: &impl AsFd) -> Result<(), PastError> {
        let mut all = vec![PollFd::new(input, PollFlags::IN)];
        // poll(2) reports a hang-up even if no event is requested.
        all.extend(self.wanted_by.as_ref().map(|fd| PollFd::new(fd, PollFlags::empty())));
        loop {
            match poll(&mut all, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(PastError::System(error.into())),
                Ok(_) if all[1..].iter().all(|fd| fd.revents().is_empty()) => return Ok(()),
                Ok(_) => return Err(PastError::Unwanted),
            }
        }
    }
}

/// The lines of an input.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    /// The beginning of a line.
    rest: Vec<u8>,
    /// Whether that beginning was too long to be kept.
    is_cut: bool,
}

impl<R: Read + AsFd> Lines<R> {
    pub(super) fn of(input: R) -> Self {
        Self { input, rest: Vec::new(), is_cut: false }
    }

    /// The next lines that have arrived, without the last line feed; `None` at the end. A line that is longer than
    /// all lines together may be is left out.
    pub(super) fn next(&mut self, limits: &Limits<'_>) -> Result<Option<Vec<u8>>, PastError> {
        loop {
            limits.wait_for(&self.input)?;
            let mut chunk = [0; 16 * 1024];
            let count = match self.input.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PastError::System(error)),
            };
            let mut chunk = &chunk[..count];
            if count == 0 {
                let rest = std::mem::take(&mut self.rest);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.is_cut {
                let Some(end) = memchr::memchr(b'\n', chunk) else { continue };
                (self.is_cut, chunk) = (false, &chunk[end + 1..]);
            }
            let (whole, begun) = match memchr::memrchr(b'\n', chunk) {
                Some(end) => (Some(&chunk[..end]), &chunk[end + 1..]),
                None => (None, chunk),
            };
            let lines = whole.map(|whole| {
                let mut lines = std::mem::take(&mut self.rest);
                lines.extend_from_slice(whole);
                lines
            });
            self.rest.extend_from_slice(begun);
            if limits.are_exceeded_by(self.rest.len()) {
                (self.rest, self.is_cut) = (Vec::new(), true);
            }
            if lines.is_some() {
                return Ok(lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const UNLIMITED: Limits<'_> =
        Limits { wanted_by: None, most_bytes: None, watch: || Box::new(|| {}) };

    /// An input that arrives in these parts.
    struct Parts(Vec<&'static str>, File);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            self.0.remove(0).as_bytes().read(buffer)
        }
    }

    impl AsFd for Parts {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    fn read(parts: &[&'static str], limits: Limits<'_>) -> Vec<String> {
        let mut lines = Lines::of(Parts(parts.to_vec(), File::open("/dev/null").unwrap()));
        let mut read = Vec::new();
        while let Some(some) = lines.next(&limits).unwrap() {
            let some = String::from_utf8(some).unwrap();
            read.extend(some.split('\n').map(str::to_owned));
        }
        read
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        for parts in
            [&["one\ntwo\nthree\n"][..], &["o", "ne\ntw", "o\n", "three"], &["one\n", "two\nthree"]]
        {
            assert_eq!(read(parts, UNLIMITED), ["one", "two", "three"]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out() {
        let parts = ["one\n01234", "56789", "01234", "56789\ntw", "o\nthree", "\n"];
        let limits = Limits { most_bytes: Some(9), ..UNLIMITED };
        assert_eq!(read(&parts, limits), ["one", "two", "three"]);
        assert_eq!(read(&parts, UNLIMITED), ["one", "01234567890123456789", "two", "three"]);
    }

    #[test]
    fn nothing_is_waited_for_that_nobody_wants() {
        let (input, _output) = io::pipe().unwrap();
        let (wanted, wanting) = io::pipe().unwrap();
        drop(wanting);
        let limits = Limits { wanted_by: Some(wanted.as_fd()), ..UNLIMITED };
        assert!(matches!(Lines::of(input).next(&limits), Err(PastError::Unwanted)));
    }
}
