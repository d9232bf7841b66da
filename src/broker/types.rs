//! Automatic service types, and every other change of the configuration.
//!
//! One change at a time: the files are locked first, then the state, and the state only while deciding or
//! recording the result. A type is in its file before it takes effect; what a crash leaves in between is
//! logged at the next start.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Broker, Inner, search::Search, storage};
use crate::{
    change::{Asker, Change, TypeRanges},
    config::{self, Config, DropIn, Files, Merged, Problem, Text, drop_in},
    error::{Error, ErrorKind},
    kernel::{self, diag},
    lease::{Client, EndReason, Lease},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::{AuditedConfig, appearing::Plan},
    request::{AllocateRequest, Filter},
    service_type::ServiceTypeName,
    time::Timestamp,
};

/// How long to wait for another program's lock on the drop-in.
const PATIENCE: Duration = Duration::from_secs(1);
/// The interval between attempts.
const PAUSE: Duration = Duration::from_millis(20);

impl Inner {
    /// Plans a range for a request whose type has none, or none with room.
    pub(super) fn plan(&self, request: &AllocateRequest) -> Result<Plan, Error> {
        let name = &request.service_type;
        if !self.registry.rules().types.0.contains_key(name) {
            self.may_appear(name, request.create)?;
        }
        let mut in_use = PortSet::default();
        // What the kernel does not tell here is checked when a port is granted.
        let _ =
            diag::all_sockets(Protocol::Both, PortRange::ALL, |socket| in_use.insert(socket.port));
        // Ports that are granted only by number are of no use either.
        Port::never_chosen().for_each(|port| in_use.insert(port));
        self.registry.plan(request, &in_use, kernel::ephemeral_ports(), Timestamp::now())
    }

    /// Whether an unknown type may get a range.
    pub(super) fn may_appear(&self, name: &ServiceTypeName, create: bool) -> Result<(), Error> {
        let removed_by = self.origins.get(&format!("service_types.{name}"));
        self.registry.may_appear(name, create, removed_by.map(ToString::to_string).as_deref())
    }

    /// The leases of these types.
    fn leases_of(&self, names: &[ServiceTypeName]) -> Vec<Arc<Lease>> {
        let leases = names.iter().flat_map(|name| {
            let service_type = Some(name.clone());
            self.registry.list(&Filter { service_type, ..Filter::default() })
        });
        leases.collect()
    }

    /// The events to log for a configuration that is about to take effect.
    fn differences(&self, merged: &Merged) -> Vec<Change> {
        differences(self.registry.audited_config(), &merged.config, &merged.problems)
    }
}

/// The changes that log a configuration, given what was logged before.
pub(super) fn differences(
    audited: &AuditedConfig,
    config: &Config,
    problems: &[Problem],
) -> Vec<Change> {
    let now = config.to_audit();
    let ranges = |name: &ServiceTypeName, ranges: &Vec<PortRange>| TypeRanges {
        service_type: name.clone(),
        ranges: ranges.clone(),
    };
    let mut changes = Vec::new();
    let gone = audited
        .automatic
        .keys()
        .filter(|name| !now.automatic.contains_key(*name) && !now.written.contains_key(*name));
    changes.extend(gone.map(|name| Change::UndoAutoAllocation {
        service_type: name.clone(),
        ranges: audited.automatic[name].ranges.clone(),
        placement: audited.automatic[name].placement,
    }));
    let is_well_again = problems.is_empty() && !audited.problems.is_empty();
    if now.fingerprint != audited.fingerprint || is_well_again {
        let written = || now.written.iter();
        changes.push(Change::ConfigReload {
            added: written()
                .filter(|(name, _)| !audited.written.contains_key(*name))
                .map(|(name, new)| ranges(name, new))
                .collect(),
            changed: written()
                .filter(|(name, new)| audited.written.get(*name).is_some_and(|old| old != *new))
                .map(|(name, new)| ranges(name, new))
                .collect(),
            removed: audited
                .written
                .keys()
                .filter(|n| !now.written.contains_key(*n))
                .cloned()
                .collect(),
            fingerprint: now.fingerprint,
            still_wrong: !problems.is_empty(),
        });
    }
    for (name, new) in &now.automatic {
        let before = audited.automatic.get(name);
        if before == Some(new) {
            continue;
        }
        let news = before.and_then(|before| first_new(&before.ranges, &new.ranges));
        let Some(range) = news.or(new.ranges.first().copied()) else { continue };
        changes.push(Change::AutoAllocate {
            service_type: name.clone(),
            range,
            ranges: new.ranges.clone(),
            placement: new.placement,
            asker: Asker::default(),
        });
    }
    let reasons = problems.iter().map(ToString::to_string);
    let news = reasons.filter(|reason| !audited.problems.contains(reason));
    changes.extend(news.map(|reason| Change::ConfigError { reason }));
    changes
}

/// The first run of consecutive ports that were not there before.
fn first_new(before: &[PortRange], now: &[PortRange]) -> Option<PortRange> {
    let is_new = |port: &Port| !before.iter().any(|range| range.contains(*port));
    now.iter().find_map(|range| {
        let mut news = range.ports().skip_while(|port| !is_new(port)).take_while(is_new);
        let first = news.next()?;
        PortRange::new(first, news.last().unwrap_or(first))
    })
}

impl Broker {
    /// Creates a range with room for a request that found these ports in use. `None` if there is room
    /// already, because another request created it meanwhile.
    pub(super) async fn widen(
        self: &Arc<Self>,
        request: &AllocateRequest,
        client: &Client,
        busy: PortSet,
    ) -> Result<Option<PortRange>, Error> {
        let (request, client) = (request.clone(), client.clone());
        self.change_types(move |this, files, drop_in| {
            this.widen_now(files, drop_in, &request, &client, busy)
        })
        .await
    }

    fn widen_now(
        &self,
        files: &mut Files,
        drop_in: &mut DropIn,
        request: &AllocateRequest,
        client: &Client,
        busy: PortSet,
    ) -> Result<Option<PortRange>, Error> {
        let Some(mut plan) = self.planned(request, busy)? else { return Ok(None) };
        plan.created.by = client.comm.as_deref().map(|comm| match client.pid {
            Some(pid) => format!("{comm}[{pid}]"),
            None => comm.to_owned(),
        });
        let (service_type, change, range) = (plan.in_file(), plan.change(request), plan.range);
        let text = drop_in.with_type(&request.service_type, Some(&service_type)).map_err(broken)?;
        self.put(files, drop_in, &text, client, |_, _| vec![change])?;
        Ok(Some(range))
    }

    /// What is still missing for a request.
    fn planned(&self, request: &AllocateRequest, busy: PortSet) -> Result<Option<Plan>, Error> {
        let inner = self.lock();
        let Some(known) = inner.registry.rules().types.0.get(&request.service_type) else {
            return inner.plan(request).map(Some);
        };
        let completed = inner.registry.completed(request, known)?;
        match inner.choose(&completed, known, &mut Search::looking_beside(busy)) {
            Err(error) if error.kind == ErrorKind::PoolExhausted => inner.plan(request).map(Some),
            // There is room, or more room would not help.
            _ => Ok(None),
        }
    }

    /// Removes an automatic type. `force` releases its leases first; returns how many.
    pub async fn undo_auto_allocation(
        self: &Arc<Self>,
        name: &ServiceTypeName,
        force: bool,
        client: &Client,
    ) -> Result<u32, Error> {
        let (name, client) = (name.clone(), client.clone());
        self.change_types(move |this, files, drop_in| {
            this.undo_now(files, drop_in, &name, force, &client)
        })
        .await
    }

    fn undo_now(
        &self,
        files: &mut Files,
        drop_in: &mut DropIn,
        name: &ServiceTypeName,
        force: bool,
        client: &Client,
    ) -> Result<u32, Error> {
        let known = self.lock().registry.rules().types.get(name)?.clone();
        if known.created.is_none() {
            let origin = files.origins().remove(&format!("service_types.{name}.port_range"));
            let place = origin.map_or_else(String::new, |origin| origin.to_string());
            return Err(Error::invalid(format!(
                "{name} was not created automatically: it is in {place}"
            ))
            .suggest("to remove it, set it to null in a later file of the configuration"));
        }
        let text = drop_in.with_type(name, None).map_err(broken)?;
        self.put_without(files, drop_in, &text, std::slice::from_ref(name), force, client)
    }

    /// Applies a drop-in without these types. `force` releases their leases in the same commit; returns
    /// how many.
    fn put_without(
        &self,
        files: &mut Files,
        drop_in: &mut DropIn,
        text: &str,
        gone: &[ServiceTypeName],
        force: bool,
        client: &Client,
    ) -> Result<u32, Error> {
        {
            let mut inner = self.lock();
            let leases = inner.leases_of(gone);
            if let Some(lease) = leases.first()
                && !force
            {
                return Err(in_use(lease, leases.len()));
            }
            // No port of them is granted while the file is being written.
            let mut rules = inner.registry.rules().clone();
            gone.iter().for_each(|name| drop(rules.types.0.remove(name)));
            inner.registry.set_rules(rules);
        }
        let mut released = 0;
        let put = self.put(files, drop_in, text, client, |inner, merged| {
            let leases = inner.leases_of(gone).into_iter();
            let ends = leases.map(|lease| Change::end(lease, EndReason::Released));
            let mut changes: Vec<_> = ends.collect();
            released = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            changes.extend(inner.differences(merged));
            changes
        });
        if put.is_err() {
            let mut inner = self.lock();
            let rules = inner.config.rules();
            inner.registry.set_rules(rules);
        }
        put.map(|()| released)
    }

    /// Switches automatic ranges on or off.
    pub async fn set_auto_allocation(
        self: &Arc<Self>,
        enabled: bool,
        client: &Client,
    ) -> Result<(), Error> {
        let client = client.clone();
        self.change_types(move |this, files, drop_in| {
            let text = drop_in.with_auto_allocation(enabled).map_err(broken)?;
            let merged = this.fit(files, &text)?.1;
            if merged.config.auto.enabled != enabled {
                let origin = merged.origins.get("auto_allocation.enabled");
                let place = origin.map_or_else(String::new, |origin| origin.to_string());
                return Err(Error::invalid(format!("{place} sets auto_allocation.enabled"))
                    .suggest("change it there: your own files take precedence"));
            }
            if this.lock().config.auto.enabled == enabled {
                return Ok(());
            }
            this.put(files, drop_in, &text, &client, Inner::differences)
        })
        .await
    }

    /// The earlier versions of the service's own drop-in, the oldest first.
    pub fn config_backups(&self) -> Result<Vec<drop_in::Backup>, Error> {
        let folder = self.backups();
        drop_in::backups(&folder).map_err(|error| {
            Error::unusable("the earlier versions of the configuration", &folder, &error)
        })
    }

    /// Restores an earlier version of the drop-in. Types that it lacks are removed; `force` releases their
    /// leases first. Returns how many.
    pub async fn restore_config(
        self: &Arc<Self>,
        number: u32,
        force: bool,
        client: &Client,
    ) -> Result<u32, Error> {
        let client = client.clone();
        self.change_types(move |this, files, drop_in| {
            let backups = this.config_backups()?;
            let numbers: Vec<_> = backups.iter().map(|b| b.number.to_string()).collect();
            let Some(backup) = backups.into_iter().find(|backup| backup.number == number) else {
                return Err(Error::invalid(format!("there is no version {number}")).suggest(
                    if numbers.is_empty() {
                        "no version was kept yet".to_owned()
                    } else {
                        format!("the kept versions are {}", numbers.join(", "))
                    },
                ));
            };
            let (_, merged) = this.fit(files, backup.text())?;
            let types = this.lock().config.types.0.keys().cloned().collect::<Vec<_>>();
            let gone = types.into_iter().filter(|name| !merged.config.types.0.contains_key(name));
            let gone = gone.collect::<Vec<_>>();
            this.put_without(files, drop_in, backup.text(), &gone, force, &client)
        })
        .await
    }

    /// Reloads the configuration; returns what is wrong with it.
    pub async fn reload(&self, client: Option<&Client>) -> Result<Vec<String>, Error> {
        let mut files = self.files.lock().await;
        self.reload_now(&mut files, client)
    }

    pub(super) fn reload_now(
        &self,
        files: &mut Files,
        client: Option<&Client>,
    ) -> Result<Vec<String>, Error> {
        let merged = files.load();
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        self.adopt(&mut inner, merged, client)?;
        Ok(inner.problems.iter().map(ToString::to_string).collect())
    }

    /// Applies a configuration, and logs what is new in it.
    fn adopt(
        &self,
        inner: &mut Inner,
        merged: Merged,
        client: Option<&Client>,
    ) -> Result<(), Error> {
        let changes = inner.differences(&merged);
        self.commit(inner, changes, client)?;
        self.set_config(inner, merged);
        Ok(())
    }

    fn set_config(&self, inner: &mut Inner, merged: Merged) {
        let unused = inner.config.unused;
        inner.registry.set_rules(merged.config.rules());
        inner.config = merged.config;
        inner.problems = merged.problems;
        inner.origins = Arc::new(merged.origins);
        self.set_unused(inner, unused);
        // The idle time may have changed.
        self.idle_tracker.note();
    }

    /// Runs a change of the drop-in, one at a time, on the disk thread.
    async fn change_types<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self, &mut Files, &mut DropIn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let ending = || Error::storage(&std::io::Error::other("the service is ending"));
        let until = Instant::now() + PATIENCE;
        let this = Arc::clone(self);
        let writer = self.writer()?;
        let mut files = Arc::clone(&self.files).lock_owned().await;
        let mut drop_in = loop {
            let (path, backups) = (files.drop_in(), self.backups());
            let lock = drop_in::lock_file(&path);
            let taken = writer.run(move || DropIn::try_lock(&path, &backups)).await;
            if let Some(drop_in) = taken.ok_or_else(ending)?? {
                break drop_in;
            }
            if Instant::now() >= until {
                let words = format!("another program has locked {}", lock.display());
                return Err(Error::new(
                    ErrorKind::Storage,
                    format!(
                        "the configuration could not be written, so nothing was changed: {words}"
                    ),
                )
                .suggest(
                    "end that program, or wait for it (`fuser -v` with the file shows which it is)",
                ));
            }
            tokio::time::sleep(PAUSE).await;
        };
        let done = writer.run(move || {
            // Another writer may have changed it.
            if drop_in.text() != files.drop_in_text() {
                this.reload_now(&mut files, None)?;
            }
            change(&this, &mut files, &mut drop_in)
        });
        done.await.ok_or_else(ending)?
    }

    /// The layers with this drop-in; an error if they do not fit together.
    fn fit(&self, files: &Files, text: &str) -> Result<(Vec<Text>, Merged), Error> {
        let text = Text { path: files.drop_in(), text: text.to_owned() };
        let texts = files.with_drop_in(Some(text));
        let mut merged = config::merge(&texts);
        let before = config::merge(files.in_force()).problems;
        let news = merged.problems.iter().find(|problem| !before.contains(problem));
        if let Some(problem) = news {
            return Err(Error::invalid(format!("the configuration would be wrong: {problem}")));
        }
        merged.problems.clone_from(&self.lock().problems);
        Ok((texts, merged))
    }

    /// Writes the drop-in, makes its changes, and applies it. If the changes fail, the old drop-in is restored.
    fn put(
        &self,
        files: &mut Files,
        drop_in: &mut DropIn,
        text: &str,
        client: &Client,
        changes: impl FnOnce(&Inner, &Merged) -> Vec<Change>,
    ) -> Result<(), Error> {
        let (texts, merged) = self.fit(files, text)?;
        drop_in.replace(text).map_err(storage)?;
        let committed = {
            let mut inner = self.lock();
            let changes = changes(&inner, &merged);
            let committed = self.commit(&mut inner, changes, Some(client));
            if committed.is_ok() {
                self.set_config(&mut inner, merged);
            }
            committed
        };
        match committed {
            Ok(_) => files.set_in_force(texts),
            Err(mut error) => {
                if let Err(cause) = drop_in.put_back() {
                    let file = files.drop_in();
                    let words = format!("{} could not be put back: {cause}", file.display());
                    error.message = format!("{}; {words}", error.message);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn backups(&self) -> std::path::PathBuf {
        self.state.join("auto-backups")
    }
}

fn in_use(lease: &Lease, count: usize) -> Error {
    let Lease { port, service_type, .. } = lease;
    let (message, remedy) = match count {
        1 => (format!("port {port} of {service_type} is leased"), "release it first"),
        _ => (
            format!("{count} ports are leased, such as {port} of {service_type}"),
            "release them first",
        ),
    };
    Error::new(ErrorKind::PortInUse, message)
        .suggest(format!("{remedy}, or use force (`--force`) to do so"))
}

/// The service never overwrites what it cannot read.
fn broken(problems: Vec<Problem>) -> Error {
    let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Error::invalid(words.join("; also: "))
        .suggest("fix that file, or restore an earlier version (`styxy config backups`)")
}
