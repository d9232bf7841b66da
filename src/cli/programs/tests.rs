use std::fs;

use super::*;
use crate::config::Text;

fn helped(line: &str, folder: &Path) -> Option<(String, Vec<(String, String)>)> {
    let command: Vec<_> = line.split(' ').map(OsString::from).collect();
    let programs = config::programs(&[]);
    let mut help = help(&command, &programs, folder, |variable| variable == "UVICORN_PORT")?;
    help.fill("3000");
    let words = help.apply(&command);
    let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
    Some((words.join(" "), help.variables))
}

/// The command line that is run in place of this one.
fn line(line: &str) -> String {
    helped(line, Path::new("/nonexistent")).map_or(line.to_owned(), |(line, _)| line)
}

#[test]
fn a_program_that_does_not_read_its_port_is_told_it() {
    for (before, after) in [
        ("vite", "vite --port 3000 --strictPort"),
        ("npx vite dev", "npx vite dev --port 3000 --strictPort"),
        ("npx --yes vite", "npx --yes vite --port 3000 --strictPort"),
        ("npx vite@6", "npx vite@6 --port 3000 --strictPort"),
        ("npx --yes @11ty/eleventy@3 --serve", "npx --yes @11ty/eleventy@3 --serve --port=3000"),
        ("./node_modules/.bin/vite", "./node_modules/.bin/vite --port 3000 --strictPort"),
        ("npm exec vite", "npm exec vite -- --port 3000 --strictPort"),
        ("npm exec -- vite", "npm exec -- vite --port 3000 --strictPort"),
        ("npm x vite -- --host", "npm x vite -- --host --port 3000 --strictPort"),
        ("yarn vite", "yarn vite --port 3000 --strictPort"),
        ("yarn run vite", "yarn run vite --port 3000 --strictPort"),
        ("pnpm astro dev", "pnpm astro dev --port 3000"),
        ("bun run vite", "bun run vite --port 3000 --strictPort"),
        ("pnpm exec astro dev", "pnpm exec astro dev --port 3000"),
        (
            "node node_modules/vite/bin/vite.js",
            "node node_modules/vite/bin/vite.js --port 3000 --strictPort",
        ),
        ("bunx --bun vite", "bunx --bun vite --port 3000 --strictPort"),
        ("webpack serve --mode development", "webpack serve --mode development --port 3000"),
        ("ng serve", "ng serve --port 3000"),
        ("vite -- x", "vite --port 3000 --strictPort -- x"),
        ("python3 manage.py runserver", "python3 manage.py runserver 3000"),
        ("./manage.py runserver --noreload", "./manage.py runserver --noreload 3000"),
        ("python3 -m http.server -d dist", "python3 -m http.server -d dist 3000"),
        ("uv run python -m http.server", "uv run python -m http.server 3000"),
        ("python3.12 -m mkdocs serve", "python3.12 -m mkdocs serve --dev-addr 127.0.0.1:3000"),
        ("poetry run fastapi dev main.py", "poetry run fastapi dev main.py --port 3000"),
        ("bundle exec jekyll serve", "bundle exec jekyll serve --port 3000"),
        ("php artisan serve", "php artisan serve --port=3000"),
        ("deno serve main.ts", "deno serve --port 3000 main.ts"),
        ("redis-server", "redis-server --port 3000"),
        (
            "env NODE_ENV=production vite preview",
            "env NODE_ENV=production vite preview --port 3000 --strictPort",
        ),
    ] {
        assert_eq!(line(before), after);
    }
    let flask = helped("flask --app shop run", Path::new("/")).unwrap();
    assert_eq!(flask.0, "flask --app shop run");
    assert_eq!(flask.1, [("FLASK_RUN_PORT".to_owned(), "3000".to_owned())]);
}

#[test]
fn what_the_user_says_of_the_port_and_what_is_not_known_is_left_alone() {
    for same in [
        "vite --port 4000",
        "vite --port=4000",
        "vite --port {port}",
        "vite build",
        "vite --help",
        "mkdocs build",
        "mkdocs serve -a localhost:8000",
        "storybook dev -p4000",
        "python3 manage.py runserver 8000",
        "python3 manage.py runserver 0:8000",
        "python3 manage.py migrate",
        "python -m http.server 8000",
        "flask --app shop run -p 5000",
        "env FLASK_RUN_PORT=5000 flask run",
        "uvicorn app:app",
        "npm run dev",
        "node server.js",
        "node",
        "npx",
        "yarn exec vite",
        "npm exec deno serve main.ts",
        "pnpm add vite",
        "sh -c vite",
    ] {
        assert_eq!(helped(same, Path::new("/nonexistent")), None, "{same}");
    }
}

#[test]
fn a_script_that_is_one_command_is_read_and_gets_what_it_needs_by_its_manager() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("apps/b")).unwrap();
    let of_b = r#"{"name": "@shop/b", "scripts": {"dev": "php artisan serve"}}"#;
    fs::write(folder.path().join("apps/b/package.json"), of_b).unwrap();
    let scripts = r#"{"workspaces": ["apps/*"], "scripts": {"dev": "vite", "start": "NODE_ENV=production vite preview",
        "both": "vite & node api.js", "own": "vite --port 4000", "api": "node api.js",
        "set": "FLASK_RUN_PORT=1 flask run", "deno": "deno serve main.ts"}}"#;
    fs::write(folder.path().join("package.json"), scripts).unwrap();
    let line = |line: &str| helped(line, folder.path()).map(|(line, _)| line);
    for (before, after) in [
        ("npm run dev", "npm run dev -- --port 3000 --strictPort"),
        ("npm start", "npm start -- --port 3000 --strictPort"),
        ("npm run dev -- --host", "npm run dev -- --host --port 3000 --strictPort"),
        ("pnpm dev", "pnpm dev --port 3000 --strictPort"),
        ("yarn run dev", "yarn run dev --port 3000 --strictPort"),
        ("bun run dev", "bun run dev --port 3000 --strictPort"),
        ("bun dev", "bun dev --port 3000 --strictPort"),
        ("bun --bun run dev", "bun --bun run dev --port 3000 --strictPort"),
        ("npm run --silent dev", "npm run --silent dev -- --port 3000 --strictPort"),
        ("npm run dev -s", "npm run dev -s -- --port 3000 --strictPort"),
        ("npm --if-present run dev", "npm --if-present run dev -- --port 3000 --strictPort"),
        ("npm run dev x", "npm run dev x -- --port 3000 --strictPort"),
        ("pnpm -s dev", "pnpm -s dev --port 3000 --strictPort"),
        ("yarn -s run dev", "yarn -s run dev --port 3000 --strictPort"),
        ("npm run dev -w apps/b", "npm run dev -w apps/b -- --port=3000"),
        ("npm -w @shop/b run dev", "npm -w @shop/b run dev -- --port=3000"),
        ("npm run dev --prefix=apps/b", "npm run dev --prefix=apps/b -- --port=3000"),
        ("npm -C apps/b run dev -- -q", "npm -C apps/b run dev -- -q --port=3000"),
        ("pnpm --filter @shop/b dev", "pnpm --filter @shop/b dev --port=3000"),
        ("yarn workspace @shop/b dev", "yarn workspace @shop/b dev --port=3000"),
        ("yarn workspace @shop/b run dev", "yarn workspace @shop/b run dev --port=3000"),
        ("yarn --cwd apps/b dev", "yarn --cwd apps/b dev --port=3000"),
    ] {
        assert_eq!(line(before).as_deref(), Some(after));
    }
    for same in [
        "npm run both",
        "npm run own",
        "npm run api",
        "npm run none",
        "npm run set",
        "npm run deno",
        "npm run dev -- --port 5000",
        "npm run dev -w apps/c",
        "npm run dev -w apps/b -w apps/c",
        "npm run dev --prefix=apps/c",
        "npm run dev --workspaces",
        "pnpm -r dev",
        "pnpm -w dev",
        "npm run dev -- -- x",
        "npm install",
    ] {
        assert_eq!(line(same), None, "{same}");
    }
}

#[test]
fn a_program_that_binds_without_reusing_gets_its_port_without_a_guard() {
    let text = r#"{"programs": {
        "Own": {"commands": ["own.py"], "arguments": ["{port}"], "hold": "none"},
        "Other": {"commands": ["other"], "hold": "none"}}}"#;
    let programs = config::programs(&[Text { path: "own.json".into(), text: text.to_owned() }]);
    let sentence = |line: &str| {
        let command: Vec<_> = line.split(' ').map(OsString::from).collect();
        let mut help = help(&command, &programs, Path::new("/nonexistent"), |_| false)?;
        help.fill("3000");
        assert!(help.has_no_guard);
        help.sentence()
    };
    assert_eq!(
        sentence("python3 own.py").as_deref(),
        Some(
            "Own does not read PORT and binds without SO_REUSEADDR, so 3000 is added and its port has no \
             guard (not with --plain)"
        )
    );
    // A command that names the port itself needs no more than that.
    let without =
        " binds without SO_REUSEADDR, so its port has no guard (not with --plain)".to_owned();
    assert_eq!(sentence("python3 own.py {port}"), Some(format!("Own{without}")));
    assert_eq!(sentence("./other -x"), Some(format!("Other{without}")));
    assert_eq!(sentence("third"), None);
}

#[test]
fn every_program_of_the_table_is_told_its_port_once_and_stands_in_the_documentation() {
    let page = fs::read_to_string("docs/programs.md").unwrap();
    for (name, program) in &config::programs(&[]) {
        assert!(page.contains(&format!("\n| {name} | ")), "{name}");
        let words = program.arguments.iter().chain(program.variables.values());
        let is_told = words.filter(|word| word.contains("{port}")).count();
        assert!(is_told == 1 || is_told == 0 && program.hold.is_some(), "{name}");
    }
}
