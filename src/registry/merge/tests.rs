use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    config::Config,
    lease::{Instance, LeaseId, Owner},
    port::Protocol,
    time::Timestamp,
};

const PORTS: u64 = 6;

fn registry() -> Registry {
    Registry::new(Config::built_in().rules())
}

fn port(number: u64) -> Port {
    Port::new(3000 + number).unwrap()
}

fn lease(id: u128, number: u64, protocol: Protocol, project: &str) -> Arc<Lease> {
    Arc::new(Lease {
        protocol,
        project_path: Some(project.parse().unwrap()),
        ..Lease::new(LeaseId::from_number(id), port(number), "dev".parse().unwrap())
    })
}

/// A registry with these leases, as far as their ports are free.
fn with(first_id: u128, wanted: &[(u64, Protocol, u8)]) -> Registry {
    let mut registry = registry();
    for ((number, protocol, project), id) in wanted.iter().zip(first_id..) {
        if registry.at(port(*number), *protocol).is_none() {
            let lease = lease(id, *number, *protocol, &format!("/project/{project}"));
            let seq = u64::try_from(id).unwrap();
            registry.apply(seq, Timestamp(0), &Change::grant(lease));
        }
    }
    registry
}

fn apply(registry: &mut Registry, changes: &[Change]) {
    for (change, seq) in changes.iter().zip(10_000..) {
        registry.apply(seq, Timestamp(0), change);
    }
}

fn parts(lease: &Lease) -> Vec<(Port, Protocol)> {
    lease.protocol.parts().iter().map(|part| (lease.port, *part)).collect()
}

fn sorted(registry: &Registry) -> Vec<LeaseId> {
    let mut ids: Vec<_> = registry.iter().map(|lease| lease.lease_id).collect();
    ids.sort_unstable();
    ids
}

fn remembered(registry: &Registry) -> Vec<(MemoryKey, Port)> {
    let mut all: Vec<_> =
        registry.memory().iter().map(|(key, known)| ((**key).clone(), known.port)).collect();
    all.sort_unstable();
    all
}

fn wanted() -> impl Strategy<Value = Vec<(u64, Protocol, u8)>> {
    let protocol = select(&[Protocol::Tcp, Protocol::Udp, Protocol::Both][..]);
    vec((0..PORTS, protocol, 0..8_u8), 0..8)
}

/// How firmly each lease has its port, by its id.
fn grips() -> impl Strategy<Value = Vec<Grip>> {
    vec(select(&[Grip::None, Grip::Guarded, Grip::MayListen, Grip::Listens][..]), 16)
}

proptest! {
    #[test]
    fn every_port_has_one_lease_of_both_and_every_other_one_ends_once(
        ours in wanted(),
        theirs in wanted(),
        grips in grips(),
        is_void: bool,
        cut in 0..20_usize,
    ) {
        let (ours, theirs) = (with(0, &ours), with(8, &theirs));
        let grip = |lease: &Lease| {
            let known = (0..).zip(&grips).find(|(id, _)| LeaseId::from_number(*id) == lease.lease_id);
            *known.unwrap().1
        };
        let other = Other { state_id: "theirs", registry: &theirs, is_void };
        let changes = merge(&ours, other, grip);
        let mut merged = ours.clone();
        apply(&mut merged, &changes);

        // Whoever has a port has it alone, and each lease lives or has ended, for this reason, once.
        let ended: Vec<_> = changes.iter().filter_map(|change| match change {
            Change::Expire { lease, reason, .. } => Some((lease.lease_id, *reason)),
            _ => None,
        }).collect();
        let mut had = std::collections::HashMap::new();
        for lease in merged.iter() {
            for part in parts(lease) {
                prop_assert!(had.insert(part, lease.lease_id).is_none(), "{part:?} is leased twice");
                prop_assert_eq!(merged.at(part.0, part.1).unwrap().lease_id, lease.lease_id);
            }
        }
        for lease in ours.iter().chain(theirs.iter()) {
            let ends = ended.iter().filter(|(id, _)| *id == lease.lease_id).count();
            prop_assert_eq!(ends, usize::from(merged.get(lease.lease_id).is_err()));
        }
        // Who gave way met a rival of the other side that is as firm, or firmer.
        for (id, reason) in &ended {
            let (sides, is_ours) = match ours.get(*id) {
                Ok(lease) => ((lease, &theirs), true),
                Err(_) => ((theirs.get(*id).unwrap(), &ours), false),
            };
            let (lease, others) = sides;
            if is_void {
                prop_assert!(!is_ours && *reason == EndReason::NewBoot);
                continue;
            }
            prop_assert_eq!(*reason, EndReason::Merged);
            let rivals = parts(lease).into_iter().filter_map(|(port, part)| others.at(port, part));
            let firmest = rivals.map(|rival| grip(rival)).max().expect("there was a rival");
            let is_firmer = firmest > grip(lease);
            prop_assert!(is_firmer || !is_ours && firmest == grip(lease));
        }
        // What either remembered is remembered; of what both did, ours.
        for (key, port) in remembered(&ours) {
            prop_assert_eq!(merged.memory().get(&key).unwrap().port, port);
        }
        for (key, port) in remembered(&theirs) {
            let now = merged.memory().get(&key).unwrap().port;
            prop_assert_eq!(now, ours.memory().get(&key).map_or(port, |known| known.port));
        }

        // Cut short anywhere and decided again, it ends the same way, and no end is told twice.
        let cut = cut.min(changes.len());
        let mut again = ours.clone();
        apply(&mut again, &changes[..cut]);
        let rest = merge(&again, other, grip);
        if cut < changes.len() {
            let told = |change: &Change| match change {
                Change::Expire { lease, .. } => Some(lease.lease_id),
                _ => None,
            };
            let mut all: Vec<_> = changes[..cut].iter().chain(&rest).filter_map(told).collect();
            all.sort_unstable();
            let mut once: Vec<_> = ended.iter().map(|(id, _)| *id).collect();
            once.sort_unstable();
            prop_assert_eq!(all, once);
            apply(&mut again, &rest);
        }
        prop_assert_eq!(sorted(&again), sorted(&merged));
        prop_assert_eq!(remembered(&again), remembered(&merged));
    }
}

#[test]
fn a_port_in_both_goes_to_the_side_that_listens_or_guards_and_else_stays() {
    for (our_grip, their_grip, is_theirs) in [
        (Grip::None, Grip::None, false),
        (Grip::Guarded, Grip::Guarded, false),
        (Grip::None, Grip::Guarded, true),
        (Grip::Guarded, Grip::MayListen, true),
        (Grip::MayListen, Grip::MayListen, false),
        (Grip::MayListen, Grip::Listens, true),
        (Grip::Listens, Grip::Guarded, false),
    ] {
        let mut ours = with(1, &[(0, Protocol::Tcp, 0)]);
        let theirs = with(2, &[(0, Protocol::Both, 1)]);
        let grip = |lease: &Lease| {
            if lease.lease_id == LeaseId::from_number(1) { our_grip } else { their_grip }
        };
        let other = Other { state_id: "theirs", registry: &theirs, is_void: false };
        let changes = merge(&ours, other, grip);
        apply(&mut ours, &changes);
        let winner = ours.at(port(0), Protocol::Tcp).unwrap().lease_id;
        let expected = LeaseId::from_number(if is_theirs { 2 } else { 1 });
        assert_eq!(winner, expected, "{our_grip:?} {their_grip:?}");
        assert_eq!(ours.len(), 1);
    }
}

#[test]
fn instances_come_along_and_no_more_is_remembered_than_there_is_room_for() {
    let instance = |name: &str| {
        Arc::new(Instance {
            instance_id: name.parse().unwrap(),
            owner: Owner::None,
            heartbeat: Some(60),
            since: Timestamp(0),
            working_directory: None,
            metadata: None,
        })
    };
    let mut rules = Config::built_in().rules();
    rules.max_remembered = 2;
    let mut ours = Registry::new(rules);
    ours.apply(1, Timestamp(0), &Change::RegisterInstance { instance: instance("both") });
    ours.apply(2, Timestamp(0), &Change::grant(lease(1, 0, Protocol::Tcp, "/ours")));
    let mut theirs = registry();
    for (number, project) in (1..).zip(["/old", "/new"]) {
        let lease = lease(u128::from(number) + 10, number, Protocol::Tcp, project);
        theirs.apply(number, Timestamp(0), &Change::grant(lease));
    }
    theirs.apply(3, Timestamp(0), &Change::RegisterInstance { instance: instance("both") });
    theirs.apply(4, Timestamp(0), &Change::RegisterInstance { instance: instance("theirs") });
    let other = Other { state_id: "theirs", registry: &theirs, is_void: false };
    let changes = merge(&ours, other, |_| Grip::None);
    let [Change::Merge(taken)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(taken.instances, [instance("theirs")]);
    assert_eq!((taken.state_id.as_deref(), taken.leases.len()), (Some("theirs"), 2));
    apply(&mut ours, &changes);
    let projects: Vec<_> =
        remembered(&ours).into_iter().map(|(key, _)| key.project_path.to_string()).collect();
    assert_eq!(projects, ["/new", "/ours"], "the oldest has no place");
}
