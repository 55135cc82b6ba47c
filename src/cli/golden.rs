//! Golden files: what a command prints, compared with what is kept under `tests/golden/`. With
//! `GOANYWAY_BLESS=1` the files are written anew, for their difference to be read.

use std::path::Path;

/// Compares a text with its golden file among those of `env` and `doctor`.
pub(super) fn compare(file: &str, text: &str) {
    keeps(&format!("env/{file}"), text);
}

/// Compares a text with this golden file.
pub(super) fn keeps(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("GOANYWAY_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{file} differs; GOANYWAY_BLESS=1 writes it anew");
}
