//! What a project says itself.

use std::fs;

use super::{super::needs, folder};

/// The problems of a `styxy.json`, in short: line and message.
fn problems(text: &str) -> Vec<String> {
    let folder = folder(&[("styxy.json", text), ("apps/web/x", "")]);
    let problems = needs(folder.path(), None).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_project_says_takes_the_place_of_what_is_found() {
    let text = r#"{
      // Comments, and a comma at the end.
      "$schema": "file:///usr/share/styxy/project.schema.json",
      "services": {
        "web": {"type": "dev", "folder": "./apps/web/", "command": "npm run dev", "needs": ["api"], "port": 5173},
        "api": {"type": "api", "env": "BACKEND_PORT", "count": 2, "protocol": "both"},
        "jobs": {"command": "sidekiq", "needs": ["api"]},
      },
    }"#;
    let files = [("styxy.json", text), ("apps/web/x", ""), ("mkdocs.yml", "")];
    let needs = needs(folder(&files).path(), None).unwrap();
    let [web, api] = needs.needs.as_slice() else { panic!("{needs:?}") };
    // It is called like its folder: what `styxy run dev` starts there.
    assert_eq!((&*web.service_type, &web.service_name), ("dev", &None));
    assert_eq!(web.package.to_str(), Some("apps/web"));
    assert_eq!((web.port.map(crate::port::Port::get), web.place.line), (Some(5173), Some(5)));
    assert_eq!((&api.service_name, api.count), (&None, 2), "it is called like its type");
    assert_eq!((api.variable.as_deref(), api.protocol.as_str()), (Some("BACKEND_PORT"), "both"));
    let [web, jobs] = needs.processes.as_slice() else { panic!("{needs:?}") };
    assert_eq!((web.command.as_str(), web.ports.as_slice()), ("npm run dev", [0].as_slice()));
    assert_eq!((jobs.name.as_deref(), jobs.ports.len()), (Some("jobs"), 0));
    assert_eq!(jobs.after, ["api"]);
}

#[test]
fn every_mistake_is_reported_with_its_place_and_a_remedy() {
    for (text, expected) in [
        ("", "styxy.json:1:1: the file is empty"),
        ("[]", "must be an object"),
        ("{}", "it has no services"),
        (
            "{\"services\": {},\n\"x\": 1}",
            "styxy.json:2:6: x: there is no such field; the known ones are remap, services",
        ),
        ("{\"remap\": {\"reach\": [0]}}", "remap.reach"),
        ("{\"remap\": {\"reach\": [1], \"map\": []}}", "remap.map: there is no such field"),
        ("{\"services\": {\"a b\": {\"type\": \"dev\"}}}", "use 1 to 100 letters"),
        (
            "{\"services\": {\"a\": {\"typ\": \"dev\", \"command\": \"x\"}}}",
            "services.a.typ: there is no such field",
        ),
        ("{\"services\": {\"a\": {}}}", "has neither a type nor a command"),
        (
            "{\"services\": {\"a\": {\"command\": \"x\", \"port\": 1}}}",
            "gets no port without a type",
        ),
        ("{\"services\": {\"a\": {\"command\": \" \"}}}", "is empty"),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"folder\": \"none\"}}}",
            "there is no such folder",
        ),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"folder\": \"../x\"}}}",
            "there is no such folder",
        ),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"folder\": \"/etc\"}}}",
            "there is no such folder",
        ),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"port\": 70000}}}",
            "must be a whole number from 1 to 65535",
        ),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"env\": \"1A\"}}}",
            "is no name of a variable for a port",
        ),
        ("{\"services\": {\"a\": {\"type\": \"dev\", \"env\": \"PATH\"}}}", "PORT among them"),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\"}, \"b\": {\"type\": \"dev\", \"env\": \"A_PORT\"}}}",
            "services.b: has the variable A_PORT, as a has",
        ),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"count\": 2}, \"b\": {\"type\": \"dev\", \"env\": \"A_PORT_1\"}}}",
            "has the variable A_PORT_1",
        ),
        ("{\"services\": {}}", "it has no services"),
        (
            "{\"services\": {\"a\": {\"type\": \"dev\", \"needs\": [\"b\"]}}}",
            "services.a.needs: there is no service b, only a",
        ),
        ("{\"services\": {\"a\": {\"type\": \"dev\", \"needs\": [\"a\"]}}}", "it needs itself"),
        (
            "{\"services\": {\"a\": {\"type\": \"x\", \"needs\": [\"b\"]}, \"b\": {\"type\": \"y\", \"needs\": [\"a\"]}}}",
            "services.b.needs: it needs itself",
        ),
        ("{\"services\": {\"a\": {\"type\": \"dev\"}, \"a\": {\"type\": \"dev\"}}}", "given twice"),
        (
            "{\"services\": {\"web\": {\"type\": \"dev\", \"folder\": \"apps/web\"}, \"dev\": {\"type\": \"dev\", \"protocol\": \"sctp\"}}}",
            "must be \"tcp\" or \"udp\" or \"both\"",
        ),
        ("{\"services\": {\"a\": {\"type\": \"dev\", \"count\": 0}}}", "from 1 to 1000"),
    ] {
        let problems = problems(text).join("\n");
        assert!(problems.contains(expected), "{text}: {problems:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_not_skipped() {
    let folder = folder(&[("styxy.json", ""), ("mkdocs.yml", "")]);
    let path = folder.path().join("styxy.json");
    fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(needs(folder.path(), None).unwrap_err()[0].message.contains("at most 1 MiB"));
    fs::remove_file(&path).unwrap();
    assert_eq!(needs(folder.path(), None).unwrap().needs.len(), 1);
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    assert_eq!(needs(folder.path(), None).unwrap_err().len(), 1);
}
