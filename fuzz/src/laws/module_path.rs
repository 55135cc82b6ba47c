//! A request path has one spelling: what was read is written so that it reads the same again. And
//! wherever its file lies, it lies in its tree, under a name that no other spelling folds to.

use crate::cache::key::Key;
use crate::goproxy::path::{Database, ModuleRequest};

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(request) = ModuleRequest::parse(text) {
        assert_eq!(ModuleRequest::parse(&request.wire()).as_ref(), Ok(&request), "{text}");
        hold_file(&request);
    }
    let Ok(database) = Database::new("sum.golang.org") else { return };
    if let Ok(request) = ModuleRequest::parse_database(&database, text) {
        assert_eq!(ModuleRequest::parse(&request.wire()).as_ref(), Ok(&request), "{text}");
        hold_file(&request);
    }
}

fn hold_file(request: &ModuleRequest) {
    let file = request.file();
    assert!(file.split('/').all(|part| !matches!(part, "" | "." | "..")), "{file}");
    assert!(file.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{file}");
    assert!(!file.contains('\\'), "{file}");
    // A database's name is a host as somebody configured it, and may hold what looks like a module's
    // path; all below it is folded.
    let folded = match request {
        ModuleRequest::SumLookup { database, .. } => file.strip_prefix(&format!("sumdb/{database}")),
        request => request.module().map(|_| file.as_str()),
    };
    let found = folded.is_some() || request.module().is_none();
    assert!(found && folded.is_none_or(|folded| !folded.bytes().any(|byte| byte.is_ascii_uppercase())), "{file}");
    let key = Key::new(&format!("download/{file}"));
    assert!(key.is_some_and(|key| key.as_str() == format!("download/{file}")), "{file}");
    assert!(!request.wire().contains(['?', '#', '!', ' ']), "{}", request.wire());
}
