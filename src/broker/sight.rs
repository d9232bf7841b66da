//! Whether a command sees the same configuration as the service, and what happens if not.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Broker, storage};
use crate::{
    config::{Files, Seen, Showing},
    error::{Error, ErrorKind},
    kernel::landlock,
    lease::Client,
    value::Fields,
};

/// What the service knows of the configuration that commands see.
#[derive(Debug)]
pub(super) struct Sight {
    folders: Vec<PathBuf>,
    /// The last fingerprint of a command that matched. It saves reading the files.
    agreed: Mutex<String>,
    /// The files that the service was shown, and by whom, for people.
    shown: Mutex<Vec<String>>,
    /// Whether this service is the unit, whose mount namespace differs from that of commands.
    pub(super) is_unit: bool,
}

impl Sight {
    pub(super) fn new(folders: Vec<PathBuf>, is_unit: bool, files: &Files) -> Self {
        let agreed = Mutex::new(files.shown_fingerprint().to_owned());
        let shown = Mutex::new(files.shown());
        Self { folders, agreed, shown, is_unit }
    }

    fn agreed(&self) -> MutexGuard<'_, String> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if a command sees something that the service neither sees nor was shown.
    pub(super) fn check(&self, fingerprint: Option<&str>) -> Result<(), Error> {
        let Some(fingerprint) = fingerprint else { return Ok(()) };
        if *self.agreed() == fingerprint {
            return Ok(());
        }
        if Seen::of(&self.folders).fingerprint() == fingerprint {
            fingerprint.clone_into(&mut self.agreed());
            return Ok(());
        }
        let message = "the service does not see the configuration that this command sees";
        Err(Error::new(ErrorKind::ConfigurationDiffers, message)
            .suggest("`styxy config reload` shows it to the service"))
    }

    /// Adds the fingerprint of what the service sees, and the files that it was shown.
    pub(super) fn tell(&self, fields: &mut Fields) {
        let shown = self.shown();
        let seen = if shown.is_empty() {
            Seen::of(&self.folders).fingerprint()
        } else {
            self.agreed().clone()
        };
        fields.put("config_seen", seen);
        fields.put("config_shown", shown.clone());
    }

    fn shown(&self) -> MutexGuard<'_, Vec<String>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Takes what a command sees of the configuration, and reloads it. The answer has the `problems`, `elsewhere` if the
    /// command sees another folder than the service, and `again` if this service ends so that the next one can see it.
    pub async fn take_configuration(
        self: &Arc<Self>,
        seen: Seen,
        client: &Client,
    ) -> Result<Fields, Error> {
        let client = client.clone();
        let ending = || Error::storage(&std::io::Error::other("the service is ending"));
        let this = Arc::clone(self);
        let mut files = Arc::clone(&self.files).lock_owned().await;
        let take = move || {
            let by = match (&client.comm, client.pid) {
                (Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
                _ => "a command".to_owned(),
            };
            // Either of them keeps it from a folder that took the place of the one that it was started with.
            let may_end = this.sight.is_unit || landlock::is_in_force();
            let showing = files.take(&seen, &by, may_end).map_err(storage)?;
            let mut fields = Fields::default();
            if showing == Showing::Replaced {
                fields.put("again", true);
                fields.put("problems", Vec::<String>::new());
                this.idle_tracker.make_room();
                return Ok(fields);
            }
            *this.sight.shown() = files.shown();
            fields.put("problems", this.reload_now(&mut files, Some(&client))?);
            if let Showing::Elsewhere(folder) = showing {
                fields.put("elsewhere", folder.display().to_string());
            } else {
                *this.sight.agreed() = seen.fingerprint();
            }
            Ok(fields)
        };
        self.writer()?.run(take).await.ok_or_else(ending)?
    }
}
