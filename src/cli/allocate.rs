use clap::Args;

use super::{Output, Stop, ask, print, print_json, project, usage};
use crate::{
    client::Call,
    lease::ProjectPath,
    port::{Port, Protocol},
    request::AllocateRequest,
    value::Fields,
};

/// Lease a port, and print its number
#[derive(Debug, Args)]
pub(super) struct Allocate {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// What the port is for, for example web; the same name gets the same port again
    #[arg(long)]
    name: Option<String>,
    /// Try this port first
    #[arg(long)]
    port: Option<Port>,
    /// Fail if the asked port cannot be had, instead of taking another
    #[arg(long, requires = "port")]
    strict: bool,
    /// tcp or udp
    #[arg(long, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// The agent, session or tool that asks
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// The project that the port is for [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<String>,
    /// Print what would be granted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

impl Allocate {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut options = Fields::default();
        options.put_some("service_name", self.name);
        options.put_some("port", self.port.map(Port::get));
        if self.strict {
            options.put("strict", true);
        }
        options.put("protocol", self.protocol.as_str());
        options.put_some("instance_id", self.instance);
        options.put_some("project_path", self.project.or_else(current_project));
        if self.dry_run {
            options.put("dry_run", true);
        }
        // Told before a service is looked for.
        AllocateRequest::parse(&self.service_type, options.0.clone()).map_err(|e| usage(&e))?;
        let answer = ask(&Call::Allocate { service_type: self.service_type, options })?;
        if self.output.json { print_json(&answer) } else { print(&answer["port"].to_string()) }
    }
}

/// The current project, if its path is one that the service takes.
fn current_project() -> Option<String> {
    let path = project()?.into_os_string().into_string().ok()?;
    path.parse::<ProjectPath>().ok().map(String::from)
}
