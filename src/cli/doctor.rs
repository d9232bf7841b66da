mod sandbox;
mod units;

use std::{fs, path::Path, process::Command};

use clap::Args;
use serde_json::{Value as Json, json};

use self::units::Units;
use super::{
    Output, Stop, block_on, counted,
    holders::{IGNORES_PORT, elsewhere, instead},
    print, print_json,
    status::confirmed,
    text,
};
use crate::{
    client::{self, Call},
    config::{self, files},
    kernel::{self, diag},
    port::{PortRange, Protocol},
    surroundings::user,
    value::Fields,
};

/// Look for what could be wrong with styxy on this machine, and say what to do
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// First let a service that has failed be started again: reload the manager, reset and start the units
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    output: Output,
}

/// What came of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, but not as well as it could, or not here.
    Note,
    Bad,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    /// What to do, if anything.
    remedy: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            verdict: Verdict::Good,
            message: message.into(),
            remedy: None,
        });
    }

    fn note(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check, verdict: Verdict::Note, message: message.into(), remedy });
    }

    fn bad(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Finding { check, verdict: Verdict::Bad, message: message.into(), remedy });
    }
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut findings = Findings::default();
        if self.fix {
            units::fix(&mut findings);
        }
        let units = Units::look(&mut findings);
        block_on(units::bus(&mut findings, &units))?;
        units::socket(&mut findings, &units);
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
            print_json(&list.collect())?;
        } else {
            for finding in &findings {
                print(&format!(
                    "{:<4}  {:<14}  {}",
                    finding.verdict.as_str(),
                    finding.check,
                    finding.message
                ))?;
                if let Some(remedy) = &finding.remedy {
                    print(&format!("{:<22}→ {remedy}", ""))?;
                }
            }
        }
        let is_bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
        if is_bad { Err(Stop::No) } else { Ok(()) }
    }
}

/// The files of the configuration, as they are now.
fn configuration(findings: &mut Findings) {
    let (texts, mut problems) = files::read(&user().config());
    problems.append(&mut config::merge(&texts).problems);
    if problems.is_empty() {
        let files = counted(texts.len() as u64, "file");
        return findings.good("configuration", format!("{files}, nothing wrong"));
    }
    for problem in problems {
        findings.bad(
            "configuration",
            problem.to_string(),
            "mend it, then `styxy config reload`; until then the last good configuration is in force",
        );
    }
}

/// What the service says of itself.
async fn service(findings: &mut Findings, units: &Units) {
    let answer = match units {
        // To ask would be to start it once more.
        Units::Broken => match client::call_live(&Call::Status).await {
            Some(status) => Ok(Ok((status, None))),
            None => return,
        },
        _ => client::call_running(&Call::Status)
            .await
            .map(|answer| answer.map(|(s, way)| (s, Some(way)))),
    };
    let status = match answer {
        Ok(Ok((status, way))) => {
            let over = way.map(|way| format!(" over {}", way.describe())).unwrap_or_default();
            findings.good("service", format!("it answers{over}, as process {}", status["pid"]));
            status
        }
        Ok(Err(why)) => {
            let remedy = "the next command starts one";
            return findings.note("service", format!("no service runs: {why}"), remedy);
        }
        Err(failure) => {
            return findings.bad(
                "service",
                format!("it does not answer: {failure}"),
                "`journalctl --user -u styxy.service` says more",
            );
        }
    };
    sandbox::look(findings, &status);
    version(findings, &status);
    match status["state_problem"].as_str() {
        None => findings.good("state", "the state can be written"),
        Some(problem) => findings.bad(
            "state",
            format!("nothing is granted: {problem}"),
            "free some disk space, or make that folder the user's, and writable",
        ),
    }
    let guards = counted(status["guards"].as_u64().unwrap_or(0), "guard");
    let limit = status["guards_limit"].as_u64().unwrap_or(u64::MAX);
    if limit < 1_000 {
        findings.note(
            "guards",
            format!("{guards} of at most {limit}: the limit of descriptors is low"),
            "raise LimitNOFILE= of styxy.service, or limits.guards in the configuration",
        );
    } else {
        findings.good("guards", format!("{guards} of at most {limit}"));
    }
    match confirmed(&status) {
        Some(told) => findings.good("audit", told),
        None => findings.note(
            "audit",
            text(&status, "audit_note"),
            "they are confirmed where systemd-journald runs and the user may read its journal: \
             Storage=persistent in journald.conf(5), or the group systemd-journal",
        ),
    }
    ports(findings).await;
}

fn version(findings: &mut Findings, status: &Json) {
    let (mine, its) = (env!("CARGO_PKG_VERSION"), text(status, "version"));
    let restart = "systemctl --user restart styxy.service, or end that process: no lease is lost";
    if mine != its {
        let message = format!("the command is {mine}, the running service {its}");
        return findings.note("version", message, restart);
    }
    // An upgrade replaces the file of a program that runs.
    let exe = fs::read_link(Path::new("/proc").join(status["pid"].to_string()).join("exe"));
    if exe.is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)")) {
        findings.note("version", "the program was replaced while the service runs", restart);
    } else {
        findings.good("version", format!("{mine}, command and service"));
    }
}

/// Programs that listen on ports of service types without having leased them.
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
            findings.note("leases", message, IGNORES_PORT);
        }
    }
    let leased: Vec<_> = leases.iter().map(|lease| &lease["port"]).collect();
    let listened = diag::listened(Protocol::Tcp);
    let mut strangers = Vec::new();
    for service_type in types.as_array().into_iter().flatten() {
        let ranges = service_type["ranges"].as_array().into_iter().flatten();
        let ports =
            ranges.filter_map(|range| range.as_str()?.parse().ok()).flat_map(PortRange::ports);
        let strange = ports.filter(|p| listened.contains(*p) && !leased.contains(&&json!(p.get())));
        let name = text(service_type, "service_type");
        strangers.extend(strange.map(|port| format!("{port} ({name})")));
    }
    if strangers.is_empty() {
        findings.good("ports", "only leased ports of the service types are listened on");
    } else {
        findings.note(
            "ports",
            format!("programs without a lease listen on {}", strangers.join(", ")),
            "nobody is granted these ports; start such programs on a port of `styxy allocate` to have them listed",
        );
    }
}

/// Whether the kernel may give ports of service types to outgoing connections.
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
        findings.good(
            "ephemeral",
            format!(
                "outgoing connections get no port of a service type (ip_local_port_range {ephemeral})"
            ),
        );
    } else {
        findings.note(
            "ephemeral",
            format!(
                "the kernel's ip_local_port_range, {ephemeral}, has ports of {}",
                within.join(", ")
            ),
            "add these ports to net.ipv4.ip_local_reserved_ports (sysctl), or move these types",
        );
    }
}

/// Whether this user can read the events.
fn journal(findings: &mut Findings) {
    let shown = Command::new("journalctl")
        .args(["-t", "styxy", "-n", "1", "-o", "cat", "--quiet"])
        .output();
    match shown {
        Err(error) => findings.note(
            "journal",
            format!("journalctl cannot be run ({error})"),
            "without a journal the events go to the standard error of the service",
        ),
        Ok(shown) if shown.status.success() && !shown.stdout.is_empty() => {
            findings.good("journal", "events can be read with `journalctl -t styxy`");
        }
        Ok(_) => findings.note(
            "journal",
            "no event of styxy can be read",
            "there is none yet, or the user may not read the journal (Storage=persistent in journald.conf(5))",
        ),
    }
}
