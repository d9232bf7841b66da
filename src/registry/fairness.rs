//! How much one asker may have, so that a program that runs away leaves ports for the others.
//!
//! Leases without an instance and a project are not counted: nobody can tell whose they are, and a
//! limit for all of them together would let one caller lock out the rest.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
};

use super::Registry;
use crate::{
    error::{Error, ErrorKind},
    lease::{InstanceId, Lease, ProjectPath},
    request::AllocateRequest,
    service_type::{ServiceType, ServiceTypeName},
};

/// A range of fewer ports is not shared out.
const LEAST_SHARED: usize = 20;

/// How many leases each instance and each project has.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    instances: HashMap<InstanceId, Share>,
    projects: HashMap<ProjectPath, Share>,
}

/// How many leases one of them has.
#[derive(Clone, Debug, Default)]
struct Share {
    all: usize,
    types: HashMap<ServiceTypeName, usize>,
}

impl Shares {
    pub(super) fn add(&mut self, lease: &Lease) {
        if let Some(id) = &lease.instance_id {
            self.instances.entry(id.clone()).or_default().add(&lease.service_type);
        }
        if let Some(path) = &lease.project_path {
            self.projects.entry(path.clone()).or_default().add(&lease.service_type);
        }
    }

    pub(super) fn take(&mut self, lease: &Lease) {
        let of = &lease.service_type;
        lease.instance_id.iter().for_each(|id| take_one(&mut self.instances, id, of));
        lease.project_path.iter().for_each(|path| take_one(&mut self.projects, path, of));
    }
}

impl Share {
    fn add(&mut self, service_type: &ServiceTypeName) {
        self.all += 1;
        *self.types.entry(service_type.clone()).or_default() += 1;
    }

    fn of(&self, service_type: &ServiceTypeName) -> usize {
        self.types.get(service_type).copied().unwrap_or(0)
    }
}

fn take_one<K: Clone + Eq + Hash>(
    shares: &mut HashMap<K, Share>,
    key: &K,
    service_type: &ServiceTypeName,
) {
    let Entry::Occupied(mut share) = shares.entry(key.clone()) else { return };
    share.get_mut().all -= 1;
    if share.get().all == 0 {
        share.remove();
    } else if let Some(count) = share.get_mut().types.get_mut(service_type) {
        *count -= 1;
        if *count == 0 {
            share.get_mut().types.remove(service_type);
        }
    }
}

/// Who has leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Asker<'a> {
    Instance(&'a InstanceId),
    Project(&'a ProjectPath),
}

impl Asker<'_> {
    /// The command that releases all that it has.
    fn release(&self) -> String {
        match self {
            Self::Instance(id) => format!("`styxy release --instance {id}`"),
            Self::Project(path) => format!("`styxy release --project {}`", in_shell(path.as_str())),
        }
    }
}

impl fmt::Display for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Project(path) => write!(f, "project {path}"),
        }
    }
}

/// A word as a shell takes it.
fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,@:".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Registry {
    /// Refuses a request that would give its instance or its project more leases than the rules allow.
    ///
    /// Of a type's ports it gets a part, unless the type gets further ranges by itself.
    pub(super) fn within_share(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Result<(), Error> {
        let (rules, shares) = (&self.rules, &self.shares);
        let instance = request.instance_id.as_ref().map(|id| {
            let (most, percent) = (rules.max_per_instance, rules.percent_per_instance);
            (Asker::Instance(id), shares.instances.get(id), most, percent, "instance")
        });
        let project = request.project_path.as_ref().map(|path| {
            let (most, percent) = (rules.max_per_project, rules.percent_per_project);
            (Asker::Project(path), shares.projects.get(path), most, percent, "project")
        });
        let name = &request.service_type;
        let ports = service_type.len();
        let grows = service_type.created.is_some() && rules.auto.enabled;
        let is_shared = ports >= LEAST_SHARED && !grows;
        for (asker, share, most, percent, word) in instance.into_iter().chain(project) {
            let count = usize::from(request.count);
            let has = share.map_or(0, |share| share.all);
            let of_type = share.map_or(0, |share| share.of(name));
            let max_of_type = ports * percent / 100;
            let (what, limit) = if has + count > most {
                (
                    format!("{asker} has {has} leases, and the configuration allows {most}"),
                    format!("leases_per_{word}"),
                )
            } else if is_shared && percent < 100 && of_type + count > max_of_type {
                (
                    format!(
                        "{asker} has {of_type} of the {ports} ports of {name}, and the configuration \
                         allows {max_of_type}, so that others get some"
                    ),
                    format!("range_percent_per_{word}"),
                )
            } else {
                continue;
            };
            let (most, has) =
                if limit.starts_with("range") { (max_of_type, of_type) } else { (most, has) };
            let remedy = if count > most && has < most {
                format!("ask for at most {}", most - has)
            } else {
                format!("{} releases them", asker.release())
            };
            return Err(Error::new(ErrorKind::LimitExceeded, what)
                .suggest(remedy)
                .suggest(format!("raise limits.{limit} in the configuration")));
        }
        Ok(())
    }

    /// The instance or project that has at least half of a type's ports, and how to release them: what to
    /// know when none is left.
    pub(super) fn hoarder(&self, service_type: &ServiceType) -> Option<String> {
        let mut counts = HashMap::<_, usize>::new();
        for lease in self.leases.values().filter(|lease| service_type.contains(lease.port)) {
            let asker = match (&lease.instance_id, &lease.project_path) {
                (Some(id), _) => Asker::Instance(id),
                (None, Some(path)) => Asker::Project(path),
                (None, None) => continue,
            };
            *counts.entry(asker).or_default() += 1;
        }
        let all = service_type.len();
        // Of two that have as many, always the same.
        let (asker, has) = counts.into_iter().max_by(|(a, m), (b, n)| m.cmp(n).then(b.cmp(a)))?;
        (has > 1 && has * 2 >= all).then(|| {
            format!("{asker} has {has} of its {all} ports: {} releases them", asker.release())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell_where_it_must_be() {
        assert_eq!(in_shell("/home/dev/shop-2"), "/home/dev/shop-2");
        assert_eq!(in_shell("/home/dev/my $HOME's"), r"'/home/dev/my $HOME'\''s'");
    }
}
