use std::env;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{CliError, Output, ask, print, print_json, short};
use crate::{
    client::Call,
    token::{Token as Secret, TokenHash},
};

mod file;

pub(super) use file::{TokenFile, Unusable};

/// The variable with which the whole token is shown.
const SHOW: &str = "STYXY_SHOW_FULL_KEY";

/// Show or replace the token for HTTP over TCP
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the token, masked; whole if STYXY_SHOW_FULL_KEY=true
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Replace the token by a new one; the old one is refused from then on
    Rotate {
        #[command(flatten)]
        output: Output,
    },
}

impl Token {
    pub(super) fn run(self) -> Result<(), CliError> {
        let file = TokenFile::find()?;
        match self.what {
            What::Show { output } => {
                let Some(token) = file.read()? else {
                    return Err(file.missing().into());
                };
                tell(&file, &token, "", output)
            }
            What::Rotate { output } => {
                let token = file.replace(hand_over)?;
                tell(&file, &token, "the token was replaced: ", output)
            }
        }
    }
}

/// Hands the hash of the token to the service.
pub(super) fn hand_over(sha256: TokenHash) -> Result<(), CliError> {
    ask(&Call::SetToken { sha256 }).map(drop)
}

fn tell(file: &TokenFile, token: &Secret, done: &str, output: Output) -> Result<(), CliError> {
    let is_whole = env::var(SHOW).is_ok_and(|value| value == "true");
    let shown = if is_whole { token.reveal().to_owned() } else { token.masked() };
    if output.json {
        return print_json(&json!({"token": shown, "masked": !is_whole, "file": file.path()}));
    }
    let place = short(&file.path().to_string_lossy());
    print(&if is_whole && done.is_empty() { shown } else { format!("{done}{shown}, in {place}") })
}
