//! The file with the token: that of styxy 1.x, where its clients look for it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::super::{CliError, own::only_own, refused, short};
use crate::{
    atomic_file,
    surroundings::user,
    token::{Token, TokenHash},
};

/// More than this is no token.
const LARGEST: u64 = 4_096;

/// `~/.styxy/auth.token`.
pub(in crate::cli) struct TokenFile(PathBuf);

impl TokenFile {
    pub(in crate::cli) fn find() -> Result<Self, CliError> {
        let home = user().home().ok_or_else(|| {
            refused("there is no home directory, and so no place for the token".to_owned())
        })?;
        let path = home.join(".styxy/auth.token");
        // Somebody may keep it elsewhere, and a link here.
        Ok(Self(fs::canonicalize(&path).unwrap_or(path)))
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }

    /// Says that there is none.
    pub(in crate::cli) fn missing(&self) -> String {
        format!("there is no token in {}", short(&self.0.to_string_lossy()))
    }

    /// The token; `None` if there is no file.
    ///
    /// # Errors
    ///
    /// Why the file is not used, and what to do.
    pub(in crate::cli) fn read(&self) -> Result<Option<Token>, String> {
        if let Ok(folder) = fs::metadata(self.folder()) {
            only_own(&folder).map_err(|why| format!("{} {why}", self.folder().display()))?;
        }
        let file = match atomic_file::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.0.is_symlink() => {
                return Ok(None);
            }
            file => file.map_err(|error| self.unusable(&error))?,
        };
        let metadata = file.metadata().map_err(|error| self.unusable(&error))?;
        if metadata.uid() != user().uid() {
            return Err(self.refused("it is another user's"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(self.refused("others may read or write it"));
        }
        let mut bytes = Vec::new();
        let read = file.take(LARGEST).read_to_end(&mut bytes);
        read.map_err(|error| self.unusable(&error))?;
        let token = String::from_utf8_lossy(&bytes).parse();
        token.map(Some).map_err(|error: crate::error::Error| self.refused(&error.message))
    }

    /// Has `tell` tell the service the token; makes one if there is none.
    pub(in crate::cli) fn hand_over(
        &self,
        tell: impl FnOnce(TokenHash) -> Result<(), CliError>,
    ) -> Result<Token, CliError> {
        let _lock = self.lock().map_err(|error| refused(self.unusable(&error)))?;
        if let Some(token) = self.read().map_err(refused)? {
            tell(token.hash())?;
            return Ok(token);
        }
        self.put(tell)
    }

    /// Replaces the token, if `tell` can tell the service about it.
    pub(super) fn replace(
        &self,
        tell: impl FnOnce(TokenHash) -> Result<(), CliError>,
    ) -> Result<Token, CliError> {
        let _lock = self.lock().map_err(|error| refused(self.unusable(&error)))?;
        self.put(tell)
    }

    fn put(&self, tell: impl FnOnce(TokenHash) -> Result<(), CliError>) -> Result<Token, CliError> {
        let token = Token::random().map_err(|error| CliError::System(error.into()))?;
        let unusable = |error| refused(self.unusable(&error));
        // Once the service knows the token, the file must not fail.
        let partial = self.0.with_extension("new");
        let done = write(&partial, &token).map_err(unusable);
        let done = done
            .and_then(|()| tell(token.hash()))
            .and_then(|()| fs::rename(&partial, &self.0).map_err(unusable));
        if done.is_err() {
            let _ = fs::remove_file(&partial);
        }
        done.map(|()| token)
    }

    fn folder(&self) -> &Path {
        self.0.parent().unwrap_or(&self.0)
    }

    /// Keeps other commands from changing the token, so that the file and the service agree. Makes the folder if there is
    /// none.
    fn lock(&self) -> io::Result<Flock<File>> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder())?;
        let folder = File::open(self.folder())?;
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    fn unusable(&self, error: &io::Error) -> String {
        let path = self.0.display();
        format!(
            "the token cannot be kept in {path}: {error}; it must be a file of yours, in a folder of yours: move away what \
             is in its place, then try again"
        )
    }

    fn refused(&self, why: &str) -> String {
        format!("{} is not used, because {why}: `styxy token rotate` replaces it", self.0.display())
    }
}

/// Writes a file that is only the user's.
fn write(path: &Path, token: &Token) -> io::Result<()> {
    // What a command that was killed has left.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.reveal().as_bytes())?;
    file.sync_all()
}
