//! A SERVER has one spelling: what was parsed is written so that it parses to the same again.

use crate::resolve::server::Server;

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(server) = text.parse::<Server>() else { return };
    let written = server.to_string();
    assert_eq!(written.parse::<Server>().as_ref(), Ok(&server), "{written}");
    assert_eq!(written.parse::<Server>().map(|server| server.to_string()), Ok(written));
}
