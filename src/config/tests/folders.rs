//! Configuration folders: the administrator's and the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::super::*;

/// The drop-in of the service.
pub const DROP_IN: &str = "user/config.d/styxy-auto.json";

pub struct Folders(tempfile::TempDir);

impl Folders {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With these files.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let folders = Self::new();
        files.iter().for_each(|(name, text)| folders.write(name, text));
        folders
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// The files as a service that is started now sees them.
    pub fn files(&self) -> Files {
        Files::new(self.all(), self.path("state/styxy/copy.json"))
    }

    pub fn read(&self) -> Merged {
        let (texts, mut problems) = files::read(&self.all());
        let mut merged = merge(&texts);
        problems.append(&mut merged.problems);
        Merged { problems, ..merged }
    }

    /// The configuration, which has no problems.
    #[track_caller]
    pub fn good(&self) -> Config {
        let Merged { config, problems, .. } = self.read();
        assert_eq!(problems, []);
        config
    }

    /// The problems, with paths relative to the folders.
    pub fn problems(&self, merged: &Merged) -> Vec<String> {
        let cut = format!("{}/", self.0.path().display());
        merged.problems.iter().map(|problem| problem.to_string().replace(&cut, "")).collect()
    }

    /// The origin of the value at a pointer of the shown configuration.
    pub fn origin(&self, merged: &Merged, pointer: &str) -> String {
        let shown = show(&merged.config, Some(&merged.origins));
        let origin = shown.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
        let cut = format!("{}/", self.0.path().display());
        origin["origin"].as_str().unwrap().replace(&cut, "")
    }

    fn all(&self) -> Vec<PathBuf> {
        ["etc", "user"].map(|name| self.path(name)).to_vec()
    }
}

/// The built-in configuration with one file, which has no problems.
#[track_caller]
pub fn with_file(text: &str) -> Config {
    Folders::with(&[("user/config.json", text)]).good()
}

/// A layer with only this value.
pub fn layer_with(pointer: &str, value: &Json) -> String {
    let mut layer = Json::Null;
    put(&mut layer, pointer, value.clone());
    layer.to_string()
}

/// Puts a value at a pointer, and creates the objects above it where they are missing.
pub fn put(json: &mut Json, pointer: &str, value: Json) {
    let mut here = json;
    for name in pointer.split('/').skip(1) {
        here = &mut here[name];
    }
    *here = value;
}

pub fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}
