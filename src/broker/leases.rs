//! Renewing, holding, releasing, forgetting.

use std::{sync::Arc, time::Duration};

use super::{Broker, ending::Listened};
use crate::{
    change::Change,
    error::{Error, ErrorKind},
    kernel::{clock, diag},
    lease::{Client, EndReason, Lease, LeaseId, Owner},
    request::{Ending, Filter},
    service_type::Hold,
    time::Timestamp,
};

/// How often to check whether the manager has closed its copy of a guard.
const LEAVING: Duration = Duration::from_millis(10);

impl Broker {
    /// Restarts the time limit of a lease, or of one of its holders; without `ttl`, in seconds, it is as long as before.
    /// Returns the lease as that holder sees it.
    pub fn renew(&self, id: LeaseId, ttl: Option<u64>, client: &Client) -> Result<Lease, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let (change, seen) = inner.registry.renew(id, ttl, clock::now())?;
        self.commit(inner, vec![change], Some(client))?;
        Ok(seen)
    }

    /// Lets the owner of a lease keep its port bound, or the service again. When it is the owner who does, no socket of the service
    /// is on the port any more, nor a copy that the manager keeps; waiting for the manager takes at most some seconds.
    pub async fn set_hold(&self, id: LeaseId, hold: Hold, client: &Client) -> Result<(), Error> {
        let port = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            self.usable(inner)?;
            let (change, port) = inner.registry.set_hold(id, hold)?;
            self.commit(inner, change.into_iter().collect(), Some(client))?;
            port
        };
        while hold == Hold::Client && self.lock().guards.is_leaving(port) {
            tokio::time::sleep(LEAVING).await;
        }
        Ok(())
    }

    /// Releases a lease, or the share of one of its holders; returns the lease as it was. Fails if a socket unit owns it.
    pub fn release(&self, id: LeaseId, client: &Client) -> Result<Arc<Lease>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let is_listened = |lease: &Lease| diag::is_listened(lease.port, lease.protocol);
        let (change, lease) = inner.registry.release(id, is_listened)?;
        refuse_of_sockets(std::slice::from_ref(&change))?;
        self.commit(&mut inner, vec![change], Some(client))?;
        Ok(lease)
    }

    /// Ends all matching leases, or none; returns how many. Fails if a socket unit owns one of them.
    pub fn release_matching(&self, ending: &Ending, client: &Client) -> Result<u32, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let ends = inner.registry.release_matching(&ending.filter, ending.reason);
        refuse_of_sockets(&ends)?;
        let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        self.commit(&mut inner, ends, Some(client))?;
        Ok(count)
    }

    /// Releases leases without an owner that are older than this many seconds and that nothing listens on;
    /// with `dry_run` only says which.
    pub fn clean_up(
        &self,
        older_than: u64,
        dry_run: bool,
        client: &Client,
    ) -> Result<Vec<Arc<Lease>>, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let listened = Listened::default();
        let is_listened = |lease: &Lease| listened.contains(lease);
        let leases = inner.registry.left_over(older_than, Timestamp::now(), is_listened)?;
        if !dry_run {
            let ends = leases.iter().map(|l| Change::end(Arc::clone(l), EndReason::Released));
            self.commit(inner, ends.collect(), Some(client))?;
        }
        Ok(leases)
    }

    /// Forgets the matching remembered ports; returns how many.
    pub async fn forget(&self, filter: Filter, client: &Client) -> Result<u32, Error> {
        let filter = filter.some()?;
        let (count, seq) = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let changes = inner.registry.forget_matching(&filter);
            let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            (count, self.commit(&mut inner, changes, Some(client))?)
        };
        if count > 0 {
            self.durable(seq).await?;
        }
        Ok(count)
    }
}

/// Refuses to release what a socket unit owns: systemd listens on its port until the unit is stopped, which ends the lease.
fn refuse_of_sockets(changes: &[Change]) -> Result<(), Error> {
    let socket = |lease: &Lease| {
        let units = lease.holders().filter_map(|holder| match holder.owner {
            Owner::Unit { unit } if unit.as_str().ends_with(".socket") => Some(unit),
            _ => None,
        });
        units.into_iter().next().filter(|_| !lease.orphaned)
    };
    let released = changes.iter().find_map(|change| match change {
        Change::Release { lease, .. } => Some((lease, socket(lease)?)),
        _ => None,
    });
    let Some((lease, unit)) = released else { return Ok(()) };
    let port = lease.port;
    let error = Error::new(
        ErrorKind::PortInUse,
        format!("port {port} is that of {unit}, and systemd listens on it until that is stopped"),
    );
    Err(error.suggest(format!(
        "stop it with `systemctl --user stop {unit}`, or with `styxy unit --remove` if that has made it"
    )))
}
