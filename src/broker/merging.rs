//! Taking over what other registries of this user have: see [`others`](crate::handover::others).

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::{Broker, Inner, ending::Listened, storage};
use crate::{
    audit::{Outbox, Sink, outbox},
    change::{Change, Merge},
    error::Error,
    handover::others::{Older, Others, Spent},
    kernel::process::{Process, ProcessError},
    lease::{Lease, LeaseId, MemoryKey, Owner},
    port::Port,
    registry::{
        Registry, Rules,
        merge::{self, Grip, Other},
    },
    state::{self, Reader},
};

impl Broker {
    /// Merges older registries into this one, and copies remembered ports of other machines into a new one. What fails
    /// is left for the next start.
    pub(super) fn take_over_others(&self, inner: &mut Inner, is_new: bool) {
        let Others { older, siblings, mut spent } = std::mem::take(&mut inner.claim.others);
        for older in older {
            let folder = older.folder().display().to_string();
            match self.merge(inner, older) {
                Ok(merged) => spent.extend(merged),
                Err(why) => tracing::warn!("{folder} was not merged: {why}"),
            }
        }
        if is_new && inner.registry.memory().is_empty() {
            let remembered = remembered(&siblings, inner.registry.rules());
            if !remembered.is_empty() {
                let copied = Change::Merge(Merge { remembered, ..Merge::default() });
                if let Err(error) = self.commit(inner, vec![copied], None) {
                    tracing::warn!("what is remembered elsewhere was not copied: {error}");
                }
            }
        }
        if !spent.is_empty() {
            tokio::spawn(send_all(spent, inner.registry.rules().clone()));
        }
    }

    /// Merges one; returns what remains to be done once that is durable. `None` if nothing can be read.
    fn merge(&self, inner: &mut Inner, older: Older) -> Result<Option<Spent>, Error> {
        let mut theirs = Registry::new(inner.registry.rules().clone());
        let found = state::look(older.folder(), &mut theirs);
        let found = found.map_err(|error| storage(io::Error::other(error.to_string())))?;
        let Some(found) = found else { return Ok(None) };
        let state = inner.state.as_ref().map_err(super::unusable)?;
        if !state.store.has_merged(&found.state_id) {
            let handed_over = inner.claim.guards.iter().map(|(lease, _)| *lease);
            let guarded = handed_over.chain(inner.kept.leases()).collect();
            let grips = Grips { guarded, listened: Listened::default() };
            let is_void = found.boot_id != self.boot_id;
            let other = Other { state_id: &found.state_id, registry: &theirs, is_void };
            let mut changes = merge::merge(&inner.registry, other, |lease| grips.grip(lease));
            let damage = found.damage.into_iter().map(|reason| {
                let reason = format!("in {}, {reason}", older.folder().display());
                Change::Recover { reason }
            });
            // The record that names the state as merged comes last.
            changes.splice(0..0, damage);
            self.commit(inner, changes, None)?;
        }
        let Inner { state, registry, .. } = inner;
        let state = state.as_mut().map_err(|error| super::unusable(error))?;
        state.store.log().sync().map_err(storage)?;
        // The header of a new log names the merged states, for the audit.
        let snapshot = state.store.rotate(registry).map_err(storage)?;
        state.store.compacted(snapshot.write().map_err(storage)?);
        older.set_aside(&found.state_id).map(Some).map_err(storage)
    }
}

/// What the kernel and the available guards say of the leases of two registries.
struct Grips {
    guarded: HashSet<LeaseId>,
    listened: Listened,
}

impl Grips {
    fn grip(&self, lease: &Lease) -> Grip {
        let is_listened_on = self.listened.contains(lease);
        match &lease.owner {
            _ if is_listened_on && lease.orphaned => Grip::Listens,
            Owner::Process { pid, start } if is_listened_on && lives(*pid, *start) => Grip::Listens,
            Owner::None | Owner::Unit { .. } | Owner::Connection { .. } if is_listened_on => {
                Grip::MayListen
            }
            _ if self.guarded.contains(&lease.lease_id) => Grip::Guarded,
            _ => Grip::None,
        }
    }
}

fn lives(pid: u32, start: u64) -> bool {
    let process = Process::of_pid(pid);
    matches!(process, Ok(process) | Err(ProcessError::Foreign(process)) if process.start == start)
}

/// The remembered ports of these registries, the oldest first. Services may be writing to them; what cannot be read is left out.
fn remembered(siblings: &[std::path::PathBuf], rules: &Rules) -> Vec<(MemoryKey, Port)> {
    let mut known = HashMap::new();
    let mut order = 0_u64;
    for folder in siblings {
        let mut theirs = Registry::new(rules.clone());
        if let Ok(Some(_)) = state::look(folder, &mut theirs) {
            for (key, remembered) in theirs.memory().iter() {
                known.insert((**key).clone(), (order, remembered.port));
                order += 1;
            }
        }
    }
    let mut remembered: Vec<_> = known.into_iter().collect();
    remembered.sort_unstable_by_key(|(_, (order, _))| *order);
    let spare = remembered.len().saturating_sub(rules.max_remembered);
    remembered.drain(..spare);
    remembered.into_iter().map(|(key, (_, port))| (key, port)).collect()
}

/// Sends the events of these states that are not in the journal yet, one state after the other, and deletes the folders.
/// The next service continues what is unfinished.
async fn send_all(spent: Vec<Spent>, rules: Rules) {
    for spent in spent {
        let folder = spent.folder().display().to_string();
        if let Err(error) = send(spent, &rules).await {
            tracing::warn!("{folder}, which nobody needs any more, cannot be deleted: {error}");
        }
    }
}

async fn send(spent: Spent, rules: &Rules) -> io::Result<()> {
    let mut registry = Registry::new(rules.clone());
    let found = state::look(spent.folder(), &mut registry);
    let Some(found) = found.map_err(|error| io::Error::other(error.to_string()))? else {
        return spent.delete();
    };
    if found.confirmed < found.seq {
        let start = outbox::Start {
            reader: Reader::new(spent.folder()),
            state_id: found.state_id,
            confirmed: found.confirmed,
            seq: found.seq,
        };
        let outbox = Outbox::start(start, Sink::open(), |_, _| {})?;
        let mut status = outbox.watch();
        if status.wait_for(|status| status.done >= found.seq).await.is_err() {
            return Err(io::Error::other("its events were not sent"));
        }
    }
    if found.damage.is_empty() { spent.delete() } else { spent.keep() }
}
