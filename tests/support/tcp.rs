//! A service that listens on TCP, too, as systemd starts it where `styxy-tcp.socket` is enabled.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::socket::{Backlog, listen};
use styxy::token::{Token, TokenHash};

use super::support::{Answer, Home, exchange_with, started};

/// The door over TCP of a service.
pub struct Door {
    pub address: SocketAddr,
    pub token: String,
}

impl Door {
    /// Starts a service that has this door, and a token.
    pub fn open(home: &Home) -> (Child, Self) {
        let (service, address) = service(home, &[]);
        let token = Token::random().unwrap().reveal().to_owned();
        let door = Self { address, token };
        door.set_token(home);
        (service, door)
    }

    pub fn set_token(&self, home: &Home) {
        home.keeps_secret(&self.token);
        let body = format!(r#"{{"sha256": "{}"}}"#, TokenHash::of(&self.token));
        assert_eq!(home.http("PUT", "/token", &body).status, 200);
    }

    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// A request with the token.
    #[track_caller]
    pub fn http(&self, method: &str, path: &str, body: &str) -> Answer {
        let token = format!("Authorization: Bearer {}\r\n", self.token);
        self.http_with(&token, method, path, body)
    }

    /// A request with these headers.
    #[track_caller]
    pub fn http_with(&self, headers: &str, method: &str, path: &str, body: &str) -> Answer {
        let answer = exchange_with(self.connect(), headers, method, path, body).expect("no answer");
        let text = format!("{}{}", answer.head, answer.body);
        let has_token = !self.token.is_empty() && text.contains(&self.token);
        assert!(!has_token, "an answer has the token");
        answer
    }
}

/// Starts a service by hand, with a socket that is passed as systemd does it (`sd_listen_fds(3)`), and these variables.
pub fn service(home: &Home, variables: &[(&str, &str)]) -> (Child, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As systemd does it. Rust's own has room for 128 connections that wait, and the kernel lets others come again seconds later.
    listen(&listener, Backlog::MAXCONN).unwrap();
    let styxy = home.styxy();
    let mut command = Command::new("sh");
    // The variable names the process itself. The events go to its log.
    command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" --log"#]).arg(styxy.get_program());
    command.env_clear().current_dir(styxy.get_current_dir().unwrap());
    command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "tcp")]).envs(variables.iter().copied());
    let passed = FdMapping { parent_fd: listener.into(), child_fd: 3 };
    command.fd_mappings(vec![passed]).unwrap();
    (started(command), address)
}
