//! The needs of Elixir projects: the endpoint of Phoenix.

use super::{
    folder::Folder,
    found::{Clue, Found},
    framework::Framework,
    text,
};
use crate::port::Port;

const PHOENIX: Framework = Framework { name: "phoenix", starts: &["mix phx.server"] };

/// The settings of the app, of the umbrella that it is in, and what both may set when they start.
const SETTINGS: [&str; 4] =
    ["config/dev.exs", "../../config/dev.exs", "config/runtime.exs", "../../config/runtime.exs"];

/// Adds the server of an app that depends on Phoenix.
pub(super) fn services(folder: &Folder<'_>, found: &mut Found) {
    let Some(content) = folder.read("mix.exs") else { return };
    let mix = code(&content);
    // A package that is published is a library for other apps.
    let is_library = mix.contains("package:") && !folder.has_file("config/dev.exs");
    if !mix.contains("{:phoenix,") || is_library {
        return;
    }
    let app = after(&mix, "app:").map(|rest| rest.trim_start_matches([' ', ':']));
    let app =
        app.and_then(|rest| rest.split(|c: char| !is_of_a_name(c)).next()).unwrap_or_default();
    let port = SETTINGS.iter().find_map(|file| {
        let content = folder.read(file)?;
        let port = port(&content, app)?;
        Some((folder.at_line(file, &content, &["http:", &port.to_string()]), port))
    });
    let clues = |service_type| {
        let place = folder.at_line("mix.exs", &content, &["{:phoenix,"]);
        let clue = Clue::new(service_type, place, "Phoenix").usually(4000_u16);
        let port = port.map(|(place, port)| {
            Clue::new(service_type, place, format!("Phoenix on port {port}")).on(port)
        });
        [clue.by("mix phx.server".to_owned())].into_iter().chain(port).collect()
    };
    PHOENIX.add("dev", clues, folder, found);
}

/// The apps of the umbrella whose root this is.
pub(super) fn members<'a>(folder: &Folder<'a>) -> Vec<Folder<'a>> {
    let mix = code(&folder.read("mix.exs").unwrap_or_default());
    let apps = after(&mix, "apps_path:").and_then(|rest| rest.split('"').nth(1));
    let pattern = apps.map(|apps| format!("{apps}/*"));
    pattern.map(|pattern| folder.members(&[&pattern], "mix.exs")).unwrap_or_default()
}

/// The text without its lines of comments.
fn code(content: &str) -> String {
    let lines = content.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

fn after<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    text.split_once(words).map(|(_, after)| after)
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The port of the app's endpoint: `config :app, App.Endpoint, http: [ip: {127, 0, 0, 1}, port: 4001]`.
fn port(settings: &str, app: &str) -> Option<Port> {
    let settings = code(settings);
    // What follows is not for development.
    let settings = settings.split("config_env() == :prod").next()?;
    let of_app = |statement: &&str| {
        let rest = statement.trim_start().strip_prefix(':').and_then(|rest| rest.strip_prefix(app));
        app.is_empty() || rest.is_some_and(|rest| !rest.starts_with(is_of_a_name))
    };
    settings.split("config ").skip(1).filter(of_app).find_map(|statement| {
        let value = expression(after(after(statement, "http:")?, "port:")?.trim_start());
        // `http: [port: port]`, of a variable that was set before.
        let is_variable = !value.is_empty() && value.chars().all(is_of_a_name);
        let set = format!("\n{value} =");
        let value = match after(settings, &set).filter(|_| is_variable) {
            Some(set) => statement_of(set),
            None => value,
        };
        // In `String.to_integer(System.get_env("PORT") || "4000")`, the default comes last.
        text::words(value).filter_map(text::port).last()
    })
}

/// The rest of a statement: to the end of a line after which no operator goes on.
fn statement_of(text: &str) -> &str {
    let ends = text.match_indices('\n').map(|(at, _)| at);
    let is_end = |at: &usize| {
        let (before, after) = text.split_at(*at);
        !before.trim().is_empty() && !after.trim_start().starts_with("||")
    };
    ends.into_iter().find(is_end).map_or(text, |end| &text[..end])
}

/// The expression that the text begins with, to the comma or the bracket after it.
fn expression(text: &str) -> &str {
    let mut open = 0_u32;
    let end = text.char_indices().find(|(_, c)| {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' if open == 0 => return true,
            ')' | ']' | '}' => open -= 1,
            ',' | '\n' => return open == 0,
            _ => {}
        }
        false
    });
    end.and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_that_of_the_apps_endpoint() {
        for (settings, expected) in [
            (
                "config :shop, ShopWeb.Endpoint,\n  http: [ip: {127, 0, 0, 1}, port: 4001],\n  x: 1",
                4001,
            ),
            (
                "import Config\nport = System.get_env(\"PORT\") || 4007\nx = 1\nconfig :shop, E,\n  http: [port: port]",
                4007,
            ),
            (
                "\nport =\n  System.get_env(\"PORT\")\n  || \"4008\"\nconfig :shop, E, http: [port: port, ip: ip]",
                4008,
            ),
            ("config :shop, E, http: [port: 4002, ip: {127, 0, 0, 1}]", 4002),
            (
                "config :shop, E, http: [port: String.to_integer(System.get_env(\"PORT\") || \"4003\")]",
                4003,
            ),
            ("config :shop, E, http: [port: System.get_env(\"PORT\", \"4004\") |> to_int()]", 4004),
            ("config :shop_web, E, http: [port: 1]\nconfig :shop, E, http: [port: 4005]", 4005),
            ("config :shop, Repo, port: 5432\nconfig :shop, E, http: [ip: {1, 2, 3, 4}]", 0),
            ("# config :shop, E, http: [port: 1]", 0),
            ("if config_env() == :prod do\n  config :shop, E, http: [port: 80]\nend", 0),
            ("config :shop, E, http: [port: port]", 0),
            ("config :shop, E, http: [port: ((", 0),
        ] {
            assert_eq!(port(settings, "shop"), Port::new(expected), "{settings}");
        }
    }
}
