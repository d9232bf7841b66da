//! URLs with a port in them.

use super::text;
use crate::port::Port;

/// What counts of a URL.
#[derive(Debug, PartialEq)]
pub(super) struct Address<'t> {
    pub(super) scheme: &'t str,
    pub(super) port: Option<Port>,
    /// Whether the host is this machine.
    pub(super) is_local: bool,
}

/// Parses `scheme://user:password@host:port/path`, and the same after `jdbc:`; of several hosts, the first.
pub(super) fn parse(url: &str) -> Option<Address<'_>> {
    let url = url.trim();
    let (scheme, rest) = url.strip_prefix("jdbc:").unwrap_or(url).split_once("://")?;
    let authority = rest.split(['/', '?', '#', ';']).next()?;
    let hosts = authority.rsplit('@').next()?;
    let address = hosts.split(',').next()?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, text::port(port)),
        _ => (address, None),
    };
    let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    Some(Address { scheme, port, is_local })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_with_and_without_its_parts() {
        for (url, scheme, port, is_local) in [
            ("http://localhost:4000", "http", 4000, true),
            ("http://localhost", "http", 0, true),
            ("https://example.com:443/a:1", "https", 443, false),
            ("postgres://me:p@ss:1@127.0.0.1:5433/db?x=y", "postgres", 5433, true),
            ("jdbc:mysql://localhost:3307/db", "mysql", 3307, true),
            ("jdbc:sqlserver://localhost:1434;databaseName=x", "sqlserver", 1434, true),
            ("mongodb://localhost:27018,other:27019/db", "mongodb", 27018, true),
            ("http://[::1]:3000/", "http", 3000, true),
            ("http://[::1]", "http", 0, true),
            ("http://*:5000", "http", 5000, false),
            ("http://localhost:70000", "http", 0, true),
        ] {
            let expected = Address { scheme, port: Port::new(port), is_local };
            assert_eq!(parse(url), Some(expected), "{url}");
        }
        for text in ["", "localhost:3000", "file:./dev.db", "://"] {
            let port = parse(text).and_then(|address| address.port);
            assert_eq!(port, None, "{text}");
        }
    }
}
