//! Keys: where a file lies under the cache folder, and where its note lies beside it.
//!
//! A key is a relative path that was judged once; from then on the type cannot climb out of the
//! folder, name one of our own files, or be two keys at one place. Notes lie in a tree of their own
//! with `.json` added to the file's name, and folders there that end in `.json` get a comma, so that
//! no note can be where another key needs a folder. In the tree of the files themselves nothing is
//! added, because go reads it; where one key is a file and another wants a folder, the first stays.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a file lies under the cache folder: `download/golang.org/x/net/@v/v0.1.0.zip`. Relative,
/// no `.` or `..`, no empty component, no control characters, no component that could be mistaken
/// for one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// Judges a path. None where it is no key: nothing can be looked up or kept there.
    pub fn new(path: &str) -> Option<Key> {
        let first = path.split('/').next()?;
        let ours = OURS.iter().any(|name| name.eq_ignore_ascii_case(first));
        (!ours && path.split('/').all(is_component)).then(|| Key(path.into()))
    }

    /// The path as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether file systems have room for such a name. One that they have none for is still filled
    /// once however many ask, and held in memory, but never written.
    pub(super) fn is_keepable(&self) -> bool {
        self.0.len() <= LONGEST_KEY && self.0.split('/').all(|component| component.len() <= LONGEST_COMPONENT)
    }

    /// Where the file lies, under the cache folder.
    pub(super) fn file_path(&self) -> PathBuf {
        PathBuf::from(self.as_str())
    }

    /// Where the note lies, under the cache folder.
    pub(super) fn note_path(&self) -> PathBuf {
        let (folders, file) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        let folders = folders.split('/').filter(|folder| !folder.is_empty()).map(shield);
        let mut path = PathBuf::from(NOTES);
        path.extend(folders);
        path.push(format!("{file}.json"));
        path
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A backslash is a separator on Windows, so it is nowhere part of a name.
fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(|c: char| c.is_control() || c == '\\')
}

/// The name of a folder in the tree of notes: never one that a note could have. `x.json` becomes
/// `x.json,`, which in turn becomes `x.json,,`, so no two folders become one.
pub(super) fn shield(folder: &str) -> String {
    let comma = if folder.trim_end_matches(',').ends_with(".json") { "," } else { "" };
    format!("{folder}{comma}")
}

/// The tree of notes.
pub(super) const NOTES: &str = "notes";
/// Files that are being written.
pub(super) const SCRATCH: &str = "tmp";
/// The layout's version.
pub(super) const LAYOUT: &str = "layout";
/// Locked by the process that evicts.
pub(super) const EVICTING: &str = "evict.lock";

/// Written anew whenever a file is taken out on purpose: other processes then forget what is in memory.
pub(super) const REMOVALS: &str = "removals";

/// What lies in the cache folder and is no pool of files.
const OURS: [&str; 5] = [NOTES, SCRATCH, LAYOUT, EVICTING, REMOVALS];
/// File systems take 255 bytes; a note's name is `.json` longer, a shielded folder's a comma.
const LONGEST_COMPONENT: usize = 250;
/// Linux takes 4,096 bytes of path; half of it is left to the cache folder.
const LONGEST_KEY: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        Key::new(path).unwrap()
    }

    #[test]
    fn what_is_no_place_below_the_folder_is_no_key() {
        let refused = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\\b",
            "a/b\n",
            "a/\0",
            "a/\u{85}",
            "notes",
            "notes/a",
            "Notes/a",
            "tmp/a",
            "layout",
            "LAYOUT/a",
            "evict.lock",
            "removals",
        ];
        for path in refused {
            assert_eq!(Key::new(path), None, "{path:?}");
        }
        for path in ["download/a/@v/v1.0.0.zip", "hosts/a.example:8080/x y", "sumdb/a/tmp", "a/...", "a/.b"] {
            assert_eq!(key(path).as_str(), path);
        }
    }

    #[test]
    fn a_note_is_never_where_another_note_wants_a_folder() {
        let paths = ["a", "a/b", "a.json", "a.json/b", "a.json,/b", "a.json,,/b", "a.json/b.json/c", "a.json/b"];
        let notes: Vec<_> = paths.iter().map(|path| key(path).note_path()).collect();
        for (one, note) in notes.iter().enumerate() {
            for (other, place) in notes.iter().enumerate() {
                let same_key = paths[one] == paths[other];
                assert_eq!(note == place, same_key, "{} and {}", paths[one], paths[other]);
                assert!(same_key || !place.starts_with(note), "{} under {}", paths[other], paths[one]);
            }
        }
        assert_eq!(key("a.json/b").note_path(), PathBuf::from("notes/a.json,/b.json"));
    }

    #[test]
    fn a_name_that_no_file_system_takes_is_not_kept() {
        assert!(key(&format!("download/{}", "x".repeat(250))).is_keepable());
        assert!(!key(&format!("download/{}", "x".repeat(251))).is_keepable());
        assert!(!key(&format!("download{}", "/xxxxxxxxx".repeat(300))).is_keepable());
    }
}
