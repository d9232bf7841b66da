use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, style::Color};
use serde_json::{Value as Json, json};

use super::{
    help,
    keys::Key,
    model::{Action, Model},
    source::Job,
};
use crate::{
    cli::{CliError, refused},
    client::Failure,
    time::Timestamp,
};

fn lease(port: u16, name: &str, state: &str) -> Json {
    json!({
        "lease_id": format!("{port:08}-3f55-4f0c-9a43-0c6a1f6e7d21"),
        "port": port,
        "protocol": "tcp",
        "state": state,
        "service_type": "dev",
        "service_name": name,
        "project_path": "/srv/shop",
        "owner": "process",
        "pid": 4711,
        "comm": "node",
        // The higher the port, the older.
        "since": Timestamp(Timestamp::now().0 - u64::from(port) * 1_000).to_string(),
    })
}

fn leases() -> Vec<Json> {
    vec![
        lease(3000, "web", "listening"),
        lease(3001, "api", "reserved"),
        lease(3002, "old-web", "orphaned"),
    ]
}

fn page(width: u16, height: u16, leases: &[Json]) -> Model {
    let mut model = Model::new(leases, true);
    model.resize(width, height);
    model
}

/// The screen, and where the cursor is, if it is shown.
fn drawn(model: &Model) -> (Buffer, Option<(u16, u16)>) {
    let size = [model.width, model.height].map(|n| u16::try_from(n).unwrap());
    let mut terminal = Terminal::new(TestBackend::new(size[0], size[1])).unwrap();
    terminal.draw(|frame| model.draw(frame)).unwrap();
    let backend = terminal.backend();
    let cursor = backend.cursor_visible().then(|| backend.cursor_position().into());
    (backend.buffer().clone(), cursor)
}

/// What is on the screen, without what is empty at the ends of lines.
fn shown(model: &Model) -> Vec<String> {
    let buffer = drawn(model).0;
    let area = buffer.area;
    let line = |y| {
        let mut line = String::new();
        let mut x = 0;
        while x < area.width {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            x += u16::try_from(unicode_width::UnicodeWidthStr::width(symbol)).unwrap().max(1);
        }
        line.trim_end().to_owned()
    };
    (0..area.height).map(line).collect()
}

fn typed(model: &mut Model, text: &str) -> Vec<Action> {
    text.chars().map(|c| model.key(Key::Char(c))).collect()
}

/// The ports of the rows, and the selected one.
fn ports(model: &Model) -> (Vec<u64>, Option<u64>) {
    let port = |lease: &Json| lease["port"].as_u64().unwrap();
    let rows = (0..model.rows.len()).map(|row| port(&model.row(row).unwrap().lease));
    (rows.collect(), model.selected().map(port))
}

#[test]
fn the_table_is_that_of_list_with_a_line_above_and_one_below() {
    let model = page(100, 8, &leases());
    assert_eq!(
        shown(&model),
        [
            "3 leases, by PORT",
            "PORT      STATE      TYPE  NAME     PROJECT    OWNER          AGE  LEASE",
            "3000/tcp  listening  dev   web      /srv/shop  node[4711]  50 min  00003000",
            "3001/tcp  reserved   dev   api      /srv/shop  node[4711]  50 min  00003001",
            "3002/tcp  orphaned   dev   old-web  /srv/shop  node[4711]  50 min  00003002",
            "",
            "",
            "? help   q quit   / filter   s sort   d details   r release",
        ]
    );
    let (buffer, cursor) = drawn(&model);
    let colours = [2, 3, 4].map(|y| buffer[(10, y)].fg);
    assert_eq!(colours, [Color::Green, Color::Reset, Color::Yellow]);
    assert_eq!(cursor, None);
}

#[test]
fn without_colours_the_selected_lease_is_still_seen() {
    let mut model = Model::new(&leases(), false);
    model.resize(100, 8);
    let (buffer, _) = drawn(&model);
    assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let reversed = |y| buffer[(0, y)].modifier.contains(ratatui::style::Modifier::REVERSED);
    assert_eq!([1, 2, 3].map(reversed), [false, true, false]);
}

#[test]
fn the_selected_lease_stays_selected_while_others_come_and_go() {
    let mut model = page(80, 10, &leases());
    model.key(Key::Down);
    assert_eq!(ports(&model), (vec![3000, 3001, 3002], Some(3001)));
    let new = [2998, 2999].map(|port| lease(port, "new", "reserved"));
    model.update(&[new.as_slice(), &[lease(3001, "api", "reserved")]].concat());
    assert_eq!(ports(&model), (vec![2998, 2999, 3001], Some(3001)));
    // When it ends, the one in its place is selected, or the last one.
    model.update(&new);
    assert_eq!(ports(&model).1, Some(2999));
    model.update(&[]);
    assert_eq!((ports(&model), shown(&model)[2].as_str()), ((vec![], None), "no port is leased"));
    for key in [Key::Up, Key::End, Key::Enter, Key::Char('r'), Key::Char('y')] {
        assert_eq!(model.key(key), Action::Draw, "{key:?}");
    }
    model.update(&leases());
    assert_eq!(ports(&model).1, Some(3000));
}

#[test]
fn keys_move_the_selection_and_the_table_follows() {
    let many: Vec<_> = (3000..3050).map(|port| lease(port, "web", "reserved")).collect();
    // Of ten lines, seven are rows.
    let mut model = page(80, 10, &many);
    for (key, port, first) in [
        (Key::Char('j'), 3001, 3000),
        (Key::PageDown, 3008, 3002),
        (Key::Char('k'), 3007, 3002),
        (Key::End, 3049, 3043),
        (Key::Down, 3049, 3043),
        (Key::PageUp, 3042, 3042),
        (Key::Home, 3000, 3000),
        (Key::Up, 3000, 3000),
        (Key::Char('G'), 3049, 3043),
        (Key::Char('g'), 3000, 3000),
    ] {
        model.key(key);
        assert_eq!(ports(&model).1, Some(port), "{key:?}");
        assert!(shown(&model)[2].starts_with(&first.to_string()), "{key:?}");
    }
}

#[test]
fn a_filter_holds_as_it_is_typed_and_escape_clears_it() {
    let mut all = leases();
    all[1]["instance_id"] = "agent-7".into();
    all[2]["project_path"] = "/srv/Bazaar".into();
    let mut model = page(80, 10, &all);
    for (filter, found) in [
        ("WEB", vec![3000, 3002]),
        ("web bazaar", vec![3002]),
        ("agent-7", vec![3001]),
        ("3001/", vec![3001]),
        ("node dev", vec![3000, 3001, 3002]),
        ("/srv/b", vec![3002]),
        ("min", vec![]),
    ] {
        model.key(Key::Char('/'));
        typed(&mut model, filter);
        assert_eq!(ports(&model).0, found, "{filter}");
        let lines = shown(&model);
        assert_eq!(lines.last(), Some(&format!("/{filter}")));
        assert_eq!(drawn(&model).1, Some((u16::try_from(filter.len()).unwrap() + 1, 9)));
        model.key(Key::Enter);
        let said = match found.len() {
            1 => "1 of 3 leases matches",
            2 => "2 of 3 leases match",
            3 => "3 leases match",
            _ => "0 of 3 leases match",
        };
        assert_eq!(shown(&model)[0], format!("{said} {filter}, by PORT"));
        model.key(Key::Escape);
        assert_eq!(ports(&model).0.len(), 3);
    }
    // q is text here, and so is what would release.
    model.key(Key::Char('/'));
    assert_eq!(typed(&mut model, "qry"), [Action::Draw, Action::Draw, Action::Draw]);
    assert_eq!(shown(&model)[2], "no lease matches");
    (0..3).for_each(|_| drop(model.key(Key::Backspace)));
    assert_eq!(ports(&model).0.len(), 3);
    assert_eq!(model.key(Key::Control('c')), Action::Quit);
}

#[test]
fn what_matches_is_said_of_a_single_lease_too() {
    let mut model = page(80, 10, &leases()[..1]);
    for (filter, said) in [("web", "1 lease matches web"), ("x", "0 of 1 lease matches x")] {
        model.key(Key::Char('/'));
        typed(&mut model, filter);
        assert_eq!(shown(&model)[0], format!("{said}, by PORT"));
        model.key(Key::Escape);
    }
}

#[test]
fn ctrl_w_deletes_a_word_of_the_filter_and_ctrl_u_all_of_it() {
    let mut model = page(80, 10, &leases());
    model.key(Key::Char('/'));
    typed(&mut model, "web 店\u{3000}shop ");
    for left in ["web 店\u{3000}", "web ", "", ""] {
        model.key(Key::Control('w'));
        assert_eq!(model.filter, left);
    }
    typed(&mut model, "web shop");
    model.key(Key::Control('u'));
    assert_eq!(model.filter, "");
    assert_eq!(ports(&model).0.len(), 3);
}

#[test]
fn the_help_has_each_key_in_a_line_of_80_columns_and_so_has_that_of_the_command() {
    let mut model = page(80, 24, &leases());
    model.key(Key::Char('?'));
    let lines = shown(&model);
    let keys = help::keys();
    for line in keys.lines().skip(1) {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(lines.iter().any(|shown| shown == line.trim()), "{line}: {lines:#?}");
    }
    assert!(keys.contains("q Ctrl-C      quit"), "{keys}");
}

#[test]
fn s_sorts_by_the_next_column_and_its_capital_reverses() {
    let mut all = leases();
    all[1]["project_path"] = "/a".into();
    all[2]["service_type"] = "api".into();
    all[1]["comm"] = "go".into();
    let mut model = page(80, 10, &all);
    for (by, order) in [
        ("STATE", [3000, 3002, 3001]),
        ("TYPE", [3002, 3000, 3001]),
        ("NAME", [3001, 3002, 3000]),
        ("PROJECT", [3001, 3000, 3002]),
        ("OWNER", [3001, 3000, 3002]),
        ("AGE", [3000, 3001, 3002]),
        ("PORT", [3000, 3001, 3002]),
    ] {
        model.key(Key::Char('s'));
        assert_eq!(shown(&model)[0], format!("3 leases, by {by}"));
        assert_eq!(ports(&model), (order.to_vec(), Some(3000)), "{by}");
    }
    model.key(Key::Char('S'));
    assert_eq!(shown(&model)[0], "3 leases, by PORT, reversed");
    assert_eq!(ports(&model), (vec![3002, 3001, 3000], Some(3000)));
}

#[test]
fn only_a_yes_releases_and_only_the_lease_that_was_asked_about() {
    let mut all = leases();
    let mut model = page(80, 10, &all);
    for no in [Key::Char('n'), Key::Enter, Key::Escape, Key::Char('q'), Key::Char('r')] {
        assert_eq!(model.key(Key::Char('r')), Action::Draw);
        let (buffer, lines) = (drawn(&model), shown(&model));
        let question = "Release port 3000/tcp of dev web, /srv/shop, node[4711]? [y/N]";
        assert_eq!((lines[9].as_str(), buffer.1), (question, Some((63, 9))));
        assert_eq!(model.key(no), Action::Draw);
        assert_eq!(shown(&model)[9], "not released");
    }
    assert_eq!(model.key(Key::Char('y')), Action::Draw, "nothing is asked");

    model.key(Key::Char('r'));
    model.update(&[lease(2999, "a", "reserved"), lease(3001, "api", "reserved")]);
    assert_eq!(model.key(Key::Char('y')), Action::Do(Job::Release(all.remove(0))));
    assert_eq!(model.releasing().collect::<Vec<_>>(), ["3000/tcp"]);
    model.released(Ok("released port 3000 of dev web".to_owned()));
    assert_eq!(model.releasing().count(), 0);
    assert_eq!(shown(&model)[9], "released port 3000 of dev web");
    model.key(Key::Down);
    assert!(shown(&model)[9].starts_with("? help"));
}

#[test]
fn what_the_service_refuses_is_said_in_full() {
    let mut model = page(40, 12, &leases());
    model.key(Key::Char('r'));
    model.key(Key::Char('y'));
    let why = "systemd listens on port 3000 for web.socket, so it cannot be released; stop it";
    let refusal: CliError = refused(why.to_owned());
    model.released(Err(refusal));
    let said = shown(&model)[9..].join(" ");
    assert_eq!(said, format!("not released: {why}"));
    model.key(Key::Char('r'));
    model.key(Key::Char('y'));
    model.released(Err(CliError::Failure(Failure::BrokenOff("no answer".to_owned()))));
    let said = shown(&model)[9..].join(" ");
    assert_eq!(said.trim(), "it is not known whether it was released: no answer");
}

#[test]
fn details_have_every_field_and_who_uses_the_port() {
    let mut all = leases();
    all[0]["holders"] = 2.into();
    let mut model = page(100, 24, &all);
    assert_eq!(model.key(Key::Enter), Action::Do(Job::Look(all[0].clone())));
    let users = vec!["TCP port 3000 is in use by node (PID 4711, dev)".to_owned()];
    model.looked("another", vec!["nonsense".to_owned()]);
    model.looked(all[0]["lease_id"].as_str().unwrap(), users);
    let lines = shown(&model);
    assert_eq!(lines[0], "3000/tcp, dev web");
    for line in [
        "port          3000",
        "state         listening",
        "project_path  /srv/shop",
        "lease_id      00003000-3f55-4f0c-9a43-0c6a1f6e7d21",
        "holders       2",
        "TCP port 3000 is in use by node (PID 4711, dev)",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {lines:#?}");
    }
    // It follows the lease, and asks again when its state is another one.
    assert_eq!(model.update(&all), (Action::Draw, false));
    all[0]["state"] = "orphaned".into();
    assert_eq!(model.update(&all), (Action::Do(Job::Look(all[0].clone())), true));
    assert!(shown(&model).contains(&"state         orphaned".to_owned()));
    model.update(&[]);
    assert_eq!(shown(&model)[0], "3000/tcp, dev web: this lease has ended");
    model.key(Key::Escape);
    assert_eq!(shown(&model)[2], "no port is leased");
}

#[test]
fn what_is_waited_for_gives_way_to_what_arrives() {
    let mut model = page(80, 10, &leases());
    model.waits("waiting for the service ...".to_owned());
    assert_eq!(shown(&model)[9], "waiting for the service ...");
    model.update(&leases());
    assert!(shown(&model)[9].starts_with("? help"));
    model.released(Ok("released port 3000 of dev web".to_owned()));
    model.waits("waiting for the service ...".to_owned());
    model.update(&leases());
    assert_eq!(shown(&model)[9], "released port 3000 of dev web");
}

#[test]
fn a_tiny_terminal_has_ports_names_and_questions() {
    let mut model = page(20, 5, &leases());
    assert_eq!(
        shown(&model),
        [
            "3 leases, by PORT",
            "PORT      NAME",
            "3000/tcp  web",
            "3001/tcp  api",
            "? help   q quit"
        ]
    );
    model.key(Key::Char('r'));
    assert_eq!(
        shown(&model)[1..],
        ["Release port", "3000/tcp of dev web,", "/srv/shop,", "node[4711]? [y/N]"]
    );
    model.key(Key::Char('n'));
    model.key(Key::Char('?'));
    model.key(Key::End);
    let help = shown(&model);
    assert!(help[3].ends_with("old."), "{help:#?}");
}

#[test]
fn wide_characters_are_never_cut_in_half_and_nothing_moves() {
    let mut wide = lease(3003, "店", "reserved");
    wide["project_path"] = "/srv/日本語/プロジェクト/店".into();
    wide["comm"] = "e\u{301}\u{200d}👩\u{200d}💻".into();
    let mut all = leases();
    all.push(wide);
    for width in 20..120 {
        let model = page(width, 10, &all);
        let lines = shown(&model);
        let column = |line: &str, text: &str| {
            line.find(text).map(|at| unicode_width::UnicodeWidthStr::width(&line[..at]))
        };
        let names: Vec<_> = [(1, "NAME"), (2, "web"), (5, "店")]
            .into_iter()
            .map(|(line, name)| column(&lines[line], name))
            .collect();
        assert!(names[0].is_some() && names.iter().all(|at| *at == names[0]), "{lines:#?}");
    }
}

#[test]
fn no_key_and_no_size_makes_it_panic() {
    let keys = [
        Key::Up,
        Key::Down,
        Key::PageUp,
        Key::PageDown,
        Key::Home,
        Key::End,
        Key::Enter,
        Key::Escape,
        Key::Backspace,
        Key::Control('u'),
        Key::Control('w'),
    ];
    let keys: Vec<_> = keys.into_iter().chain("/?sSdryqjkgG w店".chars().map(Key::Char)).collect();
    let mut all = leases();
    all[2]["project_path"] = "/srv/日本語/プロジェクト/店".into();
    let mut model = page(80, 24, &all);
    // A linear congruential generator (Knuth): the same keys in every run.
    let mut random = 1_u64;
    let mut next = |most: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % most
    };
    for _ in 0..20_000 {
        match next(8) {
            0 => model.resize(u16::try_from(next(40)).unwrap(), u16::try_from(next(12)).unwrap()),
            1 => drop(model.update(&all[..next(4)])),
            2 => {
                model.looked("00003000-3f55-4f0c-9a43-0c6a1f6e7d21", vec!["a long line".repeat(9)]);
            }
            3 => model.released(Err(refused("it is not possible at all, as 店 says".to_owned()))),
            _ => drop(model.key(keys[next(keys.len())])),
        }
        if model.width > 0 && model.height > 0 {
            drawn(&model);
        }
    }
}
