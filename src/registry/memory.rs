//! Which project had which port last.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    lease::{MemoryKey, ProjectPath, ServiceName},
    port::{Port, Protocol},
    port_set::PortSet,
    service_type::ServiceTypeName,
    time::Timestamp,
};

/// A remembered port. Ages are numbers of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The port.
    pub port: Port,
    /// When it or its substitute was last granted.
    pub age: u64,
    /// Since when the port has been the same.
    pub since: u64,
    /// The port that was granted instead, since this one was last granted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub substitute: Option<Substitute>,
    /// The program that was last started on it, if known; no other program of the service gets this slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<ServiceName>,
    /// When it was last in use: with an owner, or with a listener. `None` if it was only asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used: Option<Timestamp>,
}

/// A port that was granted because the remembered one could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Substitute {
    /// The port.
    pub port: Port,
    /// The last day with a substitute, counted from 1970-01-01 (UTC).
    pub day: u64,
    /// The number of different days with a substitute.
    pub days: u32,
}

impl Remembered {
    /// A port that was granted by the change with this number.
    pub fn new(port: Port, age: u64) -> Self {
        Self { port, age, since: age, substitute: None, program: None, used: None }
    }

    /// The port, and the substitute that is tried next.
    pub fn ports(&self) -> impl Iterator<Item = Port> + use<> {
        std::iter::once(self.port).chain(self.substitute.map(|substitute| substitute.port))
    }

    /// The same after another port was granted instead on that day.
    #[must_use]
    pub fn substituted(&self, port: Port, day: u64, age: u64) -> Self {
        let days = match &self.substitute {
            Some(before) if before.day == day => before.days,
            Some(before) => before.days.saturating_add(1),
            None => 1,
        };
        Self { age, substitute: Some(Substitute { port, day, days }), ..self.clone() }
    }
}

/// The share of a project is never smaller than this.
const LEAST_SHARE: usize = 100;

/// Keys by their age, the oldest first.
type Aged = BTreeSet<(u64, Arc<MemoryKey>)>;

/// The remembered ports. An age is the number of a change: lower is older. Everything that one change took over from
/// another registry has the same age.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    by_key: HashMap<Arc<MemoryKey>, Remembered>,
    by_age: Aged,
    of_project: HashMap<ProjectPath, Aged>,
    by_port: HashMap<(Protocol, Port), Aged>,
    newest: Newest,
    tcp: PortSet,
    udp: PortSet,
    both: PortSet,
}

/// The highest age of each port for each protocol, zero for none. A whole range is looked up at once.
#[derive(Clone, Debug)]
struct Newest(Vec<[u64; 3]>);

impl Default for Newest {
    fn default() -> Self {
        // Pages that were never written to take no memory.
        Self(vec![[0; 3]; 65_536])
    }
}

impl Memory {
    /// Remembers the port for that key instead of its previous one, and forgets the oldest keys beyond
    /// `most`.
    pub(super) fn remember(
        &mut self,
        key: MemoryKey,
        port: Port,
        program: Option<ServiceName>,
        age: u64,
        most: usize,
    ) {
        let known = self.get(&key);
        let since = known.filter(|known| known.port == port).map_or(age, |known| known.since);
        let program = program.or_else(|| known?.program.clone());
        let used = known.and_then(|known| known.used);
        let now = Remembered { since, program, used, ..Remembered::new(port, age) };
        self.restore(key, now, most);
    }

    /// Remembers a substitute for the port of that key. A key that has been forgotten meanwhile gets it as its port.
    pub(super) fn substitute(
        &mut self,
        key: MemoryKey,
        port: Port,
        program: Option<ServiceName>,
        day: u64,
        age: u64,
        most: usize,
    ) {
        match self.get(&key) {
            Some(known) if known.port != port => {
                let program = program.or_else(|| known.program.clone());
                let substituted = Remembered { program, ..known.substituted(port, day, age) };
                self.restore(key, substituted, most);
            }
            _ => self.remember(key, port, program, age, most),
        }
    }

    /// Remembers the program that was started on the port of that key.
    pub(super) fn mark(&mut self, key: &MemoryKey, program: &ServiceName) {
        if let Some(known) = self.by_key.get_mut(key) {
            known.program = Some(program.clone());
        }
    }

    /// Notes when the port of that key was in use.
    pub(super) fn note_use(&mut self, key: &MemoryKey, at: Timestamp) {
        if let Some(known) = self.by_key.get_mut(key) {
            known.used = Some(at);
        }
    }

    /// Restores an entry, and forgets the oldest keys beyond `most` and beyond the project's share.
    pub(super) fn restore(&mut self, key: MemoryKey, remembered: Remembered, most: usize) {
        let project = key.project_path.clone();
        self.set_to(key, remembered);
        while let Some(oldest) = self.beyond_share(&project, most) {
            self.forget(&oldest);
        }
        while self.by_key.len() > most.max(1) {
            let oldest = self.by_age.first().map(|(_, key)| Arc::clone(key));
            self.forget(&oldest.expect("every key has an age"));
        }
    }

    /// The oldest key of a project that exceeds its share, a quarter of all: a project that makes up names must not push
    /// out everybody else.
    fn beyond_share(&self, project: &ProjectPath, most: usize) -> Option<Arc<MemoryKey>> {
        let keys = self.of_project.get(project)?;
        let oldest = keys.first().filter(|_| keys.len() > (most / 4).max(LEAST_SHARE));
        oldest.map(|(_, key)| Arc::clone(key))
    }

    /// Undoes that a port was remembered for that key; `before` is the entry before that. An entry that was
    /// made since stays.
    pub(super) fn take_back(&mut self, key: &MemoryKey, port: Port, before: Option<Remembered>) {
        if self.get(key).is_some_and(|known| known.ports().any(|known| known == port)) {
            match before {
                Some(before) => self.set_to(key.clone(), before),
                None => self.forget(key),
            }
        }
    }

    fn set_to(&mut self, key: MemoryKey, remembered: Remembered) {
        self.forget(&key);
        let Remembered { port, age, .. } = remembered;
        let key = Arc::new(key);
        for port in block(&key, port) {
            self.by_port.entry((key.protocol, port)).or_default().insert((age, Arc::clone(&key)));
            self.note_newest(key.protocol, port);
            self.set(key.protocol).insert(port);
        }
        let of_project = self.of_project.entry(key.project_path.clone()).or_default();
        of_project.insert((age, Arc::clone(&key)));
        self.by_age.insert((age, Arc::clone(&key)));
        self.by_key.insert(key, remembered);
    }

    /// Forgets what is remembered for that key.
    pub(super) fn forget(&mut self, key: &MemoryKey) {
        let Some((key, Remembered { port, age, .. })) = self.by_key.remove_entry(key) else {
            return;
        };
        let entry = (age, key);
        let key = &entry.1;
        self.by_age.remove(&entry);
        if let Some(entries) = self.of_project.get_mut(&key.project_path) {
            entries.remove(&entry);
            if entries.is_empty() {
                self.of_project.remove(&key.project_path);
            }
        }
        for port in block(key, port) {
            let place = (key.protocol, port);
            if let Some(entries) = self.by_port.get_mut(&place) {
                entries.remove(&entry);
                if entries.is_empty() {
                    self.by_port.remove(&place);
                    self.set(key.protocol).remove(port);
                }
            }
            self.note_newest(key.protocol, port);
        }
    }

    /// Forgets everything of that type: its ranges may soon belong to another.
    pub(super) fn forget_type(&mut self, service_type: &ServiceTypeName) {
        let keys = self.by_key.keys().filter(|key| key.service_type == *service_type);
        let keys: Vec<_> = keys.map(Arc::clone).collect();
        keys.iter().for_each(|key| self.forget(key));
    }

    /// The port that the key had last.
    pub fn get(&self, key: &MemoryKey) -> Option<&Remembered> {
        self.by_key.get(key)
    }

    /// A word of the bitmap of remembered ports, for any part of the protocol.
    pub(super) fn word(&self, protocol: Protocol, index: usize) -> u64 {
        let [tcp, udp, both] = [&self.tcp, &self.udp, &self.both].map(|set| set.word(index));
        match protocol {
            Protocol::Tcp => tcp | both,
            Protocol::Udp => udp | both,
            Protocol::Both => tcp | udp | both,
        }
    }

    /// Whether anybody remembers the port.
    pub(super) fn contains(&self, protocol: Protocol, port: Port) -> bool {
        self.word(protocol, usize::from(port.get()) / 64) >> (port.get() % 64) & 1 == 1
    }

    /// The age of the newest entry for that port.
    pub(super) fn age(&self, protocol: Protocol, port: Port) -> u64 {
        let [tcp, udp, both] = self.newest.0[usize::from(port.get())];
        match protocol {
            Protocol::Tcp => tcp.max(both),
            Protocol::Udp => udp.max(both),
            Protocol::Both => tcp.max(udp).max(both),
        }
    }

    /// Everything that is remembered, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<MemoryKey>, &Remembered)> {
        self.by_age.iter().map(|(_, key)| (key, &self.by_key[key]))
    }

    /// The same, the newest first; only of this project, if one is named.
    pub(super) fn newest(
        &self,
        project: Option<&ProjectPath>,
    ) -> impl Iterator<Item = (&Arc<MemoryKey>, &Remembered)> {
        let aged = project.map_or(Some(&self.by_age), |project| self.of_project.get(project));
        let keys = aged.into_iter().flat_map(|aged| aged.iter().rev());
        keys.map(|(_, key)| (key, &self.by_key[key]))
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn note_newest(&mut self, protocol: Protocol, port: Port) {
        let newest = self.by_port.get(&(protocol, port)).and_then(BTreeSet::last);
        let age = newest.map_or(0, |(age, _)| *age);
        self.newest.0[usize::from(port.get())][protocol as usize] = age;
    }

    fn set(&mut self, protocol: Protocol) -> &mut PortSet {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
            Protocol::Both => &mut self.both,
        }
    }
}

/// The ports of a block, of which only the first is remembered by number.
fn block(key: &MemoryKey, first: Port) -> impl Iterator<Item = Port> + use<> {
    (0..key.count).map_while(move |offset| first.plus(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_leaves_what_was_remembered_before_it_as_it_was() {
        let key = |path: &str| {
            MemoryKey::new(path.parse().unwrap(), "dev".parse().unwrap(), Protocol::Tcp)
        };
        let port = |number| Port::new(number).unwrap();
        let everything = |memory: &Memory| {
            let all = memory.iter().map(|(key, known)| (MemoryKey::clone(key), known.clone()));
            let ages = (3000..3003).map(|number| memory.age(Protocol::Tcp, port(number)));
            (all.collect::<Vec<_>>(), ages.collect::<Vec<_>>(), memory.get(&key("/a")).cloned())
        };
        let mut memory = Memory::default();
        memory.remember(key("/a"), port(3000), None, 1, 10);
        memory.remember(key("/b"), port(3001), None, 2, 10);
        // Granted again, it has been the same port since the first time.
        memory.remember(key("/a"), port(3000), None, 3, 10);
        let before = memory.get(&key("/a")).cloned();
        assert_eq!(before, Some(Remembered { since: 1, ..Remembered::new(port(3000), 3) }));
        let then = everything(&memory);
        memory.remember(key("/a"), port(3002), None, 4, 10);
        memory.remember(key("/c"), port(3002), None, 5, 10);
        memory.take_back(&key("/a"), port(3002), before);
        memory.take_back(&key("/c"), port(3002), None);
        assert_eq!(everything(&memory), then);
        // Another port that was remembered since stays.
        memory.take_back(&key("/b"), port(3002), None);
        assert_eq!(everything(&memory), then);
    }

    #[test]
    fn a_project_has_others_forgotten_only_up_to_its_share() {
        let key = |path: &str, name: u16| {
            let path = path.parse().unwrap();
            let key = MemoryKey::new(path, "dev".parse().unwrap(), Protocol::Tcp);
            MemoryKey { service_name: Some(format!("s{name}").parse().unwrap()), ..key }
        };
        let port = Port::new(3000).unwrap();
        let mut memory = Memory::default();
        memory.remember(key("/quiet", 0), port, None, 1, 1_000);
        (2..2_000)
            .for_each(|age| memory.remember(key("/loud", age), port, None, age.into(), 1_000));
        assert_eq!(memory.len(), 251);
        assert!(memory.get(&key("/quiet", 0)).is_some());
        let of_loud = [1_749, 1_750].map(|name| memory.get(&key("/loud", name)).is_some());
        assert_eq!(of_loud, [false, true], "its oldest are forgotten");
        (2..200).for_each(|age| memory.remember(key("/few", age), port, None, age.into(), 50));
        assert_eq!(memory.len(), 50, "the limit for all counts, too");
    }

    #[test]
    fn what_is_of_one_age_is_forgotten_one_by_one() {
        let key = |path: &str| {
            MemoryKey::new(path.parse().unwrap(), "dev".parse().unwrap(), Protocol::Tcp)
        };
        let port = Port::new(3000).unwrap();
        let mut memory = Memory::default();
        for path in ["/a", "/b", "/c"] {
            memory.remember(key(path), port, None, 7, 10);
        }
        assert_eq!(memory.len(), 3);
        memory.forget(&key("/b"));
        assert_eq!((memory.len(), memory.age(Protocol::Tcp, port)), (2, 7));
        memory.remember(key("/d"), port, None, 8, 2);
        let left: Vec<_> = memory.iter().map(|(key, ..)| key.project_path.to_string()).collect();
        assert_eq!(left, ["/c", "/d"]);
        memory.forget(&key("/c"));
        memory.forget(&key("/d"));
        assert!(memory.is_empty() && !memory.contains(Protocol::Tcp, port));
    }
}
