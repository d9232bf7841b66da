//! Handing over to the next service: the socket on which it asks, and what it is given.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream as Blocking},
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{Answer, PATIENCE, Request, VERSION, wire};
use crate::{
    kernel::{
        guard::Guards,
        process::{self, Process, ProcessError},
    },
    lease::Owner,
};

/// How long a client may take to send its request.
const TO_ASK: Duration = Duration::from_secs(5);
/// The maximum length of a request, in bytes.
const LONGEST: u64 = 4096;

/// The next service, which waits for what this one holds.
#[derive(Debug)]
pub struct Successor {
    stream: Blocking,
}

/// Waits until another service asks to take over.
pub async fn asked(listener: &UnixListener) -> Successor {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of descriptors.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Only the user can open the folder; this check is for a folder whose permissions were changed.
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == process::uid())
            && let Ok(Ok(successor)) = tokio::time::timeout(TO_ASK, question(stream)).await
        {
            return successor;
        }
    }
}

async fn question(mut stream: UnixStream) -> io::Result<Successor> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    let request: Request = serde_json::from_str(&line)?;
    let stream = stream.into_std()?;
    if has_gone(&stream) {
        // The client gave up while this service was suspended. Handing over would leave the leases without a service.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    tracing::info!("styxy {} takes over", request.styxy);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Successor { stream })
}

/// Whether the other end has closed the connection.
fn has_gone(stream: &Blocking) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(stream, &mut [0; 1], flags).is_ok_and(|(read, _)| read == 0)
}

impl Successor {
    /// Hands over the guards, and the owners that are processes. The next service binds or finds again what
    /// cannot be handed over.
    pub fn give<'a>(
        &self,
        guards: &Guards,
        owners: impl Iterator<Item = &'a Owner>,
    ) -> io::Result<()> {
        let answer = || Answer { version: VERSION, ..Answer::default() };
        let guards: Vec<_> = guards.iter().collect();
        for some in guards.chunks(wire::MOST) {
            let (leases, sockets): (Vec<_>, Vec<_>) = some.iter().copied().unzip();
            wire::send(&self.stream, &Answer { guards: leases, ..answer() }, &sockets)?;
        }
        let processes: Vec<_> = owners
            .filter_map(|owner| match owner {
                Owner::Process { pid, start } => match Process::of_pid(*pid) {
                    Ok(process) | Err(ProcessError::Foreign(process)) => {
                        Some(process).filter(|process| process.start == *start)
                    }
                    Err(_) => None,
                },
                _ => None,
            })
            .collect();
        for some in processes.chunks(wire::MOST) {
            let pidfds: Vec<_> = some.iter().map(|process| process.pidfd.as_fd()).collect();
            let processes = some.iter().map(|process| (process.pid, process.start)).collect();
            wire::send(&self.stream, &Answer { processes, ..answer() }, &pidfds)?;
        }
        wire::send(&self.stream, &Answer { done: true, ..answer() }, &[])
    }
}
