//! The names of the variables.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::cli::{port::url, text};

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

/// A variable and its value.
#[derive(Debug, PartialEq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

/// The variables for these services of the project in `top`: of each its port, and its URL if it has one. `PORT` is the
/// only server of `package`, or of the top.
pub(super) fn variables(services: &[Json], top: &str, package: Option<&str>) -> Vec<Variable> {
    let mut variables = Vec::new();
    let own = |service: &&Json| {
        is_server(service) && package.is_none_or(|package| text(service, "package_path") == package)
    };
    if let [only] = services.iter().filter(own).collect::<Vec<_>>().as_slice() {
        variables.push(Variable { name: "PORT".to_owned(), value: only["port"].to_string() });
    }
    for (service, name) in services.iter().zip(names(services, top)) {
        let own = service["variable"].as_str().filter(|own| *own != "PORT");
        let port = own.map_or_else(|| format!("{name}_PORT"), str::to_owned);
        variables.push(Variable { name: port, value: service["port"].to_string() });
        // These are read as the URLs of databases.
        let is_of_data = NOT_HTTP.contains(&name.as_str());
        if !is_of_data
            && OVER_HTTP.contains(&text(service, "service_type"))
            && service["protocol"] != "udp"
        {
            variables.push(Variable { name: format!("{name}_URL"), value: url(service) });
        }
    }
    variables
}

/// A name for each service that no other has. Of those that would be called the same, the only server of a package
/// keeps the name.
fn names(services: &[Json], top: &str) -> Vec<String> {
    let candidates = |service: &Json| {
        let service_type = text(service, "service_type");
        let package = text(service, "package_path").strip_prefix(top).unwrap_or_default();
        let folder = package.rsplit('/').next().unwrap_or_default();
        let own = text(service, "service_name");
        let first = [own, folder, service_type].into_iter().find(|name| !name.is_empty());
        let first = first.unwrap_or_default().to_owned();
        [
            first.clone(),
            format!("{folder} {own}"),
            format!("{first} {service_type}"),
            format!("{package} {own} {service_type}"),
        ]
        .map(|name| variable(&name))
    };
    let candidates: Vec<_> = services.iter().map(candidates).collect();
    let mut names: Vec<_> = candidates.iter().map(|[first, ..]| first.clone()).collect();
    for longer in [1, 2, 3] {
        let mut count: HashMap<String, (usize, usize)> = HashMap::new();
        for (name, service) in names.iter().zip(services) {
            let (all, servers) = count.entry(name.clone()).or_default();
            *all += 1;
            *servers += usize::from(is_server(service));
        }
        for ((name, candidates), service) in names.iter_mut().zip(&candidates).zip(services) {
            let (all, servers) = count[name.as_str()];
            if all > 1 && !(is_server(service) && servers == 1) {
                let longer = Some(&candidates[longer]).filter(|longer| !longer.is_empty());
                longer.into_iter().for_each(|longer| name.clone_from(longer));
            }
        }
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for name in &mut names {
        let number = seen.entry(name.clone()).or_default();
        *number += 1;
        if *number > 1 {
            *name = format!("{name}_{number}");
        }
    }
    names
}

fn is_server(service: &Json) -> bool {
    matches!(text(service, "service_type"), "api" | "dev")
}

/// A text as the beginning of a variable's name.
fn variable(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        match c.to_ascii_uppercase() {
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if name.is_empty() || name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    let name = name.trim_end_matches('_');
    // The name of a variable must not begin with a digit.
    let sign = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{sign}{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(service_type: &str, name: &str, package: &str, port: u16) -> Json {
        let package = Some(package).filter(|package| !package.is_empty());
        json!({
            "service_type": service_type, "service_name": Some(name).filter(|name| !name.is_empty()),
            "package_path": package.map(|package| format!("/shop/{package}")), "port": port, "protocol": "tcp",
        })
    }

    fn told(services: &[Json], package: Option<&str>) -> Vec<String> {
        let variables = variables(services, "/shop", package);
        variables.into_iter().map(|Variable { name, value }| format!("{name}={value}")).collect()
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
        let url = |port: u16| format!("URL={}", url(&json!({"port": port})));
        let own = told(&services, Some("/shop/apps/web"));
        assert_eq!(own[..2], ["PORT=3000", "WEB_PORT=3000"]);
        let expected = [
            "WEB_PORT=3000".to_owned(),
            format!("WEB_{}", url(3000)),
            "BACK_END_PORT=8000".to_owned(),
            format!("BACK_END_{}", url(8000)),
            "DB_PORT=5432".to_owned(),
            "DOCS_PORT=4100".to_owned(),
            format!("DOCS_{}", url(4100)),
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
    fn no_two_services_have_one_name() {
        let services = [
            service("dev", "web", "", 1),
            service("api", "web", "", 2),
            service("dev", "", "apps/web", 3),
            service("dev", "", "sites/web", 4),
            service("dev", "1st", "", 5),
            service("dev", "1st", "", 6),
        ];
        let names = names(&services, "/shop");
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        assert!(
            names.iter().all(|name| !name.starts_with(|c: char| c.is_ascii_digit())),
            "{names:?}"
        );
    }
}
