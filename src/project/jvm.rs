//! The needs of projects for the Java virtual machine: what their web framework serves.

use super::{
    Place,
    folder::Folder,
    found::{Clue, Found},
    framework,
    text::{self, Env},
    tree::Tree,
    xml,
};
use crate::port::Port;

/// A web framework.
struct Framework {
    title: &'static str,
    about: framework::Framework,
    /// How the names of its packages begin that serve HTTP.
    web: &'static [&'static str],
    /// Parts of the names of packages that render pages.
    pages: &'static [&'static str],
    /// Parts of the names of the plugins that build applications.
    plugins: &'static [&'static str],
    /// Where its settings have the port.
    setting: &'static [&'static str],
    /// What starts it, with Maven and with Gradle.
    maven: &'static str,
    gradle: &'static str,
}

const FRAMEWORKS: [Framework; 4] = [
    Framework {
        title: "Spring Boot",
        about: framework::Framework { name: "spring", starts: &["bootRun", "spring-boot:run"] },
        web: &[
            "spring-boot-starter-data-rest",
            "spring-boot-starter-jersey",
            "spring-boot-starter-web",
            "spring-cloud-config-server",
            "spring-cloud-starter-gateway",
            "spring-cloud-starter-netflix-eureka-server",
            "vaadin-spring-boot-starter",
        ],
        pages: &["freemarker", "groovy-templates", "mustache", "thymeleaf", "vaadin"],
        plugins: &["spring-boot", "springBoot", "springframework.boot"],
        setting: &["server", "port"],
        maven: "spring-boot:run",
        gradle: "bootRun",
    },
    Framework {
        title: "Quarkus",
        about: framework::Framework {
            name: "quarkus",
            starts: &["quarkusDev", "quarkus:dev", "quarkus dev"],
        },
        web: &[
            "quarkus-reactive-routes",
            "quarkus-renarde",
            "quarkus-rest",
            "quarkus-smallrye-graphql",
            "quarkus-spring-web",
            "quarkus-undertow",
            "quarkus-vertx-http",
            "quarkus-web-bundler",
        ],
        pages: &["qute", "quinoa", "renarde", "web-bundler"],
        plugins: &["quarkus"],
        setting: &["quarkus", "http", "port"],
        maven: "quarkus:dev",
        gradle: "quarkusDev",
    },
    Framework {
        title: "Micronaut",
        about: framework::Framework { name: "micronaut", starts: &["mn:run", "gradlew run"] },
        web: &[
            "micronaut-http-server",
            "runtime jetty",
            "runtime netty",
            "runtime tomcat",
            "runtime undertow",
        ],
        pages: &["micronaut-views"],
        plugins: &["micronaut-application", "micronaut-maven", "micronaut.application"],
        setting: &["micronaut", "server", "port"],
        maven: "mn:run",
        gradle: "run",
    },
    Framework {
        title: "Ktor",
        about: framework::Framework { name: "ktor", starts: &["gradlew run"] },
        web: &["ktor-server-"],
        pages: &["freemarker", "html-builder", "mustache", "pebble", "thymeleaf", "velocity"],
        plugins: &["application", "ktor"],
        setting: &["ktor", "deployment", "port"],
        maven: "exec:java",
        gradle: "run",
    },
];

/// All of them take this port if told none.
const USUAL: u16 = 8080;

const GRADLE: [&str; 2] = ["build.gradle.kts", "build.gradle"];

/// The files with settings, without their endings: those of every profile, then those of a developer's.
const DEVELOPERS: [&str; 3] = ["application", "application-dev", "application-local"];
const STEMS: [&str; 4] = ["application", "application-dev", "application-local", "bootstrap"];
const PROFILES: [&str; 3] = ["dev", "development", "local"];

/// No real build file has more words, and no real settings have more sections.
const MOST_NAMES: usize = 20_000;
const MOST_SECTIONS: usize = 50;
/// The maximum number of defaults within defaults.
const DEEPEST: usize = 5;

/// Adds the server of the first framework whose packages the build file names.
pub(super) fn services(folder: &Folder<'_>, found: &mut Found) {
    let maven = folder.read("pom.xml").map(|content| ("pom.xml", content));
    let Some((file, content)) = maven.or_else(|| folder.first(&GRADLE)) else { return };
    let is_maven = file == "pom.xml";
    let names = if is_maven { in_pom(&content) } else { in_gradle(&content) };
    let serves = |name: &str, web: &str| {
        name.starts_with(web) && !["client", "mock", "test"].iter().any(|word| name.contains(word))
    };
    let used = FRAMEWORKS.iter().find_map(|framework| {
        let is_web = |name: &&String| framework.web.iter().any(|web| serves(name, web));
        Some((framework, names.iter().find(is_web)?))
    });
    let Some((framework, package)) = used else { return };
    if !is_program(folder, framework, &names, &content) {
        return;
    }
    let has_pages = names.iter().any(|name| framework.pages.iter().any(|part| name.contains(part)));
    let service_type = if has_pages { "dev" } else { "api" };
    let clues = |service_type| {
        let place = folder.at_line(file, &content, &[package]);
        let clue = Clue::new(service_type, place, framework.title);
        let clue = clue.by(command(folder, is_maven, framework));
        match setting(folder, framework) {
            // A port that is chosen or given from outside is none that the project names, nor the usual one.
            Some((_, None)) => vec![clue],
            Some((place, Some(port))) => {
                let what = format!("{} on port {port}", framework.title);
                vec![clue.usually(USUAL), Clue::new(service_type, place, what).on(port)]
            }
            None => vec![clue.usually(USUAL)],
        }
    };
    framework.about.add(service_type, clues, folder, found);
}

/// Whether this is an application: a library may name the same packages.
fn is_program(folder: &Folder<'_>, framework: &Framework, names: &[String], build: &str) -> bool {
    let code: String = build.split_whitespace().collect();
    let is_off = |after: &str| after.chars().take(24).collect::<String>().contains("enabled=false");
    if code.split("bootJar").skip(1).any(is_off) {
        return false;
    }
    let is_plugin = |name: &String| {
        name.starts_with("plugin ") && framework.plugins.iter().any(|part| name.contains(part))
    };
    let is_own = folder.place().as_os_str().is_empty() || names.iter().any(is_plugin);
    is_own && modules(folder).is_empty() || files(&STEMS).iter().any(|file| folder.has_file(file))
}

/// The names of the packages of a `pom.xml` and of its plugins, without those for tests.
fn in_pom(pom: &str) -> Vec<String> {
    let mut pom = xml::without(pom, "<!--", "-->");
    // What is managed is only used where it is named again, and a parent is built for its modules.
    for managed in ["dependencyManagement", "pluginManagement", "exclusions"] {
        pom = xml::without(&pom, &format!("<{managed}>"), &format!("</{managed}>"));
    }
    if xml::elements(&pom, "packaging").contains(&"pom") {
        return Vec::new();
    }
    let mut names = Vec::new();
    for dependency in xml::elements(&pom, "dependency") {
        if !xml::elements(dependency, "scope").contains(&"test") {
            names.extend(
                xml::elements(dependency, "artifactId").first().map(|name| (*name).to_owned()),
            );
        }
    }
    for plugin in xml::elements(&pom, "plugin") {
        names.extend(
            xml::elements(plugin, "artifactId").first().map(|name| format!("plugin {name}")),
        );
    }
    names.truncate(MOST_NAMES);
    names
}

/// The words of a Gradle file, in which the names of packages are; those for tests left out.
fn in_gradle(build: &str) -> Vec<String> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let lines = build.lines().map(str::trim).filter(|line| !is_comment(line));
    let names = lines.flat_map(|line| {
        let first = line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let is_test = first.to_ascii_lowercase().contains("test") || line.contains("apply false");
        let kind = match first {
            "alias" | "apply" | "id" | "plugins" => "plugin ",
            "runtime" => "runtime ",
            _ => "",
        };
        let words = line.split(move |c| !is_of_a_name(c));
        let words = words.filter(move |word| !is_test && !word.is_empty());
        words.map(move |word| {
            // An entry of a version catalogue is mostly named like the package.
            match (word.strip_prefix("libs."), word.strip_prefix("ktorLibs.")) {
                (Some(entry), _) => format!("{kind}{}", entry.replace(['.', '_'], "-")),
                (_, Some(entry)) => format!("{kind}ktor-{}", entry.replace('.', "-")),
                _ => format!("{kind}{word}"),
            }
        })
    });
    names.take(MOST_NAMES).collect()
}

fn is_comment(line: &str) -> bool {
    ["//", "/*", "*"].iter().any(|start| line.starts_with(start))
}

/// What starts the server, with the wrapper that is here or above.
fn command(folder: &Folder<'_>, is_maven: bool, framework: &Framework) -> String {
    let (wrapper, plain, task) = if is_maven {
        ("mvnw", "mvn", framework.maven)
    } else {
        ("gradlew", "gradle", framework.gradle)
    };
    let ways = ["./", "../", "../../"].map(|way| format!("{way}{wrapper}"));
    let program = ways.iter().find(|way| folder.has_file(way)).map_or(plain, String::as_str);
    format!("{program} {task}")
}

/// Where the settings name the port, and the port if it is a number.
fn setting(folder: &Folder<'_>, framework: &Framework) -> Option<(Place, Option<Port>)> {
    let env = Env::parse(&folder.read(".env").unwrap_or_default());
    files(&DEVELOPERS).iter().find_map(|file| {
        let content = folder.read(file)?;
        let yaml = |text: &str| folder.parse(file, text, Tree::yaml);
        let value = value(&content, file, framework.setting, yaml)?;
        Some((folder.at_line(file, &content, &["port"]), number(&value, &env)))
    })
}

/// The files that may have the settings, those with the first of these names first.
fn files(stems: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    for stem in stems {
        for place in ["src/main/resources", "src/main/resources/config"] {
            let endings = ["properties", "yml", "yaml", "conf"];
            files.extend(endings.map(|ending| format!("{place}/{stem}.{ending}")));
        }
    }
    files
}

/// The value of a setting: in the sections for every profile, else in those for a developer's.
fn value(content: &str, file: &str, path: &[&str], yaml: impl Fn(&str) -> Tree) -> Option<String> {
    let sections: Vec<Tree> = match file.rsplit('.').next() {
        Some("conf") => return deployment(content),
        Some("properties") => sections(content, "#---").iter().map(|s| properties(s)).collect(),
        // What Maven fills in between two @ would not be YAML.
        _ => sections(&content.replace('@', ""), "---").iter().map(|s| yaml(s)).collect(),
    };
    let profile = |section: &Tree| {
        let profile = field(section, &["spring", "config", "activate", "on-profile"]);
        profile.or_else(|| field(section, &["spring", "profiles"]))
    };
    // The profile of Quarkus for development is a part of the name.
    let own: Vec<&str> = ["%dev"].into_iter().chain(path.iter().copied()).collect();
    let value = |section: &Tree| field(section, &own).or_else(|| field(section, path));
    let always = sections.iter().filter(|section| profile(section).is_none());
    let dev = sections
        .iter()
        .filter(|section| profile(section).is_some_and(|p| PROFILES.contains(&p.as_str())));
    always.chain(dev).find_map(value)
}

/// The sections of a file between lines of this text, each after empty lines, so that its lines keep their numbers.
fn sections(content: &str, between: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    for (at, line) in content.lines().enumerate() {
        if line.trim_end() == between {
            if sections.len() == MOST_SECTIONS {
                break;
            }
            sections.push("\n".repeat(at + 1));
        } else if let Some(section) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// A file of lines `name=value` or `name: value`.
fn properties(content: &str) -> Tree {
    let lines = content.lines().map(str::trim).filter(|line| !line.starts_with(['#', '!']));
    let pairs = lines.filter_map(|line| line.split_once(['=', ':']));
    Tree::Map(
        pairs
            .map(|(name, value)| (name.trim().to_owned(), Tree::Text(value.trim().to_owned())))
            .collect(),
    )
}

/// The field with this path, of whose names several may be joined by dots.
fn field(tree: &Tree, path: &[&str]) -> Option<String> {
    (1..=path.len()).find_map(|count| {
        let (names, rest) = path.split_at(count);
        let value = tree.get(&names.join("."));
        if rest.is_empty() { value.text().map(str::to_owned) } else { field(value, rest) }
    })
}

/// The port in the `deployment` of Ktor's HOCON; a second value is one from outside.
fn deployment(content: &str) -> Option<String> {
    let lines = content.lines().filter(|line| !line.trim_start().starts_with(['#', '/']));
    let mut is_inside = false;
    for piece in lines.flat_map(|line| line.split_inclusive(['{', '}', ','])) {
        let words = piece.trim_end_matches(['{', '}', ',']).trim();
        let setting = words.strip_prefix("ktor.deployment.port");
        let setting = setting.or_else(|| words.strip_prefix("port").filter(|_| is_inside));
        if let Some(value) = setting.and_then(|rest| rest.trim_start().strip_prefix(['=', ':'])) {
            return Some(value.trim().to_owned());
        }
        let name = words.trim_end_matches(['=', ':', ' ']);
        is_inside |= name == "deployment" || name.ends_with(".deployment");
        is_inside &= !piece.ends_with('}');
    }
    None
}

/// The port that the value is, with the variables of the frameworks: `${PORT:8081}`, and Ktor's `$PORT:8081`.
fn number(value: &str, env: &Env) -> Option<Port> {
    let mut value = value.trim().trim_matches(['"', '\'']);
    for _ in 0..DEEPEST {
        let Some(rest) = value.strip_prefix('$') else { break };
        let rest = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(rest);
        let (name, default) = rest.split_once(':').unwrap_or((rest, ""));
        if let Some(port) = env.get(name).and_then(text::port) {
            return Some(port);
        }
        value = default;
    }
    text::port(value)
}

/// The modules of the build whose root this is.
pub(super) fn members<'a>(folder: &Folder<'a>) -> Vec<Folder<'a>> {
    let modules = modules(folder);
    let patterns: Vec<&str> = modules.iter().map(String::as_str).collect();
    let manifests = ["pom.xml", "build.gradle.kts", "build.gradle"];
    manifests.iter().flat_map(|manifest| folder.members(&patterns, manifest)).collect()
}

/// The folders of the modules, as the build files name them.
fn modules(folder: &Folder<'_>) -> Vec<String> {
    let pom = xml::without(&folder.read("pom.xml").unwrap_or_default(), "<!--", "-->");
    let modules = xml::elements(&pom, "modules");
    let maven = modules.iter().flat_map(|modules| xml::elements(modules, "module"));
    let gradle = folder.first(&["settings.gradle.kts", "settings.gradle"]);
    let gradle = gradle.map(|(_, settings)| included(&settings)).unwrap_or_default();
    maven.map(str::to_owned).chain(gradle).take(MOST_NAMES).collect()
}

/// The folders of the projects that Gradle's settings include: `include("a", ":b:c")`, also without brackets.
fn included(settings: &str) -> Vec<String> {
    let lines = settings.lines().filter(|line| !is_comment(line.trim()));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut folders = Vec::new();
    for mut rest in code.split("include").skip(1) {
        while let Some((path, after)) = quoted(rest) {
            folders.push(path.trim_start_matches(':').replace(':', "/"));
            rest = after;
        }
    }
    folders
}

/// The string in quotes that the text begins with, and the text after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ','));
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text.strip_prefix(quote)?.split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The port; 0 for a value that is none.
    fn port(content: &str, ending: &str, path: &[&str]) -> Option<u16> {
        let env = Env::parse("SHOP_PORT=9100");
        let yaml = |text: &str| Tree::yaml(text).unwrap_or_default();
        value(content, ending, path, yaml).map(|value| number(&value, &env).map_or(0, Port::get))
    }

    #[test]
    fn the_port_is_read_from_settings_in_all_their_shapes() {
        let spring = &["server", "port"][..];
        for (content, ending, expected) in [
            ("# server.port=1\nserver.port=8081\n", "properties", Some(8081)),
            ("server.port = ${PORT:8081}", "properties", Some(8081)),
            ("server.port: ${SHOP_PORT:8081}", "properties", Some(9100)),
            ("server.port=${A:${B:8082}}", "properties", Some(8082)),
            ("server.port=0", "properties", Some(0)),
            ("server.port=${PORT}", "properties", Some(0)),
            ("management.server.port=9000\nspring.application.name=x", "properties", None),
            (
                "a=b\n#---\nspring.config.activate.on-profile=prod\nserver.port=1\n#---\nspring.config.activate.on-profile=dev\nserver.port=2",
                "properties",
                Some(2),
            ),
            ("server:\n  port: 8083 # here\n  servlet: {}\n", "yml", Some(8083)),
            ("server.port: ${PORT:8083}\napp: {version: @project.version@}", "yaml", Some(8083)),
            ("spring:\n  profiles:\n    active: dev\nserver: {port: 8084}", "yml", Some(8084)),
            (
                "spring:\n  profiles: prod\nserver:\n  port: 80\n---\nserver:\n  port: 8085\n",
                "yml",
                Some(8085),
            ),
            ("server: [", "yml", None),
        ] {
            assert_eq!(port(content, ending, spring), expected, "{content}");
        }
        let quarkus = &["quarkus", "http", "port"][..];
        for (content, ending, expected) in [
            ("quarkus.http.port=8086\n%dev.quarkus.http.port=8087", "properties", 8087),
            ("quarkus.http.port=8086\n%prod.quarkus.http.port=80", "properties", 8086),
            ("\"%dev\":\n  quarkus:\n    http:\n      port: 8088", "yaml", 8088),
        ] {
            assert_eq!(port(content, ending, quarkus), Some(expected), "{content}");
        }
        let ktor = &["ktor", "deployment", "port"][..];
        for (content, ending, expected) in [
            ("ktor {\n  deployment {\n    port = 8089\n    port = ${?PORT}\n  }\n}", "conf", 8089),
            (
                "ktor { security { sslPort = 1 }, deployment { host = x, port: 8090 } }",
                "conf",
                8090,
            ),
            ("ktor.deployment.port = 8091", "conf", 8091),
            ("ktor:\n  deployment:\n    port: \"$PORT:8092\"", "yaml", 8092),
        ] {
            assert_eq!(port(content, ending, ktor), Some(expected), "{content}");
        }
    }

    #[test]
    fn packages_for_tests_and_managed_ones_are_not_used() {
        let pom = "<project><dependencyManagement><dependency><artifactId>a</artifactId></dependency></dependencyManagement>
            <!-- <dependency><artifactId>b</artifactId></dependency> -->
            <dependency><groupId>g</groupId><artifactId>c</artifactId></dependency>
            <dependency><artifactId>d</artifactId><scope>test</scope></dependency>
            <plugin><artifactId>e</artifactId></plugin></project>";
        assert_eq!(in_pom(pom), ["c", "plugin e"]);
        let gradle = "plugins {\n  id(\"x.boot\") version \"3\"\n  id 'y' apply false\n}\n// implementation 'b'\n
            testImplementation 'g:t'\nimplementation(libs.spring.boot.web)\nimplementation \"g:c:1\"";
        let names = in_gradle(gradle);
        for name in ["plugin x.boot", "spring-boot-web", "c"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        for name in ["y", "plugin y", "b", "t"] {
            assert!(!names.iter().any(|known| known == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn the_projects_that_gradle_includes_are_folders() {
        for (settings, expected) in [
            ("include(\"web\", \":core:api\")\nincludeBuild(\"x\")", &["web", "core/api"][..]),
            ("include 'web',\n    'api'\nrootProject.name = 'x'", &["web", "api"]),
            ("// include 'a'\ninclude ':b'", &["b"]),
            ("include(\"a", &[]),
        ] {
            assert_eq!(included(settings), expected, "{settings}");
        }
    }
}
