//! A session of the Model Context Protocol with `styxy mcp`, line by line.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value as Json, json};

use super::Home;

/// How long a server may take, on a busy computer.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A client, and the server that it has started.
pub struct Session {
    pub server: Child,
    pub input: Option<ChildStdin>,
    pub output: Option<BufReader<ChildStdout>>,
    next: u64,
    /// Answers that came before they were waited for.
    early: HashMap<u64, Json>,
    /// By their names.
    pub tools: HashMap<String, Json>,
    /// What the server says of itself.
    pub hello: Json,
}

/// What came of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The structured answer.
    Done(Json),
    /// A tool error: its text.
    Refused(String),
    /// A protocol error: its code and its message.
    Wrong(i64, String),
}

impl Session {
    /// Starts a server in that home, and says hello.
    pub fn new(home: &Home) -> Self {
        Self::with(home.styxy())
    }

    /// The same with a command that was prepared.
    pub fn with(command: Command) -> Self {
        let mut session = Self::silent(command);
        session.hello = session.request("initialize", &hello())["result"].take();
        session.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let tools = session.request("tools/list", &json!({}))["result"]["tools"].take();
        let name = |tool: &Json| tool["name"].as_str().unwrap().to_owned();
        let tools = tools.as_array().unwrap().iter().map(|tool| (name(tool), tool.clone()));
        session.tools = tools.collect();
        session
    }

    /// The same, and nothing is said yet.
    pub fn silent(mut command: Command) -> Self {
        command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let (input, output) = (server.stdin.take(), server.stdout.take().map(BufReader::new));
        let (tools, early) = (HashMap::new(), HashMap::new());
        Self { server, input, output, next: 0, early, tools, hello: Json::Null }
    }

    /// Sends a line.
    pub fn line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").and_then(|()| input.flush()).unwrap();
    }

    pub fn send(&mut self, message: &Json) {
        self.line(&message.to_string());
    }

    /// Asks, and does not wait for the answer; the number of the request.
    pub fn ask(&mut self, method: &str, params: &Json) -> u64 {
        self.next += 1;
        let id = self.next;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// The next line of the server; nothing after its end. It must be a message, and nothing else.
    pub fn message(&mut self) -> Option<Json> {
        let output = self.output.as_mut().unwrap();
        if output.buffer().is_empty() {
            let mut waiting = [PollFd::new(output.get_ref(), PollFlags::IN)];
            assert_ne!(poll(&mut waiting, Some(&PATIENCE)), Ok(0), "the server says nothing");
        }
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if line.is_empty() {
            return None;
        }
        let message: Json = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(message["jsonrpc"], "2.0", "{line}");
        Some(message)
    }

    /// Waits for the answer to that request.
    #[track_caller]
    pub fn answer(&mut self, id: u64) -> Json {
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return answer;
            }
            let message = self.message().expect("an answer");
            let id = message["id"].as_u64().unwrap_or_else(|| panic!("no answer: {message}"));
            assert!(self.early.insert(id, message).is_none(), "{id} is answered twice");
        }
    }

    #[track_caller]
    pub fn request(&mut self, method: &str, params: &Json) -> Json {
        let id = self.ask(method, params);
        self.answer(id)
    }

    /// Asks a tool, and does not wait for the answer.
    pub fn begin(&mut self, tool: &str, arguments: &Json) -> u64 {
        self.ask("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Waits for the answer of that tool, and holds it against the tool's schema.
    #[track_caller]
    pub fn outcome(&mut self, tool: &str, id: u64) -> Outcome {
        let mut answer = self.answer(id);
        if let Some(error) = answer.get("error") {
            let message = error["message"].as_str().unwrap().to_owned();
            return Outcome::Wrong(error["code"].as_i64().unwrap(), message);
        }
        let content = answer["result"]["content"].as_array().unwrap();
        let [Json::Object(content)] = content.as_slice() else { panic!("{content:?}") };
        assert_eq!(content["type"], "text");
        let text = content["text"].as_str().unwrap().to_owned();
        if answer["result"]["isError"] == true {
            assert!(answer["result"].get("structuredContent").is_none(), "{answer}");
            return Outcome::Refused(text);
        }
        let structured = answer["result"]["structuredContent"].take();
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), structured);
        let mut schema = self.tools[tool]["outputSchema"].clone();
        allow_nothing_else(&mut schema);
        assert_valid(&schema, &structured);
        Outcome::Done(structured)
    }

    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: &Json) -> Outcome {
        let id = self.begin(tool, arguments);
        self.outcome(tool, id)
    }

    /// Asks a tool that must do it; the arguments must be what it says that it takes.
    #[track_caller]
    pub fn ok(&mut self, tool: &str, arguments: &Json) -> Json {
        assert_valid(&self.tools[tool]["inputSchema"], arguments);
        match self.call(tool, arguments) {
            Outcome::Done(answer) => answer,
            other => panic!("{tool} {arguments}: {other:?}"),
        }
    }

    /// Asks a tool that must refuse; its words.
    #[track_caller]
    pub fn refused(&mut self, tool: &str, arguments: &Json) -> String {
        match self.call(tool, arguments) {
            Outcome::Refused(words) => words,
            other => panic!("{tool} {arguments}: {other:?}"),
        }
    }

    /// Asks a tool in a way that is none; its words.
    #[track_caller]
    pub fn wrong(&mut self, tool: &str, arguments: &Json) -> String {
        match self.call(tool, arguments) {
            Outcome::Wrong(-32602, words) => words,
            other => panic!("{tool} {arguments}: {other:?}"),
        }
    }

    /// Waits for the end of the server; with what it said on stderr.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut words = String::new();
        self.server.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        (self.server.wait().unwrap(), words)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// What a client says first.
pub fn hello() -> Json {
    json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    })
}

/// A field that the schema does not name is wrong, but where it says that it names only some.
fn allow_nothing_else(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            let is_whole = fields.contains_key("properties") && fields.get("description").is_none();
            fields.values_mut().for_each(allow_nothing_else);
            if is_whole {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Json::Array(schemas) => schemas.iter_mut().for_each(allow_nothing_else),
        _ => {}
    }
}

#[track_caller]
fn assert_valid(schema: &Json, value: &Json) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let problems: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{problems:?} in {value}");
}
