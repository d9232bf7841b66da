//! The file with the token: that of styxy 1.x, where its clients look for it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::super::{CliError, refused};
use crate::{
    atomic_file,
    error::Error,
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

    /// The token; `None` if there is no file.
    pub(in crate::cli) fn read(&self) -> Result<Option<Token>, CliError> {
        let file = match atomic_file::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| self.unusable(&error))?,
        };
        let metadata = file.metadata().map_err(|error| self.unusable(&error))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(self.refused("others may read or write it"));
        }
        let mut text = String::new();
        let read = file.take(LARGEST).read_to_string(&mut text);
        read.map_err(|error| self.unusable(&error))?;
        let token = text.parse().map_err(|error: Error| self.refused(&error.message))?;
        Ok(Some(token))
    }

    /// Its token, or a new one if there is none.
    pub(in crate::cli) fn read_or_make(&self) -> Result<Token, CliError> {
        if let Some(token) = self.read()? {
            return Ok(token);
        }
        let token = new()?;
        match self.make(&token) {
            // Another command was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.read()?.ok_or_else(|| self.unusable(&error))
            }
            made => made.map(|()| token).map_err(|error| self.unusable(&error)),
        }
    }

    /// Replaces the token, if `tell` can tell the service about it.
    pub(super) fn replace(
        &self,
        tell: impl FnOnce(TokenHash) -> Result<(), CliError>,
    ) -> Result<Token, CliError> {
        let token = new()?;
        self.make_folder().map_err(|error| self.unusable(&error))?;
        // Once the service knows the new one, the file must not fail.
        let partial = self.0.with_extension("new");
        let _ = fs::remove_file(&partial);
        let done = write(&partial, &token).map_err(|error| self.unusable(&error));
        let done = done
            .and_then(|()| tell(token.hash()))
            .and_then(|()| fs::rename(&partial, &self.0).map_err(|error| self.unusable(&error)));
        if done.is_err() {
            let _ = fs::remove_file(&partial);
        }
        done.map(|()| token)
    }

    /// Makes the file, which must not exist. It appears with its content.
    fn make(&self, token: &Token) -> io::Result<()> {
        self.make_folder()?;
        let partial = self.0.with_extension(format!("{}.new", std::process::id()));
        let made = write(&partial, token).and_then(|()| fs::hard_link(&partial, &self.0));
        let _ = fs::remove_file(&partial);
        made
    }

    fn make_folder(&self) -> io::Result<()> {
        let folder = self.0.parent().ok_or(io::ErrorKind::InvalidInput)?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn unusable(&self, error: &io::Error) -> CliError {
        refused(format!("the token cannot be kept in {}: {error}", self.0.display()))
    }

    fn refused(&self, why: &str) -> CliError {
        refused(format!(
            "{} is not used, because {why}: `styxy token rotate` replaces it",
            self.0.display()
        ))
    }
}

fn new() -> Result<Token, CliError> {
    Token::random().map_err(|error| CliError::System(error.into()))
}

fn write(path: &Path, token: &Token) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.reveal().as_bytes())?;
    file.sync_all()
}
