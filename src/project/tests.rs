use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::config::Config;

mod corpus;
mod declared;
mod hostile;

/// A folder with these files in it.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn needs(folder: &Path) -> Needs {
    found(folder, None)
}

/// The needs in short form: `type name port package`, with a dash for what is missing, and without the root.
fn short(needs: &[Need]) -> Vec<String> {
    let dash = || "-".to_owned();
    let line = |need: &Need| {
        let name = need.service_name.clone().unwrap_or_else(dash);
        let port = need.port.map_or_else(dash, |port| port.to_string());
        format!("{} {name} {port} {}", need.service_type, need.package.display())
            .trim_end()
            .to_owned()
    };
    needs.iter().map(line).collect()
}

fn told(files: &[(&str, &str)]) -> Vec<String> {
    short(&needs(folder(files).path()).needs)
}

fn reasons(files: &[(&str, &str)]) -> Vec<String> {
    needs(folder(files).path()).needs.into_iter().map(|need| need.because).collect()
}

/// A package with this script.
fn script(line: &str) -> String {
    serde_json::json!({"scripts": {"dev": line}}).to_string()
}

#[test]
fn an_empty_folder_needs_nothing_and_one_that_is_not_there_neither() {
    assert_eq!(told(&[]), [""; 0]);
    assert_eq!(needs(Path::new("/no/such/folder")).needs, []);
    assert_eq!(needs(Path::new("/dev/null")).needs, []);
}

#[test]
fn the_program_of_a_script_tells_the_type_and_its_options_the_port() {
    for (line, expected) in [
        ("vite", "dev - -"),
        ("vite --port 3100", "dev - 3100"),
        ("vite --port=3100 --host", "dev - 3100"),
        ("next dev --turbo -p 3001", "dev - 3001"),
        ("next dev -p3001", "dev - 3001"),
        ("next dev -p ${PORT:-3002}", "dev - 3002"),
        ("PORT=3003 react-scripts start", "dev - 3003"),
        ("cross-env NODE_ENV=development PORT=\"3003\" react-scripts start", "dev - 3003"),
        ("npx -y nuxi dev --port 3004", "dev - 3004"),
        ("node ./node_modules/vite/bin/vite.js", "dev - -"),
        ("rimraf dist && astro dev", "dev - -"),
        ("dotenv -e .env.local -- remix vite:dev", "dev - -"),
        ("webpack serve --mode development", "dev - -"),
        ("nest start --watch", "api - -"),
        ("PORT=4000 node server.js", "api - 4000"),
        ("poetry run uvicorn app:app --port 8001", "api - 8001"),
        ("python -m flask run -p 5050", "api - 5050"),
        ("python manage.py runserver 0.0.0.0:8010", "api - 8010"),
        ("gunicorn -w 4 -b 0.0.0.0:8020 app:app", "api - 8020"),
        ("php -S localhost:8080 -t public", "dev - 8080"),
        ("storybook dev -p 6007", "storybook - 6007"),
        ("vitest --ui", "test - -"),
        ("playwright test --ui", "test - -"),
        ("styxy run api --name web -- node server.js", "api web -"),
        ("docusaurus start --port 4101", "docs - 4101"),
        ("vitepress dev docs", "docs - -"),
        ("firebase emulators:start", "hub - -"),
    ] {
        assert_eq!(told(&[("package.json", &script(line))]), [expected], "{line}");
    }
}

#[test]
fn a_script_that_starts_no_server_needs_nothing() {
    for line in [
        "vite build",
        "next build && next lint",
        "storybook build",
        "vitest run",
        "node build.js",
        "npm install vite",
        "npm run vite",
        "rimraf vite next",
        "tsc -p 3000",
        "echo 'next dev'",
        "PORT=3000",
        "",
        "\"' && | ;; $ ${ \\",
    ] {
        assert_eq!(told(&[("package.json", &script(line))]), [""; 0], "{line}");
    }
}

#[test]
fn a_port_that_is_none_is_not_told() {
    for line in ["vite --port 0", "vite --port 65536", "vite --port -1", "vite --port", "vite -p x"]
    {
        assert_eq!(told(&[("package.json", &script(line))]), ["dev - -"], "{line}");
    }
}

#[test]
fn one_script_may_start_several_servers() {
    let package = script("concurrently -k \"vite --port 3000\" 'json-server db.json -p 3500'");
    assert_eq!(told(&[("package.json", &package)]), ["dev - 3000", "api - 3500"]);
    let package = script("concurrently \"vite\" \"next dev -p 3001\"");
    assert_eq!(told(&[("package.json", &package)]), ["dev - -", "dev next 3001"]);
}

#[test]
fn parts_of_a_project_have_names_and_variants_of_a_script_do_not() {
    let package = r#"{"scripts": {
        "dev:web": "vite --port 3000", "dev:admin": "vite --port 3001", "storybook": "storybook dev"}}"#;
    let expected = ["dev web 3000", "dev admin 3001", "storybook - -"];
    assert_eq!(told(&[("package.json", package)]), expected);
    let package = r#"{"scripts": {
        "start": "nest start", "start:dev": "nest start --watch", "start:prod": "nest start"}}"#;
    assert_eq!(told(&[("package.json", package)]), ["api - -"]);
}

/// The command line of each need, behind its type and its port.
fn commands(files: &[(&str, &str)]) -> Vec<String> {
    let needs = needs(folder(files).path()).needs;
    let line = |need: Need| {
        let port = need.port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        format!("{} {port}: {}", need.service_type, need.command.unwrap_or_default())
    };
    needs.into_iter().map(line).collect()
}

#[test]
fn each_server_has_the_script_that_starts_it() {
    for (package, env, expected) in [
        (
            r#"{"scripts": {"dev": "webpack --watch", "start": "node build/app.js"},
                "dependencies": {"koa": "2", "webpack-dev-server": "5"}}"#,
            "PORT=4000",
            &["api 4000: npm start"][..],
        ),
        (
            r#"{"scripts": {"dev": "vite", "server": "nodemon app.js"},
                "dependencies": {"express": "5", "vite": "6"}}"#,
            "PORT=4000",
            &["dev -: npm run dev", "api 4000: npm run server"],
        ),
        (
            r#"{"scripts": {"dev": "vite dev", "build": "vite build", "start": "node build/app.js"},
                "devDependencies": {"vite": "6"}}"#,
            "PORT=4000",
            &["dev -: npm run dev"],
        ),
        (
            r#"{"scripts": {"dev": "vite"}, "devDependencies": {"vite": "6"}}"#,
            "PORT=4000",
            &["dev 4000: npm run dev"],
        ),
        (
            r#"{"scripts": {"dev": "run-script-os", "dev:nix": "vite -p 1", "dev:win32": "vite -p 2"}}"#,
            "",
            &["dev 1: npm run dev"],
        ),
        (
            r#"{"scripts": {"start": "run-os", "start:windows": "ng serve", "start:darwin:linux": "ng serve --port 3"}}"#,
            "",
            &["dev 3: npm start"],
        ),
    ] {
        assert_eq!(commands(&[("package.json", package), (".env", env)]), expected, "{package}");
    }
}

#[test]
fn what_a_script_starts_in_another_folder_is_that_folders() {
    let web = ("web/package.json", r#"{"name": "@acme/web", "scripts": {"dev": "next dev"}}"#);
    for (line, expected) in [
        ("cd web && next dev -p 3100", "dev - 3100 web"),
        ("(cd web && next dev -p 3100)", "dev - 3100 web"),
        ("PORT=3100 npm --prefix web run dev", "dev - 3100 web"),
        ("PORT=3100 yarn workspace @acme/web dev", "dev - 3100 web"),
        ("pnpm -F web... dev --port=3100", "dev - 3100 web"),
        ("PORT=3100 turbo run dev --filter ./web", "dev - 3100 web"),
        ("PORT=3100 pnpm --filter ./web/* dev", "dev - - web"),
        ("PORT=3100 pnpm --filter none dev", "dev - - web"),
        ("PORT=3100 pnpm -r dev", "dev - - web"),
    ] {
        let package = serde_json::json!({"workspaces": ["web"], "scripts": {"dev": line}});
        assert_eq!(told(&[("package.json", &package.to_string()), web]), [expected], "{line}");
    }
    let here = script("cd web && npm run build; cd .. && (cd web && true) && vite --port 3100");
    assert_eq!(told(&[("package.json", &here), web])[0], "dev - 3100 web");
    let folders =
        r#"{"scripts": {"dev:a": "cd a && php -S :8001", "dev:b": "cd b && php -S :8002"}}"#;
    let folders = [("package.json", folders), ("a/index.php", ""), ("b/index.php", "")];
    assert_eq!(told(&folders), ["dev a 8001", "dev b 8002"]);
}

#[test]
fn the_port_of_a_preview_is_not_the_dev_servers() {
    let package = r#"{"scripts": {"preview": "vite preview --port 4173", "dev": "vite"}}"#;
    assert_eq!(told(&[("package.json", package)]), ["dev - -"]);
}

#[test]
fn what_three_sources_tell_is_told_once_with_the_best_reason_first() {
    let files = [
        ("package.json", r#"{"scripts": {"dev": "vite"}, "devDependencies": {"vite": "^7"}}"#),
        ("vite.config.ts", "export default defineConfig({ server: { port: 5180 } })"),
    ];
    assert_eq!(told(&files), ["dev - 5180"]);
    assert_eq!(
        reasons(&files),
        ["package.json: the script dev runs vite; vite.config.ts: Vite on port 5180"]
    );
}

#[test]
fn dependencies_tell_what_no_script_does() {
    let package = r#"{"dependencies": {"express": "5", "next": "15"}, "peerDependencies": {"nuxt": "3"},
        "devDependencies": {"@playwright/test": "1", "storybook": "9"}}"#;
    assert_eq!(told(&[("package.json", package)]), ["dev - -", "storybook - -"]);
    assert_eq!(reasons(&[("package.json", package)])[0], "package.json: depends on next");
}

#[test]
fn the_port_of_a_configuration_is_the_servers_and_no_other() {
    for (name, text, expected) in [
        ("vite.config.js", "export default { server: { host: true, port: 3000, }, }", "dev - 3000"),
        ("vite.config.js", "export default { preview: { port: 3000 } }", "dev - -"),
        ("vite.config.js", "export default { server: { hmr: { port: 3000 } } }", "dev - -"),
        ("vite.config.js", "/* server: { port: 1 } */ x = { server: { // port: 2\n } }", "dev - -"),
        ("vite.config.js", "s = 'server: { port: 3000 }'; t = `server: {\nport: 3 }`", "dev - -"),
        ("vite.config.mts", "x = { server: { port: +env.PORT || 3000 } }", "dev - 3000"),
        ("vite.config.mts", "x = { server: { port: env.PORT ?? 3000 } }", "dev - 3000"),
        ("vite.config.ts", "x = { server: { port: base + 1 } }", "dev - -"),
        (
            "vite.config.ts",
            "x = { 'server': { proxy: { '/a': 'http://b:1' }, 'port': 3000",
            "dev - 3000",
        ),
        (
            "astro.config.mjs",
            "export default defineConfig({ server: { port: 4000 } })",
            "dev - 4000",
        ),
        ("nuxt.config.ts", "defineNuxtConfig({ devServer: { port: 3500 } })", "dev - 3500"),
        ("next.config.mjs", "export default { port: 3000 }", "dev - -"),
        ("vite.config.ts", "x = { server: { port: Number(env.A || 3000) } }", "dev - 3000"),
        (
            "vite.config.ts",
            "x = { server: { port: parseInt(env.A ?? '3000', 10), b } }",
            "dev - 3000",
        ),
    ] {
        assert_eq!(told(&[(name, text)]), [expected], "{text}");
    }
    let package = r#"{"scripts": {"build": "vite build"}}"#;
    let files = [("package.json", package), (".storybook/main.ts", ""), ("vite.config.ts", "")];
    assert_eq!(told(&files), ["storybook - -"]);
}

const COMPOSE: &str = r#"
x-common: &common
  restart: unless-stopped
services:
  web:
    <<: *common
    build: ./frontend
    ports: ["3000:3000"]
  backend:
    build: {context: ./backend}
    ports:
      - target: 8080
        published: "${API_PORT:-8081}"
        protocol: tcp
      - target: 9229
        published: 9229
  db:
    <<: *common
    image: docker.io/library/postgres:${PG:-16}
    ports:
      - 127.0.0.1:5433:5432
      - "[::1]:5433:5432"
  cache: {image: "redis:7-alpine", ports: [6379:6379]}
  queue: {image: "rabbitmq:4-management", ports: ["5672:5672", "15672:15672"]}
  metrics: {image: prom/prometheus, ports: ["9090-9092:9090-9092"]}
  dns: {image: acme/dns, ports: ["53:53/udp"]}
  worker: {build: ./worker}
"#;

#[test]
fn every_service_of_a_compose_file_that_has_a_port_is_a_need() {
    let expected = [
        "dev web 3000",
        "api backend 8081",
        "database db 5433",
        "infrastructure cache 6379",
        "infrastructure dns 53",
        "messaging queue 5672",
        // Its management is published, too.
        "messaging queue-console 15672",
        "monitoring metrics 9090",
    ];
    for name in ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"] {
        assert_eq!(told(&[(name, COMPOSE)]), expected);
    }
    let reasons = reasons(&[("compose.yaml", COMPOSE)]);
    assert_eq!(reasons[2], "compose.yaml: the service db runs postgres on 5433");
    assert_eq!(
        reasons[7],
        "compose.yaml: the service metrics runs prometheus on 9090-9092, a range"
    );
}

#[test]
fn only_the_first_compose_file_counts() {
    let other = "services: {db: {image: mysql, ports: ['3307:3306']}}";
    let files = [("docker-compose.yml", COMPOSE), ("compose.yaml", other)];
    assert_eq!(told(&files), ["database db 3307"]);
}

#[test]
fn a_container_that_is_called_like_the_project_or_has_its_port_is_no_second_need() {
    let gems = ("shop/Gemfile", "gem 'rails'");
    let compose = |service: &str| format!("services: {{app: {service}}}");
    let own = compose("{image: ghcr.io/me/shop, ports: ['3000:3000']}");
    let other = compose("{image: ghcr.io/me/mill, ports: ['3000:4000']}");
    let mounted = "{image: built, volumes: ['.:/app'], ports: ['9999:9999', '3001:3000']}";
    let elsewhere = compose("{image: built, volumes: ['.:/app'], ports: ['9999:9999']}");
    for (compose, expected) in [
        (own, &["dev - 3000"][..]),
        (other, &["dev - -", "dev app 3000"]),
        (compose(mounted), &["dev - 3001"]),
        (elsewhere, &["dev - -", "dev app 9999"]),
    ] {
        let folder = folder(&[gems, ("shop/compose.yaml", &compose)]);
        let mut told = short(&needs(&folder.path().join("shop")).needs);
        told.sort_by_key(|line| !line.contains(" - "));
        assert_eq!(told, expected, "{compose}");
    }
}

#[test]
fn a_container_is_the_only_package_that_is_called_like_a_part_of_it() {
    let package = |folder: &str| {
        (
            format!("{folder}/pom.xml"),
            format!(
                "<dependency><artifactId>spring-boot-starter-web</artifactId></dependency><module>{folder}</module>"
            ),
        )
    };
    let settings = |folder: &str| {
        (format!("{folder}/src/main/resources/application.yml"), "server: {port: 7001}".to_owned())
    };
    let compose = |image: &str, port: u16| {
        (
            "compose.yaml".to_owned(),
            format!("services: {{x: {{image: {image}, ports: ['{port}:{port}']}}}}"),
        )
    };
    let root = (
        "pom.xml".to_owned(),
        "<packaging>pom</packaging><modules><module>a-web</module><module>b-web</module></modules>"
            .to_owned(),
    );
    for (image, port, is_second) in [
        ("me/a-web", 7001, false),
        ("me/shop-a-web", 7001, false),
        // Either of them.
        ("me/web", 7001, true),
        ("me/a-web", 7002, true),
        ("me/aa-web", 7001, true),
        ("me/shop-a-web", 7002, true),
    ] {
        let files = [
            root.clone(),
            package("a-web"),
            settings("a-web"),
            package("b-web"),
            settings("b-web"),
            compose(image, port),
        ];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (&**name, &**text)).collect();
        let is_there = told(&files).iter().any(|need| *need == format!("api x {port}"));
        assert_eq!(is_there, is_second, "{image} on {port}: {:?}", told(&files));
    }
}

#[test]
fn what_starts_a_server_is_told_by_scripts_and_targets_that_do_not_say_what_it_is() {
    let python = ("pyproject.toml", "[project]\ndependencies = ['fastapi']");
    let go = ("go.mod", "require github.com/gin-gonic/gin v1");
    let run = script("npm run clean && cd .. && uv run python api/serve.py");
    let lint = script("uv run ruff check . && python --version");
    for (files, expected) in [
        ([python, ("package.json", &*run)], Some("npm run dev")),
        ([python, ("package.json", &*lint)], None),
        ([go, ("Makefile", "watch:\n\t@PORT=1 air -c .air.toml\n")], Some("make watch")),
        ([go, ("Makefile", "deploy:\n\tair\n")], None),
        ([go, ("Makefile", "watch:\n\techo air\n")], None),
    ] {
        let needs = needs(folder(&files).path()).needs;
        let [need] = &needs[..] else { panic!("{needs:?}") };
        assert_eq!((&*need.service_type, need.command.as_deref()), ("api", expected), "{files:?}");
    }
}

#[test]
fn a_procfile_for_production_starts_the_api_and_not_the_dev_server_beside_it() {
    let package = serde_json::json!({
        "scripts": {
            "dev": "concurrently \"vite\" \"nodemon server.js\"",
            "start": "node build/server.js",
        },
        "dependencies": {"koa": "2"},
    });
    let package = package.to_string();
    let found =
        needs(folder(&[("package.json", &package), ("Procfile", "web: yarn start")]).path());
    assert_eq!(short(&found.needs), ["dev - -", "api - -"]);
    assert_eq!(found.processes[0].ports, [1]);
}

#[test]
fn tests_that_have_a_page_are_no_need_unless_they_run_beside_the_server() {
    let package = |dev: &str| {
        serde_json::json!({"scripts": {"dev": dev, "test-e2e-ui": "playwright test --ui"}})
            .to_string()
    };
    assert_eq!(told(&[("package.json", &package("vite"))]), ["dev - -"]);
    let both = package("concurrently \"vite\" \"npm run test-e2e-ui\"");
    assert_eq!(told(&[("package.json", &both)]), ["dev - -", "test - -"]);
}

#[test]
fn one_forwarded_port_is_that_of_the_only_server() {
    let container = |ports: &str| format!("{{\"forwardPorts\": [{ports}]}}");
    let go = ("go.mod", "require github.com/go-chi/chi v1");
    let vite = script("vite --port 4000");
    let next = ("web/package.json", &*script("next dev"));
    for (file, others, ports, expected) in [
        (go, None, "8765", &["api - 8765"][..]),
        (go, None, "8765, 8766", &["api - -"]),
        (("package.json", &*vite), None, "8765", &["dev - 4000"]),
        (go, Some(next), "8765", &["dev - - web", "api - -"]),
    ] {
        let container = container(ports);
        let mut files = vec![file, (".git/HEAD", ""), (".devcontainer.json", &*container)];
        files.extend(others);
        assert_eq!(told(&files), expected, "{files:?}");
    }
}

#[test]
fn a_container_of_the_project_itself_is_no_second_need() {
    let files = [
        ("requirements.txt", "Flask[async]>=3 # web\n"),
        ("compose.yaml", "services: {web: {build: ., ports: ['8001:5000']}}"),
    ];
    assert_eq!(told(&files), ["api - 8001"]);
    assert_eq!(told(&files[1..]), ["dev web 8001"]);
}

#[test]
fn what_works_on_a_queue_or_ends_is_no_need_and_a_port_is_published_once() {
    let db = "  db: {image: postgres, ports: [5432:5432]}\n";
    for (service, expected) in [
        ("queue: {image: redis, command: php artisan queue:work}", None),
        ("db-worker: {image: postgres, ports: [1:1], command: [celery, -A, a, worker]}", None),
        ("db-setup: {image: postgres}", None),
        ("db-setup: {image: postgres, ports: [5433:5432]}", Some("database db-setup 5433")),
        ("buckets: {image: minio/mc}", None),
        ("minio-buckets: {image: minio/mc}", None),
        ("db-copy: {extends: db}", None),
        (
            "warm: {image: redis}\n  a: {depends_on: {warm: {condition: service_completed_successfully}}}",
            None,
        ),
        (
            "warm: {image: redis}\n  a: {depends_on: {warm: {condition: service_healthy}}}",
            Some("infrastructure warm -"),
        ),
        (
            "monitor: {image: a, ports: [5555:5555], command: celery flower}",
            Some("api monitor 5555"),
        ),
    ] {
        let compose = format!("services:\n{db}  {service}\n");
        let told = told(&[("compose.yaml", &compose)]);
        let mut others = told.iter().filter(|need| *need != "database db 5432");
        assert_eq!(others.next().map(String::as_str), expected, "{service}");
    }
    let notebook = [
        ("compose.yaml", "services: {lab: {build: ., command: jupyter lab, ports: [8889:8888]}}"),
        ("package.json", &script("vite")),
    ];
    assert_eq!(told(&notebook), ["dev - -", "ui lab 8889"]);
    let mounted = [
        (
            "compose.yaml",
            "services: {front: {image: 'node:22', volumes: ['./web:/app'], ports: [5173:5173]}}",
        ),
        ("web/package.json", &script("vite")),
        (".git/HEAD", ""),
    ];
    assert_eq!(told(&mounted), ["dev - 5173 web"]);
}

#[test]
fn variables_of_a_compose_file_come_from_the_env_file() {
    let files = [
        (".env", "# local\nexport DB_PORT=\"5439\"\nPASSWORD=secret\n"),
        ("compose.yaml", "services: {db: {image: postgres, ports: ['${DB_PORT:-5432}:5432']}}"),
    ];
    assert_eq!(told(&files), ["database db 5439"]);
}

#[test]
fn a_port_in_the_env_file_is_the_web_servers_that_has_none() {
    let env = (".env", "SECRET=hush\nPORT=4321\n");
    assert_eq!(told(&[env]), ["dev - 4321"]);
    assert_eq!(reasons(&[env]), [".env: PORT=4321"]);
    let package = r#"{"scripts": {"dev": "vite"}, "dependencies": {"express": "5"}}"#;
    assert_eq!(told(&[env, ("package.json", package)]), ["dev - 4321"]);
    let package = script("vite --port 3000");
    assert_eq!(told(&[env, ("package.json", &package)]), ["dev - 3000"]);
}

#[test]
fn python_rust_go_and_ruby_tell_by_what_they_depend_on() {
    let cargo = "[package]\nname = 'x'\n[dependencies]\naxum = '0.8'\n";
    let go = "module x\nrequire (\n\tgithub.com/gin-gonic/gin v1.10.0\n)\n";
    for (files, expected) in [
        (&[("manage.py", "import django")][..], &["api - -"][..]),
        (&[("manage.py", "print('no')")], &[]),
        (
            &[("pyproject.toml", "[project]\ndependencies = ['fastapi[standard]>=0.1', 'x']")],
            &["api - -"],
        ),
        (&[("pyproject.toml", "[tool.poetry.dependencies]\nDjango = '^5'")], &["api - -"]),
        (&[("requirements.txt", "flask-cors\nrequests==2\n-r other.txt")], &[]),
        (&[("Cargo.toml", cargo), ("src/main.rs", "")], &["api - -"]),
        (&[("Cargo.toml", cargo), ("src/lib.rs", "")], &[]),
        (&[("go.mod", go)], &["api - -"]),
        (&[("go.mod", "require github.com/labstack/echo/v4 v4.1.0 // indirect")], &[]),
        (&[("go.mod", "require github.com/labstack/echo/v4 v4.1.0")], &["api - -"]),
        (&[("Gemfile", "source 'x'\n  gem \"rails\", '~> 8'\n")], &["dev - -"]),
        (&[("Gemfile", "# gem 'rails'\ngem 'rails-i18n'\n")], &[]),
        (
            &[("bin/rails", ""), ("config/puma.rb", "# port 1\nport ENV.fetch(\"PORT\") { 3005 }")],
            &["dev - 3005"],
        ),
        (&[("mkdocs.yml", "site_name: x")], &["docs - -"]),
    ] {
        assert_eq!(told(files), expected, "{files:?}");
    }
}

#[test]
fn a_procfile_names_its_processes_and_web_is_the_project() {
    let procfile = "# all\nweb: bundle exec puma -p ${PORT:-3000}\ncss: yarn build:css --watch\n\
        cache: redis-server --port 6390\nnonsense\n";
    let files = [("Procfile.dev", procfile), ("Gemfile", "gem 'rails'")];
    assert_eq!(told(&files), ["dev - 3000", "infrastructure cache 6390"]);
    assert_eq!(told(&[("Procfile", "web: ./serve-it")]), ["dev - -"]);
    let files =
        [("Procfile", "web: npm start"), ("package.json", r#"{"dependencies": {"koa": "2"}}"#)];
    assert_eq!(told(&files), ["api - -"]);
}

#[test]
fn the_members_of_a_workspace_are_packages_and_others_beside_them_are_not() {
    let api = r#"{"name": "@acme/api", "dependencies": {"fastify": "5"}}"#;
    for (name, text) in [
        (
            "package.json",
            r#"{"workspaces": ["apps/*", "./tools", "!apps/old"], "devDependencies": {"vite": "7"}}"#,
        ),
        ("package.json", r#"{"workspaces": {"packages": ["apps/**", "tools/", "!**/old"]}}"#),
        ("pnpm-workspace.yaml", "packages:\n  - 'apps/*'\n  - tools\n  - '!apps/old'\n"),
    ] {
        let files = [
            (name, text),
            ("apps/web/package.json", &script("vite --port 3000")),
            ("apps/admin/package.json", &script("vite --port 3000")),
            ("apps/old/package.json", &script("vite")),
            ("apps/api/package.json", api),
            ("apps/api/compose.yaml", "services: {db: {image: postgres, ports: ['5433:5432']}}"),
            ("apps/notes/readme", ""),
            ("apps/node_modules/package.json", &script("vite")),
            ("tools/package.json", &script("storybook dev")),
            ("elsewhere/package.json", &script("vite")),
        ];
        let expected = [
            "dev - 3000 apps/admin",
            "dev - 3000 apps/web",
            "api - - apps/api",
            "storybook - - tools",
            "database db 5433 apps/api",
        ];
        assert_eq!(told(&files), expected, "{text}");
        assert_eq!(reasons(&files)[1], "apps/web/package.json: the script dev runs vite");
    }
}

#[test]
fn members_may_lie_at_any_depth_and_so_may_the_package_that_is_asked_in() {
    let vite = &script("vite");
    let files = [
        ("package.json", r#"{"workspaces": ["libs/**"]}"#),
        ("libs/x/y/package.json", vite),
        ("libs/package.json", vite),
        ("a/b/c/pyproject.toml", "[project]\ndependencies = ['flask']"),
    ];
    assert_eq!(told(&files), ["dev - - libs", "dev - - libs/x/y"]);
    let folder = folder(&files);
    let inside = found(folder.path(), Some(Path::new("a/b/c"))).needs;
    assert_eq!(short(&inside)[2], "api - - a/b/c");
    for path in ["../x", "/etc", "none"] {
        assert_eq!(found(folder.path(), Some(Path::new(path))).needs.len(), 2, "{path}");
    }
}

#[test]
fn the_variable_of_a_port_is_told_and_what_a_shell_would_run_is_no_command() {
    let compose = "services:\n  image: {image: redis, ports: ['${IP:-127.0.0.1}:6390:6379']}\n  mydb: {image: mysql, ports: ['${HOST_IP:-127.0.0.1}:${MY_PORT:-3307}:3306']}\n\
        \x20 db: {image: postgres, ports: [{target: 5432, published: '$DB_PORT'}]}\n  x$(id): {image: nginx, ports: ['81:80']}\n";
    let needs = needs(folder(&[("compose.yaml", compose)]).path()).needs;
    let told: Vec<_> = needs
        .iter()
        .map(|need| (need.variable.as_deref(), need.place.line, need.command.as_deref()))
        .collect();
    let expected = [
        (Some("MY_PORT"), Some(3), Some("docker compose up mydb")),
        (Some("DB_PORT"), Some(4), Some("docker compose up db")),
        (None, Some(2), Some("docker compose up image")),
        (None, Some(5), None),
    ];
    assert_eq!(told, expected);
}

#[test]
fn crates_of_a_workspace_are_looked_at_too() {
    let files = [
        (
            "Cargo.toml",
            "[workspace]\nmembers = ['crates/*']\nexclude = ['crates/out']\n[workspace.dependencies]\naxum = '1'",
        ),
        (
            "crates/server/Cargo.toml",
            "[dependencies]\naxum = { workspace = true }\n[[bin]]\nname = 'x'",
        ),
        ("crates/out/Cargo.toml", "[dependencies]\naxum = '1'\n[[bin]]\nname = 'x'"),
        ("crates/core/Cargo.toml", "[dependencies]\nserde = '1'"),
    ];
    assert_eq!(told(&files), ["api - - crates/server"]);
}

#[test]
fn every_type_that_is_named_ships() {
    let types = Config::built_in().types.0;
    // All but `remap`, for which no service asks.
    assert_eq!(types.len(), ORDER.len() + 1);
    let named =
        command::service_types().chain(compose::service_types()).chain(node::service_types());
    let named = named
        .chain(label::service_types())
        .chain(envfiles::service_types())
        .chain(emulators::service_types());
    for name in ORDER.into_iter().chain(named) {
        assert!(types.contains_key(&name.parse().unwrap()), "{name}");
        assert!(ORDER.contains(&name), "{name}");
    }
}

#[test]
fn a_process_has_the_port_of_the_service_that_it_starts() {
    let vite = &script("vite");
    let files = [
        (
            "Procfile.dev",
            "web: bin/server\nfront: cd ./front && npm run dev\nadmin: npm --prefix admin run dev\njobs: sidekiq\n",
        ),
        ("package.json", vite),
        ("front/package.json", vite),
        ("admin/package.json", vite),
    ];
    let needs = needs(folder(&files).path());
    let shown = needs.processes.iter().map(|process| {
        let packages = process.ports.iter().map(|at| needs.needs[*at].package.display());
        let packages: Vec<_> = packages.map(|package| format!("[{package}]")).collect();
        let packages = packages.concat();
        format!(
            "{:?} {} {}{packages}",
            process.folder,
            process.command,
            process.name.as_ref().unwrap()
        )
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            "\"\" bin/server web[]",
            "\"front\" npm run dev front[front]",
            "\"\" npm --prefix admin run dev admin[admin]",
            "\"\" sidekiq jobs",
        ]
    );
}
