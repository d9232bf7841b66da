//! A hundred clients that ask at once, and one that reads the file all the time.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::{Value as Json, json};
use zbus::Connection;

use super::{FILE, events, file, range};
use crate::{
    inside::{self, Granted},
    machine::Machine,
    owners::client::dicts,
};

const CLIENTS: usize = 100;
const ROUNDS: usize = 10;

pub fn different(machine: &Machine) {
    let result = machine.inside(&format!("types different {CLIENTS} {ROUNDS}"));
    // Else the reader has hardly looked while it was written, two thousand times.
    assert!(result["versions"].as_u64().unwrap() > 20, "{result}");
    assert_told(machine, CLIENTS * ROUNDS, CLIENTS * ROUNDS);
    let mut rounds = BTreeMap::<String, usize>::new();
    for event in events(machine, "auto_allocate") {
        *rounds.entry(event["STYXY_SERVICE_TYPE"].to_string()).or_default() += 1;
    }
    assert_eq!(rounds.len(), CLIENTS);
    assert!(rounds.values().all(|times| *times == ROUNDS), "{rounds:?}");
}

pub fn same(machine: &Machine) {
    machine.configure(&format!(r#"{{"auto_allocation": {{"default_chunk_size": {CLIENTS}}}}}"#));
    machine.inside(&format!("types same {CLIENTS} {ROUNDS}"));
    assert_told(machine, ROUNDS, ROUNDS);
}

pub fn growing(machine: &Machine) {
    // Ports that browsers refuse are not given away, so there are none in these ranges.
    let limits = r#""min_port": 20000, "max_port": 30000"#;
    for (size, expected) in [(10, CLIENTS / 10), (1, CLIENTS)] {
        machine.configure(&format!(
            r#"{{"auto_allocation": {{"default_chunk_size": {size}, {limits}}}}}"#
        ));
        let before = events(machine, "auto_allocate").len();
        machine.inside(&format!("types same {CLIENTS} 1"));
        assert_eq!(events(machine, "auto_allocate").len() - before, expected, "of {size} each");
    }
}

/// So many ranges were told, and so many undos; nothing of them is left.
fn assert_told(machine: &Machine, ranges: usize, undos: usize) {
    assert_eq!(events(machine, "auto_allocate").len(), ranges);
    assert_eq!(events(machine, "undo_auto_allocation").len(), undos);
    assert_eq!(events(machine, "deny"), Vec::<Json>::new());
    assert!(!file(machine).contains("service_types"), "{}", file(machine));
}

/// Each client asks for a type of its own, and undoes it, so many times.
pub async fn inside_different(clients: usize, rounds: usize) -> Json {
    let buses = connections(clients).await;
    let names: Vec<_> = (0..clients).map(|i| format!("crowd-{i}")).collect();
    let reader = Reader::start();
    for _ in 0..rounds {
        let granted = allocate(&buses, &names).await;
        let types = automatic(&buses[0]).await;
        assert_eq!(types.len(), clients);
        assert_disjoint(&types);
        for (name, (port, _)) in names.iter().zip(granted) {
            let [only] = types[name].as_slice() else { panic!("{name}: {types:?}") };
            assert!((only.0..=only.1).contains(&port), "{name} got {port}: {types:?}");
        }
        let undone = at_once(&buses, &names, undo).await;
        assert!(undone.iter().all(|released| *released == 1), "{undone:?}");
        assert_eq!(automatic(&buses[0]).await, BTreeMap::new());
    }
    reader.end()
}

/// All clients ask for one type; then it is undone.
pub async fn inside_same(clients: usize, rounds: usize) -> Json {
    let buses = connections(clients).await;
    let names = vec!["one".to_owned(); clients];
    let reader = Reader::start();
    for _ in 0..rounds {
        let granted = allocate(&buses, &names).await;
        let ports: HashSet<_> = granted.iter().map(|(port, _)| *port).collect();
        assert_eq!(ports.len(), clients, "{granted:?}");
        let types = automatic(&buses[0]).await;
        // One beside the other makes one.
        let [(first, last)] = types["one"].as_slice() else { panic!("{types:?}") };
        assert_eq!(usize::from(last - first) + 1, clients);
        assert!(ports.iter().all(|port| (first..=last).contains(&port)), "{types:?}");
        assert_eq!(undo(buses[0].clone(), "one".to_owned()).await as usize, clients);
    }
    reader.end()
}

async fn connections(count: usize) -> Vec<Connection> {
    let mut buses = Vec::new();
    for _ in 0..count {
        buses.push(inside::bus().await);
    }
    buses
}

async fn allocate(buses: &[Connection], names: &[String]) -> Vec<Granted> {
    at_once(buses, names, |bus, name| async move { inside::allocate(&bus, &name).await.unwrap() })
        .await
}

/// Takes a type away, with its leases; returns how many these were.
async fn undo(bus: Connection, name: String) -> u32 {
    let reply = inside::call(&bus, "UndoAutoAllocation", &(name.as_str(), true)).await.unwrap();
    reply.body().deserialize().unwrap()
}

/// Every client does that with its name, all at the same time.
async fn at_once<T, F>(
    buses: &[Connection],
    names: &[String],
    call: impl Fn(Connection, String) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks = buses.iter().zip(names);
    let tasks: Vec<_> =
        tasks.map(|(bus, name)| tokio::spawn(call(bus.clone(), name.clone()))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

type Ranges = BTreeMap<String, Vec<(u16, u16)>>;

/// The types that have appeared by themselves.
async fn automatic(bus: &Connection) -> Ranges {
    let types = dicts(bus, "ListServiceTypes", &()).await;
    let mut found = Ranges::new();
    for service_type in types.iter().filter(|service_type| service_type["automatic"] == true) {
        let ranges = service_type["ranges"].as_array().unwrap().iter();
        let name = service_type["service_type"].as_str().unwrap();
        found.insert(name.to_owned(), ranges.map(|text| range(text.as_str().unwrap())).collect());
    }
    found
}

fn assert_disjoint(types: &Ranges) {
    let mut ranges: Vec<_> = types.values().flatten().collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 < pair[1].0, "{pair:?}");
    }
}

/// One who reads the file all the time, and looks at everything that it says.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, HashSet<String>)>,
}

impl Reader {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || read_until(&stop)
        });
        Self { stop, thread }
    }

    /// Fails if anything was wrong with any version that it has seen.
    fn end(self) -> Json {
        self.stop.store(true, Ordering::Relaxed);
        let (reads, versions) = self.thread.join().unwrap();
        json!({"reads": reads, "versions": versions.len()})
    }
}

fn read_until(stop: &AtomicBool) -> (usize, HashSet<String>) {
    let (mut reads, mut versions) = (0, HashSet::new());
    while !stop.load(Ordering::Relaxed) {
        match fs::read_to_string(FILE) {
            Ok(text) => {
                reads += 1;
                if !versions.contains(&text) {
                    assert_whole(&text);
                    versions.insert(text);
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                assert_eq!(reads, 0, "it was there, and is gone");
            }
        }
    }
    (reads, versions)
}

/// A version is JSON to its end, with whole types whose ranges are disjoint.
fn assert_whole(text: &str) {
    let json: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut types = Ranges::new();
    for (name, service_type) in json["service_types"].as_object().into_iter().flatten() {
        let port = |i: usize| u16::try_from(service_type["port_range"][i].as_u64().unwrap());
        let created = &service_type["created"];
        assert!(created["at"].as_str().unwrap().ends_with('Z'), "{text}");
        assert_eq!(created["placement"], "after", "{text}");
        assert!(created["by"].as_str().unwrap().starts_with("inside["), "{text}");
        types.insert(name.clone(), vec![(port(0).unwrap(), port(1).unwrap())]);
    }
    assert_disjoint(&types);
}
