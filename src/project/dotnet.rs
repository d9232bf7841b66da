//! The needs of .NET projects: a web project's server, and the dashboard of Aspire.

use std::collections::HashSet;

use super::{
    Place, address,
    folder::Folder,
    found::{Clue, Found},
    framework::Framework,
    tree::Tree,
    xml,
};
use crate::port::Port;

/// The kinds of project that serve HTTP.
const WEB: &str = "Microsoft.NET.Sdk.Web";
const WASM: &str = "Microsoft.NET.Sdk.BlazorWebAssembly";

/// Folders that only a project with pages of its own has.
const PAGES: [&str; 3] = ["Components", "Pages", "Views"];

const SETTINGS: &str = "Properties/launchSettings.json";
const ASP_NET: Framework = Framework { name: "dotnet", starts: &["dotnet run", "dotnet watch"] };

/// No real folder has more project files, and no real solution more projects.
const MOST_HERE: usize = 10;
const MOST: usize = 200;

/// Adds what the project file of the folder shows.
pub(super) fn services(folder: &Folder<'_>, found: &mut Found) {
    for file in named(folder, &[".csproj", ".fsproj"]) {
        let project = xml::without(&folder.read(&file).unwrap_or_default(), "<!--", "-->");
        if is_aspire(&project) {
            let clue = Clue::new("monitoring", folder.at(&file), "the dashboard of Aspire");
            found.add(clue.named("aspire".to_owned()).by("dotnet run".to_owned()));
            if let Some((place, port)) = launched(folder) {
                let clue = Clue::new("monitoring", place, format!("the dashboard on port {port}"));
                found.add(clue.named("aspire".to_owned()).on(port));
            }
            return;
        }
        if let Some(service_type) = service_type(folder, &project) {
            let clues = |service_type| {
                let clue = Clue::new(service_type, folder.at(&file), "ASP.NET Core");
                let clue = clue.usually(5000_u16).by("dotnet run".to_owned());
                let port = launched(folder).map(|(place, port)| {
                    Clue::new(service_type, place, format!("ASP.NET Core on port {port}")).on(port)
                });
                [clue].into_iter().chain(port).collect()
            };
            return ASP_NET.add(service_type, clues, folder, found);
        }
    }
}

fn is_aspire(project: &str) -> bool {
    let is_host = xml::elements(project, "IsAspireHost");
    uses(project, "Aspire.AppHost.Sdk") || is_host.iter().any(|is| is.eq_ignore_ascii_case("true"))
}

/// The type of a project that serves something.
fn service_type(folder: &Folder<'_>, project: &str) -> Option<&'static str> {
    if project.contains("Microsoft.NET.Test.Sdk") {
        return None;
    }
    if uses(project, WASM) {
        // Without settings it has no server of its own: another project hosts it.
        return folder.has_file(SETTINGS).then_some("dev");
    }
    let has_pages =
        folder.has_file("wwwroot/index.html") || PAGES.iter().any(|name| folder.has_folder(name));
    uses(project, WEB).then_some(if has_pages { "dev" } else { "api" })
}

/// Whether the project names this SDK, with or without a version.
fn uses(project: &str, sdk: &str) -> bool {
    project.contains(&format!("\"{sdk}\"")) || project.contains(&format!("\"{sdk}/"))
}

/// The port that `dotnet run` takes: that of the first profile with one.
fn launched(folder: &Folder<'_>) -> Option<(Place, Port)> {
    let (content, settings) = folder.parsed(SETTINGS, Tree::jsonc)?;
    let profiles = settings.get("profiles").entries().iter();
    let mut own =
        profiles.filter(|(_, profile)| profile.get("commandName").text() == Some("Project"));
    let profile = own.find_map(|(name, profile)| {
        let port = port(profile.get("applicationUrl").text()?)?;
        let words = ["\"profiles\"", &format!("\"{name}\""), "\"applicationUrl\""];
        Some((folder.at_line(SETTINGS, &content, &words), port))
    });
    profile.or_else(|| {
        let iis = settings.get("iisSettings").get("iisExpress").get("applicationUrl");
        let words = ["\"iisExpress\"", "\"applicationUrl\""];
        Some((folder.at_line(SETTINGS, &content, &words), port(iis.text()?)?))
    })
}

/// The port of the first URL with `http`, else with `https`.
fn port(urls: &str) -> Option<Port> {
    let of = |scheme| {
        let mut urls = urls.split(';').filter_map(address::parse);
        urls.find(|url| url.scheme == scheme && url.port.is_some())?.port
    };
    of("http").or_else(|| of("https"))
}

/// The folders of the projects that the solutions of this folder list.
pub(super) fn members<'a>(folder: &Folder<'a>) -> Vec<Folder<'a>> {
    let mut known = HashSet::new();
    let mut members = Vec::new();
    for solution in named(folder, &[".slnx", ".sln"]) {
        let content = folder.read(&solution).unwrap_or_default();
        for path in projects(&content) {
            let (place, file) = path.rsplit_once('/').unwrap_or(("", &path));
            if known.len() < MOST && known.insert(place.to_owned()) {
                members.extend(folder.members(&[place], file));
            }
        }
    }
    members
}

/// The paths of the projects in a solution, in both formats: quoted, mostly with backslashes.
fn projects(solution: &str) -> impl Iterator<Item = String> {
    let paths = solution.split('"').filter(|word| is_named(word, &[".csproj", ".fsproj"]));
    paths.map(|path| path.replace('\\', "/"))
}

/// The files of the folder with one of these endings.
fn named(folder: &Folder<'_>, endings: &[&str]) -> Vec<String> {
    let names = folder.names().into_iter().filter(|name| is_named(name, endings));
    names.take(MOST_HERE).collect()
}

fn is_named(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_comes_first() {
        for (urls, expected) in [
            ("http://localhost:5000", 5000),
            ("https://localhost:7001;http://localhost:5001", 5001),
            ("https://localhost:7001", 7001),
            ("http://localhost;https://+:7001", 7001),
            ("http://*:5002", 5002),
            ("", 0),
        ] {
            assert_eq!(port(urls), Port::new(expected), "{urls}");
        }
    }

    #[test]
    fn both_formats_of_solutions_list_projects() {
        let old = r#"Project("{9A19103F}") = "Shop.Api", "src\Shop.Api\Shop.Api.csproj", "{0B1A}"
Project("{2150E333}") = "docs", "docs", "{0B1B}""#;
        let new = r#"<Solution><Folder Name="/src/"><Project Path="src/Shop.Api/Shop.Api.csproj" /></Folder></Solution>"#;
        for solution in [old, new] {
            let paths: Vec<_> = projects(solution).collect();
            assert_eq!(paths, ["src/Shop.Api/Shop.Api.csproj"], "{solution}");
        }
    }
}
