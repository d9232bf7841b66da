use clap::Args;
use serde_json::json;

use super::{CliError, Output, print, print_json};

/// The instructions, in two parts: the second applies only if `styxy mcp` is built in.
const TEXT: &str = include_str!("agents/agents.md");
const MCP: &str = if cfg!(feature = "mcp") { include_str!("agents/mcp.md") } else { "" };

/// Print instructions for coding agents, as Markdown to paste into AGENTS.md
#[derive(Debug, Args)]
pub(super) struct Agents {
    #[command(flatten)]
    output: Output,
}

impl Agents {
    pub(super) fn run(self) -> Result<(), CliError> {
        let text = [TEXT, MCP].concat();
        if self.output.json {
            return print_json(&json!({"text": text}));
        }
        print(text.trim_end())
    }
}
