mod sandbox;
mod units;

use std::{fs, path::Path, process::Command};

use clap::Args;
use serde_json::{Value as Json, json};

use self::units::Units;
use super::{
    CliError, Output, block_on, counted,
    port_users::{IGNORES_PORT, elsewhere, instead},
    print, print_list,
    status::{confirmed, unconfirmed},
    table::{self, Cell, Colour, Table},
    text,
};
use crate::{
    client::{self, Call},
    config::{self, files},
    kernel::{self, diag},
    port::{Port, PortRange, Protocol},
    surroundings::user,
    value::Fields,
};

/// Look for problems with styxy on this machine, and say how to fix them
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// First have a service that has failed start again: reload the manager, then reset and start the units
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    output: Output,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Nothing is wrong, but it is worth knowing.
    Note,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Error,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    fn colour(self) -> Option<Colour> {
        match self {
            Self::Ok => Some(Colour::Green),
            Self::Note => None,
            Self::Warning => Some(Colour::Yellow),
            Self::Error => Some(Colour::Red),
        }
    }
}

struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    /// How to fix it, if there is anything to fix.
    remedy: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding { check, verdict: Verdict::Ok, message: message.into(), remedy: None });
    }

    fn note(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check, verdict: Verdict::Note, message: message.into(), remedy });
    }

    fn has(&self, check: &str, verdict: Verdict) -> bool {
        self.0.iter().any(|finding| finding.check == check && finding.verdict == verdict)
    }

    fn warning(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check, verdict: Verdict::Warning, message: message.into(), remedy });
    }

    fn error(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check, verdict: Verdict::Error, message: message.into(), remedy });
    }
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut findings = Findings::default();
        let watch = client::Watch::over("systemd's user manager and the session bus");
        if self.fix {
            units::fix(&mut findings);
        }
        let units = Units::look(&mut findings);
        block_on(units::bus(&mut findings, &units))?;
        drop(watch);
        units::socket(&mut findings, &units);
        units::tcp(&mut findings);
        configuration(&mut findings);
        block_on(service(&mut findings, &units))?;
        ephemeral(&mut findings);
        journal(&mut findings);
        let Findings(findings) = findings;
        if self.output.json {
            let list = findings.iter().map(|finding| {
                json!({
                    "check": finding.check,
                    "verdict": finding.verdict.as_str(),
                    "message": finding.message,
                    "remedy": finding.remedy,
                })
            });
            print_list("findings", list.collect::<Vec<_>>())?;
        } else {
            let mut table = Table::new([
                table::short("RESULT"),
                table::short("CHECK"),
                table::prose("FINDING"),
            ]);
            for Finding { check, verdict, message, remedy } in &findings {
                let remedy = remedy.iter().map(|remedy| format!("\n→ {remedy}"));
                table.row([
                    Cell::painted(verdict.as_str(), verdict.colour()),
                    (*check).into(),
                    (message.clone() + &remedy.collect::<String>()).into(),
                ]);
            }
            print(&table.draw())?;
        }
        let has_errors = findings.iter().any(|finding| finding.verdict == Verdict::Error);
        if has_errors { Err(CliError::No) } else { Ok(()) }
    }
}

/// Checks the configuration files as they are now.
fn configuration(findings: &mut Findings) {
    let (texts, mut problems) = files::read(&user().config());
    problems.append(&mut config::merge(&texts).problems);
    if problems.is_empty() {
        let files = counted(texts.len() as u64, "file");
        return findings.ok("configuration", format!("no problem in {files}"));
    }
    for problem in problems {
        findings.error(
            "configuration",
            problem.to_string(),
            "fix it, then run `styxy config reload`; until then the last good configuration is in force",
        );
    }
}

/// Checks the service by its own status.
async fn service(findings: &mut Findings, units: &Units) {
    let answer = match units {
        // Any other call would try to start the service once more.
        Units::Broken => match client::call_live(&Call::Status).await {
            Some(status) => Ok(Ok((status, None))),
            None => return,
        },
        _ => client::call_running(&Call::Status)
            .await
            .map(|answer| answer.map(|(s, transport)| (s, Some(transport)))),
    };
    let status = match answer {
        Ok(Ok((status, transport))) => {
            let over = transport
                .map(|transport| format!(" over {}", transport.describe()))
                .unwrap_or_default();
            findings.ok("service", format!("it answers{over} (PID {})", status["pid"]));
            status
        }
        Ok(Err(why)) => {
            let message = format!("the service is not running: {why}");
            let obstacle = match units {
                Units::Usable | Units::Broken => user().obstacle_of_unit(),
                Units::Unmanaged | Units::Missing => user().obstacle(),
            };
            return match obstacle {
                None => findings.note("service", message, "the next command starts it"),
                Some(obstacle) => findings.error("service", message, obstacle),
            };
        }
        Err(failure) => {
            return findings.error(
                "service",
                format!("it does not answer: {failure}"),
                "see `journalctl --user -u styxy.service`",
            );
        }
    };
    sandbox::look(findings, &status);
    version(findings, &status);
    match status["state_problem"].as_str() {
        None => state(findings),
        Some(problem) => findings.error(
            "state",
            format!("nothing is granted: {problem}"),
            obstacle(&status).unwrap_or_else(|| writable(&status)),
        ),
    }
    let guards = counted(status["guards"].as_u64().unwrap_or(0), "guard");
    let limit = status["guards_limit"].as_u64().unwrap_or(u64::MAX);
    if limit < 1_000 {
        findings.warning(
            "guards",
            format!("{guards} of at most {limit}: the limit on open files is low"),
            "raise LimitNOFILE= of styxy.service, or limits.guards in the configuration",
        );
    } else {
        findings.ok("guards", format!("{guards} of at most {limit}"));
    }
    match confirmed(&status) {
        Some(told) => findings.ok("audit", told),
        // Without a state there are no events, and the problem has been reported.
        None if status["audit_note"].is_null() => {}
        None => findings.warning(
            "audit",
            unconfirmed(&status),
            status["audit_remedy"].as_str().unwrap_or("see JOURNAL in styxy.service(8)"),
        ),
    }
    ports(findings).await;
}

/// What keeps this service from having its state, if it is to be seen from here.
fn obstacle(status: &Json) -> Option<String> {
    if is_private(status) { user().obstacle() } else { user().obstacle_of_unit() }
}

/// What to do where the state cannot be written.
fn writable(status: &Json) -> String {
    let folder = user().state().map_or("its folder".into(), |folder| folder.display().to_string());
    let restart = if is_private(status) {
        format!("end it (process {})", status["pid"])
    } else {
        "`systemctl --user restart styxy.service`".to_owned()
    };
    format!("free some disk space, or make {folder} writable; then, if it still refuses, {restart}")
}

fn is_private(status: &Json) -> bool {
    status["private"] == Json::Bool(true)
}

/// Reports files that an earlier start found damaged. They are kept until the user deletes them.
fn state(findings: &mut Findings) {
    let Some(folder) = user().state() else { return };
    let names = fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut damaged: Vec<_> = names.filter(|name| name.starts_with("damaged.")).collect();
    damaged.sort();
    match damaged.as_slice() {
        [] => findings.ok("state", "the state can be saved"),
        damaged => findings.warning(
            "state",
            format!(
                "a part of it was damaged, and leases may be lost; what was there is kept in {} as {}",
                folder.display(),
                damaged.join(" and ")
            ),
            "`styxy audit --action recover` says what was lost; delete these files when you do not need them",
        ),
    }
}

fn version(findings: &mut Findings, status: &Json) {
    let (mine, its) = (env!("CARGO_PKG_VERSION"), text(status, "version"));
    let restart =
        "run `systemctl --user restart styxy.service`, or end that process; no lease is lost";
    if mine != its {
        let message = format!("the command is version {mine}, the running service {its}");
        return findings.warning("version", message, restart);
    }
    // An upgrade replaces the file of a running program.
    let exe = fs::read_link(Path::new("/proc").join(status["pid"].to_string()).join("exe"));
    if exe.is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)")) {
        findings.warning(
            "version",
            "the program was replaced while the service was running",
            restart,
        );
    } else {
        findings.ok("version", format!("{mine}, command and service"));
    }
}

/// Looks for programs that listen on unleased ports of service types, and for owners that listen on another
/// port than the leased one.
async fn ports(findings: &mut Findings) {
    let call = |call| async move { client::call_running(&call).await.ok()?.ok() };
    let (Some((types, _)), Some((leases, _))) =
        (call(Call::Types).await, call(Call::List { filter: Fields::default() }).await)
    else {
        return;
    };
    let leases = leases.as_array().map(Vec::as_slice).unwrap_or_default();
    for lease in leases.iter().filter(|lease| lease["state"] == "reserved") {
        if let Some(instead) = instead(&elsewhere(lease, leases)) {
            let service = [text(lease, "service_type"), text(lease, "service_name")].join(" ");
            let message = format!("port {} of {}: {instead}", lease["port"], service.trim_end());
            findings.warning("leases", message, IGNORES_PORT);
        }
    }
    let leased: Vec<_> = leases.iter().map(|lease| &lease["port"]).collect();
    let Ok(listened) = diag::listeners(Protocol::Tcp) else {
        let remedy = "without it, styxy finds out whether a port is free by binding it";
        return findings.note(
            "ports",
            "the kernel does not tell which ports are listened on",
            remedy,
        );
    };
    let mut strangers = Vec::new();
    for service_type in types.as_array().into_iter().flatten() {
        let ranges = service_type["ranges"].as_array().into_iter().flatten();
        let ports =
            ranges.filter_map(|range| range.as_str()?.parse().ok()).flat_map(PortRange::ports);
        // styxy's own is looked at elsewhere.
        let strange = ports.filter(|port| {
            listened.contains(*port) && *port != Port::HTTP && !leased.contains(&&json!(port.get()))
        });
        let name = text(service_type, "service_type");
        strangers.extend(strange.map(|port| format!("{port} ({name})")));
    }
    if strangers.is_empty() {
        findings.ok("ports", "nothing listens on an unleased port of a service type");
    } else {
        findings.note(
            "ports",
            format!("programs without a lease listen on {}", strangers.join(", ")),
            "these ports are not granted while they are in use; to have such programs listed, start them with `styxy run`",
        );
    }
}

/// Checks whether the kernel may use ports of service types for outgoing connections.
fn ephemeral(findings: &mut Findings) {
    let Some(ephemeral) = kernel::ephemeral_ports() else { return };
    let (texts, _) = files::read(&user().config());
    let types = config::merge(&texts).config.types.0;
    let within: Vec<_> = types
        .iter()
        .filter(|(_, t)| t.ranges().any(|range| kernel::given_away(range).is_some()))
        .map(|(name, _)| name.to_string())
        .collect();
    if within.is_empty() {
        findings.ok(
            "ephemeral",
            format!(
                "the kernel gives no port of a service type to outgoing connections (ip_local_port_range {ephemeral})"
            ),
        );
    } else {
        findings.warning(
            "ephemeral",
            format!(
                "the kernel may give ports of {} to outgoing connections (ip_local_port_range {ephemeral})",
                within.join(", ")
            ),
            "add these ports to net.ipv4.ip_local_reserved_ports (sysctl), or move these types",
        );
    }
}

/// Checks whether this user can read the events.
fn journal(findings: &mut Findings) {
    if findings.has("audit", Verdict::Warning) {
        // It has been reported that events do not reach the journal.
        return;
    }
    let shown = Command::new("journalctl")
        .args(["-t", "styxy", "-n", "1", "-o", "cat", "--quiet"])
        .output();
    match shown {
        Err(error) => findings.note(
            "journal",
            format!("journalctl cannot be run ({error})"),
            "without a journal, events go to the log of the service",
        ),
        Ok(shown) if shown.status.success() && !shown.stdout.is_empty() => {
            findings.ok("journal", "events can be read with `journalctl -t styxy`");
        }
        Ok(_) => findings.note(
            "journal",
            "no event of styxy can be read",
            "there is none yet, or the user may not read the journal: set Storage=persistent in journald.conf(5), or add the \
             user to the group systemd-journal",
        ),
    }
}
