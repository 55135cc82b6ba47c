//! Where a CA lies: `ca.pem`, `issuer.pem`, `issuer.key`, `README` and `layout` in one folder; those
//! before it whose clients are still served, in `earlier/FINGERPRINT/`, with the date until when.
//!
//! A CA is there when `ca.pem` is: it is renamed into place last, so one that is half made is never
//! read. Makers hold a lock; readers need none, and a folder that only can be read serves. Nothing
//! that is there is written over: what a replaced CA leaves is set aside as `*.old`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::Error;

/// The texts of a CA's files.
pub(super) struct Papers {
    pub root: String,
    pub issuer: String,
    pub key: String,
}

/// What clients trust.
pub(super) const ROOT: &str = "ca.pem";
/// What is sent along with every leaf.
pub(super) const ISSUER: &str = "issuer.pem";
/// The only secret.
pub(super) const KEY: &str = "issuer.key";

/// Reads a CA; nothing, if there is none.
pub(super) fn read(dir: &Path) -> Result<Option<Papers>, Error> {
    check_layout(dir)?;
    let Some(root) = read_file(dir, ROOT)? else { return Ok(None) };
    let part = |file| read_file(dir, file)?.ok_or_else(|| Error::Incomplete { dir: dir.to_owned(), missing: file });
    Ok(Some(Papers { issuer: part(ISSUER)?, key: part(KEY)?, root }))
}

/// Makes the folder if need be, and keeps other makers out until the lock is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    make_folder(dir)?;
    let path = dir.join(".lock");
    let locked = || {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    locked().map_err(|why| Error::Folder { path, why })
}

/// Puts a CA into the folder, and sets aside what was there. The caller holds the lock. Everything is
/// written before anything is moved: a disk that is full leaves the old CA in place.
pub(super) fn write(dir: &Path, papers: &Papers) -> Result<(), Error> {
    let layout = format!("{LAYOUT}\n");
    let files = [
        ("README", README, PUBLIC),
        ("layout", &layout, PUBLIC),
        (KEY, &papers.key, SECRET),
        (ISSUER, &papers.issuer, PUBLIC),
        (ROOT, &papers.root, PUBLIC),
    ];
    let staged = files.into_iter().map(|(file, content, mode)| stage(dir, file, content, mode));
    let staged = staged.collect::<Result<Vec<_>, _>>()?;
    for file in [ROOT, KEY, ISSUER] {
        set_aside(dir, file)?;
    }
    for (path, aside) in staged {
        aside.persist(&path).map_err(|failed| Error::Folder { path, why: failed.error })?;
    }
    sync_folder(dir).map_err(|why| Error::Folder { path: dir.to_owned(), why })
}

/// Copies the CA in the folder to the earlier ones, whose clients are served until then. The caller
/// holds the lock.
pub(super) fn keep_earlier(dir: &Path, fingerprint: &str, until: SystemTime) -> Result<(), Error> {
    let place = dir.join(EARLIER).join(fingerprint);
    let kept = || {
        make_private(&dir.join(EARLIER))?;
        let aside = tempfile::Builder::new().prefix(HALF).tempdir_in(dir.join(EARLIER))?;
        #[cfg(unix)]
        fs::set_permissions(aside.path(), std::os::unix::fs::PermissionsExt::from_mode(PRIVATE))?;
        for file in [ROOT, ISSUER, KEY] {
            // The mode comes along.
            fs::copy(dir.join(file), aside.path().join(file))?;
            OpenOptions::new().write(true).open(aside.path().join(file))?.sync_all()?;
        }
        let mut date = File::create(aside.path().join(UNTIL))?;
        date.write_all(format!("{}\n", write_time(until)?).as_bytes())?;
        date.sync_all()?;
        // What a rotation left that broke off is the same CA.
        remove_folder(&place)?;
        fs::rename(aside.path(), &place)?;
        sync_folder(&dir.join(EARLIER))
    };
    kept().map_err(|why| Error::Folder { path: place.clone(), why })
}

/// The folders of earlier CAs, and until when their clients are served.
pub(super) fn list_earlier(dir: &Path) -> Vec<(PathBuf, Result<SystemTime, Error>)> {
    let Ok(entries) = fs::read_dir(dir.join(EARLIER)) else { return Vec::new() };
    let whole = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_dir() && name.is_some_and(|name| !name.starts_with(HALF))
    };
    let folders = entries.flatten().map(|entry| entry.path()).filter(whole);
    folders.map(|folder| (folder.clone(), read_until(&folder))).collect()
}

/// Destroys an earlier CA with its key.
pub(super) fn remove_earlier(folder: &Path) -> Result<(), Error> {
    remove_folder(folder).map_err(|why| Error::Folder { path: folder.to_owned(), why })
}

/// Removes what was set aside of a CA that is kept elsewhere.
pub(super) fn drop_aside(dir: &Path) -> Result<(), Error> {
    for file in [ROOT, KEY, ISSUER] {
        let path = old_name(&dir.join(file));
        match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(Error::Folder { path, why }),
            _ => {}
        }
    }
    Ok(())
}

/// What tells that the folder holds something else than before, without reading it.
pub(super) fn stamp(dir: &Path) -> Option<Stamp> {
    let changed = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Some((changed(dir.join(ROOT))?, changed(dir.join(EARLIER))))
}

/// When `ca.pem` and the list of earlier CAs changed last.
pub(super) type Stamp = (SystemTime, Option<SystemTime>);

/// Writes a key where there is no file yet, for its owner alone.
pub(super) fn write_key(path: &Path, pem: &str) -> Result<(), Error> {
    let written = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, SECRET);
        let mut file = options.open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|why| Error::RootKey { path: path.to_owned(), why })
}

/// Whether others than its owner can read the key.
#[cfg(unix)]
pub(super) fn key_is_open(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(dir.join(KEY)).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Folders of a user are closed to others by inheritance here.
#[cfg(not(unix))]
pub(super) fn key_is_open(_dir: &Path) -> bool {
    false
}

fn check_layout(dir: &Path) -> Result<(), Error> {
    // Files that somebody put there by hand have no marker; they are what we know.
    let Some(text) = read_file(dir, "layout")? else { return Ok(()) };
    match text.trim().parse::<u32>() {
        Ok(LAYOUT) => Ok(()),
        Ok(version) if version > LAYOUT => Err(Error::Newer { dir: dir.to_owned(), version, known: LAYOUT }),
        _ => Err(Error::Broken {
            path: dir.join("layout"),
            what: format!("wanted {LAYOUT}, and it says {:?}", text.trim()),
        }),
    }
}

fn read_file(dir: &Path, file: &str) -> Result<Option<String>, Error> {
    let path = dir.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) if why.kind() == io::ErrorKind::InvalidData => {
            Err(Error::Broken { path, what: "wanted PEM, and it is not even text".into() })
        }
        Err(why) => Err(Error::Folder { path, why }),
    }
}

fn read_until(folder: &Path) -> Result<SystemTime, Error> {
    let text = read_file(folder, UNTIL)?.unwrap_or_default();
    let until = text.trim().parse::<jiff::Timestamp>().map(SystemTime::from);
    until.map_err(|_| Error::Broken {
        path: folder.join(UNTIL),
        what: format!("wanted a date such as 2027-01-31T00:00:00Z, and it says {:?}", text.trim()),
    })
}

fn write_time(time: SystemTime) -> io::Result<String> {
    jiff::Timestamp::try_from(time).map(|at| at.to_string()).map_err(io::Error::other)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

fn make_folder(dir: &Path) -> Result<(), Error> {
    make_private(dir).map_err(|why| Error::Folder { path: dir.to_owned(), why })
}

fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, PRIVATE);
    builder.create(dir)
}

/// Writes a file aside, on disk and ready to be renamed. It is its owner's alone meanwhile (tempfile makes it 0600).
fn stage(dir: &Path, file: &str, content: &str, mode: u32) -> Result<(PathBuf, NamedTempFile), Error> {
    let path = dir.join(file);
    let staged = || {
        let mut aside = NamedTempFile::new_in(dir)?;
        aside.write_all(content.as_bytes())?;
        set_mode(aside.as_file(), mode)?;
        aside.as_file().sync_all()?;
        Ok(aside)
    };
    match staged() {
        Ok(aside) => Ok((path, aside)),
        Err(why) => Err(Error::Folder { path, why }),
    }
}

fn set_aside(dir: &Path, file: &str) -> Result<(), Error> {
    let path = dir.join(file);
    match fs::rename(&path, old_name(&path)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(Error::Folder { path, why }),
        _ => Ok(()),
    }
}

fn old_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// A rename lasts once its folder is on disk.
#[cfg(unix)]
fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_dir: &Path) -> io::Result<()> {
    Ok(())
}

const LAYOUT: u32 = 1;
const EARLIER: &str = "earlier";
const UNTIL: &str = "until";
/// What is not whole yet begins with this.
const HALF: &str = ".half";
#[cfg(unix)]
const PRIVATE: u32 = 0o700;
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const README: &str = "\
The certificate authority of one goanyway.

ca.pem      the root certificate: what clients trust. Its key was destroyed when it was made
            (unless `goanyway ca init --keep-root FILE` said where to keep it).
issuer.pem  the intermediate certificate, which is sent along with every leaf
issuer.key  its key: the only secret here, of use to nobody but this goanyway. Do not copy it.
earlier/    the CAs before this one whose clients are still served, after `goanyway ca rotate`;
            remove a folder in it to end that at once
layout      the version of this folder's layout

Both certificates carry critical name constraints: whatever is signed with issuer.key counts for the
module mirrors and checksum databases listed in them, and for no other host and no address.

  goanyway ca show      what it covers, until when, and how a client trusts it
  goanyway ca rotate    the next one; clients of this one are served for a while
";
