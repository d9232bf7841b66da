//! Variables that name the ports of services: `API_PORT=4000`, `REDIS_URL=redis://localhost:6380`.

use super::{
    Place, address,
    folder::Folder,
    found::Clue,
    is_web, label,
    text::{self, Env, shown},
    weak::Weak,
};
use crate::port::Port;

/// The files in the order in which the first one counts; those that are only examples come last.
const FILES: [&str; 7] = [
    ".env.development.local",
    ".env.local",
    ".env.development",
    ".env.dev",
    ".env",
    ".env.example",
    ".env.sample",
];

/// What the names of variables begin with that the browser may see.
const PUBLIC: [&str; 7] =
    ["EXPO_PUBLIC_", "GATSBY_", "NEXT_PUBLIC_", "NUXT_PUBLIC_", "PUBLIC_", "REACT_APP_", "VITE_"];

/// Words that tell that a port is not the one of the service, or not the one for development.
const OTHERS: [&str; 24] = [
    "admin",
    "advertise",
    "debug",
    "e2e",
    "gossip",
    "grpc",
    "health",
    "hmr",
    "inspect",
    "livereload",
    "management",
    "p2p",
    "pprof",
    "prod",
    "production",
    "raft",
    "remote",
    "rpc",
    "shadow",
    "smtp",
    "ssl",
    "staging",
    "test",
    "ws",
];

/// Words in the names of variables that have an address, and those of them that say that something listens on it.
const ADDRESSES: [&str; 4] = ["ADDR", "ADDRESS", "BIND", "LISTEN"];
const LISTENS: [&str; 2] = ["BIND", "LISTEN"];

/// The schemes of URLs that tell the service, and the ports that it takes if told none.
const SCHEMES: [(&str, &str, u16); 11] = [
    ("postgres", "database", 5432),
    ("postgresql", "database", 5432),
    ("mysql", "database", 3306),
    ("mariadb", "database", 3306),
    ("mongodb", "database", 27017),
    ("sqlserver", "database", 1433),
    ("redis", "infrastructure", 6379),
    ("rediss", "infrastructure", 6379),
    ("valkey", "infrastructure", 6379),
    ("amqp", "messaging", 5672),
    ("nats", "messaging", 4222),
];

/// No real file has more variables.
const MOST: usize = 300;

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|(_, service_type, _)| *service_type)
}

/// The ports that the variables give to services, and the databases on this machine that they name.
pub(super) fn hints(folder: &Folder<'_>) -> Vec<Weak> {
    let mut weak = Vec::new();
    let (mut own, mut is_known) = (None, false);
    for file in FILES {
        let Some(content) = folder.read(file) else { continue };
        let env = Env::parse(&content);
        let names = content.lines().enumerate().filter_map(|(number, line)| {
            let name = line.split_once('=')?.0.trim();
            let place = Place { line: Some(number + 1), ..folder.at(file) };
            Some((name.strip_prefix("export ").unwrap_or(name), place))
        });
        let names: Vec<(&str, Place)> =
            names.filter(|(name, _)| !name.starts_with('#')).take(MOST).collect();
        let value = |name: &str| env.get(name).map(|value| env.resolve(value));
        let named = |name: &str, place: &Place, service_type: &'static str, port: Port| {
            let what = format!("{} with port {port}", shown(name));
            Clue::new(service_type, place.clone(), what).on(port)
        };
        for (name, place) in &names {
            let port = value(name).and_then(|value| text::port(&value));
            let Some((service_type, port)) = of_port(name).zip(port) else { continue };
            let clue = named(name, place, service_type, port);
            // `DB_HOST=127.0.0.1` tells where it is. Others are often set and not used.
            let host = name.strip_suffix("PORT").and_then(|start| value(&format!("{start}HOST")));
            let is_here = host.is_some_and(|host| matches!(&*host, "localhost" | "127.0.0.1"));
            weak.push(if is_here && service_type == "database" {
                Weak::likely(folder.place(), clue)
            } else {
                Weak::port(folder.place(), clue)
            });
        }
        let address = names.iter().find_map(|(name, place)| {
            Some(named(name, place, "api", of_address(name, &value(name)?)?))
        });
        // A server that no library shows is most likely one of these.
        let is_compiled = || folder.has_file("go.mod") || folder.has_file("Cargo.toml");
        let kind = if is_compiled() { Weak::likely } else { Weak::port };
        weak.extend(address.map(|clue| kind(folder.place(), clue)));
        for (name, place) in &names {
            let Some(value) = value(name) else { continue };
            let Some(url) = address::parse(&value).filter(|url| url.is_local) else { continue };
            let by_scheme = SCHEMES.iter().find(|(scheme, ..)| *scheme == url.scheme);
            if let Some((_, service_type, usual)) = by_scheme.filter(|_| !is_other(name)) {
                let what = format!("{} on this machine", shown(name));
                let clue = Clue::new(service_type, place.clone(), what).on(url.port);
                weak.push(Weak::likely(folder.place(), clue.usually(*usual)));
            } else if let Some((service_type, port)) = of_url(name).zip(url.port) {
                weak.push(Weak::port(folder.place(), named(name, place, service_type, port)));
            }
        }
        let port = value("PORT").and_then(|value| text::port(&value));
        is_known |= file == ".env" && port.is_some();
        let place = names.iter().find(|(name, _)| *name == "PORT").map(|(_, place)| place);
        own = own.or(port.zip(place).map(|(port, place)| named("PORT", place, "dev", port)));
    }
    // That of `.env` is looked at with the other files of the folder.
    let own = own.filter(|_| !is_known);
    weak.extend(own.map(|clue| Weak::web(folder.place(), clue)));
    weak
}

/// The service type of a variable with a port.
fn of_port(name: &str) -> Option<&'static str> {
    let name = of_all(name);
    let service = name.strip_suffix("_PORT").or((name == "PGPORT").then_some(name))?;
    label::service_type(service).filter(|_| !is_other(name))
}

/// The port that a variable with an address gives to the project's own server: `LISTEN_ADDR=:8080`. An address of another
/// host, or of this machine where nothing says that it is listened on, is that of something to connect to.
fn of_address(name: &str, value: &str) -> Option<Port> {
    let has =
        |known: &[&str]| text::words(name).flat_map(|w| w.split('_')).any(|w| known.contains(&w));
    let listens = has(&LISTENS);
    let is_own = label::service_type(name).is_none_or(is_web);
    if !has(&ADDRESSES) || !is_own || is_other(name) {
        return None;
    }
    let (host, port) = value.rsplit_once(':').or(listens.then_some(("", value)))?;
    let is_here = match host {
        "" | "0.0.0.0" | "[::]" | "*" => true,
        "localhost" | "127.0.0.1" | "[::1]" => listens || label::service_type(name) == Some("api"),
        _ => false,
    };
    text::port(port).filter(|_| is_here)
}

/// The service type of a variable with the URL of a web server.
fn of_url(name: &str) -> Option<&'static str> {
    let name = of_all(name);
    let endings = ["_URL", "_URI", "_ORIGIN", "_HOST", "_ENDPOINT", "_BASE"];
    let service = endings.iter().find_map(|ending| name.strip_suffix(ending))?;
    label::service_type(service).filter(|_| !is_other(name))
}

fn is_other(name: &str) -> bool {
    text::words(name).any(|word| OTHERS.iter().any(|other| word.eq_ignore_ascii_case(other)))
}

/// The name without the beginning that makes the variable public, if it tells more than its kind.
fn of_all(name: &str) -> &str {
    let rest = PUBLIC.iter().find_map(|start| name.strip_prefix(start));
    rest.filter(|rest| rest.contains('_')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_servers_if_it_is_one_to_listen_on() {
        for (name, value, expected) in [
            ("LISTEN_ADDR", ":8090", 8090),
            ("LISTEN_ADDR", "127.0.0.1:8090", 8090),
            ("TALLY_HTTP_LISTEN", "[::]:8090", 8090),
            ("BIND", "0.0.0.0:8090", 8090),
            ("LISTEN", "8090", 8090),
            ("SERVER_ADDR", "localhost:8090", 8090),
            ("ADDR", ":8090", 8090),
            ("ADDR", "localhost:8090", 0),
            ("PEER_ADDR", "localhost:8090", 0),
            ("UPSTREAM_ADDRESS", "example.org:8090", 0),
            ("METRICS_ADDR", ":8090", 0),
            ("GRPC_LISTEN", ":8090", 0),
            ("REDIS_BIND", "0.0.0.0:8090", 0),
            ("MAC_ADDRESS", "00:11:22:33:44:55", 0),
            ("STREET_ADDRESS", "8090", 0),
            ("BIND", "0.0.0.0", 0),
            ("HTTP_PORT", ":8090", 0),
        ] {
            assert_eq!(of_address(name, value), Port::new(expected), "{name}={value}");
        }
    }

    #[test]
    fn the_name_of_a_variable_tells_the_service() {
        for (name, expected) in [
            ("API_PORT", Some("api")),
            ("SERVER_PORT", Some("api")),
            ("WEB_SERVER_PORT", Some("dev")),
            ("VITE_PORT", Some("dev")),
            ("VITE_APP_PORT", Some("dev")),
            ("POSTGRES_HOST_PORT", Some("database")),
            ("APP_DB_PORT", Some("database")),
            ("PGPORT", Some("database")),
            ("REDIS_PORT", Some("infrastructure")),
            ("MAIL_PORT", None),
            ("HTTP_PORT", None),
            ("API_DEBUG_PORT", None),
            ("TEST_DB_PORT", None),
            ("PORT", None),
            ("PORTAL", None),
        ] {
            assert_eq!(of_port(name), expected, "{name}");
        }
        for (name, expected) in [
            ("API_URL", Some("api")),
            ("REACT_APP_API_BASE_URL", Some("api")),
            ("NEXT_PUBLIC_API_URL", Some("api")),
            ("FRONTEND_URL", Some("dev")),
            ("APP_URL", Some("dev")),
            ("CLIENT_ORIGIN", Some("dev")),
            ("REACT_APP_SENTRY_URL", None),
            ("URL", None),
        ] {
            assert_eq!(of_url(name), expected, "{name}");
        }
    }
}
