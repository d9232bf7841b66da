//! What is started, where, and after what.

use std::collections::HashSet;

use crate::{error::Error, project::Process, word::shortened};

/// A process that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// What it is called in the output; no other has the name.
    pub(super) name: String,
    pub(super) process: Process,
    /// The processes that must listen, or run if they have no port, before it is started.
    pub(super) after: Vec<usize>,
    /// The services that something else starts and that must listen before it is started, as indices of all services.
    pub(super) after_others: Vec<usize>,
}

/// Which processes are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Chosen {
    /// These, and what they need; all if it is empty.
    pub(super) names: Vec<String>,
    /// These alone.
    pub(super) only: Vec<String>,
    /// Not these.
    pub(super) except: Vec<String>,
}

/// Returns the processes to start, in the order of their file. `labels` are the names of all services.
///
/// # Errors
///
/// If a name is not that of a process.
pub(super) fn plan(
    processes: Vec<Process>,
    labels: &[String],
    chosen: &Chosen,
) -> Result<Vec<Planned>, Error> {
    let names = names(&processes, labels);
    let place = |name: &String| {
        let label = |process: &Process| process.ports.first().and_then(|at| labels.get(*at));
        let by_service = || processes.iter().position(|process| label(process) == Some(name));
        let place = names.iter().position(|known| known == name).or_else(by_service);
        place.ok_or_else(|| unknown(name, &names, labels))
    };
    let places = |given: &[String]| given.iter().map(place).collect::<Result<HashSet<_>, _>>();
    let needed = |at: usize| {
        let after = processes[at].after.iter();
        after.filter_map(|name| names.iter().position(|known| known == name))
    };
    let [mut wanted, only, except] =
        [places(&chosen.names)?, places(&chosen.only)?, places(&chosen.except)?];
    let mut waiting: Vec<_> = wanted.iter().copied().collect();
    while let Some(at) = waiting.pop() {
        waiting.extend(needed(at).filter(|at| wanted.insert(*at)));
    }
    if wanted.is_empty() {
        wanted = if only.is_empty() { (0..names.len()).collect() } else { only };
    }
    let kept: Vec<_> =
        (0..names.len()).filter(|at| wanted.contains(at) && !except.contains(at)).collect();
    let new_place = |old: usize| kept.iter().position(|at| *at == old);
    let planned = kept.iter().map(|at| {
        let process = processes[*at].clone();
        let is_process = |name: &&String| names.contains(name);
        let others = process.after.iter().filter(|name| !is_process(name));
        Planned {
            name: names[*at].clone(),
            after: needed(*at).filter_map(new_place).collect(),
            after_others: others
                .filter_map(|name| labels.iter().position(|label| label == name))
                .collect(),
            process,
        }
    });
    Ok(planned.collect())
}

/// Leaves out the processes that are up elsewhere. What needs one of them waits for its service instead.
pub(super) fn without(planned: Vec<Planned>, is_up: &[bool]) -> Vec<Planned> {
    let ports: Vec<_> =
        planned.iter().map(|planned| planned.process.ports.first().copied()).collect();
    let new_place = |old: usize| is_up[..old].iter().filter(|is_up| !**is_up).count();
    let left = planned.into_iter().zip(is_up).filter(|(_, is_up)| !**is_up);
    let waiting = left.map(|(mut planned, _)| {
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            planned.after.into_iter().partition(|at| is_up[*at]);
        planned.after = here.into_iter().map(new_place).collect();
        planned.after_others.extend(elsewhere.into_iter().filter_map(|at| ports[at]));
        planned
    });
    waiting.collect()
}

/// The name of each process: its own, or that of its first service, or that of its program.
fn names(processes: &[Process], labels: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for process in processes {
        let label = || process.ports.first().and_then(|at| labels.get(*at)).cloned();
        let name = process.name.clone().or_else(label);
        let name = name.unwrap_or_else(|| shortened(process.command.trim()));
        let further = (2..).map(|number| format!("{name}-{number}"));
        let mut free = [name.clone()].into_iter().chain(further);
        names.extend(free.find(|name| !names.contains(name)));
    }
    names
}

fn unknown(name: &str, names: &[String], labels: &[String]) -> Error {
    let name = shortened(name);
    let error = if labels.contains(&name) {
        Error::invalid(format!("no file of this project says how to start {name}"))
            .suggest("give it a command in styxy.json: `styxy init` writes that file")
    } else {
        Error::invalid(format!("this project has no process {name:?}"))
    };
    match names {
        [] => error,
        names => error.suggest(format!("name one of {}", names.join(", "))),
    }
}

/// Words that only a shell knows: the special built-ins of POSIX.1-2024, and others that change the shell itself.
const BUILT_IN: [&str; 20] = [
    ".", ":", "alias", "cd", "command", "eval", "exec", "exit", "export", "hash", "read",
    "readonly", "set", "shift", "source", "trap", "ulimit", "umask", "unset", "wait",
];

/// The words of a command line that needs no shell.
pub(super) fn words(line: &str) -> Option<Vec<&str>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " ./:_-=@,+%".contains(c);
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    // A variable may be set before the command.
    let is_command =
        words.first().is_some_and(|word| !word.contains('=') && !BUILT_IN.contains(word));
    (is_command && line.chars().all(is_plain)).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes() -> Vec<Process> {
        let process = |name: Option<&str>, ports: &[usize], after: &[&str]| Process {
            name: name.map(str::to_owned),
            command: "node server.js".to_owned(),
            folder: "".into(),
            ports: ports.to_vec(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![
            process(Some("web"), &[0], &["api"]),
            process(None, &[1], &["db", "jobs"]),
            process(Some("jobs"), &[], &[]),
            process(None, &[3], &[]),
        ]
    }

    fn labels() -> Vec<String> {
        ["front", "api", "db", "web"].map(str::to_owned).to_vec()
    }

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn planned(chosen: &Chosen) -> Vec<(String, Vec<usize>, Vec<usize>)> {
        let planned = plan(processes(), &labels(), chosen).unwrap();
        planned.into_iter().map(|p| (p.name, p.after, p.after_others)).collect()
    }

    #[test]
    fn all_are_started_each_after_what_it_needs() {
        let all = [
            ("web".to_owned(), vec![1], vec![]),
            ("api".to_owned(), vec![2], vec![2]),
            ("jobs".to_owned(), vec![], vec![]),
            ("web-2".to_owned(), vec![], vec![]),
        ];
        assert_eq!(planned(&Chosen::default()), all);
    }

    #[test]
    fn some_are_started_with_what_they_need_or_alone() {
        let names = |chosen| planned(&chosen).into_iter().map(|p| p.0).collect::<Vec<_>>();
        let named = Chosen { names: of(&["web"]), ..Chosen::default() };
        assert_eq!(names(named), ["web", "api", "jobs"]);
        let only = Chosen { only: of(&["web", "jobs"]), ..Chosen::default() };
        assert_eq!(planned(&only)[0], ("web".to_owned(), vec![], vec![]));
        assert_eq!(names(only), ["web", "jobs"]);
        let except = Chosen { except: of(&["web", "web-2"]), ..Chosen::default() };
        assert_eq!(names(except), ["api", "jobs"]);
    }

    #[test]
    fn what_is_up_elsewhere_is_left_out_and_waited_for() {
        let all = || plan(processes(), &labels(), &Chosen::default()).unwrap();
        let left = |is_up: &[bool]| -> Vec<_> {
            without(all(), is_up).into_iter().map(|p| (p.name, p.after, p.after_others)).collect()
        };
        let web = |after, others| ("web".to_owned(), after, others);
        let api = |after| ("api".to_owned(), after, vec![2]);
        let jobs = ("jobs".to_owned(), vec![], vec![]);
        let last = ("web-2".to_owned(), vec![], vec![]);
        assert_eq!(left(&[false, true, true, false]), [web(vec![], vec![1]), last.clone()]);
        assert_eq!(left(&[true, false, false, true]), [api(vec![1]), jobs]);
        assert_eq!(left(&[true, false, true, false]), [api(vec![]), last]);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_that_are() {
        let refused = |name: &str| {
            let chosen = Chosen { names: of(&[name]), ..Chosen::default() };
            let error = plan(processes(), &labels(), &chosen).unwrap_err();
            format!("{} {}", error.message, error.suggestions.join(" "))
        };
        assert!(refused("db").contains("how to start db"));
        assert!(refused("wep").contains("name one of web, api, jobs, web-2"));
    }

    #[test]
    fn only_a_plain_line_is_split_into_words() {
        assert_eq!(words("npm run dev  --workspace=web").unwrap().len(), 4);
        for line in [
            "",
            " ",
            "PORT=1 node x",
            "a && b",
            "echo $PORT",
            "a 'b c'",
            "a > b",
            "ls *",
            "a {port}",
            "~/x",
            "exec node x",
            "cd web",
        ] {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
