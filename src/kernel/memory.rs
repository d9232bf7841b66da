//! Files in memory, for data that is too large for a bus message (`memfd_create(2)`).

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

/// Creates a file with these bytes.
pub fn file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"styxy", flags)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Reads such a file, if it has no more than `most` bytes. Other kinds of files are refused: reading one may
/// block for ever.
pub fn read(file: &impl AsFd, most: usize) -> io::Result<Vec<u8>> {
    // Only files in memory have seals.
    fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "it is no file in memory (memfd)")
    })?;
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let size = file.metadata()?.len();
    let size = usize::try_from(size).ok().filter(|size| *size <= most).ok_or_else(|| {
        io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"))
    })?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_memory_is_read_from_it_and_nothing_else_is() {
        let written = file(b"some text").unwrap();
        assert_eq!(read(&written, 9).unwrap(), b"some text");
        assert_eq!(read(&written, 9).unwrap(), b"some text", "wherever it was read to");
        assert!(read(&written, 8).is_err());
        assert!(read(&File::open("/proc/self/stat").unwrap(), 9_000).is_err());
        assert!(read(&io::pipe().unwrap().0, 9).is_err());
    }
}
