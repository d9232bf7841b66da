//! The needs of a JavaScript project: `package.json` and the configuration of its tools.

use super::{
    command,
    folder::Folder,
    found::Found,
    js,
    text::{self, Env},
    tree::Tree,
};

/// Packages for servers, and their service types, the most telling ones first.
const PACKAGES: [(&str, &str); 33] = [
    ("next", "dev"),
    ("nuxt", "dev"),
    ("astro", "dev"),
    ("@remix-run/dev", "dev"),
    ("@react-router/dev", "dev"),
    ("@sveltejs/kit", "dev"),
    ("@angular/core", "dev"),
    ("gatsby", "dev"),
    ("react-scripts", "dev"),
    ("webpack-dev-server", "dev"),
    ("vite", "dev"),
    ("@nestjs/core", "api"),
    ("express", "api"),
    ("fastify", "api"),
    ("koa", "api"),
    ("hono", "api"),
    ("@hapi/hapi", "api"),
    ("restify", "api"),
    ("@apollo/server", "api"),
    ("@strapi/strapi", "api"),
    ("json-server", "api"),
    ("storybook", "storybook"),
    ("@storybook/react", "storybook"),
    ("@storybook/vue3", "storybook"),
    ("@playwright/test", "test"),
    ("cypress", "test"),
    ("@vitest/ui", "test"),
    ("@docusaurus/core", "docs"),
    ("vitepress", "docs"),
    ("vuepress", "docs"),
    ("@ladle/react", "ui"),
    ("histoire", "ui"),
    ("firebase-functions", "functions"),
];

/// Configuration files without their extensions: the tool, its service type, and the sections that may hold the
/// port.
const CONFIGS: [(&str, &str, &str, &[&str]); 6] = [
    ("next.config", "Next.js", "dev", &[]),
    ("nuxt.config", "Nuxt", "dev", &["devServer", "server"]),
    ("astro.config", "Astro", "dev", &["server"]),
    ("vite.config", "Vite", "dev", &["server"]),
    ("playwright.config", "Playwright", "test", &[]),
    ("cypress.config", "Cypress", "test", &[]),
];
const ENDINGS: [&str; 6] = ["ts", "js", "mjs", "mts", "cjs", "cts"];

/// Scripts in the order in which people think of them; all others follow these.
const FIRST_SCRIPTS: [&str; 5] = ["dev", "develop", "start", "start:dev", "serve"];

/// Parts of a script's name that say how it starts something, and those that only say under which
/// circumstances.
const STARTS: [&str; 6] = ["dev", "develop", "run", "serve", "start", "watch"];
const CIRCUMSTANCES: [&str; 14] = [
    "ci",
    "debug",
    "fast",
    "host",
    "hot",
    "https",
    "inspect",
    "local",
    "mock",
    "prod",
    "production",
    "ssr",
    "staging",
    "test",
];

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    let configs = CONFIGS.iter().map(|(_, _, service_type, _)| *service_type);
    PACKAGES.iter().map(|(_, service_type)| *service_type).chain(configs)
}

/// Adds the servers that the scripts start.
pub(super) fn scripts(folder: &Folder<'_>, package: &Tree, env: &Env, found: &mut Found) {
    let mut scripts: Vec<_> = package.get("scripts").entries().iter().collect();
    scripts.sort_by_key(|(name, _)| {
        FIRST_SCRIPTS.iter().position(|first| first == name).unwrap_or(FIRST_SCRIPTS.len())
    });
    for (script, line) in scripts {
        let mut started = Vec::new();
        for server in command::servers(line.text().unwrap_or_default(), env) {
            let command::Server { service_type, tool, port } = server;
            // A preview has its own port, but does not run during development.
            if script.contains("preview") && found.knows(service_type) {
                continue;
            }
            let beside = started.iter().any(|(other, by)| *other == service_type && *by != tool);
            let name = if beside { text::name(tool) } else { part(script, service_type) };
            let (script, at) = (text::shown(script), folder.file("package.json"));
            found.add(service_type, name, port, format!("{at}: the script {script} runs {tool}"));
            started.push((service_type, tool));
        }
    }
}

/// The part of a larger project that a script starts: `dev:web` starts `web`.
fn part(script: &str, service_type: &str) -> Option<String> {
    let (left, right) = script.split_once(':')?;
    let part = match (STARTS.contains(&left), STARTS.contains(&right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return None,
    };
    let is_part = matches!(service_type, "api" | "dev") && !CIRCUMSTANCES.contains(&part);
    is_part.then(|| text::name(part)).flatten()
}

/// Adds what the configuration files of the tools show.
pub(super) fn configs(folder: &Folder<'_>, found: &mut Found) {
    for (stem, tool, service_type, sections) in CONFIGS {
        let names = ENDINGS.map(|ending| format!("{stem}.{ending}"));
        let Some(name) = names.iter().find(|name| folder.has_file(name)) else { continue };
        let at = folder.file(name);
        let port = folder.read(name).and_then(|source| js::port(&source, sections));
        let because = match port {
            Some(port) => format!("{at}: {tool} on port {port}"),
            None => format!("{at}: {tool}"),
        };
        found.hint(service_type, port, because);
    }
    if folder.has_folder(".storybook") {
        found.hint("storybook", None, format!("{}: Storybook", folder.file(".storybook")));
    }
}

/// Adds what the dependencies of the project show.
pub(super) fn dependencies(folder: &Folder<'_>, package: &Tree, found: &mut Found) {
    let groups = ["dependencies", "devDependencies"].map(|group| package.get(group));
    for (dependency, service_type) in PACKAGES {
        if groups.iter().any(|group| group.has(dependency)) {
            let at = folder.file("package.json");
            found.hint(service_type, None, format!("{at}: depends on {dependency}"));
        }
    }
}

/// The members of the workspace whose root this is; `None` if it is not a root.
pub(super) fn members<'a>(folder: &Folder<'a>, package: &Tree) -> Option<Vec<Folder<'a>>> {
    let pnpm = folder.read("pnpm-workspace.yaml").map(|text| Tree::yaml(&text));
    let patterns = match package.get("workspaces") {
        list @ Tree::List(_) => list,
        object @ Tree::Map(_) => object.get("packages"),
        _ => pnpm.as_ref()?.get("packages"),
    };
    Some(folder.members(&patterns.texts().collect::<Vec<_>>(), "package.json"))
}
