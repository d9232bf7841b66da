//! Who keeps the port of a live lease bound: the service, by its guard, or the owner, by a socket of its own. The owner does
//! so for a program that binds without `SO_REUSEADDR`: that fails as long as the guard is there, and the owner can close its
//! own socket right before.

use std::sync::Arc;

use super::Registry;
use crate::{
    change::Change,
    error::Error,
    lease::{Lease, LeaseId},
    port::{Port, Protocol},
    service_type::Hold,
};

impl Registry {
    /// Lets the owner of a lease keep its port bound ([`Hold::Client`]), or the service again ([`Hold::Guard`]). Returns the
    /// change, unless it is so already, and the port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSuchLease`](crate::error::ErrorKind::NoSuchLease);
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument) for any other hold, and for a lease whose port
    /// was not to be guarded.
    pub fn set_hold(&self, id: LeaseId, hold: Hold) -> Result<(Option<Change>, Port), Error> {
        if !matches!(hold, Hold::Guard | Hold::Client) {
            let message = format!("hold {} is for new leases only", hold.as_str());
            return Err(Error::invalid(message).suggest("set it to \"client\" or \"guard\""));
        }
        let (lease, _) = self.named(id)?;
        let Lease { port, protocol, .. } = **lease;
        if protocol != Protocol::Tcp {
            let words = protocol.in_words();
            return Err(Error::invalid(format!(
                "port {port} is leased for {words}, and its hold can be set for TCP only"
            )));
        }
        if !matches!(lease.hold, Hold::Guard | Hold::Client) {
            let message =
                format!("port {port} is not guarded: its hold is {}", lease.hold.as_str());
            return Err(Error::invalid(message).suggest("ask for a lease with hold \"guard\""));
        }
        let change = (lease.hold != hold)
            .then(|| Change::Hold { lease: Arc::new(Lease { hold, ..Lease::clone(lease) }) });
        Ok((change, port))
    }

    /// The live leases whose owners keep the port bound.
    pub fn held_by_clients(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.held_by_clients.iter().filter_map(|id| self.leases.get(id))
    }
}

/// A lease after a holder is gone, who may have been the one that has kept the port bound.
pub(super) fn guarded_again(lease: Lease) -> Lease {
    let hold = if lease.hold == Hold::Client { Hold::Guard } else { lease.hold };
    Lease { hold, ..lease }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::ErrorKind,
        lease::{EndReason, Holder, Owner},
        registry::{
            Effect, Rules,
            holders::{leave, orphaned},
        },
        service_type::ServiceTypes,
        time::Timestamp,
    };

    fn lease() -> Lease {
        let holder = |pid| Holder {
            id: None,
            owner: Owner::Process { pid, start: 1 },
            instance_id: None,
            ttl: None,
            deadline: None,
        };
        let lease = Lease::new(LeaseId::from_number(1), Port::MAX, "remap".parse().unwrap());
        let held = lease.held_by([holder(1), holder(2)]).unwrap();
        Lease { hold: Hold::Guard, ..held }
    }

    fn registry(lease: Lease) -> Registry {
        let mut registry = Registry::new(Rules::of(ServiceTypes::default()));
        registry.insert(Arc::new(lease));
        registry
    }

    const ID: u128 = 1;

    fn set(registry: &mut Registry, hold: Hold) -> Vec<Effect> {
        let (change, _) = registry.set_hold(LeaseId::from_number(ID), hold).unwrap();
        let change = change.expect("it was not so");
        registry.change(1, Timestamp(0), &change)
    }

    #[test]
    fn a_port_is_kept_by_its_owner_and_by_the_service_again() {
        let mut registry = registry(lease());
        let effects = set(&mut registry, Hold::Client);
        assert!(matches!(effects[..], [Effect::Unguard(_)]), "{effects:?}");
        assert_eq!(registry.held_by_clients().count(), 1);
        let (change, _) = registry.set_hold(LeaseId::from_number(ID), Hold::Client).unwrap();
        assert_eq!(change, None, "it is so already");
        let effects = set(&mut registry, Hold::Guard);
        assert!(matches!(effects[..], [Effect::Reguard(_)]), "{effects:?}");
        assert_eq!(registry.held_by_clients().count(), 0);
    }

    #[test]
    fn when_one_of_the_holders_leaves_the_port_is_guarded_again() {
        let mut registry = registry(lease());
        set(&mut registry, Hold::Client);
        let lease = registry.get(LeaseId::from_number(ID)).map(Arc::clone).unwrap();
        let first = Owner::Process { pid: 1, start: 1 };
        let change = leave(&lease, |holder| holder.owner == first, EndReason::OwnerGone);
        let effects = registry.change(2, Timestamp(0), &change);
        let is_reguarded = effects.iter().any(|effect| matches!(effect, Effect::Reguard(_)));
        assert!(is_reguarded, "{effects:?}");
        assert_eq!(registry.get(lease.lease_id).unwrap().hold, Hold::Guard);
    }

    #[test]
    fn an_orphan_has_nobody_who_keeps_its_port_bound() {
        let mut registry = registry(lease());
        set(&mut registry, Hold::Client);
        let lease = registry.get(LeaseId::from_number(ID)).map(Arc::clone).unwrap();
        let change = Change::Orphan { lease: Arc::new(orphaned(&lease)) };
        registry.apply(2, Timestamp(0), &change);
        assert_eq!(registry.held_by_clients().count(), 0);
    }

    #[test]
    fn only_a_guarded_tcp_port_is_kept_by_its_owner() {
        let id = LeaseId::from_number(ID);
        for (lease, hold, words) in [
            (lease(), Hold::None, "new leases only"),
            (lease(), Hold::Socket, "new leases only"),
            (Lease { protocol: Protocol::Udp, ..lease() }, Hold::Client, "leased for UDP"),
            (Lease { protocol: Protocol::Both, ..lease() }, Hold::Client, "for TCP only"),
            (Lease { hold: Hold::None, ..lease() }, Hold::Client, "is none"),
            (Lease { hold: Hold::Socket, ..lease() }, Hold::Guard, "is socket"),
        ] {
            let error = registry(lease).set_hold(id, hold).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.message.contains(words), "{words}: {error}");
        }
        let error = registry(lease()).set_hold(LeaseId::from_number(2), Hold::Client).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSuchLease);
    }
}
