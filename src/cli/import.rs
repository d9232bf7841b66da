//! Taking over from styxy 1.x (Node.js): its service types and rules, and the ports that its clients listen on.

use std::{
    fs::DirBuilder,
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value as Json, json};

use self::{
    allocations::{Allocation, Allocations},
    settings::{Fitted, Settings},
};
use super::{
    CliError, Output, ask, block_on, cleaned, confirm, counted, lease::service, owner::put_process,
    print, print_json, refused, say, short, text,
};
use crate::{
    atomic_file,
    client::{self, Call, Failure, v1},
    config::{self, Config, files},
    kernel::{
        listeners::{Listener, listeners},
        process,
    },
    port::{Port, PortRange, Protocol},
    surroundings::user,
    value::Fields,
    word::visible,
};

mod allocations;
mod folder;
mod settings;

/// The largest `config.json`, in bytes: that of this version has the same limit.
const LARGEST_CONFIG: u64 = 1 << 20;
/// The largest `daemon.state`, in bytes. An allocation has about 500.
const LARGEST_STATE: u64 = 4 << 20;
/// The largest `auth.token`, in bytes; it has 64.
const LARGEST_TOKEN: u64 = 4096;

/// Take over from styxy 1.x: service types, rules and ports in use
///
/// It first shows what would be done, and never changes the files of styxy 1.x.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The folder of styxy 1.x [default: ~/.styxy]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Do it, without asking
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

/// Something that is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeftOut {
    what: String,
    reason: String,
}

impl LeftOut {
    fn new(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into() }
    }
}

/// A port that is taken over.
#[derive(Debug)]
struct Adopted {
    allocation: Allocation,
    /// The process that listens on it, if it can be seen, and its command.
    owner: Option<(u32, String)>,
}

/// What is to be taken over.
#[derive(Debug)]
struct Plan {
    folder: PathBuf,
    /// The file that the settings are written to; `None` if nothing is written.
    file: Option<PathBuf>,
    settings: Settings,
    /// What they change, a line each.
    changes: Vec<String>,
    leases: Vec<Adopted>,
    /// The ports that were taken over before.
    already: Vec<Allocation>,
    left_out: Vec<LeftOut>,
    has_token: bool,
    /// The daemon of styxy 1.x, if it runs.
    daemon: Option<Daemon>,
}

/// A process of this user that listens where the daemon of styxy 1.x does.
#[derive(Debug)]
struct Daemon {
    pid: Option<u32>,
    inode: u32,
}

impl Import {
    pub(super) fn run(self) -> Result<(), CliError> {
        let home = user().home().map(|home| home.join(".styxy"));
        let folder = self.folder.clone().or(home);
        let folder =
            folder.ok_or_else(|| refused("there is no home directory: name DIR".into()))?;
        let mut plan = Plan::of(&std::path::absolute(folder)?)?;
        if !self.output.json {
            print(&plan.describe())?;
        }
        let is_done = plan.has_work() && (self.yes || !self.output.json && plan.agreed()?);
        let refused = if is_done { plan.carry_out()? } else { 0 };
        if self.output.json {
            print_json(&cleaned(plan.json(is_done)))?;
        } else if is_done {
            print(&plan.outcome(refused))?;
        }
        if refused == 0 { Ok(()) } else { Err(CliError::No) }
    }
}

impl Plan {
    /// Looks at everything, and changes nothing.
    fn of(folder: &Path) -> Result<Self, CliError> {
        folder::check(folder).map_err(refused)?;
        let mut left_out = Vec::new();
        let mut read = |name: &str, most| match folder::read(folder, name, most) {
            Ok(text) => (text.is_some(), text),
            Err(why) => {
                left_out.push(LeftOut::new(name, why));
                (true, None)
            }
        };
        let (has_config, config) = read("config.json", LARGEST_CONFIG);
        let (has_state, state) = read("daemon.state", LARGEST_STATE);
        let (has_token, token) = read("auth.token", LARGEST_TOKEN);
        let daemon = Daemon::find(&mut left_out);
        let answer = daemon.as_ref().map(|daemon| daemon.allocations(token.as_deref()));
        let answered = match answer.transpose() {
            Ok(allocations) => allocations,
            Err(why) => {
                left_out.push(LeftOut::new(what_listens(), why));
                None
            }
        };
        if !has_config && !has_state && answered.is_none() {
            let shown = folder.display();
            let others = left_out.iter().map(|left| format!("\n{}: {}", left.what, left.reason));
            return Err(refused(format!(
                "{shown} has no config.json and no daemon.state: it is not the folder of styxy 1.x, or nothing was \
                 configured and leased there; name another DIR{}",
                others.collect::<String>()
            )));
        }
        let is_daemon = answered.is_some();
        let allocations =
            answered.unwrap_or_else(|| match state.as_deref().map(allocations::of_state) {
                Some(Ok(allocations)) => allocations,
                Some(Err(why)) => {
                    left_out.push(LeftOut::new("daemon.state", why));
                    Allocations::default()
                }
                None => Allocations::default(),
            });
        let mut plan = Self {
            folder: folder.to_owned(),
            file: None,
            settings: Settings::default(),
            changes: Vec::new(),
            leases: Vec::new(),
            already: Vec::new(),
            left_out,
            has_token,
            daemon: daemon.filter(|_| is_daemon),
        };
        let config = plan.take_settings(config.as_deref());
        plan.take_leases(allocations, &config)?;
        Ok(plan)
    }

    /// Decides what is taken of the settings. Returns the configuration that is then in force.
    fn take_settings(&mut self, text: Option<&str>) -> Config {
        let folders = user().config();
        let (base, problems) = files::read(&folders);
        let before = config::merge(&base);
        let Some(text) = text else { return before.config };
        let mut leave_out =
            |reason: String| self.left_out.push(LeftOut::new("config.json", reason));
        let (settings, left_out) = match settings::read(text) {
            Ok(read) => read,
            Err(why) => {
                leave_out(why);
                return before.config;
            }
        };
        if !(problems.is_empty() && before.problems.is_empty()) {
            leave_out(
                "the configuration of this version has errors: `styxy config validate` shows them"
                    .to_owned(),
            );
            return before.config;
        }
        let path = settings::path(&folders.last().cloned().unwrap_or_default());
        // What an earlier import has written is compared with what would be written now.
        let (imported, base): (Vec<_>, Vec<_>) =
            base.into_iter().partition(|text| text.path == path);
        let Fitted { settings, config, left_out: unfit } = settings.fit(&base, &path);
        // Somebody may have changed that file since, or styxy 1.x its own.
        let is_other = imported.first().is_some_and(|there| there.text != settings.text());
        if is_other && !settings.is_empty() {
            leave_out(format!(
                "{} exists already with other contents: move it away to import again",
                path.display()
            ));
            return before.config;
        }
        self.left_out.extend(left_out.into_iter().chain(unfit));
        if imported.is_empty() && !settings.is_empty() {
            self.changes = settings.changes(&before.config);
            (self.settings, self.file) = (settings, Some(path));
            return config;
        }
        before.config
    }

    /// Decides which allocations become leases: those whose port is listened on by a program of this user.
    fn take_leases(
        &mut self,
        Allocations { good, left_out }: Allocations,
        config: &Config,
    ) -> Result<(), CliError> {
        self.left_out.extend(left_out);
        if good.is_empty() {
            return Ok(());
        }
        let listeners = listeners(PortRange::ALL, Protocol::Tcp)?;
        let leases = ask(&Call::List { filter: Fields::default() })?;
        let leases = leases.as_array().map(Vec::as_slice).unwrap_or_default();
        for allocation in good {
            let id = allocation.lease_id.to_string();
            if leases.iter().any(|lease| text(lease, "lease_id") == id) {
                self.already.push(allocation);
                continue;
            }
            match owner(&allocation, &listeners, leases, config) {
                Ok(owner) => self.leases.push(Adopted { allocation, owner }),
                Err(why) => self.left_out.push(LeftOut::new(allocation.describe(), why)),
            }
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        self.file.is_some() || !self.leases.is_empty()
    }

    /// Asks whether to do it, if there is somebody to ask.
    fn agreed(&self) -> Result<bool, CliError> {
        if !io::stdin().is_terminal() {
            say(&"nothing was changed: add --yes to do this");
            return Ok(false);
        }
        Ok(confirm("Do this?")?)
    }

    /// Writes the settings, has the service read them, and then leases the ports. What is refused moves to what is left
    /// out. Returns how much that is.
    fn carry_out(&mut self) -> Result<usize, CliError> {
        if let Some(file) = &self.file {
            let folder = file.parent().unwrap_or(file);
            let written = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .and_then(|()| atomic_file::replace(file, self.settings.text().as_bytes()));
            written.map_err(|error| refused(format!("{}: {error}", file.display())))?;
            let answer = cleaned(block_on(client::show())??);
            if let Some(elsewhere) = answer["elsewhere"].as_str() {
                return Err(refused(super::config::elsewhere(elsewhere)));
            }
            if let Some(problem) = answer["problems"].get(0).and_then(Json::as_str) {
                return Err(refused(format!(
                    "the service has not accepted {}: {problem}",
                    file.display()
                )));
            }
        }
        let before = self.left_out.len();
        for adopted in std::mem::take(&mut self.leases) {
            match adopted.lease() {
                Ok(()) => self.leases.push(adopted),
                Err(CliError::Failure(Failure::Refused { message, .. })) => {
                    self.left_out.push(LeftOut::new(adopted.allocation.describe(), message));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(self.left_out.len() - before)
    }

    /// The plan for people.
    fn describe(&self) -> String {
        let mut lines = vec![format!("from {}:", shown(&self.folder))];
        if let Some(file) = &self.file {
            lines.push(format!("to be written to {}:", shown(file)));
            lines.extend(self.changes.iter().map(|change| format!("  {change}")));
        }
        if !self.leases.is_empty() {
            lines.push("to be leased, because something listens on them:".to_owned());
            lines.extend(self.leases.iter().map(|adopted| format!("  {}", adopted.describe())));
        }
        if !self.already.is_empty() {
            lines.push("already imported:".to_owned());
            lines.extend(self.already.iter().map(|known| format!("  {}", known.describe())));
        }
        lines.extend(self.left_out(self.left_out.len()));
        if !self.has_work() {
            lines.push("nothing is left to take over".to_owned());
        }
        if self.has_token {
            lines.push(format!("{} stays as it is", shown(&self.folder.join("auth.token"))));
        }
        if let Some(Daemon { pid, .. }) = &self.daemon {
            let way = match pid {
                Some(pid) => format!("`kill {pid}` ends it"),
                None => "end its process".to_owned(),
            };
            lines.push(format!("styxy 1.x still runs, and grants ports on its own: {way}"));
        }
        lines.iter().map(|line| visible(line)).collect::<Vec<_>>().join("\n")
    }

    /// The last of what is left out, a line each.
    fn left_out(&self, last: usize) -> Vec<String> {
        let left_out = &self.left_out[self.left_out.len() - last..];
        let heading = (!left_out.is_empty()).then(|| "left out:".to_owned());
        let each = left_out.iter().map(|LeftOut { what, reason }| format!("  {what}: {reason}"));
        heading.into_iter().chain(each).collect()
    }

    /// What was done, for people; `refused` is how much the service has refused.
    fn outcome(&self, refused: usize) -> String {
        let mut lines = Vec::new();
        if let Some(file) = &self.file {
            lines.push(format!("{} is written and in force", shown(file)));
        }
        if !self.leases.is_empty() {
            lines.push(format!("leased {}", counted(self.leases.len() as u64, "port")));
        }
        lines.extend(self.left_out(refused));
        lines.iter().map(|line| visible(line)).collect::<Vec<_>>().join("\n")
    }

    /// The plan for programs.
    fn json(&self, is_done: bool) -> Json {
        let left_out = self.left_out.iter();
        let left_out = left_out.map(|left| json!({"what": left.what, "reason": left.reason}));
        json!({
            "folder": self.folder,
            "done": is_done,
            "configuration": self.file.as_ref().map(|file| json!({
                "file": file, "content": self.settings.layer(), "changes": self.changes,
            })),
            "leases": self.leases.iter().map(Adopted::json).collect::<Vec<_>>(),
            "already_imported": self.already.iter().map(fields).collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
            "token": self.has_token.then(|| self.folder.join("auth.token")),
            "daemon": self.daemon.as_ref().map(|daemon| json!({"pid": daemon.pid})),
        })
    }
}

/// The process that listens on the port of an allocation, if it can be seen.
///
/// # Errors
///
/// Why the allocation is not taken over.
fn owner(
    allocation: &Allocation,
    listeners: &[Listener],
    leases: &[Json],
    config: &Config,
) -> Result<Option<(u32, String)>, String> {
    let Allocation { port, service_type, .. } = allocation;
    let mut own = listeners.iter().filter(|listener| listener.port == *port).peekable();
    if own.peek().is_none() {
        return Err("nobody listens on it: its service asks for a port when it starts".to_owned());
    }
    if let Some(other) = own.clone().find(|listener| listener.uid != process::uid()) {
        return Err(format!(
            "a program of {} listens on it: only yours are taken over",
            other.user
        ));
    }
    let has_port = |lease: &&Json| {
        lease["port"] == port.get() && text(lease, "protocol") != Protocol::Udp.as_str()
    };
    if let Some(lease) = leases.iter().find(has_port) {
        return Err(format!("it is leased to {} already", service(lease)));
    }
    if !config.types.0.contains_key(service_type) {
        return Err(format!(
            "there is no service type {service_type}: add it to the configuration"
        ));
    }
    let program = own.find_map(|listener| listener.program.clone());
    Ok(program.map(|program| (program.pid, program.command.clone())))
}

impl Adopted {
    /// Leases the port for the server that listens on it.
    fn lease(&self) -> Result<(), CliError> {
        let Allocation { port, lease_id, service_type, .. } = &self.allocation;
        let mut options = Fields::default();
        options.put("lease_id", lease_id.to_string());
        options.put("port", port.get());
        options.put("protocol", Protocol::Tcp.as_str());
        for flag in ["strict", "adopt"] {
            options.put(flag, true);
        }
        let Allocation { service_name, instance_id, project_path, .. } = &self.allocation;
        options.put_some("service_name", service_name.as_ref().map(|name| name.as_str()));
        options.put_some("instance_id", instance_id.as_ref().map(|id| id.as_str()));
        options.put_some("project_path", project_path.as_ref().map(|path| path.as_str()));
        if let Some((pid, _)) = &self.owner {
            put_process(&mut options, *pid);
        }
        ask(&Call::Allocate { service_type: service_type.to_string(), options }).map(drop)
    }

    fn describe(&self) -> String {
        let project = self.allocation.project_path.as_ref();
        let project = project.map(|path| format!(", {}", short(path.as_str()))).unwrap_or_default();
        let owner = match &self.owner {
            Some((pid, command)) => format!(", until {command}[{pid}] ends"),
            None => String::new(),
        };
        format!("{}{project}{owner}", self.allocation.describe())
    }

    fn json(&self) -> Json {
        let mut fields = fields(&self.allocation);
        fields["pid"] = json!(self.owner.as_ref().map(|(pid, _)| pid));
        fields
    }
}

fn fields(allocation: &Allocation) -> Json {
    json!({
        "port": allocation.port,
        "lease_id": allocation.lease_id,
        "service_type": allocation.service_type,
        "service_name": allocation.service_name,
        "instance_id": allocation.instance_id,
        "project_path": allocation.project_path,
    })
}

impl Daemon {
    /// What listens at the address of the daemon of styxy 1.x, if it is a process of this user. A connection goes to the
    /// listener on just this address, whatever listens on all addresses.
    fn find(left_out: &mut Vec<LeftOut>) -> Option<Self> {
        let listeners = listeners(PortRange::only(Port::HTTP), Protocol::Tcp).ok()?;
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let there = listeners.into_iter().filter(|listener| listener.address == address);
        let (own, others): (Vec<_>, Vec<_>) = there.partition(|l| l.uid == process::uid());
        if let Some(Listener { user, .. }) = others.first() {
            let reason = format!("it is a program of {user}, which does not get your token");
            left_out.push(LeftOut::new(what_listens(), reason));
            return None;
        }
        let Listener { inode, program, .. } = own.into_iter().next()?;
        // The socket of this version is of no use here.
        let is_this = program.as_ref().is_some_and(|p| ["styxy", "systemd"].contains(&&*p.command));
        (!is_this).then(|| Self { pid: program.map(|program| program.pid), inode })
    }

    /// Its allocations; it answers only to who has its token.
    fn allocations(&self, token: Option<&str>) -> Result<Allocations, String> {
        let token = token.ok_or("without auth.token it cannot be asked")?;
        let is_own = || Self::find(&mut Vec::new()).is_some_and(|now| now.inode == self.inode);
        let answer = block_on(v1::allocations(token.trim(), is_own));
        answer.map_err(|error| error.to_string())?.map(|answer| allocations::of_daemon(&answer))
    }
}

fn what_listens() -> String {
    format!("what listens on port {}", Port::HTTP.get())
}

/// A path for people.
fn shown(path: &Path) -> String {
    short(&path.to_string_lossy())
}
