//! The units for a program that no package has installed, in the user's own folders.
//!
//! - `texts`: what the files say
//! - `files`: writing and removing them, and what others have changed
//! - `manager`: what systemd and the session bus have to do with them

mod files;
mod manager;
mod texts;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value as Json, json};

use self::{
    files::{Change, Fate, Obstacle},
    manager::{RELOAD, SOCKET, SOCKETS},
    texts::Program,
};
use super::{
    CliError, Output, block_on, generator, in_shell, print, print_json, refused, say, short,
};
use crate::{
    client::unit::{SERVICE, control},
    surroundings::user,
    word::visible,
};

/// Have systemd start the service where no package is installed
///
/// For a styxy from cargo, an archive or Homebrew: it writes the units, the D-Bus service file, shell completions and man pages into
/// the home, with the path of this program, and enables the socket. Run it again after an upgrade, or when the program has moved.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy setup --dry-run\n  \
    styxy setup\n  \
    styxy setup --undo")]
pub(super) struct Setup {
    /// Disable the units, and remove what it has written; state, configuration and files that were changed since stay
    #[arg(long)]
    undo: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

/// What is to be done, in order.
struct Plan {
    program: Option<Program>,
    /// Why the service gets a smaller sandbox.
    smaller: Option<String>,
    steps: Vec<Step>,
}

enum Step {
    File(Change),
    /// With these arguments, and the reason if it is not obvious.
    Systemctl(Vec<&'static str>, Option<String>),
    ReloadBus,
}

impl Setup {
    pub(super) fn run(self) -> Result<(), CliError> {
        let data = user().data().ok_or_else(|| {
            refused("there is no home directory, and so no place for the units".to_owned())
        })?;
        let manager = manager::ready();
        if let Err(why) = &manager {
            if !self.dry_run {
                return Err(refused(why.clone()));
            }
            say(why);
        }
        let has_bus = block_on(manager::has_bus())?;
        let plan =
            if self.undo { undo(data, has_bus)? } else { set_up(data, has_bus, manager.is_ok())? };
        for step in &plan.steps {
            if !self.dry_run {
                step.take()?;
            }
            if !self.output.json {
                print(&step.told(self.dry_run))?;
            }
        }
        let has_steps = !plan.steps.is_empty();
        if !self.dry_run && has_steps {
            let result = if self.undo {
                manager::resume()
            } else {
                block_on(manager::verify(data, has_bus))?
            };
            result.map_err(refused)?;
        }
        if self.output.json {
            print_json(&json!({
                "program": plan.program.as_ref().map(Program::path),
                "dry_run": self.dry_run,
                "undo": self.undo,
                "smaller_sandbox": plan.smaller,
                "steps": plan.steps.iter().map(Step::json).collect::<Vec<_>>(),
            }))?;
        } else if let Some(why) = &plan.smaller {
            say(&format!("the service has a smaller sandbox: {why}"));
        } else if !has_steps {
            print("styxy setup has written nothing here")?;
        }
        // What is left was to be removed.
        let left: Vec<_> = plan.steps.iter().filter_map(Step::left).collect();
        if left.is_empty() {
            return Ok(());
        }
        say(&format!("to remove what was changed, too: `{}`", removing(&left)));
        Err(CliError::No)
    }
}

fn set_up(data: &Path, has_bus: bool, has_manager: bool) -> Result<Plan, CliError> {
    let program = Program::this().map_err(refused)?;
    if has_manager && let Some(why) = manager::obstacle(data, program.path()) {
        return Err(refused(why));
    }
    let smaller = if has_manager { generator::refusal_to_manager()? } else { None };
    let wanted = texts::files(&program, user().home(), smaller.as_deref());
    let changes = plan(data, wanted)?;
    let is_first = changes.iter().all(|change| change.fate == Fate::Write);
    let is_change = |change: &Change| !matches!(change.fate, Fate::Keep | Fate::Leave);
    let is_update = !is_first && changes.iter().any(is_change);
    let mut steps: Vec<_> = changes.into_iter().map(Step::File).collect();
    steps.push(Step::Systemctl(vec!["daemon-reload"], None));
    steps.extend(has_bus.then_some(Step::ReloadBus));
    steps.push(Step::Systemctl(vec!["--quiet", "enable", "--now", SOCKET], None));
    if let Some(pid) = block_on(manager::private())? {
        let why = format!("it takes over from the private service (PID {pid})");
        steps.push(Step::Systemctl(vec!["start", SERVICE], Some(why)));
    } else if has_manager && manager::has_failed() {
        // The bus requests no further start as long as it waits for the one that failed.
        let why = "it had failed".to_owned();
        steps.push(Step::Systemctl(vec!["start", SERVICE], Some(why)));
    } else if is_update {
        steps.push(Step::Systemctl(vec!["try-restart", SERVICE], None));
    }
    Ok(Plan { program: Some(program), smaller, steps })
}

fn undo(data: &Path, has_bus: bool) -> Result<Plan, CliError> {
    let changes = plan(data, texts::no_files())?;
    // A unit that stays because it was changed is disabled, too: it cannot do without the others.
    let units: Vec<_> = changes.iter().filter_map(|change| change.path.file_name()).collect();
    let is_ours = |unit: &&str| units.iter().any(|ours| ours == unit);
    let has_removals = changes.iter().any(|change| change.fate == Fate::Remove);
    let mut steps = Vec::new();
    let sockets: Vec<_> =
        SOCKETS.into_iter().filter(|unit| has_removals && is_ours(unit)).collect();
    if !sockets.is_empty() {
        steps.push(Step::Systemctl([&["--quiet", "disable", "--now"], &*sockets].concat(), None));
    }
    if has_removals && is_ours(&SERVICE) {
        steps.push(Step::Systemctl(vec!["stop", SERVICE], None));
    }
    steps.extend(changes.into_iter().map(Step::File));
    if has_removals {
        steps.push(Step::Systemctl(vec!["daemon-reload"], None));
        steps.extend(has_bus.then_some(Step::ReloadBus));
    }
    Ok(Plan { program: None, smaller: None, steps })
}

/// What becomes of the files. Everything that can be in the way is found here, before anything is written.
fn plan(data: &Path, wanted: Vec<(&str, Option<String>)>) -> Result<Vec<Change>, CliError> {
    let why = match files::plan(data, wanted) {
        Ok(Ok(changes)) => return Ok(changes),
        Ok(Err(obstacles)) => {
            format!("{}. To replace it, run {}", listed(&obstacles), replacing(&obstacles))
        }
        Err(error) => format!("{error}: {MEND}, then try again"),
    };
    Err(refused(format!("nothing was done: {why}")))
}

/// What to do about a folder that cannot be used.
const MEND: &str = "make it a folder that this user can write to, or move it away";

fn listed(files: &[Obstacle]) -> String {
    files.iter().map(Obstacle::to_string).collect::<Vec<_>>().join("; ")
}

/// What to do about files that are in the way.
fn replacing(files: &[Obstacle]) -> String {
    let paths: Vec<_> = files.iter().map(|file| &*file.path).collect();
    format!(
        "`{} && styxy setup` (settings that you want to keep belong in a drop-in, see `systemctl --user edit {SERVICE}`)",
        aside(&paths)
    )
}

/// The command that moves files out of the way, where neither systemd nor the bus reads them.
fn aside(paths: &[&Path]) -> String {
    let moves = paths.iter().map(|path| {
        let path = path.to_string_lossy();
        format!("mv {} {}", in_shell(&path), in_shell(&format!("{path}.old")))
    });
    moves.collect::<Vec<_>>().join(" && ")
}

impl Step {
    fn take(&self) -> Result<(), CliError> {
        match self {
            Self::File(change) => change
                .make()
                .map_err(|error| refused(format!("{}: {error}", change.path.display()))),
            Self::Systemctl(arguments, _) => {
                control(arguments).map_err(refused)?;
                if arguments[0] == "daemon-reload" {
                    manager::forget_failures();
                }
                Ok(())
            }
            Self::ReloadBus => block_on(manager::reload_bus())?.map_err(refused),
        }
    }

    /// The file that stays although it was to be removed.
    fn left(&self) -> Option<&Path> {
        let Self::File(change) = self else { return None };
        (change.fate == Fate::Leave).then_some(&change.path)
    }

    /// The command that does the same by hand.
    fn command(&self) -> String {
        match self {
            Self::File(_) => String::new(),
            Self::Systemctl(arguments, _) => {
                let arguments: Vec<_> =
                    arguments.iter().copied().filter(|a| *a != "--quiet").collect();
                format!("systemctl --user {}", arguments.join(" "))
            }
            Self::ReloadBus => RELOAD.to_owned(),
        }
    }

    /// A line for people.
    fn told(&self, is_dry_run: bool) -> String {
        let change = match self {
            Self::File(change) => change,
            Self::Systemctl(_, why) => {
                let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                let verb = if is_dry_run { "would run" } else { "ran" };
                return format!("{verb} `{}`{why}", self.command());
            }
            Self::ReloadBus if is_dry_run => return format!("would run `{RELOAD}`"),
            Self::ReloadBus => return "the session bus has read its service files".to_owned(),
        };
        let path = short(&visible(&change.path.to_string_lossy()));
        match (change.fate, is_dry_run) {
            (Fate::Write, true) => format!("would write {path}"),
            (Fate::Write, false) => format!("wrote {path}"),
            (Fate::Update, true) => format!("would update {path}"),
            (Fate::Update, false) => format!("updated {path}"),
            (Fate::Keep, _) => format!("{path} is up to date"),
            (Fate::Remove, true) => format!("would remove {path}"),
            (Fate::Remove, false) => format!("removed {path}"),
            (Fate::Leave, _) => format!("{path} stays, because it was changed"),
        }
    }

    fn json(&self) -> Json {
        let Self::File(change) = self else {
            return json!({"action": "run", "command": self.command()});
        };
        let action = match change.fate {
            Fate::Write => "write",
            Fate::Update => "update",
            Fate::Keep => "keep",
            Fate::Remove => "remove",
            Fate::Leave => "leave",
        };
        json!({"action": action, "file": change.path.to_string_lossy()})
    }
}

/// The command that removes files that `styxy setup --undo` leaves.
fn removing(paths: &[&Path]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| in_shell(&path.to_string_lossy())).collect();
    format!("rm {} && systemctl --user daemon-reload", paths.join(" "))
}

/// Where a unit comes from, for `styxy doctor`.
pub(super) enum Origin {
    /// A package, an archive, or somebody's own hand.
    Elsewhere,
    /// `styxy setup`.
    Setup(Written),
}

/// What `styxy setup` has written, as it is now.
pub(super) struct Written {
    /// The program that the service starts, if it is not this one.
    pub(super) another: Option<PathBuf>,
    /// Whether all files are as this program writes them.
    pub(super) is_current: bool,
    changed: Vec<Obstacle>,
    /// Why no file can be written.
    trouble: Option<String>,
}

impl Origin {
    /// Of the unit that systemd has loaded from this file.
    pub(super) fn of(unit: &Path) -> Self {
        let Some(data) = user().data() else { return Self::Elsewhere };
        let units = data.join("systemd/user");
        if !unit.parent().is_some_and(|folder| manager::is_same(folder, &units)) {
            return Self::Elsewhere;
        }
        let program = match Program::this() {
            Ok(program) => program,
            Err(why) => {
                let (another, changed, trouble) = (None, Vec::new(), Some(why));
                return Self::Setup(Written { another, is_current: false, changed, trouble });
            }
        };
        let text = std::fs::read_to_string(data.join(texts::SERVICE)).unwrap_or_default();
        let is_this = text.lines().any(|line| line == program.start());
        // Whether the sandbox is smaller is another question.
        let is_done = |change: &Change| !matches!(change.fate, Fate::Write | Fate::Update);
        let another = texts::started_by(&text).filter(|_| !is_this);
        let mut written =
            Written { another, is_current: false, changed: Vec::new(), trouble: None };
        match files::plan(data, texts::files(&program, user().home(), None)) {
            Ok(Ok(changes)) => written.is_current = changes.iter().all(is_done),
            Ok(Err(changed)) => written.changed = changed,
            Err(error) => written.trouble = Some(format!("{error}; {MEND}")),
        }
        Self::Setup(written)
    }
}

impl Written {
    /// The files that somebody else has written or changed, in words.
    pub(super) fn changes(&self) -> Option<String> {
        (!self.changed.is_empty()).then(|| listed(&self.changed))
    }

    /// The command with which this program writes all of them.
    pub(super) fn update(&self) -> String {
        match &self.trouble {
            Some(trouble) => format!("`styxy setup` after you have mended this: {trouble}"),
            None if self.changed.is_empty() => "`styxy setup`".to_owned(),
            None => replacing(&self.changed),
        }
    }

    /// What removes all of them.
    pub(super) fn removal(&self) -> String {
        let changed: Vec<_> = self.changed.iter().map(|file| &*file.path).collect();
        let undo = "styxy setup --undo";
        if changed.is_empty() {
            format!("`{undo}`")
        } else {
            format!("`{undo}; {}`", removing(&changed))
        }
    }
}

/// The unit of this name that systemd would use if this one was not in use instead.
pub(super) fn hidden_by(unit: &Path) -> Option<PathBuf> {
    manager::others(unit.file_name()?, unit.parent()?).next()
}

/// What removes a unit that is not from `styxy setup`.
pub(super) fn removing_other(unit: &Path) -> String {
    let text = std::fs::read_to_string(unit).unwrap_or_default();
    let program = texts::started_by(&text);
    // The archive leaves this beside its program.
    let installer = program.as_deref().and_then(|program| {
        Some(program.parent()?.parent()?.join("share/styxy/install.sh"))
            .filter(|file| file.exists())
    });
    let is_own = user().home().is_some_and(|home| unit.starts_with(home));
    match installer {
        Some(installer) => format!("sudo {} --uninstall", in_shell(&installer.to_string_lossy())),
        None if is_own => aside(&[unit]),
        None => format!("sudo {}", aside(&[unit])),
    }
}
