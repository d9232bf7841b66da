//! The innermost layer of the sandbox: this process limits itself by Landlock (landlock(7)), which needs neither
//! privileges nor a namespace nor systemd.
//!
//! A rule belongs to the file or folder that a path leads to at that moment, with everything in it. What takes its
//! name later has no rule; so a rule for something that is replaced is one for the folder that it is in. Looking at
//! metadata and following links is not limited, nor is what is open already, nor is connecting to a Unix socket.

#![allow(unsafe_code)]

use std::{
    env,
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    ptr::null,
    sync::OnceLock,
};

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use nix::{
    errno::Errno,
    libc::{SYS_landlock_create_ruleset, syscall},
    unistd::{AccessFlags, eaccess},
};

/// The version of the interface whose limits are used, as far as the kernel has them: that of Linux 6.12.
const NEWEST: ABI = ABI::V6;
/// The first version that lets files be moved between folders at all (`LANDLOCK_ACCESS_FS_REFER`, Linux 5.19).
const OLDEST: i32 = 2;
/// What later versions than the oldest one can limit.
const LATER: [(i32, &str); 4] =
    [(3, "truncating files"), (4, "TCP connections"), (5, "control of devices"), (6, "signals")];
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;

/// What a process may do.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// What it may read. What does not exist is left out, here as below.
    pub read: Vec<PathBuf>,
    /// What it may read and write, and in folders also create, rename and delete.
    pub write: Vec<PathBuf>,
    /// The one program that it may execute, by its name in `$PATH`, or why it may execute every program.
    pub execute: Result<&'static str, String>,
    /// Whether it may connect over TCP.
    pub tcp: bool,
}

/// How far Landlock limits this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// As far as is wanted.
    Full,
    /// Less far.
    Partial,
    /// Not at all.
    None,
}

impl Strength {
    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        }
    }
}

/// What became of limiting this process.
#[derive(Debug)]
pub struct InForce {
    /// How far it is limited.
    pub strength: Strength,
    /// What is not limited, and why; `None` if everything is.
    pub note: Option<String>,
    /// The program that may be executed, if not every program may.
    program: Option<Program>,
}

impl InForce {
    fn none(why: impl Into<String>) -> Self {
        Self { strength: Strength::None, note: Some(why.into()), program: None }
    }
}

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// What became of limiting this process; `None` if that was not tried.
pub fn in_force() -> Option<&'static InForce> {
    IN_FORCE.get()
}

/// Whether this process is limited, at least partly.
pub fn is_in_force() -> bool {
    in_force().is_some_and(|in_force| in_force.strength != Strength::None)
}

/// Notes why this process is not limited.
pub fn stay_out(why: &str) {
    let _ = IN_FORCE.set(InForce::none(why));
}

/// Limits this process for good, and everything that it starts. It must have a single thread: others would not be
/// limited.
pub fn enter(allowed: &Allowed) -> &'static InForce {
    IN_FORCE.get_or_init(|| match version() {
        Err(errno) => InForce::none(why_absent(errno)),
        Ok(version) if version < OLDEST => InForce::none(
            "the kernel is older than 5.19: its Landlock would let no file be moved to another folder",
        ),
        Ok(version) => restrict(allowed, version)
            .unwrap_or_else(|error| InForce::none(format!("it could not be set up: {error}"))),
    })
}

/// The version of the kernel's interface (`landlock_create_ruleset(2)`).
fn version() -> Result<i32, Errno> {
    // SAFETY: with this flag the kernel takes no attributes, and only answers a number.
    let version = unsafe { syscall(SYS_landlock_create_ruleset, null::<u8>(), 0_usize, VERSION) };
    Errno::result(version).map(|version| i32::try_from(version).unwrap_or(i32::MAX))
}

fn why_absent(errno: Errno) -> String {
    match errno {
        Errno::EOPNOTSUPP => "it was switched off when the machine was booted (lsm= on the kernel's command line, or CONFIG_LSM)".to_owned(),
        Errno::ENOSYS => "the kernel has no Landlock: it is older than 5.13, or was built without".to_owned(),
        Errno::EPERM | Errno::EACCES => "a filter of system calls refuses it, that of the container or of a unit (SystemCallFilter=)".to_owned(),
        other => format!("the kernel refuses it: {}", other.desc()),
    }
}

fn restrict(allowed: &Allowed, version: i32) -> Result<InForce, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = read
        | make_bitflags!(AccessFs::{
            WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSock | Refer | Truncate
        });
    let (program, any_program) = match &allowed.execute {
        Ok(name) => match Program::find(name) {
            Ok(program) => (Some(program), None),
            Err(why) => (None, Some(why)),
        },
        Err(why) => (None, Some(why.clone())),
    };
    let mut files = AccessFs::from_all(NEWEST);
    if any_program.is_some() {
        files.remove(AccessFs::Execute);
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(files)?
        .scope(Scope::Signal)?;
    if !allowed.tcp {
        rules = rules.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut rules = rules.create()?;
    let mut add = |path: &Path, access: BitFlags<AccessFs>| {
        let Ok(opened) = PathFd::new(path) else { return Ok(()) };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut rules).add_rule(PathBeneath::new(opened, access)).map(drop)
    };
    for path in &allowed.read {
        add(path, read)?;
    }
    for path in &allowed.write {
        add(path, write)?;
    }
    if let Some(program) = &program {
        for path in program.file.iter().map(|(path, _)| path).chain(&program.loaders) {
            add(path, read | AccessFs::Execute)?;
        }
    }
    let status = rules.restrict_self()?;
    let too_old: Vec<_> =
        LATER.iter().filter(|(since, _)| *since > version).map(|(_, what)| *what).collect();
    let too_old = (!too_old.is_empty())
        .then(|| format!("this kernel cannot limit {} yet", too_old.join(", ")));
    let tcp = allowed.tcp.then(|| "it may connect over TCP, to the session bus".to_owned());
    let notes: Vec<_> = too_old.into_iter().chain(any_program).chain(tcp).collect();
    let strength = match status.ruleset {
        RulesetStatus::NotEnforced => Strength::None,
        RulesetStatus::FullyEnforced if notes.is_empty() => Strength::Full,
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Strength::Partial,
    };
    Ok(InForce { strength, note: (!notes.is_empty()).then(|| notes.join("; ")), program })
}

/// A program that may be executed.
#[derive(Debug)]
struct Program {
    name: &'static str,
    /// Where it was, and which file.
    file: Option<(PathBuf, (u64, u64))>,
    /// The folders of the dynamic loaders (ld.so(8)) that start it, now and after an upgrade.
    loaders: Vec<PathBuf>,
}

impl Program {
    /// The program with this name, or why no rule can be made for it.
    fn find(name: &'static str) -> Result<Self, String> {
        let file = found(name);
        if let Some((path, _)) = &file
            && starts_with(path, b"#!")
        {
            return Err(format!(
                "it may execute every program, because {} is a script",
                path.display()
            ));
        }
        let of =
            |program: &Path| Some(fs::canonicalize(loader(program)?).ok()?.parent()?.to_owned());
        let programs =
            file.iter().map(|(path, _)| path.as_path()).chain([Path::new("/proc/self/exe")]);
        let loaders = programs.filter_map(of).collect();
        Ok(Self { name, file, loaders })
    }

    /// The loader and the program, if that was installed since: there is no rule for the new file, but the loader
    /// only reads it.
    fn by_loader(&self) -> Option<(PathBuf, PathBuf)> {
        let (path, which) = found(self.name)?;
        let is_new = self.file.as_ref().is_none_or(|(_, known)| *known != which);
        is_new.then(|| Some((loader(&path)?, path))).flatten()
    }
}

/// A command that starts the program with this name, also if it was replaced after this process was limited.
pub fn command(name: &str) -> Command {
    let program = in_force().and_then(|in_force| in_force.program.as_ref());
    match program.filter(|program| program.name == name).and_then(Program::by_loader) {
        Some((loader, program)) => {
            let mut command = Command::new(loader);
            command.arg(program);
            command
        }
        None => Command::new(name),
    }
}

/// The path of the program with this name.
pub fn program(name: &str) -> Option<PathBuf> {
    found(name).map(|(path, _)| path)
}

/// The first executable file with this name in `$PATH`, and which file that is.
fn found(name: &str) -> Option<(PathBuf, (u64, u64))> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).find_map(|folder| {
        let path = folder.join(name);
        let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        eaccess(&path, AccessFlags::X_OK).ok()?;
        Some((path, (file.dev(), file.ino())))
    })
}

fn starts_with(path: &Path, beginning: &[u8]) -> bool {
    let mut first = vec![0; beginning.len()];
    File::open(path).and_then(|file| file.read_exact_at(&mut first, 0)).is_ok()
        && first == beginning
}

/// The dynamic loader that a program names (`PT_INTERP`, elf(5)); `None` if it names none.
fn loader(program: &Path) -> Option<PathBuf> {
    /// The sizes of a header of the file and of a segment, in 64-bit files.
    const HEADERS: (usize, usize) = (64, 56);
    const PT_INTERP: u64 = 3;
    let file = File::open(program).ok()?;
    let bytes = |at: u64, size: usize| {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    let number = |bytes: &[u8], at: usize, size: usize| {
        let digits = bytes[at..at + size].iter().rev();
        digits.fold(0_u64, |number, digit| number << 8 | u64::from(*digit))
    };
    let header = bytes(0, HEADERS.0)?;
    // 64 bits, the least significant byte first: every machine that styxy is built for.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (first, count) = (number(&header, 32, 8), number(&header, 56, 2));
    (0..count).find_map(|index| {
        let segment = bytes(first.checked_add(index * HEADERS.1 as u64)?, HEADERS.1)?;
        if number(&segment, 0, 4) != PT_INTERP {
            return None;
        }
        let size = usize::try_from(number(&segment, 32, 8)).ok().filter(|size| *size <= 4_096)?;
        let path = bytes(number(&segment, 8, 8), size)?;
        let path = String::from_utf8(path).ok()?;
        Some(PathBuf::from(path.trim_end_matches('\0')))
    })
}

/// Whether Landlock is seen to limit this process: then it may not list the root directory, which every user may.
pub fn is_felt() -> bool {
    let root: io::Result<_> = fs::read_dir("/");
    root.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}
