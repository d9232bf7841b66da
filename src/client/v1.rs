//! The daemon of styxy 1.x, which `styxy import` reads: the only service that a command reaches over TCP.

use std::{net::Ipv4Addr, time::Duration};

use axum::body::{Body, to_bytes};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::{net::TcpStream, time::timeout};

use crate::port::Port;

/// The time that it has to answer. It never takes long.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const LONGEST: usize = 4 << 20;

/// Its allocations, as it answers them to `GET /allocations`.
///
/// `is_own` says whether the process of this user that the caller has found still listens there. It is called once the
/// connection exists, and before the token is sent: nobody else can have accepted the connection then.
///
/// # Errors
///
/// Why there are none.
pub async fn allocations(token: &str, is_own: impl Fn() -> bool) -> Result<Json, String> {
    let ask = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, Port::HTTP.get())).await;
        let stream = stream.map_err(|error| format!("it cannot be reached: {error}"))?;
        if !is_own() {
            return Err("it ended meanwhile".to_owned());
        }
        exchange(stream, token).await
    };
    let late = |_| Err(format!("it has not answered within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, ask).await.unwrap_or_else(late)
}

async fn exchange(stream: TcpStream, token: &str) -> Result<Json, String> {
    let broken = |error: &dyn std::fmt::Display| format!("it broke off: {error}");
    let mut token = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "the token in auth.token has characters that no token has".to_owned())?;
    token.set_sensitive(true);
    let request = Request::get("/allocations")
        .header("host", format!("127.0.0.1:{}", Port::HTTP))
        .header(AUTHORIZATION, token)
        .body(Body::empty())
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (status, body) = (answer.status(), answer.into_body());
    let body = to_bytes(Body::new(body), LONGEST).await;
    connection.abort();
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => {
            return Err("it does not accept the token in auth.token".to_owned());
        }
        other => return Err(format!("it answered with status {}", other.as_u16())),
    }
    let answer: Json = serde_json::from_slice(&body.map_err(|error| broken(&error))?)
        .map_err(|error| broken(&error))?;
    if answer["allocations"].is_array() {
        Ok(answer)
    } else {
        Err("it is not styxy 1.x".to_owned())
    }
}
