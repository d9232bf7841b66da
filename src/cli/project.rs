//! The project that a command is for, determined here for every verb and never left out: a verb that searches
//! the leases of one project must not search those of all projects because this one has no valid name.

use std::{
    env,
    ffi::OsString,
    fmt::Write,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf, absolute},
};

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser, ValueParserFactory};

use super::{CliError, refused};
use crate::{
    error::Error,
    kernel::process,
    lease::ProjectPath,
    word::{disturbs, fnv1a, shortened, visible},
};

/// The manifests of common package managers: a folder with one of them is a package.
const MANIFESTS: [&str; 11] = [
    "package.json",
    "Cargo.toml",
    "pyproject.toml",
    "go.mod",
    "Gemfile",
    "composer.json",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "deno.json",
    "mix.exs",
];

/// The project of a command: its folder, and the name that the service knows it by.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// The folder of its files.
    folder: PathBuf,
    /// The `project_path` of its leases and events.
    path: ProjectPath,
    /// Their `package_path`: the folder of the nearest manifest, if it is below the project's own folder.
    package: Option<ProjectPath>,
}

impl Project {
    /// Returns the project of the current folder. Fails if that folder no longer exists.
    pub(super) fn current() -> Result<Self, Error> {
        Self::of(&env::current_dir().map_err(|error| no_folder(&error))?)
    }

    /// Returns the named project, or else that of the current folder.
    pub(super) fn or_current(named: Option<&Self>) -> Result<Self, Error> {
        named.map_or_else(Self::current, |named| Ok(named.clone()))
    }

    /// Returns the project of a path. A folder belongs to the project that it is in; a path that is not a
    /// folder is taken as the project itself, because the leases of a project may outlive its folder.
    pub(super) fn named(path: OsString) -> Result<Self, Error> {
        let path = PathBuf::from(path);
        if let Ok(folder) = fs::canonicalize(&path)
            && folder.is_dir()
        {
            return Self::of(&folder);
        }
        if path.as_os_str().is_empty() {
            return Err(Error::invalid("the path of the project is empty"));
        }
        let folder = resolved(&path).map_err(|error| no_folder(&error))?;
        let Some(text) = folder.to_str() else {
            let shown = shortened(&folder.to_string_lossy());
            return Err(Error::invalid(format!("there is no folder {shown:?}"))
                .suggest("name the project as `styxy list` shows it"));
        };
        Ok(Self { path: text.parse()?, folder, package: None })
    }

    /// Returns the project of a package. The path is relative to the current folder or, so that one command
    /// line works in all packages, to the top of the project.
    pub(super) fn of_package(path: OsString) -> Result<Self, Error> {
        match Self::current() {
            Ok(here) if !Path::new(&path).is_dir() => here.package_at(path),
            _ => Self::named(path),
        }
    }

    /// Returns the project of a package. The path is relative to the top of this project, or else to the
    /// current folder.
    pub(super) fn package_at(&self, path: OsString) -> Result<Self, Error> {
        let folder = self.folder.join(&path);
        Self::named(if folder.is_dir() { folder.into() } else { path })
    }

    /// Returns the project of a folder without symbolic links in its path: the top of its git worktree, or
    /// else the folder. In a linked worktree `.git` is a file, so each worktree is a project of its own.
    fn of(folder: &Path) -> Result<Self, Error> {
        let top = folder.ancestors().find(|folder| folder.join(".git").exists());
        let top = top.unwrap_or(folder);
        let mut inner = folder.ancestors().take_while(|folder| *folder != top);
        let package = inner.find(|folder| MANIFESTS.iter().any(|name| folder.join(name).is_file()));
        let path = path_of(top)?;
        let package = package.and_then(|package| package_path(package, top, &path));
        Ok(Self { folder: top.to_owned(), path, package })
    }

    /// Refuses to do what files in a folder above this one say if somebody else could have written them, as in /tmp. Who
    /// goes there, or names the project, wants it.
    #[cfg_attr(not(feature = "project"), expect(dead_code))]
    pub(super) fn refuse_if_others_write(&self) -> Result<(), CliError> {
        let is_here = env::current_dir().is_ok_and(|here| here == self.folder);
        let is_others = fs::metadata(&self.folder).is_ok_and(|about| {
            about.mode() & 0o002 != 0 || ![0, process::uid()].contains(&about.uid())
        });
        if !is_others || is_here {
            return Ok(());
        }
        Err(refused(format!(
            "this folder belongs to the project {top}, where others may write: go there, or add --project {top}",
            top = visible(&self.folder.to_string_lossy())
        )))
    }

    /// The folder of its files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The value of `project_path`.
    pub(super) fn path(&self) -> &ProjectPath {
        &self.path
    }

    /// The value of `package_path`, if the folder is in a package below the top of the project.
    pub(super) fn package(&self) -> Option<&ProjectPath> {
        self.package.as_ref()
    }
}

/// For clap; accepts paths that are not UTF-8.
impl ValueParserFactory for Project {
    type Parser = TryMapValueParser<OsStringValueParser, fn(OsString) -> Result<Project, Error>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(Self::named)
    }
}

/// Returns the former path of a deleted folder: without `..`, and without symbolic links in the part that
/// still exists.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in absolute(path)?.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            component => resolved.push(component),
        }
        if let Ok(real) = fs::canonicalize(&resolved) {
            resolved = real;
        }
    }
    Ok(resolved)
}

fn no_folder(error: &io::Error) -> Error {
    let problem = match error.kind() {
        // The error of getcwd(2) in a deleted folder.
        io::ErrorKind::NotFound => "this folder no longer exists".to_owned(),
        _ => format!("the path of this folder cannot be read ({error})"),
    };
    Error::invalid(problem).suggest("cd to another one, or name the project with --project")
}

/// The `project_path` of a folder: its path, or a stand-in for a path that is too long, is not UTF-8, or has
/// characters that affect a terminal. The stand-in `/…/NAME#HASH` depends only on the path, so that the
/// folder gets the same ports again and is not mistaken for another one.
fn path_of(folder: &Path) -> Result<ProjectPath, Error> {
    if let Some(path) = folder.to_str().and_then(|path| path.parse().ok()) {
        return Ok(path);
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut stand_in = "/…/".to_owned();
    // A name has at most 255 bytes, and a replaced character can at most triple its length.
    stand_in.extend(name.chars().map(|c| if disturbs(c) { '\u{fffd}' } else { c }));
    let _ = write!(stand_in, "#{:016x}", fnv1a(folder.as_os_str().as_bytes()));
    stand_in.parse()
}

/// The `package_path` of a folder inside a project. An unsuitable path gets a stand-in, like that of a
/// project; if even that is too long, the package counts as part of the project itself.
fn package_path(package: &Path, top: &Path, project: &ProjectPath) -> Option<ProjectPath> {
    let inner = package.strip_prefix(top).ok()?;
    let project = project.as_str().trim_end_matches('/');
    let inside = |inner: &str| format!("{project}/{inner}").parse().ok();
    inner.to_str().and_then(inside).or_else(|| {
        let stand_in = path_of(inner).ok()?;
        inside(stand_in.as_str().trim_start_matches('/'))
    })
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_folder_that_is_gone_is_known_by_any_path_that_led_to_it() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        fs::create_dir_all(home.join("repo/src")).unwrap();
        symlink(home.join("repo"), home.join("link")).unwrap();
        for path in ["repo/src/../../gone", "link/../gone", "gone/", "none/../gone"] {
            assert_eq!(resolved(&home.join(path)).unwrap(), home.join("gone"), "{path}");
        }
        assert_eq!(resolved(&home.join("link/gone")).unwrap(), home.join("repo/gone"));
    }

    fn named(path: &Path) -> String {
        Project::named(path.into()).unwrap().path.into()
    }

    /// A folder, and its path without symbolic links.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        (folder, path)
    }

    #[test]
    fn any_folder_of_a_worktree_means_the_worktree() {
        let (_folder, top) = folder();
        let inner = top.join("shop/src/web");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(named(&inner), inner.to_str().unwrap());
        fs::create_dir(top.join("shop/.git")).unwrap();
        // A linked worktree inside it, as git-worktree(1) creates it.
        fs::create_dir_all(top.join("shop/trees/fix/src")).unwrap();
        fs::write(top.join("shop/trees/fix/.git"), "gitdir: …").unwrap();
        symlink(&inner, top.join("link")).unwrap();
        for (path, project) in [
            ("shop", "shop"),
            ("shop/src/web", "shop"),
            ("shop/src/../src", "shop"),
            ("link", "shop"),
            ("shop/trees/fix/src", "shop/trees/fix"),
            // A folder that no longer exists may have been a worktree of its own.
            ("shop/trees/gone", "shop/trees/gone"),
        ] {
            assert_eq!(named(&top.join(path)), top.join(project).to_str().unwrap(), "{path}");
        }
    }

    #[test]
    fn a_package_is_the_folder_of_the_nearest_manifest_inside_of_the_project() {
        let (_folder, top) = folder();
        let odd = OsStr::from_bytes(b"apps/caf\xe9");
        for inner in [OsStr::new("apps/web/src"), OsStr::new("docs"), odd] {
            fs::create_dir_all(top.join("shop").join(inner)).unwrap();
        }
        let shop = top.join("shop");
        fs::create_dir(shop.join(".git")).unwrap();
        for manifest in ["package.json", "apps/web/package.json"] {
            fs::write(shop.join(manifest), "{}").unwrap();
        }
        fs::write(shop.join(odd).join("go.mod"), "").unwrap();
        let package = |folder: &Path| {
            let project = Project::named(folder.into()).unwrap();
            assert_eq!(project.path.as_str(), shop.to_str().unwrap());
            project.package.map(String::from)
        };
        // A manifest at the top is that of the project.
        assert_eq!(package(&shop), None);
        assert_eq!(package(&shop.join("docs")), None);
        for folder in ["apps/web", "apps/web/src"] {
            let web = shop.join("apps/web");
            assert_eq!(package(&shop.join(folder)).as_deref(), web.to_str(), "{folder}");
        }
        let stand_in = package(&shop.join(odd)).unwrap();
        let beginning = format!("{}/…/caf\u{fffd}#", shop.display());
        assert!(stand_in.starts_with(&beginning), "{stand_in}");
    }

    #[test]
    fn a_path_that_cannot_be_a_project_path_has_a_stable_stand_in() {
        let (_folder, top) = folder();
        let odd = |name: &[u8]| {
            let path = top.join(OsStr::from_bytes(name));
            fs::create_dir_all(&path).unwrap();
            named(&path)
        };
        let long = ["x".repeat(200), "y".repeat(200)].join("/");
        let long = [&*long, &long, &long].join("/");
        let mut all = Vec::new();
        for (name, shown) in [
            (&b"caf\xe9"[..], "caf\u{fffd}"),
            (b"caf\xe8", "caf\u{fffd}"),
            (b"two\nlines", "two\u{fffd}lines"),
            (b"tw\xf0\nlines", "tw\u{fffd}\u{fffd}lines"),
            (long.as_bytes(), &"y".repeat(200)),
        ] {
            let path = odd(name);
            let (beginning, hash) = path.rsplit_once('#').unwrap();
            assert_eq!(beginning, format!("/…/{shown}"));
            assert!(hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{path}");
            // The stand-in is accepted as a path, too.
            assert_eq!(named(Path::new(&path)), path);
            assert_eq!(odd(name), path);
            all.push(path);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5, "no two folders have one name");
    }

    #[test]
    fn the_stand_in_never_changes() {
        // Test vectors of draft-eastlake-fnv.
        for (text, hash) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text:?}");
        }
        let path = path_of(Path::new("/home/dev/two\nlines")).unwrap();
        assert_eq!(
            path.as_str(),
            format!("/…/two\u{fffd}lines#{:016x}", fnv1a(b"/home/dev/two\nlines"))
        );
    }

    #[test]
    fn what_is_no_folder_must_be_a_path_that_can_be_asked_for() {
        for path in [&b""[..], b"/gone\n", b"/gone\xff", &b"/x".repeat(600)] {
            let path = OsStr::from_bytes(path);
            assert!(Project::named(path.into()).is_err(), "{path:?}");
        }
        assert_eq!(named(Path::new("/srv/shop/")), "/srv/shop");
    }
}
