//! The emulators of Firebase, and what Supabase runs on the own machine.

use super::{
    folder::Folder,
    found::{Clue, Found},
    text,
    tree::Tree,
};

/// The emulators in `firebase.json`: their service types, the names of those that share a type, and the ports that
/// they take if told none.
const FIREBASE: [(&str, &str, Option<&str>, u16); 9] = [
    ("auth", "auth", None, 9099),
    ("functions", "functions", None, 5001),
    ("firestore", "database", Some("firestore"), 8080),
    ("database", "database", None, 9000),
    ("dataconnect", "database", Some("dataconnect"), 9399),
    ("hosting", "dev", None, 5000),
    ("pubsub", "messaging", None, 8085),
    ("storage", "infrastructure", None, 9199),
    ("hub", "hub", None, 4400),
];
const FIREBASE_UI: u16 = 4000;

const SUPABASE_FILE: &str = "supabase/config.toml";
/// The sections of Supabase's configuration, in the same form.
const SUPABASE: [(&str, &str, &str, u16); 5] = [
    ("api", "api", "supabase", 54321),
    ("db", "database", "supabase", 54322),
    ("studio", "ui", "supabase", 54323),
    ("inbucket", "infrastructure", "inbucket", 54324),
    ("analytics", "monitoring", "supabase", 54327),
];

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    let firebase = FIREBASE.iter().map(|(_, service_type, ..)| *service_type);
    firebase.chain(SUPABASE.iter().map(|(_, service_type, ..)| *service_type))
}

/// Adds the emulators that `firebase.json` has.
pub(super) fn firebase(folder: &Folder<'_>, found: &mut Found) {
    const FILE: &str = "firebase.json";
    let Some((content, settings)) = folder.parsed(FILE, Tree::jsonc) else { return };
    let emulators = settings.get("emulators");
    let clue = |emulator: &str, service_type: &'static str, usual: u16| {
        let place = folder.at_line(FILE, &content, &["\"emulators\"", &format!("\"{emulator}\"")]);
        let clue = Clue::new(service_type, place, format!("the emulator {emulator}"));
        let port = emulators.get(emulator).get("port").text().and_then(text::port);
        clue.on(port).usually(usual).by("firebase emulators:start".to_owned())
    };
    let mut is_any = false;
    for (emulator, service_type, name, usual) in FIREBASE {
        if !matches!(emulators.get(emulator), Tree::Map(_)) || is_off(emulators.get(emulator)) {
            continue;
        }
        is_any = true;
        // The files of a front end that has a dev server are hosted beside it.
        let name = name.or((service_type == "dev" && found.knows("dev")).then_some(emulator));
        found.add(clue(emulator, service_type, usual).named(name.map(str::to_owned)));
    }
    if is_any && !is_off(emulators.get("ui")) {
        found.add(clue("ui", "ui", FIREBASE_UI));
    }
}

/// Adds what `supabase start` starts.
pub(super) fn supabase(folder: &Folder<'_>, found: &mut Found) {
    let Some((content, settings)) = folder.parsed(SUPABASE_FILE, Tree::toml) else { return };
    for (section, service_type, name, usual) in SUPABASE {
        let part = settings.get(section);
        let is_on = part.get("enabled").text() == Some("true");
        // Analytics run only on request.
        if !matches!(part, Tree::Map(_)) || is_off(part) || section == "analytics" && !is_on {
            continue;
        }
        let port = part.get("port").text().and_then(text::port);
        let place = folder.at_line(SUPABASE_FILE, &content, &[&format!("[{section}]")]);
        let clue = Clue::new(service_type, place, format!("{section} of Supabase"));
        let clue = clue.named(name.to_owned()).on(port).usually(usual);
        found.add(clue.by("supabase start".to_owned()));
    }
}

fn is_off(part: &Tree) -> bool {
    part.get("enabled").text() == Some("false")
}
