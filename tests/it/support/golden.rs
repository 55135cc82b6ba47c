//! Golden files: what is written there, in this repository, is a promise. `GOANYWAY_BLESS=1` writes them anew, for
//! the difference to be read.

use std::path::{Path, PathBuf};

/// Whether they are being written anew.
pub fn is_blessing() -> bool {
    std::env::var_os("GOANYWAY_BLESS").is_some()
}

/// What stands in one; nothing where there is none yet.
pub fn promised(name: &str) -> String {
    std::fs::read_to_string(at(name)).unwrap_or_default()
}

/// This text is what stands there.
pub fn keeps(name: &str, text: &str) {
    if is_blessing() {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
    }
    assert_eq!(text, promised(name), "{name}: GOANYWAY_BLESS=1 writes it anew");
}

fn at(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
