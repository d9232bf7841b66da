//! `styxy browse`: a browser for which `localhost` is that of the project.
//!
//! - `localhost`: the project's ports, as the service knows them
//! - `browser`: finding a browser, and starting it

mod browser;
mod localhost;

use std::{ffi::OsString, io, os::unix::process::ExitStatusExt, process, str::FromStr};

use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::{Duration, timeout},
};

pub(super) use self::browser::KNOWN;
use self::{
    browser::{Browser, Profile},
    localhost::ProjectPorts,
};
use super::{
    CliError, ask, block_on, needs,
    output::short,
    port::{is_in_browsers, port_of},
    print,
    project::Project,
    refused, say, text, usage,
};
use crate::{
    client::Call,
    error::Error,
    kernel::{detach::end_by, guard::raised_limit},
    port::{Port, Protocol},
    proxy::Proxy,
    value::Fields,
};

/// How long the browser may take to close its windows when this command is ended.
const CLOSING: Duration = Duration::from_secs(5);

/// Start a browser that sees this project's localhost
///
/// A port that `styxy run --remap` has mapped is reached under the number that the project asked for, so that
/// http://localhost:5173 is the server of this project, in each of several worktrees. The browser has a profile of its
/// own for the project, and with it cookies of its own. It uses a SOCKS5 proxy, which runs until the browser ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy browse\n  \
    styxy browse 5173\n  \
    styxy browse --browser firefox http://localhost:3000/login\n  \
    styxy browse --print")]
pub(super) struct Browse {
    /// Print the URL of the proxy for a browser or program that is running already, and run until the command is ended
    #[arg(long, conflicts_with_all = ["browser", "arguments"])]
    print: bool,
    /// Print a line of JSON instead of the URL of the proxy, and nothing else on stdout
    #[arg(long, requires = "print")]
    json: bool,
    /// The project [default: the one of the current folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// The browser, of the family of Chromium or Firefox [default: the one in $BROWSER, or the first that is installed]
    #[arg(long, value_name = "NAME|PATH")]
    browser: Option<OsString>,
    /// Let these ports of the machine be reached if nothing of the project has them
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    reach: Vec<Port>,
    /// What to open; a number is a port of localhost [default: the project's dev server]
    #[arg(value_name = "URL")]
    url: Option<Page>,
    /// Further arguments for the browser
    #[arg(last = true, value_name = "BROWSER ARGS")]
    arguments: Vec<OsString>,
}

/// The URL of a page.
#[derive(Clone, Debug)]
struct Page(String);

impl Page {
    fn of_port(port: Port) -> Self {
        Self(format!("http://localhost:{port}/"))
    }
}

impl FromStr for Page {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::invalid("the URL is empty"));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::of_port);
        }
        // `localhost:5173` has no scheme, `about:blank` has.
        let has_scheme = text.contains("://")
            || ["about:", "chrome:", "data:", "view-source:"].iter().any(|s| text.starts_with(s));
        Ok(Self(if has_scheme { text.to_owned() } else { format!("http://{text}") }))
    }
}

impl Browse {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        // Before anything is started.
        let browser = self.browser.as_deref();
        let browser = if self.print { None } else { Some(Browser::find(browser)?) };
        let mut reach = needs::reach(&project)?;
        reach.extend(self.reach);
        let mut filter = Fields::default();
        filter.put("project_path", project.path().as_str());
        let leases = ask(&Call::List { filter })?;
        let page = self.url.or_else(|| page(leases.as_array().map_or(&[], Vec::as_slice)));
        let localhost = ProjectPorts::new(project.path().to_string(), reach);
        let work = async {
            let proxy = Proxy::bind().await?;
            let url = format!("socks5://{}", proxy.address());
            let Some(browser) = browser else {
                let page = page.as_ref().map(|page| &page.0);
                if self.json {
                    print(&json!({"proxy": url, "url": page}).to_string())?;
                } else {
                    print(&url)?;
                    say(&how_to_use(&proxy, page));
                }
                raised_limit();
                match proxy.serve(localhost).await {}
            };
            let profile = Profile::of(&project, &browser)?;
            let page = page.map(|page| page.0);
            if page.is_none() {
                let project = short(project.path().as_str());
                say(&format!("{project} has no port of a web server yet, so no page is opened"));
            }
            let ending = ending()?;
            let child = browser.start(&profile, proxy.address(), page, &self.arguments)?;
            // The browser has the usual limit.
            raised_limit();
            tokio::select! {
                never = proxy.serve(localhost) => match never {},
                end = ended(child, ending) => Ok::<_, CliError>((browser, profile, end?)),
            }
        };
        let (browser, profile, end) = block_on(LocalSet::new().run_until(work))??;
        match end {
            End::Exited(0) => Ok(()),
            End::Exited(code) => {
                say(&browser.failed(code, &profile));
                process::exit(code)
            }
            End::By(signal) => end_by(signal),
        }
    }
}

/// How the command ends.
enum End {
    /// As the browser did.
    Exited(i32),
    /// By the signal that this command got, or the browser.
    By(i32),
}

/// Waits for a signal that ends this command. It is caught from now on, so that the browser never outlives it.
fn ending() -> io::Result<impl Future<Output = Signal>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => Signal::SIGINT,
            _ = terminated.recv() => Signal::SIGTERM,
            _ = hung_up.recv() => Signal::SIGHUP,
        }
    })
}

/// Waits until the browser has ended; ends it if this command is to end.
async fn ended(mut child: Child, ending: impl Future<Output = Signal>) -> io::Result<End> {
    let signal = tokio::select! {
        status = child.wait() => {
            let status = status?;
            let killed = || End::By(status.signal().unwrap_or_default());
            return Ok(status.code().map_or_else(killed, End::Exited));
        }
        signal = ending => signal,
    };
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
    if timeout(CLOSING, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(End::By(signal as i32))
}

/// What `--print` says beside the URL.
fn how_to_use(proxy: &Proxy, page: Option<&String>) -> String {
    let (address, page) = (proxy.address(), page.map_or("http://localhost:5173/", String::as_str));
    format!(
        "the proxy runs until this command is ended; use it with\n\
         chromium --proxy-server=socks5://{address} '--proxy-bypass-list=<-loopback>' --user-data-dir=DIR {page}\n\
         curl --socks5-hostname {address} {page}"
    )
}

/// The page of the project: that of its dev server, else that of another server for browsers, else that of any port that is
/// mapped. Of several, one that is listened on, and of these the first.
fn page(leases: &[Json]) -> Option<Page> {
    let rank = |lease: &Json| match text(lease, "service_type") {
        "dev" => Some(0),
        _ if is_in_browsers(lease) => Some(1),
        _ => lease["asked"].is_u64().then_some(2),
    };
    let leases = leases.iter().filter(|lease| text(lease, "protocol") != Protocol::Udp.as_str());
    let ranked = leases.filter_map(|lease| {
        let is_silent = text(lease, "state") != "listening";
        Some(((rank(lease)?, is_silent, text(lease, "since")), lease))
    });
    let (_, first) = ranked.min_by_key(|(rank, _)| *rank)?;
    let asked = first["asked"].as_u64().and_then(Port::new);
    asked.or_else(|| port_of(first).map(|(port, _)| port)).map(Page::of_port)
}

/// A refusal that says what else can be done.
fn without_browser(why: &str) -> CliError {
    refused(format!("{why}; `styxy browse --print` prints a proxy that any browser can use"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_port_of_localhost() {
        for (text, url) in [
            ("5173", "http://localhost:5173/"),
            ("localhost:5173/login", "http://localhost:5173/login"),
            ("https://localhost:5173", "https://localhost:5173"),
            ("about:blank", "about:blank"),
        ] {
            assert_eq!(text.parse::<Page>().unwrap().0, url);
        }
        for bad in ["", "0", "65536"] {
            assert!(bad.parse::<Page>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_page_of_a_project_is_that_of_its_dev_server() {
        let lease = |service_type: &str, asked: Json, port: u16, state: &str| {
            json!({"service_type": service_type, "asked": asked, "port": port, "protocol": "tcp", "state": state,
                "since": format!("2026-11-28T10:00:0{}Z", port % 10)})
        };
        let mut leases = vec![lease("api", Json::Null, 8001, "listening")];
        let now = |leases: &[Json]| page(leases).map(|page| page.0);
        assert_eq!(now(&leases), None);
        for (next, port) in [
            (lease("remap", json!(6379), 21_000, "reserved"), 6379),
            (lease("remap", json!(5173), 21_002, "listening"), 5173),
            // It was leased before.
            (lease("remap", json!(3001), 21_001, "listening"), 3001),
            (lease("docs", Json::Null, 4100, "reserved"), 4100),
            (lease("dev", json!(3000), 3004, "reserved"), 3000),
        ] {
            leases.push(next);
            assert_eq!(now(&leases), Some(format!("http://localhost:{port}/")));
        }
    }
}
