//! Services of a project as people name them: `web`, `dev:web`, `dev@apps/api`.

mod support;

use std::{
    fs,
    process::{Output, Stdio},
};

use support::{Home, out, said};

impl Home {
    fn at(&self, folder: &str, arguments: &[&str]) -> Output {
        let output = self.styxy().current_dir(folder).args(arguments).output().unwrap();
        // The service that it has started ends with the test.
        self.run(&["status"]);
        output
    }

    /// What a command that is run there sees of a variable.
    fn told(&self, folder: &str, options: &[&str], variable: &str) -> String {
        let script = format!("echo ${variable}");
        out(&self.at(folder, &[&["run"], options, &["--", "sh", "-c", &script]].concat()))
    }
}

#[test]
fn a_service_of_another_package_is_named_by_the_folder_behind_it() {
    let home = Home::with_type();
    let [web, api] = ["apps/web", "apps/api"].map(|name| home.package(name));
    let of = |folder: &str, more: &[&str]| {
        out(&home.at(folder, &[&["allocate", "mine", "-q"], more].concat()))
    };
    let [own, other, named] = [of(&web, &[]), of(&api, &[]), of(&api, &["--name", "db"])];
    let absolute = format!("mine@{api}");
    for service in ["mine@apps/api", "mine@../api", &absolute] {
        assert_eq!(out(&home.at(&web, &["port", service])), other, "{service}");
        let with = format!("{service}=API_PORT");
        assert_eq!(home.told(&web, &["mine", "-q", "--with", &with], "API_PORT"), other, "{with}");
    }
    for service in ["db", "mine:db", "db@apps/api", "mine:db@apps/api"] {
        assert_eq!(out(&home.at(&web, &["port", service])), named, "{service}");
        let with = format!("{service}=DB");
        assert!(home.told(&web, &["--with-url", &with], "DB").ends_with(&format!(":{named}")));
    }
    assert_eq!(out(&home.at(&web, &["port", "mine@apps/api", "--name", "db"])), named);
    assert_eq!(out(&home.at("/", &["port", "mine@apps/web", "--project", &web])), own);
    for (arguments, why) in [
        (&["port", "db@apps/web"][..], "has a port now"),
        (&["port", "mine@apps/web", "--package", "apps/api"], "leave out --package"),
        (&["port", "mine:db", "--name", "db"], "leave out --name"),
        (&["port", "mine@"], "names no package"),
        (&["run", "mine", "--with", "mine@=API", "--", "true"], "names no package"),
        (&["run", "mine", "--with", "mine=A=B", "--", "true"], "one variable"),
    ] {
        let refused = home.at(&web, arguments);
        assert!(!refused.status.success() && said(&refused).contains(why), "{refused:?}");
    }
}

#[test]
fn a_word_means_what_the_own_package_has_and_a_name_before_a_type() {
    let home = Home::with_type();
    let [web, api] = ["apps/web", "apps/api"].map(|name| home.package(name));
    let of = |folder: &str, more: &[&str]| {
        out(&home.at(folder, &[&["allocate", "mine", "-q"], more].concat()))
    };
    // What another package has under that name is not meant where there is one of the type.
    let [unnamed, elsewhere] = [of(&web, &[]), of(&api, &["--name", "mine"])];
    let find = |folder: &str| out(&home.at(folder, &["port", "mine"]));
    assert_eq!([find(&web), find(&api)], [unnamed, elsewhere.clone()]);
    assert_eq!(find(&home.package("apps/docs")), elsewhere);
    let named = of(&web, &["--name", "mine"]);
    assert_eq!(find(&web), named);
    assert_eq!(out(&home.at(&web, &["port", "mine", "--name", "mine"])), named);
    assert_eq!(home.told(&web, &["--with", "mine=X"], "X"), named);
    for word in ["none", "no.type"] {
        let none = home.at(&web, &["port", word]);
        assert_eq!(none.status.code(), Some(1), "{none:?}");
        assert!(said(&none).contains(&format!("no {word} of")), "{none:?}");
    }
}

#[test]
fn a_command_is_not_told_its_own_port_as_that_of_another_service() {
    let home = Home::with_type();
    let [web, api] = ["apps/web", "apps/api"].map(|name| home.package(name));
    let of = |folder: &str, more: &[&str]| {
        out(&home.at(folder, &[&["allocate", "mine", "-q"], more].concat()))
    };
    of(&web, &[]);
    of(&web, &["--name", "ui"]);
    let before = home.leases();
    for options in [
        &["mine", "--with", "mine=X"][..],
        &["mine", "--with-url", "mine@apps/web=X"],
        &["mine", "--name", "ui", "--with", "ui=X"],
        &["mine", "--with", "ui=X", "--env", "UI=mine"],
    ] {
        let refused = home.at(&web, &[&["run"], options, &["--", "true"]].concat());
        assert_eq!(refused.status.code(), Some(2), "{options:?}: {refused:?}");
        let words = said(&refused);
        assert!(words.contains("the service of this command itself"), "{words}");
        assert!(words.contains("dev@apps/api=X"), "{words}");
        assert_eq!(home.leases(), before, "nothing is leased");
    }
    // The same of another name or another package is another one.
    assert_ne!(home.told(&web, &["mine", "--with", "ui=X"], "X"), "");
    let other = of(&api, &[]);
    assert_eq!(home.told(&web, &["mine", "--with", "mine@apps/api=X"], "X"), other);
}

#[test]
fn a_command_is_told_the_port_of_another_program_of_its_package_and_not_its_own() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::with_type();
    let web = home.package("web");
    let scripts = r#"{"scripts": {"dev": "node a.js", "book": "node b.js"}}"#;
    fs::write(home.path("web/package.json"), scripts).unwrap();
    fs::write(home.path("npm"), "#!/bin/sh\necho $OTHER\ntest $2 = book || read _\n").unwrap();
    fs::set_permissions(home.path("npm"), fs::Permissions::from_mode(0o755)).unwrap();
    let npm = home.path("npm").display().to_string();
    let mut dev = home.styxy();
    dev.current_dir(&web).args(["run", "mine", "-q", "--", &npm, "run", "dev"]);
    let mut dev = dev.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    home.until(|| home.leases().len() == 1);
    let port = home.leases()[0]["port"].to_string();
    let run = |script: &str| {
        home.at(&web, &["run", "mine", "-q", "--with", "dev=OTHER", "--", &npm, "run", script])
    };
    assert_eq!(out(&run("book")), port);
    let refused = run("dev");
    assert!(said(&refused).contains("the service of this command itself"), "{refused:?}");
    drop(dev.stdin.take());
    dev.wait().unwrap();
}

#[test]
fn without_a_type_a_command_is_only_told_the_ports_of_others() {
    let home = Home::with_type();
    let port = home.ok(&["allocate", "mine", "--name", "web", "-q"]);
    let folder = home.path("").display().to_string();
    let script = ["--", "sh", "-c", "echo $WEB_PORT $PORT {port} {port:WEB_PORT}"];
    let told = home.at(&folder, &[&["run", "--with", "web=WEB_PORT"][..], &script].concat());
    assert_eq!(out(&told), format!("{port} {{port}} {port}"));
    assert_eq!(home.leases().len(), 1);
    for option in [&["--name", "api"][..], &["--hold", "none"], &["--count", "2"], &["--create"]] {
        let arguments = [&["run", "--with", "web=WEB_PORT"], option, &["--", "true"]].concat();
        let refused = home.at(&folder, &arguments);
        assert_eq!(refused.status.code(), Some(2), "{option:?}: {refused:?}");
    }
}

#[test]
#[cfg(feature = "mcp")]
fn an_agent_names_a_package_of_its_project() {
    use serde_json::json;

    let home = Home::with_type();
    let [web, api] = ["apps/web", "apps/api"].map(|name| home.package(name));
    let mut command = home.styxy();
    command.current_dir(&web);
    let mut session = support::mcp::Session::with(command);
    let mine = json!({"service_type": "mine"});
    let mine_of = |package: &str| json!({"service_type": "mine", "package": package});
    let own = session.ok("allocate", &mine);
    assert!(own["package_path"].as_str().unwrap().ends_with("/apps/web"), "{own}");
    let of_api = session.ok("allocate", &mine_of("apps/api"));
    assert!(of_api["package_path"].as_str().unwrap().ends_with("/apps/api"), "{of_api}");
    let of_top = session.ok("allocate", &mine_of("."));
    assert_eq!(of_top["package_path"], json!(null));
    assert_eq!(of_top["project_path"], own["project_path"]);
    assert_eq!(session.ok("port", &mine)["lease_id"], own["lease_id"]);
    let project = home.path("").display().to_string();
    for (package, lease) in
        [("apps/api", &of_api), (&api, &of_api), ("apps/web", &own), (".", &of_top)]
    {
        let found = session.ok("port", &mine_of(package));
        assert_eq!(found["lease_id"], lease["lease_id"], "{package}");
        let named = json!({"project_path": project, "package": package});
        for arguments in [json!({"package": package}), named] {
            let listed = session.ok("list", &arguments);
            let listed = listed["leases"].as_array().unwrap();
            assert_eq!(listed.len(), 1, "{arguments}");
            assert_eq!(listed[0]["lease_id"], lease["lease_id"], "{arguments}");
        }
    }
    assert_eq!(session.ok("list", &json!({"mine": true}))["leases"].as_array().unwrap().len(), 3);
    // What a package had is suggested to it, and to no other.
    session.ok("release", &json!({"lease_id": of_api["lease_id"]}));
    let mut first = |package| session.ok("suggest", &mine_of(package))["suggestions"][0].clone();
    let suggested = first("apps/api");
    assert_eq!((&suggested["port"], &suggested["reason"]), (&of_api["port"], &json!("remembered")));
    assert_ne!(first("apps/web")["port"], of_api["port"]);
    for tool in ["allocate", "port", "suggest"] {
        let elsewhere =
            json!({"service_type": "mine", "project_path": "/srv/other", "package": web});
        for arguments in [mine_of("apps/nope"), mine_of("/"), elsewhere] {
            let words = session.refused(tool, &arguments);
            assert!(
                words.contains("is not a folder of the project"),
                "{tool} {arguments}: {words}"
            );
        }
    }
}

#[test]
#[cfg(feature = "mcp")]
fn an_agent_is_told_how_to_get_the_same_port_again_and_that_release_takes_any_lease() {
    use serde_json::json;

    let home = Home::with_type();
    let mut session = support::mcp::Session::new(&home);
    let descriptions =
        ["allocate", "release"].map(|tool| session.tools[tool]["description"].to_string());
    for text in [&session.hello["instructions"].to_string(), &descriptions[0]] {
        assert!(text.contains("claim: true"), "{text}");
    }
    let claim = json!({"service_type": "mine", "service_name": "web", "claim": true});
    let lease = session.ok("allocate", &claim);
    assert_eq!(session.ok("allocate", &claim)["lease_id"], lease["lease_id"]);
    let without = session.ok("allocate", &json!({"service_type": "mine", "service_name": "web"}));
    assert_ne!(without["lease_id"], lease["lease_id"]);
    assert!(descriptions[1].contains("whoever leased it"), "{}", descriptions[1]);
    let port = home.ok(&["allocate", "mine", "--project", "/srv/other"]);
    session.ok("release", &json!({"port": port.parse::<u16>().unwrap()}));
}
