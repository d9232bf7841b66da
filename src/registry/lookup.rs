//! Finding the lease that a service of a project has.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use super::Registry;
use crate::{
    error::{Error, ErrorKind},
    lease::{Lease, ProjectPath},
    request::{Filter, LookupRequest},
};

impl Registry {
    /// The lease of a service: of several the one whose owner listens, or on which anything listens, else the claim, because that is
    /// what is written down somewhere, else the first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSuchLease`] if it has none, [`ErrorKind::InvalidArgument`] if several services are meant.
    pub fn look_up(
        &self,
        wanted: &LookupRequest,
        is_listened: impl Fn(&Lease) -> bool,
    ) -> Result<Arc<Lease>, Error> {
        let mut leases = self.list(&Filter {
            project_path: Some(wanted.project_path.clone()),
            service_type: wanted.service_type.clone(),
            service_name: wanted.service_name.clone(),
            ..Filter::default()
        });
        // A block is found by its first port.
        leases.retain(|lease| lease.block_id.is_none_or(|first| first == lease.lease_id));
        let is_of_package = |lease: &Lease| lease.package_path == wanted.package_path;
        if wanted.strict {
            leases.retain(|lease| is_of_package(lease));
        }
        prefer(&mut leases, is_of_package);
        if wanted.service_name.is_none() {
            prefer(&mut leases, |lease| lease.service_name.is_none());
        }
        // Those beyond the last slot come last.
        leases.sort_by_key(|lease| lease.slot.checked_sub(1).unwrap_or(u16::MAX));
        let mut services = leases.clone();
        prefer(&mut services, |lease| lease.claim);
        let mut known = HashSet::new();
        services.retain(|lease| known.insert(service_of(lease)));
        let service = match services.as_slice() {
            [] => return Err(none(wanted)),
            [service] => service,
            _ => return Err(several(&services)),
        };
        let service = service_of(service);
        leases.retain(|lease| service_of(lease) == service);
        if leases.len() > 1 {
            leases.sort_by_cached_key(|lease| {
                let is_listened = is_listened(lease);
                let is_its_owners = is_listened && lease.owners().next().is_some();
                (!is_its_owners, !is_listened, !lease.is_asked_for())
            });
        }
        Ok(leases.swap_remove(0))
    }
}

fn service_of(lease: &Lease) -> impl Eq + Hash + use<> {
    let Lease { service_type, service_name, package_path, .. } = lease;
    (service_type.clone(), service_name.clone(), package_path.clone())
}

/// Keeps only the preferred ones, if there are any.
fn prefer(leases: &mut Vec<Arc<Lease>>, is_preferred: impl Fn(&Lease) -> bool) {
    if leases.iter().any(|lease| is_preferred(lease)) {
        leases.retain(|lease| is_preferred(lease));
    }
}

fn none(wanted: &LookupRequest) -> Error {
    let place = wanted.package_path.as_ref().filter(|_| wanted.strict);
    let place = place.unwrap_or(&wanted.project_path);
    let message = format!("no {} of {place} has a port now", wanted.words());
    Error::new(ErrorKind::NoSuchLease, message).suggest("`styxy list` shows what has one")
}

fn several(leases: &[Arc<Lease>]) -> Error {
    let described = |lease: &Arc<Lease>| {
        let Lease { port, service_type, package_path, .. } = &**lease;
        let name = lease.name().map(|name| format!(" {name}")).unwrap_or_default();
        let place = package_path.as_ref().map(|path: &ProjectPath| format!(" of {path}"));
        format!("{service_type}{name}{} ({port})", place.unwrap_or_default())
    };
    let services: Vec<_> = leases.iter().map(described).collect();
    Error::invalid(format!("several services of this project are meant: {}", services.join(", ")))
        .suggest(
            "say which by its name (as in dev:web) or its package (as in dev@apps/web, or dev@. for the project itself)",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Change, Remembers},
        lease::LeaseId,
        port::Port,
        registry::Rules,
        service_type::ServiceTypes,
        time::Timestamp,
    };

    fn registry(leases: Vec<Lease>) -> Registry {
        let mut registry = Registry::new(Rules::of(ServiceTypes::default()));
        for lease in leases {
            let change =
                Change::Allocate { lease: Arc::new(lease), remembers: Remembers::default() };
            registry.apply(1, Timestamp(0), &change);
        }
        registry
    }

    fn lease(port: u16) -> Lease {
        let id = LeaseId::from_number(port.into());
        let project_path = Some("/shop".parse().unwrap());
        let lease = Lease::new(id, Port::new(port.into()).unwrap(), "dev".parse().unwrap());
        Lease { project_path, ..lease }
    }

    fn of_package(port: u16, path: &str) -> Lease {
        Lease { package_path: Some(path.parse().unwrap()), ..lease(port) }
    }

    fn wanted(package: Option<&str>, strict: bool) -> LookupRequest {
        LookupRequest {
            project_path: "/shop".parse().unwrap(),
            package_path: package.map(|path| path.parse().unwrap()),
            strict,
            service_type: Some("dev".parse().unwrap()),
            service_name: None,
        }
    }

    fn port(registry: &Registry, wanted: &LookupRequest) -> Result<u16, ErrorKind> {
        registry
            .look_up(wanted, |_| false)
            .map(|lease| lease.port.get())
            .map_err(|error| error.kind)
    }

    #[test]
    fn a_service_of_the_package_comes_first() {
        let [web, admin] = [of_package(3000, "/shop/web"), of_package(3001, "/shop/admin")];
        let both = registry(vec![web.clone(), admin]);
        let (of_docs, nowhere) = (wanted(Some("/shop/docs"), false), wanted(None, false));
        assert_eq!(port(&both, &wanted(Some("/shop/admin"), false)), Ok(3001));
        assert_eq!(port(&both, &of_docs), Err(ErrorKind::InvalidArgument), "it may be either");
        assert_eq!(port(&both, &nowhere), Err(ErrorKind::InvalidArgument));
        let one = registry(vec![web]);
        assert_eq!([port(&one, &of_docs), port(&one, &nowhere)], [Ok(3000), Ok(3000)]);
        let only = wanted(Some("/shop/docs"), true);
        assert_eq!(port(&one, &only), Err(ErrorKind::NoSuchLease));
        assert_eq!(port(&one, &wanted(None, true)), Err(ErrorKind::NoSuchLease));
    }

    #[test]
    fn of_several_leases_the_one_whose_server_listens_is_meant() {
        let owner = crate::lease::Owner::Unit { unit: "shop.service".parse().unwrap() };
        let claim = Lease { claim: true, ..lease(3000) };
        let second = Lease { slot: 2, owner: owner.clone(), ..lease(3001) };
        let third = Lease { slot: 3, owner, ..lease(3002) };
        let registry = registry(vec![claim, second, third]);
        let port = |listened: &[u16]| {
            let is_listened = |lease: &Lease| listened.contains(&lease.port.get());
            registry.look_up(&wanted(None, false), is_listened).unwrap().port.get()
        };
        assert_eq!([port(&[]), port(&[3000]), port(&[3002])], [3000, 3000, 3002]);
        // Who listens on the port of a claim is not known.
        assert_eq!([port(&[3000, 3002]), port(&[3000, 3001, 3002])], [3002, 3001]);
    }

    #[test]
    fn the_claim_is_meant_else_the_first_lease_and_the_one_without_a_name() {
        let slot = |port, slot| Lease { slot, ..lease(port) };
        let named = Lease { service_name: Some("web".parse().unwrap()), ..lease(3001) };
        let in_block = Lease { block_id: Some(LeaseId::from_number(1)), ..lease(3002) };
        let claim = Lease { claim: true, ..slot(3003, 3) };
        let all = [slot(3007, 0), slot(3004, 2), lease(3005), named, in_block, claim];
        let first =
            |from: usize, to: usize| port(&registry(all[from..to].to_vec()), &wanted(None, false));
        assert_eq!(first(0, 6), Ok(3003));
        assert_eq!(first(0, 5), Ok(3005));
        assert_eq!(first(0, 2), Ok(3004));
        assert_eq!(first(0, 1), Ok(3007));
        assert_eq!(first(3, 5), Ok(3001));
        assert_eq!(first(4, 5), Err(ErrorKind::NoSuchLease));
    }
}
