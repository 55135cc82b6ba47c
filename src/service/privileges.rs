//! What is laid down once the ports are bound: the user, the capabilities, and any way back to them.
//!
//! Ports below 1024 and transparent sockets want privileges when they are bound, and none afterwards.
//! So after that nothing is kept: no capability in any set, none to be had by `execve` (bounding set,
//! `no_new_privs`), and with a user named, its uid, gid and groups in place of ours. Root without
//! capabilities is the owner of root's files, and nothing more.
//!
//! Linux keeps credentials by the thread. A process that has more than one already is refused: it
//! would be left with threads that kept everything.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Whom to become, found in `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As it was typed.
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// The groups that it is in besides.
    groups: Vec<u32>,
}

/// Why privileges could not be laid down, or prepared for that.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot become --user {user}: {error}; only root can become somebody else")]
    Become { user: String, error: io::Error },
    #[error("privileges cannot be laid down: {0}")]
    Keep(io::Error),
    #[error("privileges cannot be laid down: there are {0} threads already")]
    Threads(usize),
    #[error("{} belongs to uid {owner}, and --user {user} could not write it; as root: chown -R {user} {}", path.display(), path.display())]
    Foreign { path: PathBuf, owner: u32, user: String },
    #[error("cannot make {} for --user {user}: {error}", path.display())]
    Folder { path: PathBuf, user: String, error: io::Error },
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<User, String> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        User::find(text, &read("/etc/passwd"), &read("/etc/group"))
    }
}

impl User {
    /// `NAME[:GROUP]`, either as a number too; a user that stands in no file (a directory's) goes by numbers.
    fn find(text: &str, passwd: &str, group: &str) -> Result<User, String> {
        let (name, group_name) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        if name.is_empty() || group_name == Some("") {
            return Err("expected NAME[:GROUP]".to_owned());
        }
        let entry =
            passwd.lines().map(fields).find(|entry| entry.first() == Some(&name) || entry.get(2) == Some(&name));
        let number = |entry: &Vec<&str>, at: usize| entry.get(at).and_then(|text| text.parse::<u32>().ok());
        let uid = entry.as_ref().map_or_else(|| name.parse().ok(), |entry| number(entry, 2));
        let uid = uid.ok_or_else(|| format!("there is no user {name} in /etc/passwd"))?;
        let gid = match group_name {
            None => entry.as_ref().and_then(|entry| number(entry, 3)),
            Some(group_name) => {
                let found = group.lines().map(fields).find(|entry| entry.first() == Some(&group_name));
                found.map_or_else(|| group_name.parse().ok(), |entry| number(&entry, 2))
            }
        };
        let gid = gid.ok_or_else(|| match group_name {
            Some(group_name) => format!("there is no group {group_name} in /etc/group"),
            None => format!("user {name} stands in no /etc/passwd, so its group must be said: {name}:GROUP"),
        })?;
        let known_as = entry.and_then(|entry| entry.first().copied()).unwrap_or(name);
        let is_member = |entry: &Vec<&str>| entry.get(3).is_some_and(|all| all.split(',').any(|one| one == known_as));
        let groups = group.lines().map(fields).filter(is_member).filter_map(|entry| number(&entry, 2)).collect();
        Ok(User { name: text.to_owned(), uid, gid, groups })
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// Whether we can become `user` at all, before anything is prepared for that.
#[cfg(target_os = "linux")]
pub fn check_user(user: &User) -> Result<(), Error> {
    use rustix::thread::{CapabilitySet, capabilities};
    let wanted = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let able = capabilities(None).map_err(|error| Error::Keep(error.into()))?.effective.contains(wanted);
    if able || is_already(user) {
        return Ok(());
    }
    Err(Error::Become { user: user.name.clone(), error: io::ErrorKind::PermissionDenied.into() })
}

/// Elsewhere nobody can.
#[cfg(not(target_os = "linux"))]
pub fn check_user(user: &User) -> Result<(), Error> {
    Err(Error::Become { user: user.name.clone(), error: io::ErrorKind::Unsupported.into() })
}

/// A supervisor has seen to it, groups included.
#[cfg(target_os = "linux")]
fn is_already(user: &User) -> bool {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    own == (user.uid, user.gid) && user.uid != 0
}

/// Makes a folder that somebody else will own, or sees that it does. One that holds things of a
/// third is not taken from them.
#[cfg(unix)]
pub fn own_folder(path: &Path, user: &User) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
    let failed = |error| Error::Folder { path: path.to_owned(), user: user.name.clone(), error };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let folder = std::fs::File::open(path).map_err(failed)?;
    let owner = folder.metadata().map_err(failed)?.uid();
    if owner == user.uid {
        return Ok(());
    }
    if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(Error::Foreign { path: path.to_owned(), owner, user: user.name.clone() });
    }
    fchown(&folder, Some(user.uid), Some(user.gid)).map_err(failed)
}

/// Elsewhere nobody becomes somebody else.
#[cfg(not(unix))]
pub fn own_folder(_: &Path, _: &User) -> Result<(), Error> {
    Ok(())
}

/// Lays down what is not needed any more: everything. Becomes `user`, where one is named.
#[cfg(target_os = "linux")]
pub fn drop_privileges(user: Option<&User>) -> Result<(), Error> {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
    };
    let keep = |error: rustix::io::Errno| Error::Keep(error.into());
    // Without /proc (a bare chroot) nobody can count; there was no reason to start one so far.
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(Error::Threads(threads));
    }
    set_no_new_privs(true).map_err(keep)?;
    let held = capabilities(None).map_err(keep)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set().map_err(keep)?;
    }
    if let Some(user) = user {
        become_user(user).map_err(|error| Error::Become { user: user.name.clone(), error: error.into() })?;
    }
    let none = CapabilitySet::empty();
    let held = capabilities(None).map_err(keep)?;
    // A sandbox that gave none may forbid the call, too. What is not permitted cannot be ambient.
    if (held.permitted | held.inheritable).is_empty() {
        return Ok(());
    }
    clear_ambient_capability_set().map_err(keep)?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).map_err(keep)
}

/// Elsewhere there are no capabilities, and whoever wants another user starts us as that.
#[cfg(not(target_os = "linux"))]
pub fn drop_privileges(user: Option<&User>) -> Result<(), Error> {
    user.map_or(Ok(()), check_user)
}

#[cfg(target_os = "linux")]
fn empty_bounding_set() -> rustix::io::Result<()> {
    use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set};
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // Beyond the last one that this kernel knows.
            Err(_) => break,
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn become_user(user: &User) -> rustix::io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if is_already(user) {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ngoanyway:x:987:986::/nonexistent:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ngoanyway:x:986:\ntls:x:50:alice,goanyway\nadm:x:4:alice\n";

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let table = [
            ("goanyway", Ok((987, 986, vec![50]))),
            ("987", Ok((987, 986, vec![50]))),
            ("goanyway:tls", Ok((987, 50, vec![50]))),
            ("goanyway:4", Ok((987, 4, vec![50]))),
            ("4711:4712", Ok((4711, 4712, vec![]))),
            ("4711", Err("user 4711 stands in no /etc/passwd, so its group must be said: 4711:GROUP")),
            ("nobody", Err("there is no user nobody in /etc/passwd")),
            ("goanyway:wheel", Err("there is no group wheel in /etc/group")),
            ("goanyway:", Err("expected NAME[:GROUP]")),
            (":tls", Err("expected NAME[:GROUP]")),
            ("-1", Err("there is no user -1 in /etc/passwd")),
        ];
        for (text, expected) in table {
            let found = User::find(text, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups));
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_holds_what_is_anothers_is_not_taken_from_them() {
        let place = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let user =
            |uid| User { name: "somebody".to_owned(), uid, gid: rustix::process::getegid().as_raw(), groups: vec![] };
        let made = place.path().join("a/b");
        own_folder(&made, &user(own)).unwrap();
        assert!(made.is_dir());
        std::fs::write(made.join("file"), "").unwrap();
        own_folder(&made, &user(own)).unwrap();
        let said = own_folder(&made, &user(own + 4711)).unwrap_err().to_string();
        assert!(said.contains(&format!("belongs to uid {own}")) && said.contains("chown -R somebody"), "{said}");
    }
}
