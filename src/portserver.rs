//! The door for tests: the protocol of the port server of `python_portpicker`, which test suites use by
//! `PORTSERVER_ADDRESS`. It only translates; the broker decides.
//!
//! A client sends a PID and a newline. The answer is a port that is free for TCP and UDP, and a newline; where there
//! is none, the connection is closed without an answer. The lease ends with that process.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

use crate::{
    broker::{Broker, Caller},
    error::Error,
    lease::{EndReason, Transport},
    port::Protocol,
    request::{AllocateRequest, OwnerRequest},
    service_type::Hold,
    socket::{self, Backlog, Place},
};

/// How long a client may take to send its request.
const SILENCE: Duration = Duration::from_secs(3);

/// The longest request, in bytes.
const LONGEST: u64 = 64;

/// Accepts connections on the socket that systemd has passed until `stop` is set; those that wait then start the next
/// service.
pub async fn serve(listener: UnixListener, broker: Arc<Broker>, stop: watch::Receiver<bool>) {
    socket::accept_each(listener, Backlog::Systemds, stop, |stream, place| {
        let broker = Arc::clone(&broker);
        async move {
            tokio::select! {
                () = converse(stream, &broker, &place) => {}
                () = place.dismissed() => {}
            }
        }
    })
    .await;
}

async fn converse(mut stream: UnixStream, broker: &Arc<Broker>, place: &Arc<Place>) {
    let _observer = broker.idle_tracker().observer();
    let Some(caller) = Caller::of_peer(&stream, Transport::Portserver) else { return };
    let Ok(Some(pid)) = timeout(SILENCE, read(&mut stream)).await else { return };
    let _busy = place.busy();
    // Not before: what is unread resets the connection.
    if caller.why_refused().is_some() {
        return;
    }
    let _call = broker.idle_tracker().busy();
    let Ok(request) = request(pid) else { return };
    let Ok(granted) = broker.allocate(&request, &caller, false).await else { return };
    let answer = format!("{}\n", granted.lease.port);
    if stream.write_all(answer.as_bytes()).await.is_err() {
        broker.take_back(&granted.shares(), EndReason::NotDelivered);
    }
}

/// The PID in a request; `None` if it is none.
async fn read(stream: &mut UnixStream) -> Option<u32> {
    let mut line = String::new();
    let length = BufReader::new(stream.take(LONGEST + 1)).read_line(&mut line).await.ok()?;
    let pid = line.trim_ascii().parse().ok()?;
    (pid > 0 && length as u64 <= LONGEST).then_some(pid)
}

/// The request of a client. The port is not guarded: tests bind it for TCP and UDP, some without `SO_REUSEADDR`.
fn request(pid: u32) -> Result<AllocateRequest, Error> {
    Ok(AllocateRequest {
        protocol: Some(Protocol::Both),
        hold: Some(Hold::None),
        owner: OwnerRequest::Related(pid),
        ..AllocateRequest::new("test".parse()?)
    })
}
