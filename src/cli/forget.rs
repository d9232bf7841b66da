use clap::Args;

use super::{
    CliError, Output, ask, counted, print, print_json, project::Project, typos::refuse_typos, usage,
};
use crate::{client::Call, port::Port, value::Fields};

/// Forget the ports that are remembered for a project
#[derive(Debug, Args)]
pub(super) struct Forget {
    /// The project [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// Only those of this class of service
    #[arg(long = "type", value_name = "TYPE")]
    service_type: Option<String>,
    /// Only those of this service
    #[arg(long)]
    name: Option<String>,
    /// Only this port
    #[arg(long)]
    port: Option<Port>,
    #[command(flatten)]
    output: Output,
}

impl Forget {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut filter = Fields::default();
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        filter.put("project_path", project.path().as_str());
        filter.put_some("service_type", self.service_type);
        filter.put_some("service_name", self.name);
        filter.put_some("port", self.port.map(Port::get));
        let answer = ask(&Call::Forget { filter: filter.clone() })?;
        if answer["forgotten"] == 0 {
            refuse_typos(&filter, Some(&project))?;
        }
        if self.output.json {
            return print_json(&answer);
        }
        print(&format!("forgot {}", counted(answer["forgotten"].as_u64().unwrap_or(0), "port")))
    }
}
