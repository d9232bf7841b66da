use std::{
    env,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;

use super::{
    CliError, Output, ask,
    http::{self, Listening},
    print, print_json, refused_with, say, text,
};
use crate::{client::Call, error::ErrorKind, surroundings::user, token::Token};

/// What the files that open the page are called.
const PREFIX: &str = "open-";
const SUFFIX: &str = ".html";

/// How long the program that opens a file may take to fail. One that takes longer may be the browser itself.
const FAILS: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_millis(50);

/// What to do where no browser can be opened.
const INSTEAD: &str = "`styxy open --print` prints the link; for a browser on another machine, forward the port first: \
                       `ssh -L 9876:127.0.0.1:9876 HOST`";
/// What to do where the service cannot listen.
const SAME: &str = "`styxy top` and `styxy list` show the same in the terminal";

/// How often to ask for a link while the service stops listening for the pages before.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Open a page that shows who has which port, in a browser
///
/// If HTTP over TCP is off, it is switched on, and off again half a minute after the last page is closed.
#[derive(Debug, Args)]
pub(super) struct Open {
    /// Print the link instead of opening a browser. It works once, within a minute
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    output: Output,
}

impl Open {
    pub(super) fn run(self) -> Result<(), CliError> {
        // Before anything is started.
        let opener = if self.print { None } else { Some(opener()?) };
        let (listening, secret) = secret()?;
        let link = format!("{}/#{secret}", http::url());
        if let Some(opener) = opener
            && let Err(error) = open(opener, &link)
        {
            listening.end();
            return Err(error);
        }
        if listening.is_new {
            say(&format!(
                "HTTP over TCP was off: the service listens on {} until half a minute after the last page was closed",
                http::url()
            ));
        }
        if self.output.json {
            let link = self.print.then_some(link);
            let temporary = listening.is_temporary;
            return print_json(&json!({"url": http::url(), "link": link, "temporary": temporary}));
        }
        print(&if self.print { link } else { format!("opened {} in the browser", http::url()) })
    }
}

/// Has the service listen, and make a secret.
fn secret() -> Result<(Listening, String), CliError> {
    let (mut tries, mut is_new) = (1, false);
    loop {
        let mut listening = http::listen(SAME)?;
        is_new |= listening.is_new;
        listening.is_new = is_new;
        let asked = ask(&Call::OpenPage { temporary: listening.is_temporary });
        match asked {
            // It was stopped meanwhile, after the last page was closed, and the service that answered does not listen.
            Ok(_) if tries < TRIES && !http::listens() => {}
            Ok(answer) => return Ok((listening, text(&answer, "secret").to_owned())),
            Err(CliError::Failure(failure))
                if tries < TRIES && failure.is(ErrorKind::LimitExceeded) => {}
            Err(error) => {
                listening.end();
                return Err(error);
            }
        }
        tries += 1;
        thread::sleep(PAUSE);
    }
}

/// The program that opens files.
fn opener() -> Result<&'static str, CliError> {
    const OPENER: &str = "xdg-open";
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    // An editor on another machine sets BROWSER alone.
    if !["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].into_iter().any(is_set) {
        return Err(refused_with("there is no display to open a browser on", INSTEAD));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|folder| folder.join(OPENER).is_file()) {
        let why =
            format!("{OPENER}, which finds the browser, is not installed (package xdg-utils)");
        return Err(refused_with(why, INSTEAD));
    }
    Ok(OPENER)
}

/// Opens the link by way of a file, because every user of the machine can read command lines.
fn open(opener: &str, link: &str) -> Result<(), CliError> {
    let folder = user().runtime().map_err(|why| refused_with(why, INSTEAD))?;
    let folder = folder.join("styxy");
    let file = write(&folder, link).map_err(|error| {
        let why = format!("no file can be made in {}: {error}", folder.display());
        refused_with(why, INSTEAD)
    })?;
    let opened = run(opener, &file);
    if opened.is_err() {
        let _ = fs::remove_file(&file);
    }
    opened
}

/// Runs the program that opens the file.
fn run(opener: &str, file: &Path) -> Result<(), CliError> {
    let mut command = Command::new(opener);
    // A browser's messages are not this command's.
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let failed =
        |why: &dyn std::fmt::Display| refused_with(format!("{opener} failed: {why}"), INSTEAD);
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let end = Instant::now() + FAILS;
    while Instant::now() < end {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(&status)),
            None => thread::sleep(EVERY),
        }
    }
    Ok(())
}

/// Writes a file that leads to the link, in place of those of before.
fn write(folder: &Path, link: &str) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().strip_prefix(PREFIX).is_some_and(|rest| rest.ends_with(SUFFIX)) {
            // Another command may remove it at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
    let name = Token::random().map_err(io::Error::from)?;
    let path = folder.join(format!("{PREFIX}{}{SUFFIX}", &name.reveal()[..16]));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    if let Err(error) = file.write_all(html(link).as_bytes()) {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

fn html(link: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>styxy</title>\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<meta http-equiv=\"refresh\" content=\"0; url={link}\">\n\
         <p><a href=\"{link}\">Open the page of styxy</a></p>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_the_users_only_and_replaces_those_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("styxy");
        let first = write(&folder, "http://127.0.0.1:9876/#one").unwrap();
        fs::write(folder.join("machine-network"), "").unwrap();
        let second = write(&folder, "http://127.0.0.1:9876/#two").unwrap();
        assert!(first != second && !first.exists());
        assert!(folder.join("machine-network").exists(), "it is another's");
        for (path, mode) in [(&second, 0o600), (&folder, 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert!(!second.to_string_lossy().contains("two"));
        let text = fs::read_to_string(&second).unwrap();
        assert_eq!(text.matches("http://127.0.0.1:9876/#two").count(), 2, "{text}");
    }
}
