//! A command beside a service of another version.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    thread,
};

use support::{Home, bus::Bus};

/// An older service: it knows no option, and its answers to `/restart` are given. Ends when it makes room.
fn older(home: &Home, makes_room: bool) -> thread::JoinHandle<Vec<String>> {
    let folder = home.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let socket = home.socket();
    thread::spawn(move || {
        let mut asked = Vec::new();
        loop {
            let mut stream = listener.accept().unwrap().0;
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&line);
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = match path.as_str() {
                "/status" => (200, r#"{"success":true,"version":"1.9.0"}"#.to_owned()),
                "/restart" => (200, format!(r#"{{"success":true,"restarting":{makes_room}}}"#)),
                _ => (
                    400,
                    r#"{"success":false,"code":"InvalidArgument","error":"there is no option \"new\""}"#
                        .to_owned(),
                ),
            };
            let ends = path == "/restart";
            asked.push(path);
            if ends && makes_room {
                fs::remove_file(&socket).unwrap();
            }
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            if ends {
                return asked;
            }
        }
    })
}

#[test]
fn an_older_service_makes_room_and_the_command_is_served() {
    let home = Home::with_type();
    let older = older(&home, true);
    let port = home.ok(&["allocate", "mine", "-q"]);
    assert!(port.parse::<u16>().is_ok());
    assert_eq!(older.join().unwrap(), ["/allocate", "/status", "/restart"]);
}

#[test]
fn a_refusal_of_an_older_service_that_stays_names_both_versions() {
    let home = Home::with_type();
    let older = older(&home, false);
    let output = home.styxy().args(["allocate", "mine"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("there is no option \"new\""), "{stderr}");
    assert!(
        stderr.contains("the service that runs is styxy 1.9.0, and this command is "),
        "{stderr}"
    );
    older.join().unwrap();
}

#[test]
fn a_service_that_makes_room_loses_no_lease() {
    let home = Home::with_type();
    let mut service = home.service();
    let lease = home.ok(&["allocate", "mine", "--name", "web", "-q"]);
    let answer = home.http("POST", "/restart", "");
    assert_eq!(answer.body["restarting"], true, "{answer:?}");
    assert!(service.wait().unwrap().success());
    assert!(home.ok(&["list"]).contains(&lease));
}

#[test]
fn a_service_of_systemds_makes_room_only_for_another_program_or_a_bus_that_came_later() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let program = home.path("styxy");
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &program);
    let service = |address: &str| {
        let mut command = home.styxy();
        command.env("DBUS_SESSION_BUS_ADDRESS", address);
        let mut as_unit = std::process::Command::new("sh");
        as_unit.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\" \"$@\""]).arg(&program).env_clear();
        for (name, value) in command.get_envs() {
            as_unit.env(name, value.unwrap());
        }
        std::mem::swap(&mut command, &mut as_unit);
        support::started(command)
    };
    let mut running = service(&bus.address);
    home.until(|| home.http("GET", "/status", "").body["on_bus"] == true);
    assert_eq!(home.http("POST", "/restart", "").body["restarting"], false);
    // As a package manager does it.
    let newer = home.path("newer");
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &newer);
    fs::rename(newer, &program).unwrap();
    assert_eq!(home.http("POST", "/restart", "").body["restarting"], true);
    assert!(running.wait().unwrap().success());
    // A sandbox shows no bus that was not there.
    let mut running = service("unix:path=/nonexistent");
    home.until(|| home.http("GET", "/status", "").body["on_bus"] == false);
    assert_eq!(home.http("POST", "/restart", "").body["restarting"], true);
    assert!(running.wait().unwrap().success());
}
