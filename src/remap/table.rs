//! Which port is really meant: the table of a project, and what follows from it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::port::{Port, PortRange, Protocol};

/// How ports that no program of the project has bound are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every port of the project is another one really, and the localhost of others is not reached.
    #[default]
    Private,
    /// A program gets the port that it asks for if nobody has it.
    Conflict,
    /// Only the ports that were named are mapped.
    Map,
}

/// A mapping: a program that asks for one port has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The port that programs ask for.
    pub asked: Port,
    /// The port that they get.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What a call of bind is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// As the program says.
    AsIs,
    /// Bind this port, which the mapping names.
    To(Port),
    /// Nothing is known of the port: it needs a lease.
    Lease,
}

/// What a call of connect to this machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// As the program says.
    AsIs,
    /// Connect to this port.
    To(Port),
    /// Nothing is known of the port here: another terminal of the project may have it.
    Find,
}

/// Who has a port, according to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A program of the project asked for it.
    Asked(Mapping),
    /// The project has leased this very number.
    Own,
    /// Another project has leased it.
    Foreign(String),
    /// Nobody.
    Nobody,
}

/// What follows for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// As the program says.
    AsIs,
    /// Connect to this port.
    To(Port),
    /// As if nobody listened, because the port is no part of this project's localhost.
    NotReached,
    /// The same, because another project has it.
    NotReachedOf(String),
}

/// What the supervisor knows of its project.
#[derive(Clone, Debug)]
pub struct Table {
    mode: Mode,
    /// By what was asked for; a port of a mapping that this supervisor holds never changes.
    mapped: BTreeMap<(Protocol, Port), Port>,
    /// The real ports.
    own: BTreeSet<(Protocol, Port)>,
    /// The ports of the machine that are reached.
    reach: BTreeSet<Port>,
    /// The ports that the kernel chooses.
    ephemeral: Option<PortRange>,
}

/// The port of name servers (RFC 1035), which is always reached: where the machine's resolver listens on a loopback address.
const DOMAIN: u16 = 53;

impl Table {
    /// A table without mappings.
    pub fn new(
        mode: Mode,
        reach: impl IntoIterator<Item = Port>,
        ephemeral: Option<PortRange>,
    ) -> Self {
        Self {
            mode,
            mapped: BTreeMap::new(),
            own: BTreeSet::new(),
            reach: reach.into_iter().collect(),
            ephemeral,
        }
    }

    /// Adds a mapping.
    pub fn add(&mut self, Mapping { asked, port, protocol }: Mapping) {
        self.mapped.insert((protocol, asked), port);
        self.own.insert((protocol, port));
    }

    /// Whether datagrams of any port are mapped.
    pub fn has_datagrams(&self) -> bool {
        self.mapped.keys().any(|(protocol, _)| *protocol == Protocol::Udp)
    }

    /// What a program binds that asks for this port.
    pub fn bind(&self, protocol: Protocol, asked: Port) -> Bind {
        match self.mapped.get(&(protocol, asked)) {
            Some(port) => Bind::To(*port),
            // It was told its real port, or it names a port that was leased for it.
            None if self.own.contains(&(protocol, asked)) => Bind::AsIs,
            // Protocols that find each other by a well-known number use UDP.
            None if self.mode == Mode::Map || protocol != Protocol::Tcp => Bind::AsIs,
            None => Bind::Lease,
        }
    }

    /// What a program reaches that connects to this port of this machine.
    pub fn connect(&self, protocol: Protocol, asked: Port) -> Connect {
        match self.mapped.get(&(protocol, asked)) {
            Some(port) => Connect::To(*port),
            None if self.own.contains(&(protocol, asked)) => Connect::AsIs,
            None if self.mode == Mode::Map || protocol != Protocol::Tcp => Connect::AsIs,
            None => Connect::Find,
        }
    }

    /// What it reaches if nothing was known here.
    pub fn reached(&mut self, asked: Port, found: Found) -> Reached {
        match found {
            Found::Asked(mapping) => {
                self.add(mapping);
                Reached::To(mapping.port)
            }
            // It is asked for each time, because the lease may end.
            Found::Own => Reached::AsIs,
            _ if self.reach.contains(&asked) || asked.get() == DOMAIN => Reached::AsIs,
            Found::Foreign(project) => Reached::NotReachedOf(project),
            Found::Nobody if self.mode == Mode::Private && !self.may_be_chosen(asked) => {
                Reached::NotReached
            }
            Found::Nobody => Reached::AsIs,
        }
    }

    /// The port that a program asked for which has this one really.
    pub fn asked_for(&self, protocol: Protocol, port: Port) -> Option<Port> {
        let mut mapped = self.mapped.iter();
        let is_it =
            |(known, real): (&(Protocol, Port), &Port)| known.0 == protocol && *real == port;
        mapped.find(|entry| is_it(*entry)).map(|((_, asked), _)| *asked)
    }

    /// Whether the kernel may have given this port to a program that wanted any.
    fn may_be_chosen(&self, port: Port) -> bool {
        self.ephemeral.is_some_and(|range| range.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number.into()).unwrap()
    }

    fn table(mode: Mode) -> Table {
        let ephemeral = PortRange::new(port(32_768), port(60_999));
        Table::new(mode, [port(5432)], ephemeral)
    }

    const TCP: Protocol = Protocol::Tcp;

    fn mapping(asked: u16, real: u16) -> Mapping {
        Mapping { asked: port(asked), port: port(real), protocol: TCP }
    }

    #[test]
    fn what_was_asked_for_is_bound_and_reached_under_its_real_number() {
        let mut table = table(Mode::Private);
        assert_eq!(table.bind(TCP, port(3001)), Bind::Lease);
        table.add(mapping(3001, 21_000));
        assert_eq!(table.bind(TCP, port(3001)), Bind::To(port(21_000)));
        assert_eq!(table.connect(TCP, port(3001)), Connect::To(port(21_000)));
        // Whoever was told the real number means that.
        assert_eq!(table.bind(TCP, port(21_000)), Bind::AsIs);
        assert_eq!(table.connect(TCP, port(21_000)), Connect::AsIs);
        assert_eq!(table.asked_for(TCP, port(21_000)), Some(port(3001)));
        // UDP has ports of its own.
        assert_eq!(table.bind(Protocol::Udp, port(3001)), Bind::AsIs);
    }

    #[test]
    fn a_private_localhost_has_only_what_is_of_the_project() {
        let mut table = table(Mode::Private);
        let foreign = || Found::Foreign("/home/dev/a".to_owned());
        assert_eq!(table.reached(port(3001), Found::Nobody), Reached::NotReached);
        let of_other = Reached::NotReachedOf("/home/dev/a".to_owned());
        assert_eq!(table.reached(port(3001), foreign()), of_other);
        assert_eq!(table.reached(port(40_000), foreign()), of_other);
        // What a member may have been given, what was named, and name servers.
        for reached in [40_000, 5432, 53] {
            assert_eq!(table.reached(port(reached), Found::Nobody), Reached::AsIs);
        }
        assert_eq!(table.reached(port(3000), Found::Own), Reached::AsIs);
        assert_eq!(table.connect(TCP, port(3000)), Connect::Find);
        let found = Found::Asked(mapping(6379, 21_001));
        assert_eq!(table.reached(port(6379), found), Reached::To(port(21_001)));
        assert_eq!(table.connect(TCP, port(6379)), Connect::To(port(21_001)));
    }

    #[test]
    fn in_conflict_mode_what_nobody_has_is_reached_and_what_another_project_has_is_not() {
        let mut table = table(Mode::Conflict);
        assert_eq!(table.bind(TCP, port(3001)), Bind::Lease);
        assert_eq!(table.reached(port(3001), Found::Nobody), Reached::AsIs);
        let foreign = Found::Foreign("/a".to_owned());
        assert_eq!(table.reached(port(3001), foreign), Reached::NotReachedOf("/a".to_owned()));
    }

    #[test]
    fn with_named_ports_alone_all_others_are_as_they_were() {
        let mut table = table(Mode::Map);
        table.add(mapping(3001, 8004));
        assert_eq!(table.connect(TCP, port(3001)), Connect::To(port(8004)));
        assert_eq!(table.bind(TCP, port(3002)), Bind::AsIs);
        assert_eq!(table.connect(TCP, port(3002)), Connect::AsIs);
    }

    /// What two projects do, each in several terminals.
    #[derive(Clone, Debug)]
    enum Step {
        Bind { project: usize, terminal: usize, asked: u16 },
        Close { project: usize, asked: u16 },
        Connect { project: usize, terminal: usize, asked: u16 },
        NewTerminal { project: usize, terminal: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = || (0..2_usize, 0..3_usize, 0..5_u16);
        let asked = |index: u16| [3000, 3001, 5173, 6379, 8080][usize::from(index)];
        prop_oneof![
            which().prop_map(move |(project, terminal, index)| Step::Bind {
                project,
                terminal,
                asked: asked(index)
            }),
            which()
                .prop_map(move |(project, _, index)| Step::Close { project, asked: asked(index) }),
            which().prop_map(move |(project, terminal, index)| Step::Connect {
                project,
                terminal,
                asked: asked(index)
            }),
            which().prop_map(|(project, terminal, _)| Step::NewTerminal { project, terminal }),
        ]
    }

    proptest! {
        /// The service as a map, each terminal a table: a connection reaches the server of its own project that bound this
        /// port last, in whatever terminal, or nobody.
        #[test]
        fn nobody_ever_reaches_another_project(steps in vec(step(), 1..200), private in any::<bool>()) {
            let mode = if private { Mode::Private } else { Mode::Conflict };
            let mut tables: Vec<Vec<Table>> = vec![vec![table(mode); 3]; 2];
            let mut leases: HashMap<(usize, u16), u16> = HashMap::new();
            // Who listens on a real port.
            let mut servers: HashMap<u16, (usize, u16)> = HashMap::new();
            let mut next = 21_000;
            let find = |leases: &HashMap<(usize, u16), u16>, project: usize, number: u16| {
                if let Some(real) = leases.get(&(project, number)) {
                    return Found::Asked(mapping(number, *real));
                }
                let mut all = leases.iter();
                match all.find(|(_, real)| **real == number) {
                    Some(((owner, _), _)) if *owner == project => Found::Own,
                    Some(((owner, _), _)) => Found::Foreign(owner.to_string()),
                    None => Found::Nobody,
                }
            };
            for step in steps {
                match step {
                    Step::Bind { project, terminal, asked } => {
                        let table = &mut tables[project][terminal];
                        let real = match table.bind(TCP, port(asked)) {
                            Bind::To(real) => real.get(),
                            Bind::AsIs => asked,
                            Bind::Lease => {
                                let is_taken = |number| {
                                    servers.contains_key(&number)
                                        || leases.values().any(|real| *real == number)
                                };
                                let known = leases.get(&(project, asked)).copied();
                                let real = known.unwrap_or_else(|| {
                                    if !private && !is_taken(asked) {
                                        return asked;
                                    }
                                    next += 1;
                                    next
                                });
                                leases.insert((project, asked), real);
                                table.add(mapping(asked, real));
                                real
                            }
                        };
                        prop_assert!(!private || real != asked);
                        servers.entry(real).or_insert((project, asked));
                    }
                    Step::Close { project, asked } => {
                        if let Some(real) = leases.get(&(project, asked)) {
                            servers.remove(real);
                        }
                    }
                    Step::NewTerminal { project, terminal } => {
                        tables[project][terminal] = table(mode);
                    }
                    Step::Connect { project, terminal, asked } => {
                        let table = &mut tables[project][terminal];
                        let reached = match table.connect(TCP, port(asked)) {
                            Connect::To(real) => Reached::To(real),
                            Connect::AsIs => Reached::AsIs,
                            Connect::Find => {
                                table.reached(port(asked), find(&leases, project, asked))
                            }
                        };
                        let place = match reached {
                            Reached::To(real) => Some(real.get()),
                            Reached::AsIs => Some(asked),
                            Reached::NotReached | Reached::NotReachedOf(_) => None,
                        };
                        let server = place.and_then(|place| servers.get(&place)).copied();
                        let expected = leases.get(&(project, asked)).and_then(|real| servers.get(real));
                        prop_assert_eq!(server, expected.copied());
                        prop_assert!(server.is_none_or(|server| server == (project, asked)));
                    }
                }
            }
        }
    }
}
