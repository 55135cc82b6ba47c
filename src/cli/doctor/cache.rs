//! The cache folder: that it can be written, that there is room, that its layout is one we know, and
//! that what was used last is what it was when it was kept.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::finding::{Finding, Mend, quote};
use super::surroundings::{FOR_CACHE, Surroundings};
use crate::cache::{Folder, Item, Look, Room};
use crate::cli::size;

const CHECK: &str = "cache";
/// How much of what was used last is looked at, and how many files.
const SAMPLE: u64 = 32 << 20;
const SAMPLED: usize = 64;
/// As much as a go.mod with its notes takes, many times over.
const PROBE: usize = 256 << 10;

/// All that there is to say about the cache.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let Some(dir) = around.settings.cache_dir.path.as_deref() else {
        let ask = Mend::Ask("you: name a folder with --cache-dir DIR".to_owned());
        return vec![Finding::warning(CHECK, "", "there is no home, so nothing is kept on disk", ask)];
    };
    let subject = dir.display().to_string();
    let (place, exists) = match dir.is_dir() {
        true => (dir.to_owned(), true),
        false => (nearest(dir), false),
    };
    if let Err(error) = try_write(&place) {
        return vec![judge_refusal(&subject, dir, &place, &error, around)];
    }
    if !exists {
        return vec![Finding::ok(CHECK, subject, "is not there yet, and can be made")];
    }
    match Folder::open(dir) {
        Ok(Some(folder)) => judge_folder(&subject, &folder, around),
        Ok(None) => vec![Finding::ok(CHECK, subject, "is empty, and can be written")],
        Err(error) => {
            let ask =
                Mend::Ask("you: use the goanyway that wrote it, or name another folder with --cache-dir".to_owned());
            vec![Finding::fault(CHECK, subject, error.to_string(), ask)]
        }
    }
}

/// The folder that is there and in which the missing ones would be made.
fn nearest(dir: &Path) -> PathBuf {
    dir.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Writes as a download does: a full disk lets empty files be made.
fn try_write(place: &Path) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".doctor").tempfile_in(place)?;
    file.write_all(&vec![0x55; PROBE])?;
    file.as_file().sync_all()
}

fn judge_refusal(subject: &str, dir: &Path, place: &Path, error: &io::Error, around: &Surroundings) -> Finding {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            // Not its words: they name the file of ours that was tried.
            let saw = format!("the disk is full: {}", error.kind());
            let mend = prune(held(dir), u64::try_from(PROBE).unwrap_or_default() * 4, around);
            let ask = || {
                let dir = dir.display();
                Mend::Ask(format!("whoever keeps what fills the disk of {dir}; or another one: --cache-dir DIR"))
            };
            Finding::fault(CHECK, subject, saw, mend.unwrap_or_else(ask))
        }
        io::ErrorKind::NotADirectory => {
            let ask = Mend::Ask(format!(
                "you: there is a file in the way at {}; or name another folder with --cache-dir",
                place.display()
            ));
            Finding::fault(CHECK, subject, "is no folder", ask)
        }
        _ => {
            let (saw, mend) = judge_owner(place, error);
            Finding::fault(CHECK, subject, saw, mend)
        }
    }
}

#[cfg(unix)]
fn judge_owner(place: &Path, error: &io::Error) -> (String, Mend) {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(place).map(|metadata| metadata.uid()).ok();
    let (us, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match owner.filter(|owner| *owner != us) {
        Some(owner) => {
            let saw =
                format!("cannot be written ({error}): {} belongs to user {owner}, and we are {us}", place.display());
            (saw, Mend::Type(format!("sudo chown -R {us}:{group} {}", quote(&place.display().to_string()))))
        }
        None => {
            let saw = format!("cannot be written ({error})");
            (saw, Mend::Type(format!("chmod u+rwx {}", quote(&place.display().to_string()))))
        }
    }
}

#[cfg(not(unix))]
fn judge_owner(place: &Path, error: &io::Error) -> (String, Mend) {
    let ask = Mend::Ask(format!("whoever may change {}; or name another folder with --cache-dir", place.display()));
    (format!("cannot be written ({error})"), ask)
}

fn held(dir: &Path) -> u64 {
    let items = Folder::open(dir).ok().flatten().and_then(|folder| folder.items().ok()).unwrap_or_default();
    sum(&items)
}

fn sum(items: &[Item]) -> u64 {
    items.iter().map(|item| item.size).sum()
}

/// Room out of the cache, if that holds as much; else somebody must make it beside the cache.
fn prune(held: u64, wanted: u64, around: &Surroundings) -> Option<Mend> {
    let left = held.checked_sub(wanted)?.to_string();
    Some(Mend::ours(&["cache", "prune", "--to", &left], around.typed.again(FOR_CACHE)))
}

fn judge_folder(subject: &str, folder: &Folder, around: &Surroundings) -> Vec<Finding> {
    let items = match folder.items() {
        Ok(items) => items,
        Err(error) => {
            let (saw, mend) = judge_owner(folder.dir(), &error);
            return vec![Finding::fault(CHECK, subject, saw, mend)];
        }
    };
    let bytes = sum(&items);
    let limit = around.settings.cache.size;
    let room = folder.room();
    let mut findings = match judge_sample(subject, folder, &items, around) {
        Some(finding) => vec![finding],
        None => {
            let saw = format!(
                "{} files, {} of at most {}; those used last are as they were kept",
                items.len(),
                size(bytes),
                size(limit)
            );
            vec![Finding::ok(CHECK, subject, saw)]
        }
    };
    findings.extend(room.and_then(|room| judge_room(&room, bytes, around)));
    findings
}

/// Looks at every byte of what was used last.
fn judge_sample(subject: &str, folder: &Folder, items: &[Item], around: &Surroundings) -> Option<Finding> {
    let mut latest: Vec<&Item> = items.iter().filter(|item| item.note.is_some()).collect();
    latest.sort_by_key(|item| std::cmp::Reverse(item.used_ms));
    let mut budget = SAMPLE;
    let mut wrong = Vec::new();
    for item in latest.into_iter().take(SAMPLED) {
        let Some(left) = budget.checked_sub(item.size) else { continue };
        budget = left;
        if let Look::Damaged(how) = folder.inspect(&item.key) {
            wrong.push(format!("{} {how}", item.key));
        }
    }
    let first = wrong.first()?;
    let more = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
    let mend = Mend::ours(&["cache", "verify", "--repair"], around.typed.again(FOR_CACHE));
    Some(Finding::fault(CHECK, subject, format!("{first}{more}"), mend))
}

/// The cache gives way to others on its disk: where those leave it nothing, nothing stays in it.
fn judge_room(room: &Room, bytes: u64, around: &Surroundings) -> Option<Finding> {
    let subject = "disk";
    let (free, total, wanted) = (size(room.free), size(room.total), size(room.wanted));
    if room.free >= room.wanted {
        return Some(Finding::ok(CHECK, subject, format!("{free} of {total} free, and {wanted} are to stay free")));
    }
    let lacking = room.wanted - room.free;
    let saw = format!("{free} of {total} free, and {wanted} are to stay free: what is kept leaves soon");
    let ask = || {
        let lacking = size(lacking);
        Mend::Ask(format!(
            "whoever keeps the rest of that disk: {lacking} more are wanted; or another one: --cache-dir DIR"
        ))
    };
    Some(Finding::warning(CHECK, subject, saw, prune(bytes, lacking, around).unwrap_or_else(ask)))
}
