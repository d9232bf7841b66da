//! Slots: a service may have several leases at one time, and each has a remembered port of its own. The first has slot 1,
//! one beside it slot 2, and so on, so that a second server never takes away what the first one comes back to.

use std::sync::Arc;

use super::{Registry, Remembered};
use crate::{
    change::Remembers,
    error::Error,
    lease::{Lease, MemoryKey, ServiceName},
    request::{AllocateRequest, Filter},
    service_type::ServiceType,
};

/// The most slots of one service; further leases are granted, and nothing is remembered of them.
const MOST_SLOTS: u16 = 32;

/// On how many different days a slot gets another port than its own until that is its own.
const DAYS: u32 = 3;

/// A slot that no live lease has.
#[derive(Clone, Debug)]
pub struct Slot<'a> {
    /// Its number.
    pub number: u16,
    /// The port that is remembered for it.
    pub known: Option<&'a Remembered>,
}

impl Slot<'_> {
    /// What was started last in it.
    pub fn program(&self) -> Option<&ServiceName> {
        self.known.and_then(|known| known.program.as_ref())
    }
}

impl Registry {
    /// The slot that a request gets: the first that is free. A program that tells its name gets the one that it had last, and none
    /// of another program; without one, only the first slot is had whatever its program is. `None` without a project, or if no
    /// more are remembered.
    pub fn slot(&self, request: &AllocateRequest) -> Option<Slot<'_>> {
        let mut key = request.memory_key()?;
        if request.asked.is_some() {
            // Whatever the program, a number has one real port.
            return Some(Slot { number: 1, known: self.memory.get(&key) });
        }
        let free = (1..=MOST_SLOTS).filter_map(|number| {
            key.slot = number;
            let known = self.memory.get(&key);
            let is_free = known.is_none_or(|known| self.in_slot(&key, known).is_none());
            is_free.then_some(Slot { number, known })
        });
        let mut nobodys = None;
        for slot in free {
            match (slot.program(), &request.program) {
                (Some(last), Some(program)) if last == program => return Some(slot),
                (_, None) if slot.number == 1 => return Some(slot),
                (None, None) => return Some(slot),
                (None, Some(_)) if nobodys.is_none() => nobodys = Some(slot),
                _ => {}
            }
        }
        nobodys
    }

    /// The request with what its service type says. A program has the name of a service where there is none: a service that is
    /// called like it is meant by it, and the other way round.
    ///
    /// # Errors
    ///
    /// If the request and the type do not fit.
    pub fn completed(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Result<AllocateRequest, Error> {
        let mut request = request.completed(service_type)?;
        if request.asked.is_some() {
            // The name only describes it.
            return Ok(request);
        }
        if request.strict
            && let Some(port) = request.template_port(service_type, &self.rules.templates)?
        {
            // No other is wanted.
            (request.port, request.template) = (Some(port), None);
        }
        let Some(name) = request.service_name.as_ref().or(request.program.as_ref()) else {
            return Ok(request);
        };
        let named =
            AllocateRequest { service_name: Some(name.clone()), program: None, ..request.clone() };
        if named.memory_key().is_none_or(|key| self.memory.get(&key).is_some()) {
            return Ok(named);
        }
        let started =
            AllocateRequest { service_name: None, program: Some(name.clone()), ..request.clone() };
        let is_known = request.service_name.is_none() || self.is_started(&started);
        Ok(if is_known { started } else { named })
    }

    /// Whether a slot of the service is that of the program.
    fn is_started(&self, request: &AllocateRequest) -> bool {
        let Some(mut key) = request.memory_key() else { return false };
        let slots = (1..=MOST_SLOTS).map_while(|number| {
            key.slot = number;
            self.memory.get(&key)
        });
        let mut programs = slots.map(|known| known.program.as_ref());
        programs.any(|program| program.is_some() && program == request.program.as_ref())
    }

    /// The live lease of a slot.
    fn in_slot(&self, key: &MemoryKey, known: &Remembered) -> Option<&Arc<Lease>> {
        let mut leases = known.ports().filter_map(|port| self.at(port, key.protocol));
        leases.find(|lease| lease.memory_key().as_ref() == Some(key))
    }

    /// The live leases in the slots of a service, up to the first free one.
    pub(super) fn in_slots(&self, request: &AllocateRequest) -> impl Iterator<Item = &Arc<Lease>> {
        let mut key = request.memory_key();
        (1..=MOST_SLOTS).map_while(move |number| {
            let key = key.as_mut()?;
            key.slot = number;
            self.in_slot(key, self.memory.get(key)?)
        })
    }

    /// The remembered ports that match, those that were granted last first.
    pub fn remembered(
        &self,
        filter: &Filter,
    ) -> impl Iterator<Item = (&Arc<MemoryKey>, &Remembered)> {
        let all = self.memory.newest(filter.project_path.as_ref());
        all.filter(|(key, known)| filter.matches_memory(key, known.port, known.program.as_ref()))
    }

    /// What is remembered of a lease that is granted for this request.
    pub fn remembers(&self, request: &AllocateRequest, lease: &Lease) -> Remembers {
        let known = lease.memory_key().and_then(|key| self.memory.get(&key));
        let Some(known) = known.filter(|known| known.port != lease.port) else {
            return Remembers::Port;
        };
        let was_asked_for = request.port == Some(lease.port);
        let is_given_up = self.rules.excluded.contains(known.port)
            || known
                .substituted(lease.port, lease.since.day(), 0)
                .substitute
                .is_some_and(|substitute| substitute.days >= DAYS);
        if was_asked_for || is_given_up {
            Remembers::Moved { from: known.port }
        } else {
            Remembers::Substitute
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Change,
        error::Error,
        lease::{HolderId, LeaseId, Owner},
        obstacle::{InUse, Obstacle},
        port::{Port, PortRange},
        registry::{
            Choice, Rules,
            granting::{At, Decision, Means, new_leases},
        },
        service_type::{ServiceType, ServiceTypes},
        time::{Moment, Timestamp},
    };

    const DAY: u64 = 24 * 60 * 60 * 1_000;

    /// A registry, and what happens to it.
    struct World {
        registry: Registry,
        seq: u64,
        day: u64,
        /// Ports that something else has.
        busy: Vec<u16>,
    }

    impl World {
        fn new() -> Self {
            let range = PortRange::new(Port::new(3_000).unwrap(), Port::new(3_099).unwrap());
            let types = [("dev".parse().unwrap(), ServiceType::new(range.unwrap()))];
            let registry = Registry::new(Rules {
                max_leases: 100,
                max_per_project: 100,
                max_remembered: 100,
                ..Rules::of(ServiceTypes(types.into()))
            });
            Self { registry, seq: 0, day: 20_000, busy: Vec::new() }
        }

        fn decided(&self, request: &AllocateRequest) -> Result<Decision, Error> {
            let means = Means { can_grow: false, hand_over: false, guards: (0, 10) };
            let service_type = self.registry.rules().types.get(&request.service_type)?;
            let decision = self.registry.decide(request, service_type, means, |port| {
                let is_busy = self.busy.contains(&port.get());
                if is_busy { Err(Obstacle::InUse(InUse::Socket)) } else { Ok(()) }
            });
            Ok(decision?.unwrap())
        }

        fn decide(&self, request: &AllocateRequest) -> Choice {
            self.decided(request).unwrap().choice
        }

        fn ask(&mut self, request: &AllocateRequest) -> Result<Arc<Lease>, Error> {
            let decision = self.decided(request)?;
            let Choice::Port(first) = decision.choice else { panic!("{decision:?}") };
            let at = At { now: Moment(0), wall: Timestamp(self.day * DAY) };
            let leases = new_leases(&decision, first, &Owner::None, at, LeaseId::random);
            for lease in &leases {
                self.seq += 1;
                let remembers = self.registry.remembers(&decision.request, lease);
                let change = Change::Allocate { lease: Arc::clone(lease), remembers };
                self.registry.apply(self.seq, Timestamp(self.day * DAY), &change);
            }
            Ok(Arc::clone(&leases[0]))
        }

        fn granted(&mut self, request: &AllocateRequest) -> Arc<Lease> {
            self.ask(request).unwrap()
        }

        fn end(&mut self, lease: &Arc<Lease>) {
            let all = crate::request::Filter { block_id: lease.block_id, ..Default::default() };
            let leases = match lease.block_id {
                Some(_) => self.registry.list(&all),
                None => vec![Arc::clone(lease)],
            };
            for lease in leases {
                self.seq += 1;
                let end = Change::end(lease, crate::lease::EndReason::Released);
                self.registry.apply(self.seq, Timestamp(self.day * DAY), &end);
            }
        }

        /// The port of a lease that ends at once.
        fn port(&mut self, request: &AllocateRequest) -> u16 {
            let lease = self.granted(request);
            self.end(&lease);
            lease.port.get()
        }
    }

    fn request() -> AllocateRequest {
        let project_path = Some("/home/dev/shop".parse().unwrap());
        AllocateRequest { project_path, ..AllocateRequest::new("dev".parse().unwrap()) }
    }

    fn port(number: u64) -> Option<Port> {
        Port::new(number)
    }

    #[test]
    fn a_second_lease_at_one_time_takes_nothing_from_the_first() {
        let mut world = World::new();
        let (first, second) = (world.granted(&request()), world.granted(&request()));
        assert_eq!((first.port.get(), second.port.get()), (3000, 3001));
        assert_eq!((first.slot, second.slot), (1, 2));
        world.end(&first);
        world.end(&second);
        assert_eq!(world.port(&request()), 3000);
        // The second was first this time; the next one is the first again.
        let first = world.granted(&request());
        assert_eq!(world.port(&request()), 3001);
        world.end(&first);
        assert_eq!(world.port(&request()), 3000);
    }

    #[test]
    fn a_port_that_is_taken_for_a_while_is_come_back_to() {
        let mut world = World::new();
        let asked = AllocateRequest { port: port(3042), ..request() };
        assert_eq!(world.port(&asked), 3042);
        world.busy = vec![3042, 3000];
        assert_eq!(world.port(&request()), 3001);
        // Its substitute is tried first, though a better one is free by now.
        world.busy = vec![3042];
        assert_eq!(world.port(&request()), 3001);
        world.busy = vec![];
        assert_eq!(world.port(&request()), 3042);
        // That it had another one once is over.
        world.busy = vec![3042];
        assert_eq!(world.port(&request()), 3000);
    }

    #[test]
    fn a_port_that_is_taken_on_three_days_is_given_up() {
        let mut world = World::new();
        assert_eq!(world.port(&request()), 3000);
        world.busy = vec![3000];
        for _ in 0..2 {
            world.day += 1;
            assert_eq!([world.port(&request()), world.port(&request())], [3001, 3001]);
        }
        world.busy = vec![];
        assert_eq!(world.port(&request()), 3000, "it was not given up on two days");
        world.busy = vec![3000];
        for _ in 0..3 {
            world.day += 5;
            assert_eq!(world.port(&request()), 3001);
        }
        world.busy = vec![];
        assert_eq!(world.port(&request()), 3001, "three days are enough");
    }

    #[test]
    fn what_was_asked_for_by_number_and_granted_is_remembered() {
        let mut world = World::new();
        assert_eq!(world.port(&request()), 3000);
        world.busy = vec![3050];
        let asked = AllocateRequest { port: port(3050), ..request() };
        assert_eq!(world.port(&asked), 3000, "it could not be had");
        world.busy = vec![];
        assert_eq!(world.port(&asked), 3050);
        assert_eq!(world.port(&request()), 3050);
    }

    #[test]
    fn a_block_and_a_package_move_nobody() {
        let mut world = World::new();
        let block = AllocateRequest { count: 3, ..request() };
        let package = AllocateRequest {
            package_path: Some("/home/dev/shop/web".parse().unwrap()),
            ..request()
        };
        assert_eq!(world.port(&request()), 3000);
        let there = world.granted(&request());
        assert_eq!([world.port(&block), world.port(&package)], [3001, 3004]);
        world.end(&there);
        for _ in 0..2 {
            assert_eq!(world.port(&request()), 3000);
            assert_eq!([world.port(&block), world.port(&package)], [3001, 3004]);
        }
    }

    #[test]
    fn for_two_weeks_each_service_has_its_own_port_whenever_nothing_else_sits_on_it() {
        let mut world = World::new();
        let services = ["web", "api", "docs"]
            .map(|name| AllocateRequest { service_name: Some(name.parse().unwrap()), ..request() });
        let own = [0, 1, 2].map(|index| world.port(&services[index]));
        for day in 0..14_usize {
            world.day += 1;
            // On a third of the days something foreign sits on one of the ports, for half of the day.
            let taken = (day % 3 == 1).then_some(day / 3 % 3);
            for half in 0..2 {
                world.busy =
                    taken.filter(|_| half == 0).map(|index| own[index]).into_iter().collect();
                // Whoever starts first is another one each day; each is restarted, and runs twice at one time.
                for index in (0..3).map(|index| (index + day) % 3) {
                    let is_free = !world.busy.contains(&own[index]);
                    let port = world.port(&services[index]);
                    assert_eq!(port == own[index], is_free, "day {day}, service {index}");
                    let first = world.granted(&services[index]);
                    let second = world.granted(&services[index]);
                    assert_eq!(first.port.get(), port, "it does not move within half a day");
                    assert!(!own.contains(&second.port.get()), "that is another's");
                    let order = if day % 2 == 0 { [&first, &second] } else { [&second, &first] };
                    order.into_iter().for_each(|lease| world.end(lease));
                }
                let block = AllocateRequest { count: 3, ..services[day % 3].clone() };
                world.port(&block);
            }
        }
    }

    #[test]
    fn two_programs_of_one_package_never_swap_ports() {
        let started = |program: &str| AllocateRequest {
            program: Some(program.parse().unwrap()),
            ..request()
        };
        let using = |program| AllocateRequest { use_claim: true, ..started(program) };
        let asked = AllocateRequest { claim: true, ..request() };
        let mut world = World::new();
        let vite = world.granted(&started("vite"));
        assert_eq!(world.port(&started("storybook")), 3001);
        world.end(&vite);
        // Whichever is started first.
        for _ in 0..2 {
            assert_eq!(world.port(&started("storybook")), 3001);
            let first = world.granted(&started("storybook"));
            assert_eq!(world.port(&started("vite")), 3000);
            world.end(&first);
        }
        // One more of the same is not the other, and a third program is neither.
        let (first, second) = (world.granted(&started("vite")), world.granted(&started("vite")));
        assert_eq!([first.port.get(), second.port.get()], [3000, 3002]);
        assert_eq!(world.port(&started("docs")), 3003);
        [first, second].iter().for_each(|lease| world.end(lease));
        assert_eq!(world.port(&started("vite")), 3000);
        // What is asked for without a program is the first one's, and only that one uses it.
        let claim = world.granted(&asked);
        assert_eq!((claim.port.get(), claim.program.as_ref().unwrap().as_str()), (3000, "vite"));
        assert_eq!(world.port(&using("storybook")), 3001);
        assert!(matches!(world.decide(&using("vite")), Choice::Existing(lease) if lease == claim));
    }

    #[test]
    fn what_is_asked_for_without_a_program_takes_nothing_from_a_second_one() {
        let started = |program: &str| AllocateRequest {
            program: Some(program.parse().unwrap()),
            ..request()
        };
        let mut world = World::new();
        let vite = world.granted(&started("vite"));
        assert_eq!(world.port(&started("storybook")), 3001);
        // The first is there already, and the port of the second is not had for it.
        let other = world.granted(&AllocateRequest { port: port(3_050), ..request() });
        assert_eq!((other.port.get(), &other.program), (3050, &None));
        world.end(&other);
        assert_eq!(world.port(&started("storybook")), 3001);
        world.end(&vite);
        let using = AllocateRequest { use_claim: true, ..started("storybook") };
        let storybook = world.granted(&using);
        let asked = world.granted(&AllocateRequest { claim: true, ..request() });
        assert_eq!((asked.port.get(), asked.program.as_ref().unwrap().as_str()), (3000, "vite"));
        assert!(storybook.claim);
    }

    #[test]
    fn a_claim_is_the_first_programs_that_uses_it() {
        let started = |program: &str| AllocateRequest {
            program: Some(program.parse().unwrap()),
            use_claim: true,
            ..request()
        };
        let mut world = World::new();
        let claim = world.granted(&AllocateRequest { claim: true, ..request() });
        assert_eq!(claim.program, None);
        let Choice::Existing(used) = world.decide(&started("vite")) else { panic!("it is used") };
        let share = world.registry.share(
            &used,
            &started("vite"),
            &Owner::None,
            HolderId::from_number(7),
            Moment(0),
        );
        world.seq += 1;
        world.registry.apply(world.seq, Timestamp(0), &share.unwrap().change);
        assert_eq!(world.port(&started("storybook")), 3001);
        let claim = Arc::clone(world.registry.get(claim.lease_id).unwrap());
        world.end(&claim);
        assert_eq!(world.port(&started("storybook")), 3001);
        assert_eq!(world.port(&started("vite")), 3000);
    }

    #[test]
    fn a_program_that_is_called_like_a_service_is_that_service() {
        let mut world = World::new();
        let named = AllocateRequest { service_name: Some("api".parse().unwrap()), ..request() };
        let started = AllocateRequest { program: Some("api".parse().unwrap()), ..request() };
        let asked = AllocateRequest { port: port(3_042), ..named };
        assert_eq!(world.port(&asked), 3042);
        let lease = world.granted(&started);
        assert_eq!((lease.port.get(), &lease.service_name), (3042, &asked.service_name));
        assert!(lease.name() == asked.service_name.as_ref() && lease.program.is_none());
    }

    #[test]
    fn of_more_leases_than_there_are_slots_nothing_is_remembered() {
        let mut world = World::new();
        let leases: Vec<_> = (0..40).map(|_| world.granted(&request())).collect();
        assert_eq!(leases.iter().filter(|lease| lease.slot == 0).count(), 8);
        assert_eq!(world.registry.memory().len(), 32);
        leases.iter().for_each(|lease| world.end(lease));
        assert_eq!(world.port(&request()), 3000);
    }
}
