//! Renewing, releasing, forgetting.

use std::sync::Arc;

use super::{Broker, ending::Listened};
use crate::{
    change::Change,
    error::Error,
    kernel::{clock, diag},
    lease::{Client, EndReason, Lease, LeaseId},
    registry::holding::{let_go, orphaned, renewed},
    request::{Ending, Filter, LONGEST_TTL},
    time::Timestamp,
};

impl Broker {
    /// Begins the time limit of a lease, or of one who shares it, again; without `ttl`, in seconds, it is as long as before.
    /// Returns the lease as that one sees it.
    pub fn renew(&self, id: LeaseId, ttl: Option<u64>, client: &Client) -> Result<Lease, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let (lease, holder) = inner.registry.named(id)?;
        let (lease, seen) = renewed(lease, holder, ttl, clock::now())?;
        let change = Change::Renew { lease: Arc::new(lease) };
        self.commit(inner, vec![change], Some(client))?;
        Ok(seen)
    }

    /// Releases a lease, or the share of one who shares it; returns the lease as it was.
    pub fn release(&self, id: LeaseId, client: &Client) -> Result<Arc<Lease>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let (lease, holder) = inner.registry.named(id)?;
        let lease = Arc::clone(lease);
        let mut change = let_go(&lease, holder, EndReason::Released);
        if holder.is_some()
            && matches!(change, Change::Release { .. })
            && diag::is_listened(lease.port, lease.protocol)
        {
            // The service runs on, and whoever asks for it is to find it.
            change = Change::Orphan { lease: Arc::new(orphaned(&lease)) };
        }
        self.commit(&mut inner, vec![change], Some(client))?;
        Ok(lease)
    }

    /// Ends all leases that are meant, or none; returns how many.
    pub fn release_matching(&self, ending: &Ending, client: &Client) -> Result<u32, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let leases = inner.registry.list(&ending.filter).into_iter();
        let ends: Vec<_> = leases.map(|lease| Change::end(lease, ending.reason)).collect();
        let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        self.commit(&mut inner, ends, Some(client))?;
        Ok(count)
    }

    /// Releases leases without an owner that are older than so many seconds and that nothing listens on;
    /// with `dry_run` only says which.
    pub fn clean_up(
        &self,
        older_than: u64,
        dry_run: bool,
        client: &Client,
    ) -> Result<Vec<Arc<Lease>>, Error> {
        if older_than > LONGEST_TTL {
            return Err(Error::invalid(format!(
                "older_than must be a whole number of seconds up to {LONGEST_TTL}, not {older_than}"
            )));
        }
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let now = Timestamp::now().0;
        let is_old =
            |lease: &Lease| now.saturating_sub(lease.since.0) >= older_than.saturating_mul(1_000);
        let mut leases = inner.registry.list(&Filter::default());
        leases.retain(|lease| is_old(lease) && lease.holders().all(|h| h.owner.is_none()));
        let listened = Listened::of(leases.iter().map(|lease| lease.protocol));
        leases.retain(|lease| !listened.contains(lease));
        if !dry_run {
            let ends = leases.iter().map(|l| Change::end(Arc::clone(l), EndReason::Released));
            self.commit(inner, ends.collect(), Some(client))?;
        }
        Ok(leases)
    }

    /// Forgets the remembered ports that the filter means; returns how many.
    pub async fn forget(&self, filter: Filter, client: &Client) -> Result<u32, Error> {
        let filter = filter.some()?;
        let (count, seq) = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let remembered = inner.registry.memory().iter();
            let meant = remembered.filter(|(key, port, _)| filter.matches_memory(key, *port));
            let changes: Vec<_> =
                meant.map(|(key, port, _)| Change::Forget { key: (**key).clone(), port }).collect();
            let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            (count, self.commit(&mut inner, changes, Some(client))?)
        };
        if count > 0 {
            self.durable(seq).await?;
        }
        Ok(count)
    }
}
