//! Compose files: a need for each service whose image is known or that publishes a port.

use super::{
    folder::Folder,
    found::Found,
    text::{self, Env, shown, words},
    tree::Tree,
};
use crate::port::Port;

/// In the order in which Compose itself looks for them: the first one counts.
const FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

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
            "percona",
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
            "dragonfly",
            "elasticsearch",
            "keydb",
            "localstack",
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
            "grafana",
            "jaeger",
            "kibana",
            "loki",
            "opentelemetry",
            "otel",
            "prometheus",
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

/// Words in the name of a service that tell on which side of a web application it is.
const BACK: [&str; 6] = ["api", "backend", "gateway", "graphql", "rest", "server"];
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

/// No real service publishes more.
const MOST_PORTS: usize = 20;

/// A port of a container, and the port of the machine that it is published on.
#[derive(Debug, PartialEq)]
struct Published {
    container: Option<Port>,
    host: Option<Port>,
    /// The range as it is written, if it is one.
    range: Option<String>,
}

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    IMAGES.iter().map(|(service_type, _)| *service_type)
}

/// Adds the services of the first Compose file.
pub(super) fn services(folder: &Folder<'_>, env: &Env, found: &mut Found) {
    let Some((file, text)) = folder.first(&FILES) else { return };
    for (name, service) in Tree::yaml(&text).get("services").entries() {
        let image = env.resolve(service.get("image").text().unwrap_or_default());
        let known = known(&image);
        let ports = ports(service.get("ports"), env);
        let service_type = match known {
            Some((service_type, _)) => service_type,
            None if ports.is_empty() => continue,
            None => side(name, &ports),
        };
        let runs = match known {
            Some((_, word)) => format!("runs {word}"),
            None => "is published".to_owned(),
        };
        let told = format!("{}: the service {} {runs}", folder.file(file), shown(name));
        if ports.is_empty() {
            found.add(service_type, text::name(name), None, told.clone());
        }
        for (index, published) in ports.iter().enumerate() {
            let because = match (&published.range, published.host) {
                (Some(range), _) => format!("{told} on {}, a range", shown(range)),
                (None, Some(port)) => format!("{told} on {port}"),
                (None, None) => told.clone(),
            };
            let own = match published.container.or(published.host) {
                Some(port) if index > 0 => text::name(&format!("{name}-{port}")),
                _ => text::name(name),
            };
            if index == 0 && known.is_none() && is_built_here(service) {
                let otherwise = own.map(|own| (service_type, own));
                found.web(published.host, because, otherwise);
            } else {
                found.add(service_type, own, published.host, because);
            }
        }
    }
}

/// The service type of an image, and the word that showed it.
fn known(image: &str) -> Option<(&'static str, &'static str)> {
    let image = image.split('@').next().unwrap_or_default();
    let (owner, name) = image.rsplit_once('/').unwrap_or(("", image));
    let name = name.split(':').next().unwrap_or_default();
    let fits = |text: &str| {
        IMAGES.iter().find_map(|(service_type, known)| {
            let word = known.iter().find(|known| words(text).any(|word| word == **known))?;
            Some((*service_type, *word))
        })
    };
    // Only the last part of the owner: the parts before it name the registry.
    fits(name).or_else(|| fits(owner.rsplit('/').next().unwrap_or_default()))
}

/// Whether a service with an unknown image is an `api` or a `dev` server. Its name decides, else the port in
/// the container: ports that are usual for front ends make it `dev`, any other `api`.
fn side(name: &str, ports: &[Published]) -> &'static str {
    let has = |known: &[&str]| words(name).any(|word| known.contains(&word));
    let customary = |port: Port| matches!(port.get(), 80 | 3000..=3999 | 4200 | 4321 | 5173 | 5174);
    if has(&BACK) {
        return "api";
    }
    let at_front = ports.iter().filter_map(|published| published.container).any(customary);
    if has(&FRONT) || at_front { "dev" } else { "api" }
}

/// Whether the service is the project itself, in a container.
fn is_built_here(service: &Tree) -> bool {
    let here = |context: &str| matches!(context, "." | "./");
    match service.get("build") {
        Tree::Text(context) => here(context),
        build @ Tree::Map(_) => build.get("context").text().is_none_or(here),
        _ => false,
    }
}

/// The TCP ports that a service publishes.
fn ports(list: &Tree, env: &Env) -> Vec<Published> {
    let mut ports: Vec<Published> = Vec::new();
    for entry in list.list().iter().take(MOST_PORTS) {
        let published = match entry {
            Tree::Text(short) => short_form(&env.resolve(short)),
            long => long_form(long, env),
        };
        // The same port on another address is not another port.
        let is_new = |new: &Published| {
            new.host.is_none() || !ports.iter().any(|known| known.host == new.host)
        };
        ports.extend(published.filter(is_new));
    }
    ports
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

/// `None` for UDP, and for text that is not a port.
fn published(container: &str, host: &str, protocol: &str) -> Option<Published> {
    let first = |range: &str| text::port(range.split('-').next().unwrap_or_default());
    let port = Published {
        container: first(container),
        host: first(host),
        range: host.contains('-').then(|| host.to_owned()),
    };
    let is_one = port.container.is_some() || port.host.is_some();
    (protocol == "tcp" && is_one).then_some(port)
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
            ("5353:53/udp", None),
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
