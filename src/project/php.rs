//! The needs of PHP projects: what their framework serves.

use super::{
    Place, address, command,
    folder::Folder,
    found::{Clue, Found},
    framework::Framework,
    text::{self, Env},
    tree::Tree,
};
use crate::port::Port;

const LUMEN: &str = "laravel/lumen-framework";
const LARAVEL: &str = "laravel/framework";
const SYMFONY: &str = "symfony/framework-bundle";
const SLIM: &str = "slim/slim";

/// The scripts of `composer.json` that start a server, in the order in which people think of them.
const SCRIPTS: [&str; 4] = ["dev", "develop", "start", "serve"];

/// Adds the server of the framework that the project requires.
pub(super) fn services(folder: &Folder<'_>, env: &Env, found: &mut Found) {
    let (content, composer) = folder.parsed("composer.json", Tree::json).unwrap_or_default();
    let required = composer.get("require");
    // A library may require the framework that it is for.
    let is_application = composer.get("type").text().is_none_or(|kind| kind == "project");
    let uses = |package: &&&str| is_application && required.has(package);
    let package = [LUMEN, LARAVEL, SYMFONY, SLIM].iter().find(uses).copied();
    let place = |package: &str| {
        folder.at_line("composer.json", &content, &["\"require\"", &format!("\"{package}\"")])
    };
    match package {
        Some(package @ (LUMEN | SLIM)) => {
            let (title, name) = if package == SLIM { ("Slim", "slim") } else { ("Lumen", "lumen") };
            let framework = Framework { name, starts: &["php -S", "composer start"] };
            let started = script(folder, &content, &composer, "php", env);
            let clues = |service_type| {
                let clue = Clue::new(service_type, place(package), title);
                [clue].into_iter().chain(started.map(|s| s.clue(service_type))).collect()
            };
            framework.add("api", clues, folder, found);
        }
        Some(SYMFONY) => {
            let framework =
                Framework { name: "symfony", starts: &["symfony serve", "symfony server:start"] };
            let clues = |service_type| {
                let clue = Clue::new(service_type, place(SYMFONY), "Symfony").usually(8000_u16);
                let clue = clue.by("symfony serve".to_owned());
                [clue].into_iter().chain(symfony(folder).map(|s| s.clue(service_type))).collect()
            };
            framework.add("dev", clues, folder, found);
        }
        _ if package.is_some() || folder.has_file("artisan") => {
            let framework = Framework { name: "laravel", starts: &["artisan serve"] };
            let started = script(folder, &content, &composer, "artisan", env);
            let settings = [started, laravel(folder)].into_iter().flatten();
            let clues = |service_type| {
                let at = if package.is_some() { place(LARAVEL) } else { folder.at("artisan") };
                let clue = Clue::new(service_type, at, "Laravel").usually(8000_u16);
                let clue = clue.by("php artisan serve".to_owned());
                [clue].into_iter().chain(settings.map(|s| s.clue(service_type))).collect()
            };
            framework.add("dev", clues, folder, found);
        }
        _ => {}
    }
}

/// What a file says of the framework's server.
struct Setting {
    place: Place,
    what: String,
    port: Option<Port>,
    command: Option<String>,
}

impl Setting {
    fn clue(self, service_type: &'static str) -> Clue {
        Clue::new(service_type, self.place, self.what).on(self.port).by(self.command)
    }
}

/// The port in the variables of Laravel.
fn laravel(folder: &Folder<'_>) -> Option<Setting> {
    let content = folder.read(".env")?;
    let env = Env::parse(&content);
    let number = |name| Some((name, text::port(&env.resolve(env.get(name)?))?));
    let url = || Some(("APP_URL", address::parse(&env.resolve(env.get("APP_URL")?))?.port?));
    let (name, port) = number("SERVER_PORT").or_else(|| number("APP_PORT")).or_else(url)?;
    let place = folder.at_line(".env", &content, &[&format!("{name}=")]);
    Some(Setting {
        place,
        what: format!("{name} with port {port}"),
        port: Some(port),
        command: None,
    })
}

/// The port in the settings of Symfony's command line tool.
fn symfony(folder: &Folder<'_>) -> Option<Setting> {
    const FILE: &str = ".symfony.local.yaml";
    let (content, settings) = folder.parsed(FILE, Tree::yaml)?;
    let port = text::port(settings.get("http").get("port").text()?)?;
    let place = folder.at_line(FILE, &content, &["http", "port"]);
    Some(Setting {
        place,
        what: format!("Symfony on port {port}"),
        port: Some(port),
        command: None,
    })
}

/// The port with which a script of `composer.json` starts this program.
fn script(
    folder: &Folder<'_>,
    content: &str,
    composer: &Tree,
    program: &str,
    env: &Env,
) -> Option<Setting> {
    SCRIPTS.iter().find_map(|script| {
        let value = composer.get("scripts").get(script);
        let mut lines = value.texts().chain(value.text());
        // Composer's own way to name a program: `@php artisan serve`.
        let server = lines.find_map(|line| {
            let servers = command::servers(line.trim_start_matches('@'), env);
            servers.into_iter().find(|server| server.tool == program)
        })?;
        let words = ["\"scripts\"", &format!("\"{script}\""), program];
        let place = folder.at_line("composer.json", content, &words);
        let what = format!("the script {script} runs {program}");
        let command = Some(format!("composer {script}"));
        Some(Setting { place, what, port: server.port, command })
    })
}
