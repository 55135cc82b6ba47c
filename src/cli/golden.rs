//! Golden files: what a command prints, compared with what is kept under `tests/golden/env/`. With
//! `GOANYWAY_BLESS=1` the files are written anew, for their difference to be read.

use std::path::Path;

/// Compares a text with its golden file.
pub(super) fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/env").join(file);
    if std::env::var_os("GOANYWAY_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{file} differs; GOANYWAY_BLESS=1 writes it anew");
}
