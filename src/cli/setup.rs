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
    files::{Change, Fate},
    manager::{RELOAD, SOCKET, SOCKETS},
    texts::Program,
};
use super::{CliError, Output, block_on, generator, print, print_json, refused, say, short};
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
        if self.undo && plan.steps.iter().any(Step::is_left) { Err(CliError::No) } else { Ok(()) }
    }
}

fn set_up(data: &Path, has_bus: bool, has_manager: bool) -> Result<Plan, CliError> {
    let program = Program::this().map_err(refused)?;
    if has_manager && let Some(why) = manager::obstacle(data, program.path()) {
        return Err(refused(why));
    }
    let smaller = if has_manager { generator::refusal_to_manager()? } else { None };
    let wanted = texts::files(&program, user().home(), smaller.as_deref());
    let changes = files::plan(data, wanted)?.map_err(|obstacles| in_the_way(&obstacles))?;
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
    let changes = files::plan(data, texts::no_files())?.map_err(|files| in_the_way(&files))?;
    let removed = changes.iter().filter(|change| change.fate == Fate::Remove);
    let removed: Vec<_> = removed.filter_map(|change| change.path.file_name()).collect();
    let is_removed = |unit: &&str| removed.iter().any(|removed| removed == unit);
    let has_removals = !removed.is_empty();
    let mut steps = Vec::new();
    let sockets: Vec<_> = SOCKETS.into_iter().filter(is_removed).collect();
    if !sockets.is_empty() {
        steps.push(Step::Systemctl([&["--quiet", "disable", "--now"], &*sockets].concat(), None));
    }
    if is_removed(&SERVICE) {
        steps.push(Step::Systemctl(vec!["stop", SERVICE], None));
    }
    steps.extend(changes.into_iter().map(Step::File));
    if has_removals {
        steps.push(Step::Systemctl(vec!["daemon-reload"], None));
        steps.extend(has_bus.then_some(Step::ReloadBus));
    }
    Ok(Plan { program: None, smaller: None, steps })
}

fn in_the_way(files: &[PathBuf]) -> CliError {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    refused(format!(
        "nothing was done, because somebody else has written or changed {}: move it away, then try \
         again (settings of a \
         unit belong in a drop-in, see `systemctl --user edit {SERVICE}`)",
        files.join(", ")
    ))
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

    fn is_left(&self) -> bool {
        matches!(self, Self::File(change) if change.fate == Fate::Leave)
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

/// Where the unit of the service comes from, for `styxy doctor`.
pub(super) enum Origin {
    /// A package, or somebody's own hand.
    Elsewhere,
    /// `styxy setup`, for this program and of this version.
    Current,
    /// `styxy setup`, of another version, or the file was changed.
    Differs,
    /// `styxy setup`, for the program at this path.
    Another(PathBuf),
    /// `styxy setup`; this unit for all users is hidden by it.
    Hides(PathBuf),
}

impl Origin {
    /// Of the unit that systemd has loaded from this file.
    pub(super) fn of(unit: &Path) -> Self {
        let Some(data) = user().data() else { return Self::Elsewhere };
        if !manager::is_same(unit, &data.join(texts::SERVICE)) {
            return Self::Elsewhere;
        }
        if let Some(hidden) = manager::installed_otherwise(data) {
            return Self::Hides(hidden);
        }
        let Ok(program) = Program::this() else { return Self::Differs };
        let text = std::fs::read_to_string(unit).unwrap_or_default();
        if !text.lines().any(|line| line == program.start()) {
            return texts::started_by(&text).map_or(Self::Differs, Self::Another);
        }
        // Whether the sandbox is smaller is another question.
        let is_done = |change: &Change| !matches!(change.fate, Fate::Write | Fate::Update);
        match files::plan(data, texts::files(&program, user().home(), None)) {
            Ok(Ok(changes)) if changes.iter().all(is_done) => Self::Current,
            _ => Self::Differs,
        }
    }
}
