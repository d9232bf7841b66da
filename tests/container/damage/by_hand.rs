//! The service started by hand, without systemd, on hundreds of damaged copies of a state folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    ops::Range,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value as Json, json};

use crate::inside::Dice;

type Ports = BTreeSet<u64>;
type Complaint = Box<dyn Error>;

/// Cuts the log at each byte of its last two records and of what is behind them.
pub async fn cuts(folder: &Path) -> Json {
    let whole = Files::read(folder).unwrap();
    let lines = whole.lines();
    let records: Vec<_> = lines.iter().filter(|line| !line.says["record"].is_null()).collect();
    let [.., from, _] = records[..] else { panic!("two records are wanted") };
    let log = &whole.0[from.file];
    let registry = registry_of(folder);
    let cut = |at: usize| {
        let is_kept = |line: &&Line<'_>| line.file != from.file || line.span.end <= at;
        let leases = leases(lines.iter().filter(is_kept));
        Variant {
            name: format!("{} cut at {at} of {}", from.file, log.len()),
            certain: leases.clone(),
            possible: leases.clone(),
            undamaged: leases,
            reports: Some(usize::from(log[at - 1] != b'\n')),
            registry: registry.clone(),
            files: whole.with(from.file, log[..at].to_vec()),
        }
    };
    try_all((from.span.start..=log.len()).map(cut).collect(), false).await
}

/// Flips up to three bits of a file, so many times.
pub async fn flips(folder: &Path, count: usize) -> Json {
    let whole = Files::read(folder).unwrap();
    // Not the copy of the configuration: it is no state, and is only read again.
    let is_state = |name: &&String| name.starts_with("log.") || name.starts_with("snapshot.");
    let names: Vec<_> = whole.0.keys().filter(is_state).collect();
    let lines = whole.lines();
    let leased = leases(&lines);
    let registry = registry_of(folder);
    let mut dice = Dice(0x5eed);
    let mut below = |limit: usize| usize::try_from(dice.below(limit as u64)).unwrap();
    let mut flip = |_| {
        let name = names[below(names.len())];
        let mut bytes = whole.0[name].clone();
        // Half of them near the end, where the newest leases are.
        let first = if below(2) == 0 { bytes.len().saturating_sub(2_000) } else { 0 };
        let flips: Vec<_> = (0..=below(3)).map(|_| first + below(bytes.len() - first)).collect();
        for at in &flips {
            bytes[*at] ^= 1 << below(8);
        }
        // A line is hit by a flip in it, and by one of the line feed before it.
        let is_hit = |line: &Line<'_>| {
            let span = line.span.start.saturating_sub(1)..line.span.end;
            line.file == name && flips.iter().any(|at| span.contains(at))
        };
        let certain = ever_leased(lines.iter().filter(|line| !is_hit(line)));
        Variant {
            name: format!("{name} with flips at {flips:?}"),
            certain: certain.intersection(&leased).copied().collect(),
            possible: ever_leased(&lines),
            undamaged: leased.clone(),
            reports: None,
            registry: registry.clone(),
            files: whole.with(name, bytes),
        }
    };
    try_all((0..count).map(&mut flip).collect(), true).await
}

/// The name that this machine's registry has in a state folder.
fn registry_of(folder: &Path) -> PathBuf {
    folder.file_name().unwrap().into()
}

/// The files of a registry.
#[derive(Clone)]
struct Files(BTreeMap<String, Vec<u8>>);

/// A whole line of a file, and what it says behind its checksum.
struct Line<'a> {
    file: &'a str,
    span: Range<usize>,
    says: Json,
}

impl Files {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A service that was killed leaves its sockets.
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                files.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(Self(files))
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        self.0.iter().try_for_each(|(name, bytes)| {
            let mut options = fs::OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(folder.join(name))?
                .write_all(bytes)
        })
    }

    fn with(&self, name: &str, bytes: Vec<u8>) -> Self {
        let mut files = self.clone();
        files.0.insert(name.to_owned(), bytes);
        files
    }

    /// How many `recover` records the logs have.
    fn reports(&self) -> usize {
        let logs = self.0.iter().filter(|(name, _)| name.starts_with("log."));
        let count = |log| String::from_utf8_lossy(log).matches("\"recover\":{").count();
        logs.map(|(_, log)| count(log)).sum()
    }

    /// What the snapshot and then the logs say, but for lines that aren't JSON.
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        let of_kind = |kind| self.0.iter().filter(move |(name, _)| name.starts_with(kind));
        for (file, bytes) in of_kind("snapshot.").chain(of_kind("log.")) {
            let mut end = 0;
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                let span = end..end + line.len();
                end = span.end;
                let json = line.strip_suffix(b"\n").and_then(|line| line.get(9..));
                let says = json.and_then(|json| serde_json::from_slice(json).ok());
                lines.extend(says.map(|says| Line { file, span, says }));
            }
        }
        lines
    }
}

/// The ports that are leased after these lines.
fn leases<'a>(lines: impl IntoIterator<Item = &'a Line<'a>>) -> Ports {
    let mut leases = Ports::new();
    for line in lines {
        let is_end = !line.says["record"]["change"]["release"].is_null();
        match line.port() {
            Some(port) if is_end => _ = leases.remove(&port),
            Some(port) => _ = leases.insert(port),
            None => {}
        }
    }
    leases
}

fn ever_leased<'a>(lines: impl IntoIterator<Item = &'a Line<'a>>) -> Ports {
    lines.into_iter().filter_map(Line::port).collect()
}

impl Line<'_> {
    /// The port of the lease that it is about.
    fn port(&self) -> Option<u64> {
        let changes = self.says["record"]["change"].as_object().into_iter().flatten();
        let leases = changes.map(|(_, change)| &change["lease"]).chain([&self.says["lease"]]);
        leases.into_iter().find_map(|lease| lease["port"].as_u64())
    }
}

/// A damaged state, and what a service must make of it.
struct Variant {
    name: String,
    files: Files,
    /// What must be leased.
    certain: Ports,
    /// What may be leased.
    possible: Ports,
    /// What is leased if nothing was lost.
    undamaged: Ports,
    /// The number of `recover` records, if it is certain.
    reports: Option<usize>,
    /// Where the files belong in the state folder.
    registry: PathBuf,
}

/// Tries them, a few at a time; tells what is wrong.
async fn try_all(variants: Vec<Variant>, twice: bool) -> Json {
    let work = move || {
        let next = AtomicUsize::new(0);
        let lane = || {
            let mut complaints = Vec::new();
            while let Some(variant) = variants.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(complaint) = variant.try_out(twice) {
                    complaints.push(format!("{}: {complaint}", variant.name));
                }
            }
            complaints
        };
        let complaints: Vec<_> = thread::scope(|scope| {
            let lanes: Vec<_> = (0..4).map(|_| scope.spawn(lane)).collect();
            lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
        });
        json!({"variants": variants.len(), "complaints": complaints})
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

impl Variant {
    fn try_out(&self, twice: bool) -> Result<(), Complaint> {
        let home = PathBuf::from(format!("/tmp/{}", self.name.replace(' ', "-")));
        let folder = home.join("state").join(&self.registry);
        self.files.write(&folder)?;
        let ports = Service::start(&home)?.ports()?;
        if !self.certain.is_subset(&ports) || !ports.is_subset(&self.possible) {
            let Self { certain, possible, .. } = self;
            return Err(format!("{ports:?}, not from {certain:?} to {possible:?}").into());
        }
        let after = Files::read(&folder)?;
        let reports = after.reports();
        if self.reports.is_some_and(|expected| reports != expected) {
            return Err(format!("{reports} reports").into());
        }
        if reports == 0 && ports != self.undamaged {
            return Err(format!("{ports:?} of {:?}, and not a word", self.undamaged).into());
        }
        for (name, bytes) in after.0.iter().filter(|(name, _)| name.starts_with("damaged.")) {
            if !self.files.0.values().any(|found| found == bytes) {
                return Err(format!("{name} is not what was found").into());
            }
        }
        if twice && Service::start(&home)?.ports()? != ports {
            return Err("the second start has other leases than the first".into());
        }
        if Files::read(&folder)?.reports() != reports {
            return Err("the second start has reported something, too".into());
        }
        Ok(fs::remove_dir_all(home)?)
    }
}

/// A service started by hand; it is killed with the value.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Service {
    fn start(home: &Path) -> Result<Self, Complaint> {
        let mut child = Command::new("/bin/sh")
            // As systemd does it, which names the state folder.
            .args(["-c", "SYSTEMD_EXEC_PID=$$ exec /usr/bin/styxy daemon --idle-exit 0"])
            // Without journalctl: hundreds of them would take minutes.
            .env("PATH", "")
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("XDG_RUNTIME_DIR", home)
            .env("STATE_DIRECTORY", home.join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let service = Self { child, socket: home.join("styxy/http.sock") };
        let mut words = String::new();
        BufReader::new(stdout).read_line(&mut words)?;
        if words.contains("listening on") {
            return Ok(service);
        }
        BufReader::new(stderr).read_to_string(&mut words)?;
        Err(words.into())
    }

    fn ports(&self) -> Result<Ports, Complaint> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let request = "GET /allocations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| answer.clone())?;
        let body: Json = serde_json::from_str(body)?;
        let leases = body["allocations"].as_array().ok_or_else(|| answer.clone())?;
        Ok(leases.iter().filter_map(|lease| lease["port"].as_u64()).collect())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
