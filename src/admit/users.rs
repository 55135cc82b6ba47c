//! Users and their hashed passwords: lines `NAME:$2y$…` or `NAME:$argon2id$…`, as `htpasswd -B` writes them.
//!
//! A hash that is worth anything takes milliseconds, and a build opens a thousand connections: a pair that
//! was found right or wrong is remembered by a digest that only this process can make, until the file
//! changes. The hashing itself is somebody else's to put off the worker ([`Proof::work`]); a user that
//! there is not costs as much as one that there is.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
use bcrypt::HashParts;
use lru::LruCache;
use rustls::crypto::SecureRandom;
use sha2::{Digest, Sha256};

use super::clients::Identity;
use crate::kept::Kept;

/// How many pairs are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// The largest file that is read: tens of thousands of users.
const LARGEST: u64 = 4 << 20;

/// The users of a file, read again when it changes.
pub(super) struct Users {
    kept: Kept<Book, Error>,
}

impl Users {
    pub(super) fn open(path: PathBuf) -> Result<Users, Error> {
        let file = path.clone();
        Ok(Users { kept: Kept::open("the users of --credentials", vec![path], move || Book::read(&file))? })
    }

    /// Whether this is known to be right or wrong; nothing where it was not worked out yet.
    pub(super) fn recall(&self, identity: &Identity) -> Option<bool> {
        let book = self.kept.current(Instant::now());
        book.recall(&book.digest(identity))
    }

    /// The work that tells, where it is still to be done.
    pub(super) fn unproven(&self, identity: &Identity) -> Option<Proof> {
        let book = self.kept.current(Instant::now());
        let digest = book.digest(identity);
        let is_known = book.recall(&digest).is_some();
        (!is_known).then(|| Proof { book, identity: identity.clone(), digest })
    }
}

/// Work that tells whether a password is right.
pub struct Proof {
    book: Arc<Book>,
    identity: Identity,
    digest: [u8; 32],
}

impl Proof {
    /// Does it, which takes milliseconds to a second of one core: not on a worker.
    pub fn work(self) {
        // Whoever waited for their turn may find it done.
        if self.book.recall(&self.digest).is_none() {
            let fits = self.book.check(&self.identity);
            self.book.proven().put(self.digest, fits);
        }
    }
}

/// What the file said when it was read.
struct Book {
    users: HashMap<String, Hash>,
    /// What is hashed for a user that there is not.
    decoy: Hash,
    secret: [u8; 32],
    // Held for a look-up.
    proven: Mutex<LruCache<[u8; 32], bool>>,
}

impl Book {
    fn read(path: &Path) -> Result<Book, Error> {
        let failed = |error: std::io::Error| Error::Read { path: path.to_owned(), error: Arc::new(error) };
        let about = std::fs::metadata(path).map_err(failed)?;
        if about.len() > LARGEST {
            return Err(Error::Large { path: path.to_owned() });
        }
        if let Some(mode) = open_mode(&about) {
            return Err(Error::Open { path: path.to_owned(), mode });
        }
        Book::parse(&std::fs::read_to_string(path).map_err(failed)?, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Book, Error> {
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |why| Error::Line { path: path.to_owned(), number, why };
            let (name, hash) = line.split_once(':').ok_or(bad("expected NAME:HASH"))?;
            let hash = Hash::parse(hash).map_err(bad)?;
            if name.is_empty() {
                return Err(bad("the name is empty"));
            }
            if users.insert(name.to_owned(), hash).is_some() {
                return Err(bad("this user stands here twice"));
            }
        }
        let decoy = users.values().next().cloned().ok_or_else(|| Error::Empty { path: path.to_owned() })?;
        let mut secret = [0; 32];
        let random: &dyn SecureRandom = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut secret).map_err(|_| Error::Random)?;
        Ok(Book { users, decoy, secret, proven: Mutex::new(LruCache::new(REMEMBERED)) })
    }

    /// What a pair is remembered by: nobody without our secret can make it, and nothing is learnt from how
    /// long it takes to be compared.
    fn digest(&self, identity: &Identity) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.secret);
        digest.update((identity.user.len() as u64).to_be_bytes());
        digest.update(&identity.user);
        digest.update(&identity.password);
        digest.finalize().into()
    }

    fn recall(&self, digest: &[u8; 32]) -> Option<bool> {
        self.proven().get(digest).copied()
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], bool>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, identity: &Identity) -> bool {
        let user = self.users.get(&identity.user).or_else(|| self.users.get(without_word(&identity.user)));
        let fits = user.unwrap_or(&self.decoy).fits(&identity.password);
        fits && user.is_some()
    }
}

/// A user without the word about our CA that it may end in: `alice+ca-1a2b3c4d`.
fn without_word(user: &str) -> &str {
    match user.rsplit_once('+') {
        Some((name, word)) if word == "ca" || word.starts_with("ca-") => name,
        _ => user,
    }
}

#[cfg(unix)]
fn open_mode(about: &std::fs::Metadata) -> Option<u32> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o777;
    // Everybody may not even read hashes, and the group may not make any.
    (mode & 0o027 > 0).then_some(mode)
}

#[cfg(not(unix))]
fn open_mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

/// A password's hash, by the two functions that are fit for it.
#[derive(Clone)]
enum Hash {
    Bcrypt(String),
    Argon2(String),
}

impl Hash {
    fn parse(text: &str) -> Result<Hash, &'static str> {
        if text.starts_with("$2") {
            let parts = text.parse::<HashParts>().map_err(|_| "this is no bcrypt hash")?;
            // 2^18 is a minute of a core for each guess, and for each login.
            return if parts.get_cost() <= 18 { Ok(Hash::Bcrypt(text.to_owned())) } else { Err("its cost is over 18") };
        }
        if text.starts_with("$argon2id$") {
            PasswordHash::new(text).map_err(|_| "this is no argon2id hash")?;
            return Ok(Hash::Argon2(text.to_owned()));
        }
        Err("expected a hash, $2y$… (htpasswd -B) or $argon2id$…; passwords themselves do not belong here")
    }

    fn fits(&self, password: &str) -> bool {
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hash::Argon2(hash) => PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
        }
    }
}

/// Why a file of users cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("--credentials {}: {error}", path.display())]
    Read { path: PathBuf, error: Arc<std::io::Error> },
    #[error("--credentials {}: everybody may read it, or others write it (mode {mode:03o}); chmod 640", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("--credentials {}: it is too large for a file of users", path.display())]
    Large { path: PathBuf },
    #[error("--credentials {}: there is no user in it; htpasswd -B {} NAME", path.display(), path.display())]
    Empty { path: PathBuf },
    // Never the line itself: it may hold a password.
    #[error("--credentials {} line {number}: {why}", path.display())]
    Line { path: PathBuf, number: usize, why: &'static str },
    #[error("the system gives no random bytes")]
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(user: &str, password: &str) -> Identity {
        Identity { user: user.to_owned(), password: password.to_owned() }
    }

    fn book(text: &str) -> Result<Book, String> {
        Book::parse(text, Path::new("users")).map_err(|error| error.to_string())
    }

    fn hashed(password: &str) -> String {
        bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    fn argon2(password: &str) -> String {
        use argon2::{Algorithm, Params, Version, password_hash::PasswordHasher};
        let params = Params::new(32, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_with_salt(password.as_bytes(), b"saltsalt").unwrap().to_string()
    }

    #[test]
    fn users_are_known_by_either_kind_of_hash_and_with_their_word_about_the_ca() {
        let text = format!("# the team\n\nalice:{}\nbob:{}\n", hashed("s3cret"), argon2("hunter2"));
        let book = book(&text).unwrap();
        let table = [
            ("alice", "s3cret", true),
            ("alice+ca-1a2b3c4d", "s3cret", true),
            ("alice+ca", "s3cret", true),
            ("alice+other", "s3cret", false),
            ("alice", "s3creT", false),
            ("alice", "hunter2", false),
            ("alice", "", false),
            ("bob", "hunter2", true),
            ("carol", "s3cret", false),
            ("ca-1a2b3c4d", "s3cret", false),
            ("", "", false),
        ];
        for (user, password, fits) in table {
            assert_eq!(book.check(&identity(user, password)), fits, "{user}:{password}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_right_is_refused_with_the_line_and_never_with_the_password() {
        let twice = format!("a:{0}\na:{0}", hashed("x"));
        let table = [
            ("alice:s3cret", "line 1: expected a hash"),
            ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "line 1: expected a hash"),
            ("alice:$apr1$x$y", "line 1: expected a hash"),
            ("alice:$argon2i$v=19$m=32,t=1,p=1$c2FsdHNhbHQ$AAAA", "line 1: expected a hash"),
            ("alice:$2y$05$short", "line 1: this is no bcrypt hash"),
            ("alice:$argon2id$nonsense!", "line 1: this is no argon2id hash"),
            ("s3cret", "line 1: expected NAME:HASH"),
            ("\n# nobody\n", "there is no user in it"),
            (twice.as_str(), "line 2: this user stands here twice"),
        ];
        for (text, words) in table {
            let said = book(text).err().unwrap();
            assert!(said.contains(words) && !said.contains("s3cret"), "{text}: {said}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("alice:{}", hashed("s3cret"))).unwrap();
        for (mode, fine) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let opened = Users::open(file.path().to_owned());
            assert_eq!(opened.is_ok(), fine, "{mode:o}: {:?}", opened.err().map(|error| error.to_string()));
        }
    }

    #[test]
    fn each_pair_is_worked_out_once() {
        let file = tempfile::Builder::new().tempfile().unwrap();
        std::fs::write(file.path(), format!("alice:{}", hashed("s3cret"))).unwrap();
        let users = Users::open(file.path().to_owned()).unwrap();
        for (password, fits) in [("s3cret", true), ("wrong", false)] {
            let pair = identity("alice", password);
            assert_eq!(users.recall(&pair), None);
            users.unproven(&pair).unwrap().work();
            assert_eq!(users.recall(&pair), Some(fits));
            assert!(users.unproven(&pair).is_none());
        }
    }
}
