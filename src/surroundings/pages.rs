//! The mark that `styxy-tcp.socket` listens for pages only.
//!
//! It is in the runtime directory: it outlives the service, which is to stop the socket, and ends with the session.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The file of the mark.
const NAME: &str = "tcp-for-pages";

/// Where the mark is, whether it is set or not.
#[derive(Clone, Debug)]
pub struct ForPages(PathBuf);

impl ForPages {
    /// The mark in a folder: `$XDG_RUNTIME_DIR/styxy`.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join(NAME))
    }

    /// Whether the socket listens for pages only, if it listens.
    pub fn is_set(&self) -> bool {
        self.0.exists()
    }

    /// Sets the mark, if it is not set.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub fn set(&self) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(&self.0).map(drop)
    }

    /// Removes the mark, if it is set.
    pub fn clear(&self) {
        // One that cannot be removed has the next service stop the socket, unless it is enabled.
        let _ = fs::remove_file(&self.0);
    }
}

impl fmt::Display for ForPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_mark_is_set_and_cleared_any_number_of_times() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("styxy");
        let mark = ForPages::in_folder(&folder);
        mark.clear();
        assert!(!mark.is_set());
        for _ in 0..2 {
            mark.set().unwrap();
            assert!(mark.is_set());
        }
        for (path, mode) in [(&folder, 0o700), (&folder.join(NAME), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        mark.clear();
        assert!(!mark.is_set());
    }
}
