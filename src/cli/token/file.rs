//! The file with the token: that of styxy 1.x, where its clients look for it.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::super::{CliError, in_shell, own::only_own, refused, short};
use crate::{
    atomic_file,
    surroundings::user,
    token::{Token, TokenHash},
};

/// More than this is no token.
const LARGEST: u64 = 4_096;

/// Why the token in the file is not used, and what to do.
#[derive(Debug)]
pub(in crate::cli) struct Unusable {
    pub(in crate::cli) what: String,
    pub(in crate::cli) remedy: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl From<Unusable> for CliError {
    fn from(unusable: Unusable) -> Self {
        refused(unusable.to_string())
    }
}

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
    pub(in crate::cli) fn missing(&self) -> Unusable {
        Unusable {
            what: format!("there is no token in {}", short(&self.0.to_string_lossy())),
            remedy: "`styxy http enable` makes one".to_owned(),
        }
    }

    /// The token; `None` if there is no file.
    ///
    /// # Errors
    ///
    /// Why the file is not used, and what to do.
    pub(in crate::cli) fn read(&self) -> Result<Option<Token>, Unusable> {
        self.check_folder()?;
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
        if bytes.is_empty() {
            return Err(self.refused("it is empty"));
        }
        let token = String::from_utf8_lossy(&bytes).parse();
        token.map(Some).map_err(|error: crate::error::Error| self.refused(&error.message))
    }

    /// Has `tell` tell the service the token; makes one if there is none.
    pub(in crate::cli) fn hand_over(
        &self,
        tell: impl FnOnce(TokenHash) -> Result<(), CliError>,
    ) -> Result<Token, CliError> {
        let _lock = self.lock()?;
        if let Some(token) = self.read()? {
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
        let _lock = self.lock()?;
        self.put(tell)
    }

    fn put(&self, tell: impl FnOnce(TokenHash) -> Result<(), CliError>) -> Result<Token, CliError> {
        let token = Token::random().map_err(|error| CliError::System(error.into()))?;
        let unusable = |error| CliError::from(self.unusable(&error));
        // Once the service knows the token, the file must not fail: a folder cannot be replaced by a file.
        if self.0.is_dir() {
            return Err(unusable(io::ErrorKind::IsADirectory.into()));
        }
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

    /// Checks that only this user can replace the file.
    fn check_folder(&self) -> Result<(), Unusable> {
        let Ok(found) = fs::metadata(self.folder()) else { return Ok(()) };
        only_own(&found).map_err(|why| {
            let (what, remedy) = why.split_once(": ").unwrap_or((&why, "see its owner and mode"));
            let folder = self.folder().display();
            Unusable { what: format!("{folder} {what}"), remedy: remedy.to_owned() }
        })
    }

    /// Keeps other commands from changing the token, so that the file and the service agree. Makes the folder if there is
    /// none.
    fn lock(&self) -> Result<Flock<File>, Unusable> {
        let folder = || {
            DirBuilder::new().recursive(true).mode(0o700).create(self.folder())?;
            File::open(self.folder())
        };
        let folder = folder().map_err(|error| self.unusable(&error))?;
        self.check_folder()?;
        Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, error)| self.unusable(&error.into()))
    }

    fn unusable(&self, error: &io::Error) -> Unusable {
        // The folder may be what is in the way.
        let path = if self.folder().is_dir() { &self.0 } else { self.folder() };
        let shown = path.to_string_lossy();
        let aside = in_shell(&format!("{shown}.old"));
        Unusable {
            what: format!("the token cannot be kept in {}: {error}", self.0.display()),
            remedy: format!(
                "it must be a file of yours, in a folder of yours: move away what is in its place (`mv {} {aside}`), then \
                 run `styxy http enable`",
                in_shell(&shown)
            ),
        }
    }

    fn refused(&self, why: &str) -> Unusable {
        Unusable {
            what: format!("{} is not used, because {why}", self.0.display()),
            remedy: "`styxy token rotate` replaces it".to_owned(),
        }
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
