//! Compose files: a need for each service that publishes a port, or whose image is known.
//!
//! Which files count is what Compose itself reads: the first of the usual names and its override, or what
//! `COMPOSE_FILE` names, and what these include. Files for development (`compose.dev.yml`) count, too; any other
//! only if there is no usual one. See <https://docs.docker.com/compose/how-tos/multiple-compose-files/>.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    Place, command,
    folder::{Folder, normal},
    found::{BESIDE, Clue, Found},
    is_web,
    text::{self, Env, shown, words},
    tree::Tree,
};
use crate::{
    port::{Port, Protocol},
    word::is_port_variable,
};

/// The usual names without their ending, in the order in which Compose looks for them, and the endings.
const NAMES: [&str; 2] = ["compose", "docker-compose"];
const ENDINGS: [&str; 2] = ["yaml", "yml"];

/// Parts of the names of other files: those for development, in the order of their credibility.
const VARIANTS: [&str; 5] = ["override", "dev", "development", "local", "devcontainer"];

/// No real project has more files, or services.
const MOST_FILES: usize = 10;
const MOST_SERVICES: usize = 200;
/// The longest command line.
const LONGEST: usize = 4096;

/// Words in the names of images, by service type. The first row that matches decides: `redis-exporter` is not
/// Redis.
const IMAGES: [(&str, &[&str]); 11] = [
    ("monitoring", &["exporter", "cadvisor"]),
    (
        "ui",
        &[
            "adminer",
            "akhq",
            "commander",
            "express",
            "jupyter",
            "pgadmin",
            "pgadmin4",
            "phpmyadmin",
            "redisinsight",
            "ui",
            "webui",
        ],
    ),
    (
        "database",
        &[
            "arangodb",
            "azure-sql-edge",
            "cassandra",
            "clickhouse",
            "cockroach",
            "couchdb",
            "dynamodb",
            "influxdb",
            "mariadb",
            "mongo",
            "mongodb",
            "mssql",
            "mysql",
            "neo4j",
            "oracle",
            "percona",
            "pgvecto",
            "pgvector",
            "postgis",
            "postgres",
            "postgresql",
            "scylla",
            "surrealdb",
            "timescaledb",
        ],
    ),
    (
        "infrastructure",
        &[
            "azurite",
            "chroma",
            "coredns",
            "coturn",
            "dragonfly",
            "elasticsearch",
            "gotenberg",
            "inbucket",
            "keydb",
            "localstack",
            "mailcatcher",
            "maildev",
            "mailhog",
            "mailpit",
            "meilisearch",
            "memcached",
            "milvus",
            "minio",
            "opensearch",
            "qdrant",
            "redis",
            "registry",
            "temporal",
            "typesense",
            "valkey",
            "vault",
            "weaviate",
        ],
    ),
    (
        "messaging",
        &[
            "activemq",
            "artemis",
            "emqx",
            "kafka",
            "mosquitto",
            "nats",
            "pulsar",
            "rabbitmq",
            "redpanda",
        ],
    ),
    (
        "monitoring",
        &[
            "alertmanager",
            "flower",
            "grafana",
            "jaeger",
            "kibana",
            "logstash",
            "loki",
            "opentelemetry",
            "otel",
            "prometheus",
            "statsd",
            "tempo",
            "zipkin",
        ],
    ),
    ("ai", &["llama", "localai", "ollama", "vllm"]),
    ("auth", &["authelia", "authentik", "dex", "hydra", "keycloak", "kratos", "zitadel"]),
    ("coordination", &["consul", "etcd", "zookeeper"]),
    ("proxy", &["caddy", "envoy", "haproxy", "httpd", "kong", "nginx", "traefik"]),
    ("test", &["cypress", "playwright", "selenium"]),
];

/// Words in the names of services whose images are not known.
const PURPOSES: [(&str, &[&str]); 4] = [
    ("database", &["database", "db", "sql"]),
    ("infrastructure", &["cache", "dns", "mail", "smtp", "storage", "turn"]),
    ("messaging", &["broker", "mqtt", "queue"]),
    ("monitoring", &["metrics", "statsd"]),
];

/// Words in the name of a service that tell on which side of a web application it is.
pub(super) const BACK: [&str; 6] = ["api", "backend", "gateway", "graphql", "rest", "server"];
const FRONT: [&str; 12] = [
    "admin",
    "app",
    "client",
    "dashboard",
    "dev",
    "front",
    "frontend",
    "site",
    "ui",
    "web",
    "website",
    "www",
];

/// Further ports of containers that tools outside use beside the main one, by the word in the image: `http` stands for
/// whatever is published on 80. With the ending for the name of each.
const FURTHER: [(&str, u16, &str); 8] = [
    ("clickhouse", 9000, "native"),
    ("http", 443, "https"),
    ("mailcatcher", 1025, "smtp"),
    ("maildev", 1025, "smtp"),
    ("mailhog", 1025, "smtp"),
    ("mailpit", 1025, "smtp"),
    ("minio", 9001, "console"),
    ("rabbitmq", 15672, "console"),
];

/// What keeps a container alive that runs no server.
const SHELLS: [&str; 3] = ["sleep infinity", "tail -f /dev/null", "while sleep"];

/// Words in command lines of what takes its work from a queue or a clock, and listens nowhere.
const WORKERS: [&str; 21] = [
    "artisan horizon",
    "bin/jobs",
    "celery",
    "celerybeat",
    "delayed_job",
    "dramatiq",
    "good_job",
    "jobs:work",
    "messenger:consume",
    "qcluster",
    "queue:listen",
    "queue:work",
    "resque",
    "rq worker",
    "rqscheduler",
    "rqworker",
    "run_huey",
    "schedule:run",
    "schedule:work",
    "sidekiq",
    "solid_queue:start",
];

/// Words in the names of services that do something once and end.
const ONCE: [&str; 9] = [
    "bootstrap",
    "init",
    "migrate",
    "migration",
    "migrations",
    "migrator",
    "seed",
    "seeder",
    "setup",
];

/// Images of clients, which serve nothing.
const CLIENTS: [&str; 4] = ["mc", "awscli", "aws-cli", "postgres-backup"];

/// Images in which the code of a mounted folder runs.
const RUNTIMES: [&str; 12] = [
    "bun", "composer", "deno", "elixir", "golang", "gradle", "maven", "node", "php", "python",
    "ruby", "rust",
];

/// No real service publishes more.
const MOST_PORTS: usize = 20;

/// A port of a container, and the port of the machine that it is published on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Published {
    pub(super) container: Option<Port>,
    pub(super) host: Option<Port>,
    protocol: Protocol,
    /// The range as it is written, if it is one.
    range: Option<String>,
    /// The variable that has the port of the machine.
    pub(super) variable: Option<String>,
}

/// A file that counts.
struct File {
    /// Its path from the folder.
    path: String,
    /// Its variables.
    env: Env,
    /// The file that Compose must be given for it, unless it reads it by itself.
    option: Option<String>,
}

/// A service, as all files together define it.
struct Service {
    name: String,
    place: Place,
    /// The file that Compose must be given for it.
    option: Option<String>,
    image: String,
    /// The folder that its image is built from, from the root of the project.
    build: Option<PathBuf>,
    /// The folders that it mounts, and that of its Dockerfile.
    mounts: Vec<PathBuf>,
    entrypoint: String,
    command: String,
    /// The services that it waits for until they have ended.
    awaited: Vec<String>,
    ports: Vec<Published>,
    profiles: Vec<String>,
    /// Whether it runs a shell of a dev container, in which people start something themselves.
    is_shell: bool,
    /// Whether a file takes its ports away.
    is_closed: bool,
}

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    IMAGES.iter().map(|(service_type, _)| *service_type)
}

/// What a service is if it is not the package that it is built from.
pub(super) type Otherwise = Option<(&'static str, String)>;

/// Whose code a service runs, as far as it says.
pub(super) struct Code {
    /// Whether it is code of the project at all, and not that of an image from elsewhere.
    pub(super) is_own: bool,
    /// The folder of its image, and others.
    pub(super) build: Option<PathBuf>,
    pub(super) mounts: Vec<PathBuf>,
    /// The name of the service, or of the image from elsewhere.
    pub(super) name: String,
    pub(super) ports: Vec<Published>,
}

/// Adds the services of the Compose files. `add_built` gets those that run the code of a folder of the project, which
/// may be a package: the folders, the clue, and what the service is otherwise.
pub(super) fn services(
    folder: &Folder<'_>,
    env: &Env,
    found: &mut Found,
    mut add_built: impl FnMut(Code, Clue, Otherwise),
) {
    let mut services = Vec::new();
    for file in files(folder, env) {
        let Some(text) = folder.read(&file.path) else { continue };
        // Tags say that a list replaces what other files have, instead of being added to it.
        let text = text.replace("ports: !override", "ports-override:");
        read(folder, &file, &text.replace("ports: !reset", "ports-override:"), &mut services);
    }
    let active = env.get("COMPOSE_PROFILES").unwrap_or_default();
    let is_active = |service: &Service| {
        let is_active = |profile: &String| active.split(',').any(|active| active == profile);
        service.profiles.is_empty() || service.profiles.iter().any(is_active)
    };
    services.retain(is_active);
    // Where the application runs in a container, too, nothing needs a port that is not published.
    let is_closed = services.iter().any(|service| service.build.is_some());
    services.retain(|service| !service.ports.is_empty() || !is_closed && !service.is_closed);
    let ended: Vec<String> = services.iter().flat_map(|s| s.awaited.clone()).collect();
    services.retain(|service| !service.is_worker(env) && !service.ends(&ended));
    // A port is published once: what has those of another service took them over with its definition.
    let mut published = HashSet::new();
    let mut is_new = |port: &Published| {
        port.host.is_none_or(|host| published.insert((host, port.protocol == Protocol::Udp)))
    };
    services.retain(|service| {
        // Each is recorded.
        let new = service.ports.iter().filter(|port| is_new(port)).count();
        service.ports.is_empty() || new > 0
    });
    let package = folder.parsed("package.json", Tree::json).unwrap_or_default().1;
    let name = package.get("name").text().and_then(|name| name.rsplit('/').next());
    let names: Vec<&str> = name.into_iter().chain(folder.name()).collect();
    let mut add_built = |code: Code, clue, otherwise| {
        // `shop-web` is `web` of the project `shop`.
        let part = names.iter().find_map(|name| code.name.strip_prefix(name)?.strip_prefix('-'));
        let name = part.unwrap_or(&code.name).to_owned();
        add_built(Code { name, ..code }, clue, otherwise);
    };
    for mut service in services {
        // The image of a release is the package, too.
        if service.build.is_none() && names.iter().any(|name| service.is_image(name)) {
            service.build = Some(folder.place().to_owned());
        }
        service.add(env, found, &mut add_built);
    }
}

/// The files that count, in order; those that are included after those that include them.
fn files(folder: &Folder<'_>, env: &Env) -> Vec<File> {
    let mut files: Vec<String> = Vec::new();
    let is_named = env.get("COMPOSE_FILE").is_some();
    if let Some(named) = env.get("COMPOSE_FILE") {
        files.extend(named.split([':', ';']).map(str::to_owned));
    } else {
        let named = NAMES.iter().flat_map(|name| ENDINGS.map(|ending| format!("{name}.{ending}")));
        let usual = named.into_iter().find(|name| folder.has_file(name));
        let variants: Vec<_> = folder.names().into_iter().filter_map(variant).collect();
        let is_for_development =
            |(variant, _): &&(String, String)| VARIANTS.contains(&variant.as_str());
        let mut others: Vec<_> = variants.iter().filter(is_for_development).collect();
        others.sort_by_key(|(variant, _)| VARIANTS.iter().position(|known| known == variant));
        let any = || variants.iter().filter(|(variant, _)| !is_for_others(variant)).take(1);
        let has_none = usual.is_none() && others.is_empty();
        files.extend(usual);
        files.extend(others.iter().map(|(_, file)| file.clone()));
        if has_none {
            files.extend(any().map(|(_, file)| file.clone()));
        }
        if files.is_empty() {
            files = named_in_scripts(folder);
        }
        if files.is_empty() {
            files.extend([".devcontainer", "docker"].iter().find_map(|inner| below(folder, inner)));
        }
    }
    let file = |path: String| {
        let option = (!is_named && !is_usual(&path)).then(|| path.clone());
        File { path, env: env.clone(), option }
    };
    let mut files: Vec<_> = files.into_iter().map(file).collect();
    let mut at = 0;
    while at < files.len().min(MOST_FILES) {
        let included = included(folder, &files[at]);
        let is_new = |file: &File| files.iter().all(|known| known.path != file.path);
        let new: Vec<_> = included.into_iter().filter(is_new).collect();
        files.extend(new);
        at += 1;
    }
    files.truncate(MOST_FILES);
    files
}

/// The Compose file in a folder for such files: the one for development, else the usual one.
fn below(folder: &Folder<'_>, inner: &str) -> Option<String> {
    let names = folder.folder(Path::new(inner))?.names();
    let variants: Vec<_> = names.iter().cloned().filter_map(variant).collect();
    let of_variant = |wanted: &&str| {
        let found = variants.iter().find(|(variant, _)| variant == wanted);
        found.map(|(_, file)| file.clone())
    };
    let usual = NAMES.iter().flat_map(|name| ENDINGS.map(|ending| format!("{name}.{ending}")));
    let usual = usual.into_iter().find(|name| names.contains(name));
    let file = VARIANTS.iter().find_map(of_variant).or(usual)?;
    Some(format!("{inner}/{file}"))
}

/// The files that a command line for `up` names with `-f`, in the first script or target that has one.
fn named_in_scripts(folder: &Folder<'_>) -> Vec<String> {
    let named = |line: &str| -> Vec<String> {
        if !line.contains("compose") || !line.contains(" up") {
            return Vec::new();
        }
        let words = line.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '='));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let files = words.windows(2).filter(|pair| matches!(pair[0], "-f" | "--file"));
        let files = files.filter_map(|pair| normal(Path::new(pair[1])));
        let files = files.filter_map(|path| path.to_str().map(str::to_owned));
        files.filter(|file| folder.has_file(file)).collect()
    };
    let scripts = ["package.json", "Makefile", "justfile", "Taskfile.yml"];
    let scripts: Vec<_> = scripts.iter().filter_map(|file| folder.read(file)).collect();
    let files = scripts.iter().flat_map(|text| text.lines()).map(named);
    files.into_iter().find(|files| !files.is_empty()).unwrap_or_default()
}

/// Whether Compose reads the file by itself.
fn is_usual(path: &str) -> bool {
    let stem = ENDINGS.iter().find_map(|ending| path.strip_suffix(ending)?.strip_suffix('.'));
    stem.is_some_and(|stem| NAMES.contains(&stem.strip_suffix(".override").unwrap_or(stem)))
}

/// The files that one includes.
fn included(folder: &Folder<'_>, File { path: file, env, option }: &File) -> Vec<File> {
    let (_, tree) = folder.parsed(file, Tree::yaml).unwrap_or_default();
    let place = Path::new(file).parent().unwrap_or(Path::new(""));
    let path = |path: &str| {
        let path = normal(&place.join(env.resolve(path)))?;
        Some(path.to_string_lossy().into_owned())
    };
    let paths = |tree: &Tree| -> Vec<String> {
        match tree {
            Tree::Text(one) => path(one).into_iter().collect(),
            list => list.texts().filter_map(path).collect(),
        }
    };
    let mut files = Vec::new();
    for entry in tree.get("include").list().iter().take(MOST_FILES) {
        let (named, env_files) = match entry {
            Tree::Text(_) => (paths(entry), Vec::new()),
            object => (paths(object.get("path")), paths(object.get("env_file"))),
        };
        for file in named {
            let beside = Path::new(&file).with_file_name(".env").to_string_lossy().into_owned();
            let mut own = Env::default();
            for name in if env_files.is_empty() { vec![beside] } else { env_files.clone() } {
                own.add(Env::parse(&folder.read(&name).unwrap_or_default()));
            }
            own.add(env.clone());
            files.push(File { path: file, env: own, option: option.clone() });
        }
    }
    files
}

/// The part between the usual name of a file and its ending, if it has one: `dev` in `docker-compose.dev.yml`.
fn variant(file: String) -> Option<(String, String)> {
    let stem = ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)?.strip_suffix('.'))?;
    let variant =
        NAMES.iter().find_map(|name| stem.strip_prefix(name)?.strip_prefix(['.', '-', '_']))?;
    Some((variant.to_owned(), file))
}

/// Whether a file is for something else than development.
fn is_for_others(variant: &str) -> bool {
    words(variant).any(|word| {
        ["prod", "production", "staging", "test", "tests", "ci", "e2e", "deploy"].contains(&word)
    })
}

/// Adds what a file says of services to what others have said.
fn read(folder: &Folder<'_>, file: &File, text: &str, services: &mut Vec<Service>) {
    let File { path: file, env, option } = file;
    let place = Path::new(file).parent().unwrap_or(Path::new(""));
    let tree = folder.parse(file, text, Tree::yaml);
    for (name, service) in tree.get("services").entries() {
        let at = services.iter().position(|known| known.name == *name).unwrap_or(services.len());
        if at == MOST_SERVICES {
            return;
        }
        if at == services.len() {
            let place = folder.at_line(file, text, &["services", &format!("{name}:")]);
            services.push(Service::new(name, place, option.clone()));
        }
        let known = &mut services[at];
        let extended = service.get("extends");
        let base = extended.get("file").text().map(|base| {
            let base = normal(&place.join(env.resolve(base)));
            let base = base.and_then(|base| folder.parsed(base.to_str()?, Tree::yaml));
            base.unwrap_or_default().1
        });
        if *extended != Tree::Nothing {
            let name = extended.get("service").text().or_else(|| extended.text()).unwrap_or(name);
            let base = base.as_ref().unwrap_or(&tree).get("services").get(name);
            known.extend(base, folder, place, env);
        }
        known.extend(service, folder, place, env);
    }
}

/// A command line, which may be a list of words.
fn line(value: &Tree) -> String {
    let words = value.text().into_iter().chain(value.texts().take(LONGEST));
    words.flat_map(|word| word.chars().chain([' '])).take(LONGEST).collect()
}

impl Service {
    /// Adds what a file says of it.
    fn extend(&mut self, service: &Tree, folder: &Folder<'_>, place: &Path, env: &Env) {
        let image = env.resolve(service.get("image").text().unwrap_or_default());
        if !image.is_empty() {
            self.image = image;
        }
        let context = match service.get("build") {
            Tree::Text(context) => Some(env.resolve(context)),
            build @ Tree::Map(_) => Some(env.resolve(build.get("context").text().unwrap_or("."))),
            _ => None,
        };
        let at = folder.place().join(place);
        let dockerfile = service.get("build").get("dockerfile").text();
        let dockerfile = dockerfile
            .and_then(|file| Path::new(file).parent())
            .map(|folder| at.join(context.as_deref().unwrap_or_default()).join(folder));
        if let Some(context) = context {
            self.build = Some(at.join(context));
        }
        let volumes = service.get("volumes").list().iter().take(MOST_PORTS);
        let sources = volumes.filter_map(|volume| match volume {
            Tree::Text(short) => Some(env.resolve(short).split(':').next()?.to_owned()),
            long => Some(env.resolve(long.get("source").text()?)),
        });
        let mounts = sources.filter(|source| source.starts_with('.')).map(|source| at.join(source));
        self.mounts.extend(mounts.chain(dockerfile));
        if service.has("ports-override") {
            self.ports = ports(service.get("ports-override"), env);
            self.is_closed = self.ports.is_empty();
        }
        for published in ports(service.get("ports"), env) {
            if !self.ports.contains(&published) && self.ports.len() < MOST_PORTS {
                self.ports.push(published);
            }
        }
        for (name, own) in [("entrypoint", &mut self.entrypoint), ("command", &mut self.command)] {
            let line = line(service.get(name));
            if !line.trim().is_empty() {
                *own = line;
            }
        }
        self.is_shell |= SHELLS.iter().any(|shell| line(service.get("command")).contains(shell));
        let awaited =
            service.get("depends_on").entries().iter().take(MOST_SERVICES).filter(|(_, until)| {
                until.get("condition").text() == Some("service_completed_successfully")
            });
        self.awaited.extend(awaited.map(|(name, _)| name.clone()));
        self.profiles.extend(service.get("profiles").texts().map(str::to_owned));
    }

    fn new(name: &str, place: Place, option: Option<String>) -> Self {
        let (name, image, build) = (name.to_owned(), String::new(), None);
        Self {
            name,
            place,
            option,
            image,
            build,
            mounts: Vec::new(),
            entrypoint: String::new(),
            command: String::new(),
            awaited: Vec::new(),
            ports: Vec::new(),
            profiles: Vec::new(),
            is_shell: false,
            is_closed: false,
        }
    }

    /// Whether its image is called so.
    fn is_image(&self, name: &str) -> bool {
        self.image_name() == name
    }

    fn image_name(&self) -> &str {
        let image = self.image.split('@').next().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        last.split(':').next().unwrap_or_default()
    }

    /// Whether its command works on a queue or by a clock, and starts no server beside that.
    fn is_worker(&self, env: &Env) -> bool {
        let line = format!("{} {}", self.entrypoint, self.command);
        let works = WORKERS.iter().any(|words| text::line(&line, &[words]).is_some());
        works && !line.contains("flower") && command::servers(&line, env).is_empty()
    }

    /// Whether it ends when it has done something. `ended` are those for whose end another waits.
    fn ends(&self, ended: &[String]) -> bool {
        let is_once = || words(&self.name).any(|word| ONCE.contains(&word));
        let is_client = || CLIENTS.contains(&self.image_name());
        ended.contains(&self.name) || self.ports.is_empty() && (is_client() || is_once())
    }

    fn add(self, env: &Env, found: &mut Found, add_built: &mut impl FnMut(Code, Clue, Otherwise)) {
        let runs_code =
            self.build.is_some() || words(self.image_name()).any(|word| RUNTIMES.contains(&word));
        let by_command = command::servers(&self.command, env).into_iter();
        let by_command = by_command.map(|server| (server.service_type, server.tool));
        let by_command = by_command.filter(|_| runs_code).find(|(known, _)| !is_web(known));
        let image_name = self.image_name().to_owned();
        let Self { name, place, option, image, build, mounts, mut ports, is_shell, .. } = self;
        let by_name = || {
            let folder = build.as_ref().and_then(|folder| folder.file_name()?.to_str());
            known_name(&name).or_else(|| folder.and_then(known_name))
        };
        let known = known(&image).or(by_command).or_else(by_name);
        let service_type = match known {
            Some((service_type, _)) => service_type,
            None if ports.is_empty() => return,
            None => side(&name, ports.iter().filter_map(|published| published.container)),
        };
        let told = match known {
            Some((_, word)) if !image.is_empty() || by_command.is_some() => {
                format!("the service {} runs {word}", shown(&name))
            }
            _ => format!("the service {} is published", shown(&name)),
        };
        // One server, one line: its usual port, or else the first that is not for a debugger.
        let usual = known.and_then(|(_, word)| usual(word));
        let container = |published: &Published| published.container.map(Port::get);
        let at =
            ports.iter().position(|published| usual.is_some() && container(published) == usual);
        let is_served =
            |published: &Published| container(published).is_none_or(|port| !BESIDE.contains(&port));
        let at = at.or_else(|| ports.iter().position(is_served)).unwrap_or(0);
        let first = (at < ports.len()).then(|| ports.swap_remove(at));
        let word = match (known, first.as_ref().and_then(container)) {
            (_, Some(80)) => "http",
            (known, _) => known.map_or("", |(_, word)| word),
        };
        let further = FURTHER.iter().filter(|(of, ..)| *of == word && !is_shell).filter_map(
            |(_, port, ending)| {
                let is_it = |published: &&Published| {
                    container(published) == Some(*port) && published.protocol == Protocol::Tcp
                };
                let Published { host, variable, .. } = ports.iter().find(is_it)?;
                let what = format!(
                    "the service {} is published on {}, too ({ending})",
                    shown(&name),
                    (*host)?
                );
                let clue = Clue::new(service_type, place.clone(), what);
                let clue = clue.named(text::name(&format!("{name}-{ending}"))).on(*host);
                Some(clue.from(variable.clone()).by(up(option.as_deref(), &name)))
            },
        );
        let further: Vec<Clue> = further.collect();
        let what = match &first {
            Some(Published { range: Some(range), .. }) => {
                format!("{told} on {}, a range", shown(range))
            }
            Some(Published { host: Some(port), .. }) => format!("{told} on {port}"),
            _ => told,
        };
        let clue = Clue::new(service_type, place, what)
            .by(up(option.as_deref(), &name))
            .from(first.as_ref().and_then(|published| published.variable.clone()))
            .usually(usual)
            .inside(first.as_ref().and_then(|published| published.container))
            .on(first.as_ref().and_then(|published| published.host))
            .over(first.as_ref().map_or(Protocol::Tcp, |published| published.protocol));
        let called = if runs_code { name.clone() } else { image_name };
        let ports = first.into_iter().chain(ports).collect();
        let code = Code { is_own: runs_code, build, mounts, name: called, ports };
        match (known, text::name(&name)) {
            // What people start in it is described by the package.
            _ if is_shell && code.build.is_some() => add_built(code, clue, None),
            _ if is_shell => {}
            (None, Some(own)) => add_built(code, clue, Some((service_type, own))),
            // The package may show the same.
            _ if by_command.is_some() && found.knows(service_type) => found.complete(clue),
            (_, own) => found.add(clue.named(own)),
        }
        further.into_iter().for_each(|clue| found.add(clue));
    }
}

/// The command line that starts a service.
fn up(option: Option<&str>, name: &str) -> Option<String> {
    let name = text::plain(name)?;
    Some(match option {
        Some(file) => format!("docker compose -f {} up {name}", text::plain(file)?),
        None => format!("docker compose up {name}"),
    })
}

/// The port that a program takes if it is told none.
fn usual(word: &str) -> Option<u16> {
    let ports = [
        ("postgres", 5432),
        ("postgresql", 5432),
        ("postgis", 5432),
        ("pgvector", 5432),
        ("timescaledb", 5432),
        ("mysql", 3306),
        ("mariadb", 3306),
        ("percona", 3306),
        ("mongo", 27017),
        ("mongodb", 27017),
        ("redis", 6379),
        ("valkey", 6379),
        ("keydb", 6379),
        ("dragonfly", 6379),
        ("memcached", 11211),
        ("minio", 9000),
        ("rabbitmq", 5672),
        ("kafka", 9092),
        ("nats", 4222),
        ("mosquitto", 1883),
        ("elasticsearch", 9200),
        ("opensearch", 9200),
        ("meilisearch", 7700),
        ("typesense", 8108),
        ("clickhouse", 8123),
        ("neo4j", 7474),
        ("cassandra", 9042),
        ("couchdb", 5984),
        ("influxdb", 8086),
        ("mailpit", 8025),
        ("mailhog", 8025),
        ("maildev", 1080),
        ("mailcatcher", 1080),
        ("adminer", 8080),
        ("grafana", 3000),
        ("prometheus", 9090),
        ("flower", 5555),
        ("jaeger", 16686),
        ("zipkin", 9411),
        ("kibana", 5601),
        ("loki", 3100),
        ("keycloak", 8080),
        ("ollama", 11434),
        ("consul", 8500),
        ("etcd", 2379),
        ("zookeeper", 2181),
        ("traefik", 80),
        ("nginx", 80),
        ("caddy", 80),
        ("haproxy", 80),
        ("qdrant", 6333),
        ("localstack", 4566),
        ("temporal", 7233),
        ("vault", 8200),
        ("mssql", 1433),
        ("azure-sql-edge", 1433),
        ("oracle", 1521),
        ("jupyter", 8888),
        ("cockroach", 26257),
    ];
    ports.into_iter().find(|(known, _)| *known == word).map(|(_, port)| port)
}

/// The service type of a service that is called like a known image, or like what such images are for.
fn known_name(name: &str) -> Option<(&'static str, &'static str)> {
    // A service that is called `ui` is the project's own.
    let known = IMAGES.iter().filter(|(service_type, _)| !matches!(*service_type, "ui" | "test"));
    let known = known.map(|(service_type, words)| (*service_type, *words)).chain(PURPOSES);
    let mut known = known.filter_map(|(service_type, known)| {
        let word = known.iter().find(|known| words(name).any(|word| word == **known))?;
        Some((service_type, *word))
    });
    known.next()
}

/// The service type of an image, and the word that showed it.
fn known(image: &str) -> Option<(&'static str, &'static str)> {
    let image = image.split('@').next().unwrap_or_default();
    let (owner, name) = image.rsplit_once('/').unwrap_or(("", image));
    let name = name.split(':').next().unwrap_or_default();
    if CLIENTS.contains(&name) {
        return None;
    }
    let fits = |text: &str| {
        IMAGES.iter().find_map(|(service_type, known)| {
            let is_it = |known: &&&str| text == **known || words(text).any(|word| word == **known);
            Some((*service_type, *known.iter().find(is_it)?))
        })
    };
    // Only the last part of the owner: the parts before it, or one that is a host, name the registry.
    let owner = owner.rsplit('/').next().filter(|owner| !owner.contains(['.', ':']));
    fits(name).or_else(|| fits(owner.unwrap_or_default()))
}

/// Whether a service with an unknown image is an `api` or a `dev` server. Its name decides, else the port in
/// the container: ports that are usual for front ends make it `dev`, any other `api`.
pub(super) fn side(name: &str, mut ports: impl Iterator<Item = Port>) -> &'static str {
    let has = |known: &[&str]| words(name).any(|word| known.contains(&word));
    let customary = |port: Port| matches!(port.get(), 80 | 3000..=3999 | 4200 | 4321 | 5173 | 5174);
    if has(&BACK) {
        return "api";
    }
    let at_front = ports.any(customary);
    if has(&FRONT) || at_front { "dev" } else { "api" }
}

/// The ports that a service publishes.
fn ports(list: &Tree, env: &Env) -> Vec<Published> {
    let published = list.list().iter().take(MOST_PORTS).filter_map(|entry| {
        let (published, host) = match entry {
            // Which ports it has is set elsewhere.
            Tree::Text(short) if short.starts_with('$') && env.resolve(short).is_empty() => {
                (Some(Published::default()), short.as_str())
            }
            Tree::Text(short) => (short_form(&env.resolve(short)), short.as_str()),
            long => (long_form(long, env), long.get("published").text().unwrap_or_default()),
        };
        Some(Published { variable: variable(host), ..published? })
    });
    published.collect()
}

/// The variable with which the port of the machine begins: `WEB_PORT` in `${WEB_PORT:-8080}:80`, with or without an
/// address before it.
fn variable(text: &str) -> Option<String> {
    let mut open = 0_usize;
    let parts: Vec<&str> = text
        .split(|c| {
            match c {
                '{' => open += 1,
                '}' => open = open.saturating_sub(1),
                _ => {}
            }
            c == ':' && open == 0
        })
        .collect();
    let host = parts.len().saturating_sub(2);
    let rest = parts.get(host)?.trim().strip_prefix('$')?;
    let name: String = rest
        .trim_start_matches('{')
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    (is_port_variable(&name) && name.len() < 100).then_some(name)
}

/// `[address:][host:]container[/protocol]`, with ranges.
fn short_form(text: &str) -> Option<Published> {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut parts = text.rsplit(':');
    let container = parts.next()?;
    published(container, parts.next().unwrap_or_default(), protocol)
}

fn long_form(entry: &Tree, env: &Env) -> Option<Published> {
    let field = |name| env.resolve(entry.get(name).text().unwrap_or_default());
    let protocol = entry.get("protocol").text().unwrap_or("tcp");
    published(&field("target"), &field("published"), protocol)
}

/// `None` for text that is not a port.
fn published(container: &str, host: &str, protocol: &str) -> Option<Published> {
    let first = |range: &str| text::port(range.split('-').next().unwrap_or_default());
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let port = Published {
        container: first(container),
        host: first(host),
        protocol,
        range: host.contains('-').then(|| host.to_owned()),
        variable: None,
    };
    let is_one = port.container.is_some() || port.host.is_some();
    is_one.then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Container and host; 0 where none is given.
    fn read(text: &str) -> Option<(u16, u16)> {
        let number = |port: Option<Port>| port.map_or(0, Port::get);
        short_form(&Env::parse("WEB=4000").resolve(text))
            .map(|port| (number(port.container), number(port.host)))
    }

    #[test]
    fn the_short_form_is_read_in_all_its_shapes() {
        for (text, expected) in [
            ("3000", Some((3000, 0))),
            ("8000:3000", Some((3000, 8000))),
            ("127.0.0.1:8000:3000", Some((3000, 8000))),
            ("[::1]:8000:3000", Some((3000, 8000))),
            ("127.0.0.1::3000", Some((3000, 0))),
            ("9090-9091:8080-8081", Some((8080, 9090))),
            ("8000:3000/tcp", Some((3000, 8000))),
            ("5353:53/udp", Some((53, 5353))),
            ("5353:53/sctp", None),
            ("${PORT:-8080}:80", Some((80, 8080))),
            ("${PORT-8080}:80", Some((80, 8080))),
            ("${A:-${B:-81}}:80", Some((80, 81))),
            ("$WEB:80", Some((80, 4000))),
            ("${WEB}:80", Some((80, 4000))),
            ("${PORT:?give one}:80", Some((80, 0))),
            ("70000:80", Some((80, 0))),
            ("0:0", None),
            ("${:80", Some((80, 0))),
            ("", None),
            (":::", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn an_image_is_known_by_its_last_name_first() {
        for (image, expected) in [
            ("postgres", Some("database")),
            ("docker.io/bitnami/postgresql:16", Some("database")),
            ("timescale/timescaledb-ha:pg16", Some("database")),
            ("registry:5000/redis:7-alpine", Some("infrastructure")),
            ("redis@sha256:00", Some("infrastructure")),
            ("oliver006/redis-exporter", Some("monitoring")),
            ("mongo-express", Some("ui")),
            ("confluentinc/cp-kafka", Some("messaging")),
            ("grafana/mimir", Some("monitoring")),
            ("mcr.microsoft.com/mssql/server", Some("database")),
            ("ghcr.io/open-webui/open-webui:main", Some("ui")),
            ("traefik:v3", Some("proxy")),
            ("acme/shop", None),
            ("", None),
        ] {
            assert_eq!(known(image).map(|(service_type, _)| service_type), expected, "{image}");
        }
    }
}
