//! The needs of projects in Python, Ruby, Rust and Go.

use super::{
    folder::{Folder, Parser},
    found::{Clue, Found},
    text::{self, Env},
    tree::Tree,
};

/// Packages for servers, and the ports that they take if told none; 0 for unknown.
const PYTHON: [(&str, u16); 12] = [
    ("django", 8000),
    ("fastapi", 8000),
    ("flask", 5000),
    ("litestar", 8000),
    ("starlette", 8000),
    ("sanic", 8000),
    ("quart", 5000),
    ("falcon", 8000),
    ("aiohttp", 8080),
    ("tornado", 0),
    ("uvicorn", 8000),
    ("gunicorn", 8000),
];
/// Packages for programs that people open in a browser, and their service types.
const PYTHON_UI: [(&str, &str, u16); 6] = [
    ("streamlit", "ui", 8501),
    ("gradio", "ui", 7860),
    ("chainlit", "ui", 8000),
    ("jupyterlab", "ui", 8888),
    ("notebook", "ui", 8888),
    ("mlflow", "monitoring", 5000),
];
const RUST: [(&str, u16); 10] = [
    ("axum", 0),
    ("actix-web", 8080),
    ("rocket", 8000),
    ("warp", 0),
    ("poem", 0),
    ("tonic", 0),
    ("salvo", 0),
    ("tide", 0),
    ("ntex", 0),
    ("loco-rs", 5150),
];
const GO: [(&str, u16); 7] = [
    ("github.com/gin-gonic/gin", 8080),
    ("github.com/labstack/echo", 0),
    ("github.com/gofiber/fiber", 0),
    ("github.com/go-chi/chi", 0),
    ("github.com/gorilla/mux", 0),
    ("github.com/beego/beego", 8080),
    ("google.golang.org/grpc", 0),
];

/// Adds the port of `flask run`. A Procfile beside it is for where the project is deployed.
pub(super) fn flask(folder: &Folder<'_>, found: &mut Found) {
    let port = |content: &str| text::port(Env::parse(content).get("FLASK_RUN_PORT")?);
    let set = [".flaskenv", ".env"].into_iter().find_map(|file| {
        let content = folder.read(file)?;
        Some((file, port(&content)?, content))
    });
    if let Some((file, port, content)) = set {
        let place = folder.at_line(file, &content, &["FLASK_RUN_PORT"]);
        let clue = Clue::new("api", place, format!("FLASK_RUN_PORT={port}"));
        found.add(clue.on(port).usually(5000).by("flask run".to_owned()));
    }
}

/// Gems for what Rack serves, as its config.ru says.
const RACK: [&str; 6] = ["sinatra", "roda", "grape", "cuba", "rackup", "rack"];

pub(super) fn python(folder: &Folder<'_>, env: &Env, found: &mut Found) {
    if folder.read("manage.py").is_some_and(|text| text.contains("django")) {
        let clue = Clue::new("api", folder.at("manage.py"), "Django").usually(8000);
        found.hint(clue.by("python manage.py runserver".to_owned()));
    }
    if let Some((content, project)) = folder.parsed("pyproject.toml", Tree::toml) {
        let standard = project.get("project").get("dependencies").texts();
        let poetry = project.get("tool").get("poetry").get("dependencies").entries();
        let all = standard.chain(poetry.iter().map(|(name, _)| name.as_str()));
        depends_on_python("pyproject.toml", &content, all, folder, env, found);
    }
    if let Some(requirements) = folder.read("requirements.txt") {
        let lines = requirements.lines();
        depends_on_python("requirements.txt", &requirements, lines, folder, env, found);
    }
    if let Some((content, settings)) = folder.parsed(".streamlit/config.toml", Tree::toml) {
        let port = settings.get("server").get("port").text().and_then(text::port);
        let place = folder.at_line(".streamlit/config.toml", &content, &["port"]);
        found.complete(Clue::new("ui", place, "Streamlit").on(port));
    }
    if let Some((file, content)) = folder.first(&["mkdocs.yml", "mkdocs.yaml"]) {
        // 127.0.0.1:8001
        let settings = folder.parse(file, &content, Tree::yaml);
        let address = settings.get("dev_addr").text().and_then(|addr| addr.rsplit(':').next());
        let place = folder.at_line(file, &content, &["dev_addr"]);
        let clue = Clue::new("docs", place, "MkDocs").on(address.and_then(text::port));
        found.hint(clue.usually(8000).by("mkdocs serve".to_owned()));
    }
}

fn depends_on_python<'r>(
    file: &str,
    content: &str,
    requirements: impl Iterator<Item = &'r str>,
    folder: &Folder<'_>,
    env: &Env,
    found: &mut Found,
) {
    // A requirement is a name, optionally followed by extras, versions and conditions.
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let names: Vec<String> = requirements
        .map(|line| line.trim().split(|c| !is_of_a_name(c)).next().unwrap_or_default())
        .map(str::to_ascii_lowercase)
        .collect();
    let has = |known: &str| names.iter().any(|name| name == known);
    depends_on(file, content, &PYTHON, has, folder, found);
    // Also where a folder above sets it.
    if has("flask")
        && let Some(port) = env.get("FLASK_RUN_PORT").and_then(text::port)
    {
        let clue = Clue::new("api", folder.at(".flaskenv"), format!("FLASK_RUN_PORT={port}"));
        found.complete(clue.on(port));
    }
    for (package, service_type, usual) in PYTHON_UI.into_iter().filter(|(name, ..)| has(name)) {
        let place = folder.at_line(file, content, &[package]);
        found.hint(Clue::new(service_type, place, format!("depends on {package}")).usually(usual));
    }
}

/// Adds an API for the first of these that the project depends on.
fn depends_on(
    file: &str,
    content: &str,
    known: &[(&str, u16)],
    depends: impl Fn(&str) -> bool,
    folder: &Folder<'_>,
    found: &mut Found,
) {
    if let Some((known, usual)) = known.iter().find(|(known, _)| depends(known)) {
        let place = folder.at_line(file, content, &[known]);
        let clue = Clue::new("api", place, format!("depends on {known}"));
        found.hint(clue.usually(Some(*usual).filter(|usual| *usual > 0)));
    }
}

pub(super) fn ruby(folder: &Folder<'_>, found: &mut Found) {
    let is_rack = folder.has_file("config.ru");
    let gems = folder.read("Gemfile").unwrap_or_default();
    let has = |gem: &str| {
        let quoted = [format!("gem \"{gem}\""), format!("gem '{gem}'")];
        gems.lines().any(|line| quoted.iter().any(|start| line.trim_start().starts_with(start)))
    };
    let has_bundler = bundler(folder, has("vite_rails") || has("vite_ruby"), found);
    let rack = RACK.iter().find(|gem| is_rack && has(gem) && !has("jekyll"));
    if has("rails") {
        let place = folder.at_line("Gemfile", &gems, &["rails"]);
        let clue = Clue::new("dev", place, "depends on rails").usually(3000);
        let clue = clue.by("bin/rails server".to_owned());
        if has_bundler { found.add(clue) } else { found.hint(clue) }
    } else if folder.has_file("bin/rails") {
        let clue = Clue::new("dev", folder.at("bin/rails"), "Rails").usually(3000);
        found.hint(clue.by("bin/rails server".to_owned()));
    } else if let Some(gem) = rack {
        let place = folder.at_line("Gemfile", &gems, &[gem]);
        let clue = Clue::new("api", place, format!("config.ru, for {gem}")).usually(9292);
        found.hint(clue.by("bundle exec rackup".to_owned()));
    } else if has("sinatra") {
        let place = folder.at_line("Gemfile", &gems, &["sinatra"]);
        found.hint(Clue::new("api", place, "depends on sinatra").usually(4567));
    } else if has("jekyll") {
        let place = folder.at_line("Gemfile", &gems, &["jekyll"]);
        let clue = Clue::new("dev", place, "depends on jekyll").usually(4000);
        found.hint(clue.by("bundle exec jekyll serve".to_owned()));
    }
    if let Some(puma) = folder.read("config/puma.rb") {
        // `port 3000`, and `port ENV.fetch("PORT", 3000)` in its spellings: the number comes last.
        let line = puma.lines().find_map(|line| line.trim_start().strip_prefix("port "));
        let code = line.unwrap_or_default().split('#').next().unwrap_or_default();
        let port = text::words(code).last().and_then(text::port);
        let what = match port {
            Some(port) => format!("Puma on port {port}"),
            None => "Puma".to_owned(),
        };
        let place = folder.at_line("config/puma.rb", &puma, &["port "]);
        // What is known of as an API is Rails without pages.
        let service_type = if found.knows("api") && !found.knows("dev") { "api" } else { "dev" };
        found.hint(Clue::new(service_type, place, what).on(port));
    }
}

/// Gives the server of the bundler beside Rails its name and the port in its settings; returns whether there is one.
fn bundler(folder: &Folder<'_>, has_vite: bool, found: &mut Found) -> bool {
    type Row = (&'static str, Parser, &'static str, &'static str, &'static [u16], u16);
    const ROWS: [Row; 3] = [
        ("config/vite.json", Tree::json, "vite", "bin/vite dev", &[5173], 3036),
        ("config/webpacker.yml", Tree::yaml, "webpack", "bin/webpack-dev-server", &[8080], 3035),
        (
            "config/shakapacker.yml",
            Tree::yaml,
            "webpack",
            "bin/shakapacker-dev-server",
            &[8080, 3035],
            3035,
        ),
    ];
    let mut is_there = false;
    for (file, parse, name, command, usual, by_default) in ROWS {
        let Some((content, settings)) = folder.parsed(file, parse) else { continue };
        let settings = settings.get("development");
        let own = settings.get("port").text().or(settings.get("dev_server").get("port").text());
        let port = own.and_then(text::port);
        let place = folder.at_line(file, &content, &["development", "port"]);
        let what = port.map_or_else(|| name.to_owned(), |port| format!("{name} on port {port}"));
        let clue = Clue::new("dev", place, what).on(port).by(command.to_owned());
        let clue = clue.usually(by_default).named(name.to_owned());
        match found.usually(usual) {
            Some(known) => known.refine(clue),
            None if has_vite && name == "vite" => found.add(clue),
            None => continue,
        }
        is_there = true;
    }
    is_there
}

/// Adds what the dependencies of the package show; returns the members of the workspace if this is its root.
pub(super) fn rust<'a>(folder: &Folder<'a>, found: &mut Found) -> Option<Vec<Folder<'a>>> {
    let (text, cargo) = folder.parsed("Cargo.toml", Tree::toml)?;
    // A library does not serve anything by itself.
    let is_program = folder.has_file("src/main.rs")
        || folder.has_folder("src/bin")
        || !cargo.get("bin").list().is_empty();
    if is_program {
        let dependencies = cargo.get("dependencies");
        depends_on("Cargo.toml", &text, &RUST, |known| dependencies.has(known), folder, found);
    }
    for (file, sections, service_type, usual) in [
        ("Rocket.toml", ["debug", "default"], "api", 8000),
        ("Trunk.toml", ["serve", "serve"], "dev", 8080),
    ] {
        let Some((content, settings)) = folder.parsed(file, Tree::toml) else { continue };
        let port = sections.iter().find_map(|section| settings.get(section).get("port").text());
        let tool = file.trim_end_matches(".toml");
        let clue = Clue::new(service_type, folder.at_line(file, &content, &["port"]), tool);
        let clue = clue.on(port.and_then(text::port)).usually(usual);
        found.hint(clue.by((tool == "Trunk").then(|| "trunk serve".to_owned())));
    }
    let workspace = cargo.get("workspace");
    let excluded: Vec<String> = workspace.get("exclude").texts().map(|p| format!("!{p}")).collect();
    let patterns: Vec<&str> =
        excluded.iter().map(String::as_str).chain(workspace.get("members").texts()).collect();
    cargo.has("workspace").then(|| folder.members(&patterns, "Cargo.toml"))
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
    depends_on("go.mod", &text, &GO, depends, folder, found);
}
