//! The options that say which events are wanted, and a command line as people can copy it.

use clap::{Args, builder::PossibleValuesParser};

use crate::{
    audit::{event::ACTIONS, past::Query},
    cli::{in_shell, project::Project},
    lease::InstanceId,
    port::Port,
    service_type::ServiceTypeName,
};

/// Which events are wanted. Of each list one value must be that of the event, if there is any.
#[derive(Clone, Debug, Args)]
pub(super) struct QueryOptions {
    /// Only these actions
    #[arg(long = "action", value_name = "ACTION", value_delimiter = ',')]
    #[arg(value_parser = PossibleValuesParser::new(ACTIONS))]
    pub actions: Vec<String>,
    /// Only events of these classes of service
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<ServiceTypeName>,
    /// Only events of these ports
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',')]
    pub ports: Vec<Port>,
    /// Only events of these projects
    #[arg(long = "project", value_name = "PATH")]
    pub projects: Vec<Project>,
    /// Only events of these agents, sessions or tools
    #[arg(long = "instance", value_name = "ID", value_delimiter = ',')]
    pub instances: Vec<InstanceId>,
    /// Only events that reached the journal since then, a time as in journalctl:
    /// yesterday, "1 hour ago", "2026-11-23 09:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only events until then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Also show events of other users, as far as this user may read them, and events of other state folders
    ///
    /// Without it, an event is shown if journald says that it comes from this user and it names this user's state
    /// folder. Only the former is certain: any program that can write to the journal can send what looks like an
    /// event of styxy. To read events of others, you have to be root or in the group systemd-journal.
    #[arg(long)]
    pub all_users: bool,
}

impl QueryOptions {
    /// The query.
    pub fn query(&self) -> Query {
        Query {
            actions: self.actions.clone(),
            types: self.types.clone(),
            ports: self.ports.clone(),
            projects: self.projects.iter().map(|project| project.path().clone()).collect(),
            instances: self.instances.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            all_users: self.all_users,
        }
    }
}

/// A command line for bash and similar shells.
pub(super) fn shell_line(program: &str, arguments: &[String]) -> String {
    let words = arguments.iter().map(|argument| in_shell(argument));
    [program.to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::word::disturbs;

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn a_shell_takes_the_line_as_it_was_meant_and_a_terminal_shows_it() {
        for word in [
            "",
            "a b",
            "it's",
            "$(reboot) 'now'",
            "$HOME `id` \"x\" \\",
            "*",
            "a\u{1b}[31m'\u{202e}\n\\b",
        ] {
            let line = shell_line("printf", &words(&["%s", word]));
            assert!(!line.chars().any(disturbs), "{line:?}");
            let output = Command::new("bash").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{line}");
        }
    }
}
