//! The needs of projects in other languages: Python, Ruby, Rust and Go, and Procfiles.

use super::{
    command,
    folder::Folder,
    found::Found,
    text::{self, Env, shown},
    tree::Tree,
};

const PYTHON: [&str; 12] = [
    "django",
    "fastapi",
    "flask",
    "litestar",
    "starlette",
    "sanic",
    "quart",
    "falcon",
    "aiohttp",
    "tornado",
    "uvicorn",
    "gunicorn",
];
const RUST: [&str; 10] =
    ["axum", "actix-web", "rocket", "warp", "poem", "tonic", "salvo", "tide", "ntex", "loco-rs"];
const GO: [&str; 7] = [
    "github.com/gin-gonic/gin",
    "github.com/labstack/echo",
    "github.com/gofiber/fiber",
    "github.com/go-chi/chi",
    "github.com/gorilla/mux",
    "github.com/beego/beego",
    "google.golang.org/grpc",
];

pub(super) fn python(folder: &Folder<'_>, found: &mut Found) {
    if folder.read("manage.py").is_some_and(|text| text.contains("django")) {
        found.hint("api", None, format!("{}: Django", folder.file("manage.py")));
    }
    let project = folder.read("pyproject.toml").map(|text| Tree::toml(&text));
    if let Some(project) = project {
        let standard = project.get("project").get("dependencies").texts();
        let poetry = project.get("tool").get("poetry").get("dependencies").entries();
        let all = standard.chain(poetry.iter().map(|(name, _)| name.as_str()));
        depends_on_python("pyproject.toml", all, folder, found);
    }
    if let Some(requirements) = folder.read("requirements.txt") {
        depends_on_python("requirements.txt", requirements.lines(), folder, found);
    }
    if let Some((file, _)) = folder.first(&["mkdocs.yml", "mkdocs.yaml"]) {
        found.hint("docs", None, format!("{}: MkDocs", folder.file(file)));
    }
}

fn depends_on_python<'r>(
    file: &str,
    requirements: impl Iterator<Item = &'r str>,
    folder: &Folder<'_>,
    found: &mut Found,
) {
    // A requirement is a name, optionally followed by extras, versions and conditions.
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let names: Vec<String> = requirements
        .map(|line| line.trim().split(|c| !is_of_a_name(c)).next().unwrap_or_default())
        .map(str::to_ascii_lowercase)
        .collect();
    depends_on(file, &PYTHON, |known| names.iter().any(|name| name == known), folder, found);
    if names.iter().any(|name| name == "streamlit") {
        found.hint("ui", None, format!("{}: depends on streamlit", folder.file(file)));
    }
}

/// Adds an API for the first of these that the project depends on.
fn depends_on(
    file: &str,
    known: &[&str],
    depends: impl Fn(&str) -> bool,
    folder: &Folder<'_>,
    found: &mut Found,
) {
    if let Some(known) = known.iter().find(|known| depends(known)) {
        found.hint("api", None, format!("{}: depends on {known}", folder.file(file)));
    }
}

pub(super) fn ruby(folder: &Folder<'_>, found: &mut Found) {
    let gems = folder.read("Gemfile").unwrap_or_default();
    let has = |gem: &str| {
        let quoted = [format!("gem \"{gem}\""), format!("gem '{gem}'")];
        gems.lines().any(|line| quoted.iter().any(|start| line.trim_start().starts_with(start)))
    };
    if has("rails") {
        found.hint("dev", None, format!("{}: depends on rails", folder.file("Gemfile")));
    } else if folder.has_file("bin/rails") {
        found.hint("dev", None, format!("{}: Rails", folder.file("bin/rails")));
    } else if has("sinatra") {
        found.hint("api", None, format!("{}: depends on sinatra", folder.file("Gemfile")));
    }
    if let Some(puma) = folder.read("config/puma.rb") {
        // `port 3000`, and `port ENV.fetch("PORT", 3000)` in its spellings: the number comes last.
        let line = puma.lines().find_map(|line| line.trim_start().strip_prefix("port "));
        let code = line.unwrap_or_default().split('#').next().unwrap_or_default();
        let port = text::words(code).last().and_then(text::port);
        let because = match port {
            Some(port) => format!("{}: Puma on port {port}", folder.file("config/puma.rb")),
            None => format!("{}: Puma", folder.file("config/puma.rb")),
        };
        found.hint("dev", port, because);
    }
}

/// Adds what the dependencies of the package show; returns the members of its workspace.
pub(super) fn rust<'a>(folder: &Folder<'a>, found: &mut Found) -> Vec<Folder<'a>> {
    let Some(text) = folder.read("Cargo.toml") else { return Vec::new() };
    let cargo = Tree::toml(&text);
    // A library does not serve anything by itself.
    let is_program = folder.has_file("src/main.rs")
        || folder.has_folder("src/bin")
        || !cargo.get("bin").list().is_empty();
    if is_program {
        let dependencies = cargo.get("dependencies");
        depends_on("Cargo.toml", &RUST, |known| dependencies.has(known), folder, found);
    }
    let workspace = cargo.get("workspace");
    let excluded: Vec<String> = workspace.get("exclude").texts().map(|p| format!("!{p}")).collect();
    let patterns: Vec<&str> =
        excluded.iter().map(String::as_str).chain(workspace.get("members").texts()).collect();
    folder.members(&patterns, "Cargo.toml")
}

pub(super) fn go(folder: &Folder<'_>, found: &mut Found) {
    let Some(text) = folder.read("go.mod") else { return };
    // Indirect dependencies say nothing about this program.
    let direct: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("// indirect"))
        .map(|line| line.trim().trim_start_matches("require ").trim_start())
        .collect();
    let depends = |known: &str| {
        let rest = |line: &&str| line.strip_prefix(known).map(|rest| rest.starts_with([' ', '/']));
        direct.iter().any(|line| rest(line) == Some(true))
    };
    depends_on("go.mod", &GO, depends, folder, found);
}

/// Adds the processes of the Procfiles; the one for development takes precedence.
pub(super) fn procfiles(folder: &Folder<'_>, env: &Env, found: &mut Found) {
    for file in ["Procfile.dev", "Procfile"] {
        let text = folder.read(file).unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((process, line)) = line.split_once(':') else { continue };
            let (process, told) = (process.trim(), folder.file(file));
            let servers = command::servers(line, env);
            // By convention, the process `web` is the project itself.
            let is_web = process == "web";
            for server in &servers {
                let name = if is_web { None } else { text::name(process) };
                let because = format!("{told}: {} runs {}", shown(process), server.tool);
                found.add(server.service_type, name, server.port, because);
            }
            if is_web && servers.is_empty() {
                found.web(None, format!("{told}: the process web"), None);
            }
        }
    }
}
