use std::{
    env,
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Args;
use percent_encoding::percent_decode_str;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, ToolAnnotations,
    },
    service::{RequestContext, ServerInitializeError},
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use tokio::{runtime, task::spawn_blocking, time::timeout};

use super::{CliError, reader, refused};
use crate::{
    client,
    word::{harmless, shortened},
};

mod answers;
mod lines;
mod tools;
mod wrong;

/// How long to wait for a client's answer about its roots.
const ROOTS_PATIENCE: Duration = Duration::from_secs(5);

/// The instructions that a model reads before it sees the tools.
const INSTRUCTIONS: &str = "Several agents and people share the ports of this machine. Before you start \
    anything that listens, call allocate and use the port that it answers; never choose a number yourself, \
    and never end a program because it has the port that you wanted. Send claim: true for a service that may have \
    a port already: it gets that one, and without it each call leases another. What you lease ends with this session; \
    where you can run commands, `styxy run TYPE -- COMMAND` leases a port for a command and sets PORT.";

/// Offer ports to an agent, as a Model Context Protocol server on stdin and stdout
///
/// The agent starts it. Leases made through it end with it, unless the agent names another owner.
#[derive(Debug, Args)]
#[command(after_help = r#"In the agent's configuration: {"command": "styxy", "args": ["mcp"]}"#)]
pub(super) struct Mcp {}

impl Mcp {
    pub(super) fn run(self) -> Result<(), CliError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(serve());
        // A thread may still be reading stdin, and cannot be interrupted.
        runtime.shutdown_background();
        result
    }
}

/// Serves until the client disconnects.
async fn serve() -> Result<(), CliError> {
    let lines = lines::Lines::new();
    let seen = lines.seen();
    let session = async {
        match Server::default().serve(lines).await {
            Ok(session) => {
                let _ = session.waiting().await;
                Ok(())
            }
            Err(
                ServerInitializeError::ConnectionClosed(_)
                | ServerInitializeError::TransportError { .. },
            ) if seen.has_message() || !seen.has_wrong() => Ok(()),
            // A person, or a program that is no client.
            Err(
                ServerInitializeError::ConnectionClosed(_)
                | ServerInitializeError::TransportError { .. },
            ) => Err(refused(
                "no line of standard input was a message of MCP: an agent starts this command, see styxy-mcp(1)"
                    .to_owned(),
            )),
            Err(error) => {
                let words = shortened(&harmless(&error.to_string()));
                Err(refused(format!(
                    "the client does not speak MCP as it should: {words}; send initialize first"
                )))
            }
        }
    };
    tokio::select! {
        result = session => result,
        _ = spawn_blocking(reader::gone) => Ok(()),
    }
}

/// A tool; the type that implements it holds the arguments of a call.
trait Tool: DeserializeOwned + JsonSchema {
    const NAME: &'static str;
    /// The description for the model.
    const DESCRIPTION: &'static str;
    /// How it changes the leases.
    const EFFECT: Effect = Effect::Nothing;
    /// The type that describes its answer.
    type Answer: JsonSchema;

    /// Returns the `--json` answer of the verb with that name; a list is in an object, as the protocol requires.
    fn answer(self) -> Result<Json, CliError>;

    /// Undoes a call that the client has cancelled, because the client gets no answer.
    fn undo(_answer: &Json) {}
}

/// How a call changes the leases.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    /// Each call adds something.
    Adds,
    /// The call removes something. It is not idempotent: the port may have been leased again before a second call.
    Takes,
}

/// A [`Tool`] without its type, for the table of all tools.
struct Entry {
    name: &'static str,
    describe: fn() -> rmcp::model::Tool,
    /// The outer error says which argument is invalid.
    call: fn(Json) -> Result<Result<Json, CliError>, String>,
    undo: fn(&Json),
}

const fn entry<T: Tool>() -> Entry {
    Entry {
        name: T::NAME,
        describe: describe::<T>,
        call: |arguments| {
            let given = serde_path_to_error::deserialize::<_, T>(&arguments);
            given.map(T::answer).map_err(|error| {
                wrong::wrong(&schema::<T>(), &arguments, &error.path().to_string())
            })
        },
        undo: T::undo,
    }
}

const TOOLS: [Entry; 7] = [
    entry::<tools::Allocate>(),
    entry::<tools::Release>(),
    entry::<tools::List>(),
    entry::<tools::Find>(),
    entry::<tools::Check>(),
    entry::<tools::Suggest>(),
    entry::<tools::Audit>(),
];

fn describe<T: Tool>() -> rmcp::model::Tool {
    let is_read_only = matches!(T::EFFECT, Effect::Nothing);
    let annotations = ToolAnnotations::new()
        .read_only(is_read_only)
        .destructive(matches!(T::EFFECT, Effect::Takes))
        .idempotent(is_read_only)
        .open_world(false);
    rmcp::model::Tool::new(T::NAME, T::DESCRIPTION, schema::<T>())
        .with_raw_output_schema(schema::<T::Answer>().into())
        .with_annotations(annotations)
}

/// The schema of a type, in a form that every client accepts: not all follow references, and some complain
/// about formats that JSON Schema does not define, such as `uint16`.
fn schema<T: JsonSchema>() -> Map<String, Json> {
    let without_format = RecursiveTransform(|schema: &mut Schema| {
        schema.remove("format");
    });
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(without_format);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = std::mem::take(schema.ensure_object());
    // The tool has its own name and description.
    schema.remove("title");
    schema.remove("description");
    schema
}

#[derive(Default)]
struct Server {
    /// Whether the client has failed to answer a request for its roots in time.
    has_no_answer: AtomicBool,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("styxy", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(TOOLS.iter().map(|tool| (tool.describe)()).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = TOOLS.iter().find(|tool| tool.name == request.name) else {
            let known = TOOLS.map(|tool| tool.name).join(", ");
            let name = shortened(&request.name);
            let words = format!("there is no tool {name:?}; the known ones are {known}");
            return Err(ErrorData::invalid_params(words, None));
        };
        self.go_to_root(&context).await;
        let arguments = Json::Object(request.arguments.unwrap_or_default());
        // A verb blocks until it has its answer, so each call has a thread.
        let answer = spawn_blocking(|| {
            client::begin_again();
            (tool.call)(arguments)
        })
        .await;
        let answer = answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        if context.ct.is_cancelled()
            && let Ok(Ok(answer)) = &answer
        {
            let answer = answer.clone();
            // Nobody is left to report its errors to.
            let _ = spawn_blocking(move || (tool.undo)(&answer)).await;
        }
        Ok(match answer {
            Ok(Ok(answer)) => CallToolResult::structured(answer),
            Ok(Err(stop)) => CallToolResult::error(vec![ContentBlock::text(words(&stop))]),
            // A result, not a protocol error, which the model would not see.
            Err(error) => {
                let words =
                    format!("{error}; the input schema of {} says what it takes", tool.name);
                CallToolResult::error(vec![ContentBlock::text(harmless(&words))])
            }
        }
        .into())
    }
}

impl Server {
    /// Changes to the folder that the client works on: its first root, unless the current folder is inside
    /// one of its roots. If the client has no roots, the folder is left unchanged; the newest protocol no
    /// longer has roots.
    #[expect(deprecated, reason = "clients of protocols before 2026-07-28 have roots")]
    async fn go_to_root(&self, context: &RequestContext<RoleServer>) {
        let has_roots = context.client_capabilities().is_some_and(|client| client.roots.is_some());
        if !has_roots || self.has_no_answer.load(Ordering::Relaxed) {
            return;
        }
        let Ok(listed) = timeout(ROOTS_PATIENCE, context.peer.list_roots()).await else {
            // Only one call is delayed, not every one.
            self.has_no_answer.store(true, Ordering::Relaxed);
            return;
        };
        let Ok(listed) = listed else { return };
        let folders: Vec<_> = listed.roots.iter().filter_map(|root| folder_of(&root.uri)).collect();
        let is_inside = |here: &Path| folders.iter().any(|folder| here.starts_with(folder));
        if let Some(first) = folders.first()
            && !env::current_dir().is_ok_and(|here| is_inside(&here))
        {
            // If the root does not exist for this server, for example in a sandbox, the folder is left unchanged.
            let _ = env::set_current_dir(first);
        }
    }
}

/// The path of a `file:` URI (RFC 8089).
fn folder_of(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("file://")?;
    let path = path.strip_prefix("localhost").unwrap_or(path);
    let path = percent_decode_str(path).collect::<Vec<u8>>();
    Some(PathBuf::from(OsString::from_vec(path))).filter(|path| path.is_absolute())
}

/// The message for the model: what happened, why, and what to do.
fn words(stop: &CliError) -> String {
    match stop {
        CliError::Failure(failure) => harmless(&failure.to_string()),
        CliError::Output(error) | CliError::System(error) => {
            format!("the service cannot be asked: {error}; try again")
        }
        CliError::No | CliError::Daemon(_) | CliError::Exec(..) | CliError::Again => {
            "refused".to_owned()
        }
    }
}
