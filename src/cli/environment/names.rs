//! The names of the variables.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::{
    cli::{port::url, text},
    project::is_web,
    word::{as_variable, further},
};

/// Types whose servers are opened in a browser or called by a URL.
const OVER_HTTP: [&str; 11] = [
    "ai",
    "api",
    "auth",
    "dev",
    "docs",
    "functions",
    "hub",
    "monitoring",
    "proxy",
    "storybook",
    "ui",
];

/// Names whose URLs are read by programs as those of databases and caches, whatever is called so.
const NOT_HTTP: [&str; 8] =
    ["CACHE", "DATABASE", "DB", "MONGO", "MONGODB", "MYSQL", "POSTGRES", "REDIS"];

/// Last words of the names before `_URL` that tell programs whom to ask instead of their own service, as in `PIP_INDEX_URL` and
/// `OPENAI_BASE_URL`: the files of a project must not decide that.
const OF_TOOLS: [&str; 11] = [
    "BASE",
    "DOWNLOAD",
    "ENDPOINT",
    "INDEX",
    "MIRROR",
    "PUBLISH",
    "REGISTRY",
    "REPOSITORY",
    "REQUEST",
    "UPLOAD",
    "WEBHOOK",
];

/// A variable and its value.
#[derive(Debug, PartialEq)]
pub(in crate::cli) struct Variable {
    pub(in crate::cli) name: String,
    pub(in crate::cli) value: String,
}

/// Whether a file shows that there is this service.
pub(in crate::cli) fn is_shown(service: &Json) -> bool {
    !service["file"].is_null()
}

/// `PORT`: that of the only server of `package`, or of the project. Where files show servers, others do not count.
pub(in crate::cli) fn own_port<'a>(
    services: impl Iterator<Item = &'a Json> + Clone,
    package: Option<&str>,
) -> Option<Variable> {
    let of_files = services.clone().any(is_shown);
    let own = |service: &&Json| {
        is_server(service)
            && (!of_files || is_shown(service))
            && package.is_none_or(|package| text(service, "package_path") == package)
    };
    let mut servers = services.filter(own);
    let only = servers.next().filter(|_| servers.next().is_none())?;
    Some(Variable { name: "PORT".to_owned(), value: only["port"].to_string() })
}

/// The variables for services that are called so: of each its port, and its URL if it has one.
pub(in crate::cli) fn variables<'a>(
    services: impl IntoIterator<Item = (&'a String, &'a Json)>,
) -> Vec<Variable> {
    let mut variables = Vec::new();
    for (label, service) in services {
        let port = port_variable(label, service);
        variables.extend(further_ports(&port, service));
        variables.push(Variable { name: port, value: service["port"].to_string() });
        if has_url(label, service) {
            let name = format!("{}_URL", as_variable(label));
            variables.push(Variable { name, value: url(service) });
        }
    }
    variables
}

/// The variable for the port of a service that is called so.
pub(in crate::cli) fn port_of(label: &str) -> String {
    format!("{}_PORT", as_variable(label))
}

/// The same, if the service has none of its own.
pub(in crate::cli) fn port_variable(label: &str, service: &Json) -> String {
    let own = service["variable"].as_str().filter(|own| *own != "PORT");
    own.map_or_else(|| port_of(label), str::to_owned)
}

/// The ports of a service after its first, in variables that begin with the name of the first one's.
pub(in crate::cli) fn further_ports(name: &str, service: &Json) -> impl Iterator<Item = Variable> {
    let first = service["port"].as_u64().unwrap_or_default();
    let names = further(name, service["count"].as_u64().unwrap_or(1));
    names.map(move |(place, name)| Variable { name, value: (first + place).to_string() })
}

/// Whether a service of this name is called by a URL of HTTP, and its variable means nothing else to any program.
pub(in crate::cli) fn has_url(name: &str, service: &Json) -> bool {
    let name = as_variable(name);
    let is_of_tools = name.rsplit_once('_').is_some_and(|(of, last)| {
        let is_of_ci = ["CI", "GITHUB"].contains(&of) && ["API", "SERVER"].contains(&last);
        OF_TOOLS.contains(&last) || is_of_ci
    });
    !NOT_HTTP.contains(&name.as_str())
        && !is_of_tools
        && OVER_HTTP.contains(&text(service, "service_type"))
        && service["protocol"] != "udp"
}

/// What to call each service: by its name, or that of its process, or the folder of its package, or its type, and as no
/// other. Of those that would be called the same, the only server of a package keeps the name.
pub(in crate::cli) fn labels(services: &[Json], top: &str) -> Vec<String> {
    let candidates = |service: &Json| {
        let service_type = text(service, "service_type");
        let package = text(service, "package_path").strip_prefix(top).unwrap_or_default();
        let folder = package.rsplit('/').next().unwrap_or_default();
        let own = text(service, "service_name");
        let process = text(service, "process");
        let first = [own, process, folder, service_type].into_iter().find(|name| !name.is_empty());
        let first = first.unwrap_or_default().to_owned();
        let joined = |parts: &[&str]| {
            let parts = parts.iter().flat_map(|part| part.split('/'));
            parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        [
            first.clone(),
            joined(&[folder, own]),
            joined(&[&first, service_type]),
            joined(&[package, own, service_type]),
        ]
    };
    let candidates: Vec<_> = services.iter().map(candidates).collect();
    let mut names: Vec<_> = candidates.iter().map(|[first, ..]| first.clone()).collect();
    for longer in [1, 2, 3] {
        let mut count: HashMap<String, (usize, usize)> = HashMap::new();
        // Two must not have one variable either.
        for (name, service) in names.iter().zip(services) {
            let (all, servers) = count.entry(as_variable(name)).or_default();
            *all += 1;
            *servers += usize::from(is_server(service));
        }
        for ((name, candidates), service) in names.iter_mut().zip(&candidates).zip(services) {
            let (all, servers) = count[&as_variable(name)];
            if all > 1 && !(is_server(service) && servers == 1) {
                let longer = Some(&candidates[longer]).filter(|longer| !longer.is_empty());
                longer.into_iter().for_each(|longer| name.clone_from(longer));
            }
        }
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for name in &mut names {
        let number = seen.entry(as_variable(name)).or_default();
        *number += 1;
        if *number > 1 {
            *name = format!("{name}-{number}");
        }
    }
    names
}

fn is_server(service: &Json) -> bool {
    is_web(text(service, "service_type"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::word::is_variable;

    fn service(service_type: &str, name: &str, package: &str, port: u16) -> Json {
        let package = Some(package).filter(|package| !package.is_empty());
        json!({
            "service_type": service_type, "service_name": Some(name).filter(|name| !name.is_empty()),
            "package_path": package.map(|package| format!("/shop/{package}")), "port": port, "protocol": "tcp",
        })
    }

    fn told(services: &[Json], package: Option<&str>) -> Vec<String> {
        let own = own_port(services.iter(), package).into_iter();
        let labels = labels(services, "/shop");
        let variables = own.chain(variables(labels.iter().zip(services)));
        variables.map(|Variable { name, value }| format!("{name}={value}")).collect()
    }

    #[test]
    fn a_service_is_called_by_its_name_or_its_package_or_its_type() {
        let services = [
            service("dev", "", "apps/web", 3000),
            service("api", "", "apps/back-end", 8000),
            service("database", "db", "", 5432),
            service("docs", "", "", 4100),
            service("test", "", "apps/web", 9200),
        ];
        let url = |service_type: &str, port: u16| {
            format!("URL={}", url(&json!({"service_type": service_type, "port": port})))
        };
        let own = told(&services, Some("/shop/apps/web"));
        assert_eq!(own[..2], ["PORT=3000", "WEB_PORT=3000"]);
        let expected = [
            "WEB_PORT=3000".to_owned(),
            format!("WEB_{}", url("dev", 3000)),
            "BACK_END_PORT=8000".to_owned(),
            format!("BACK_END_{}", url("api", 8000)),
            "DB_PORT=5432".to_owned(),
            "DOCS_PORT=4100".to_owned(),
            format!("DOCS_{}", url("docs", 4100)),
            "WEB_TEST_PORT=9200".to_owned(),
        ];
        assert_eq!(told(&services, None), expected, "two servers, no PORT");
    }

    #[test]
    fn what_a_project_reads_is_set_and_no_url_of_a_database_is_a_server() {
        let mut web = service("dev", "web", "", 1);
        web["variable"] = "HTTP_PORT".into();
        let services = [web, service("ui", "", "database", 2), service("database", "", "", 3)];
        let told = told(&services, None).join(" ");
        assert!(told.contains("HTTP_PORT=1 WEB_URL="), "{told}");
        assert!(!told.contains("DATABASE_URL") && !told.contains(" _PORT"), "{told}");
    }

    #[test]
    fn no_name_of_a_service_says_whom_tools_ask() {
        let has_url = |name: &str| has_url(name, &service("api", name, "", 1));
        for name in
            ["openai-base", "pip.index", "github-api", "ci_server", "aws_endpoint", "uv-publish"]
        {
            assert!(!has_url(name), "{name}");
        }
        assert!(["base", "index", "shop-api", "registry-ui"].into_iter().all(has_url));
    }

    #[test]
    fn no_two_services_have_one_name() {
        let services = [
            service("dev", "web", "", 1),
            service("api", "web", "", 2),
            service("dev", "", "apps/web", 3),
            service("dev", "", "sites/web", 4),
            service("dev", "1st", "", 5),
            service("dev", "1st", "", 6),
        ];
        let labels = labels(&services, "/shop");
        let different: std::collections::HashSet<_> =
            labels.iter().map(|label| as_variable(label)).collect();
        assert_eq!(different.len(), labels.len(), "{labels:?}");
        assert_eq!(labels[3], "sites-web-dev");
        assert!(different.iter().all(|name| is_variable(name)), "{different:?}");
    }
}
