//! What the surroundings say: our folders by the rules of the platform, go's own settings, the
//! memory limit.

use std::path::{Path, PathBuf};

use super::defaults;

/// A read of the environment.
type Around<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `$XDG_CACHE_HOME` if set, else as root `/var/cache`, else `~/.cache`.
pub fn cache(around: Around<'_>) -> Option<PathBuf> {
    Some(base(around, "XDG_CACHE_HOME", "/var/cache", ".cache")?.join("goanyway"))
}

/// Where what is learnt lies, by the same rule.
pub fn state(around: Around<'_>) -> Option<PathBuf> {
    Some(base(around, "XDG_STATE_HOME", "/var/lib", ".local/state")?.join("goanyway"))
}

/// Where the CA lies, by the same rule.
pub fn ca(around: Around<'_>) -> Option<PathBuf> {
    Some(base(around, "XDG_DATA_HOME", "/var/lib", ".local/share")?.join("goanyway/certs"))
}

/// The file of settings, if there is one: the user's, else the system's.
pub fn config_file(around: Around<'_>) -> Option<PathBuf> {
    let user = user_config(around).map(|folder| folder.join("goanyway/goanyway.toml"));
    let system = PathBuf::from("/etc/goanyway/goanyway.toml");
    user.into_iter().chain([system]).find(|path| path.is_file())
}

fn base(around: Around<'_>, variable: &str, as_root: &str, at_home: &str) -> Option<PathBuf> {
    if let Some(set) = absolute(around, variable) {
        return Some(set);
    }
    if is_root() {
        return Some(PathBuf::from(as_root));
    }
    Some(absolute(around, "HOME")?.join(at_home))
}

fn user_config(around: Around<'_>) -> Option<PathBuf> {
    absolute(around, "XDG_CONFIG_HOME").or_else(|| Some(absolute(around, "HOME")?.join(".config")))
}

/// The XDG rules ignore relative paths.
fn absolute(around: Around<'_>, variable: &str) -> Option<PathBuf> {
    around(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// What go's settings say is nobody's business outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GoPrivate {
    /// Modules that no public mirror is asked for: GONOPROXY.
    pub unshared: Vec<String>,
    /// Modules that no checksum database is asked about: GONOSUMDB.
    pub unjudged: Vec<String>,
}

/// GOPRIVATE, GONOPROXY and GONOSUMDB of the environment and else of go's own file of settings
/// (cmd/go/internal/cfg: GOENV, `os.UserConfigDir()/go/env`).
pub fn go_private(around: Around<'_>) -> GoPrivate {
    let set = |name: &str| around(name).filter(|value| !value.is_empty());
    let file = match around("GOENV") {
        Some(off) if off == "off" => None,
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => user_config(around).map(|folder| folder.join("go/env")),
    };
    let text = file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let kept = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let either = |name: &str| set(name).or_else(|| kept(name));
    // Each has the default GOPRIVATE, wherever that is set; `none` is how it is switched off.
    let patterns = |name: &str| -> Vec<String> {
        let patterns = either(name).or_else(|| either("GOPRIVATE")).unwrap_or_default();
        let parts = patterns.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "none");
        parts.map(str::to_owned).collect()
    };
    GoPrivate { unshared: patterns("GONOPROXY"), unjudged: patterns("GONOSUMDB") }
}

/// 256 MiB, or an eighth of what this machine or container may use, whichever is less.
pub fn cache_memory() -> u64 {
    let limit = memory_limit().map_or(u64::MAX, |limit| limit / defaults::CACHE_MEMORY_PART);
    limit.min(defaults::CACHE_MEMORY)
}

fn memory_limit() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let cgroup = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    });
    cgroup.into_iter().chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_the_xdg_variables_when_they_are_set() {
        let around = |name: &str| match name {
            "XDG_CACHE_HOME" => Some("/x/cache".to_owned()),
            "XDG_STATE_HOME" => Some("relative".to_owned()),
            "HOME" => Some("/home/u".to_owned()),
            _ => None,
        };
        assert_eq!(cache(&around), Some("/x/cache/goanyway".into()));
        let fallen_back = if is_root() { "/var/lib/goanyway" } else { "/home/u/.local/state/goanyway" };
        assert_eq!(state(&around), Some(fallen_back.into()));
    }

    #[test]
    fn private_modules_are_those_of_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "GOFLAGS=-x\nGOPRIVATE=git.corp.example/*,*.internal\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let from_file = |name: &str| (name == "GOENV").then(|| path.clone());
        let both = |patterns: &[&str]| GoPrivate {
            unshared: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            unjudged: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        };
        assert_eq!(go_private(&from_file), both(&["git.corp.example/*", "*.internal"]));
        let from_both = |name: &str| match name {
            "GOPRIVATE" => Some("a.example".to_owned()),
            name => from_file(name),
        };
        assert_eq!(go_private(&from_both), both(&["a.example"]));
    }

    /// go's own documentation has GONOPROXY=none for a company that has a mirror of its own.
    #[test]
    fn a_module_may_be_hidden_from_the_database_alone() {
        let set = |name: &str| match name {
            "GOPRIVATE" => Some("corp.example".to_owned()),
            "GONOPROXY" => Some("none".to_owned()),
            _ => None,
        };
        let unjudged = |name: &str| (name == "GONOSUMDB").then(|| "corp.example".to_owned());
        for found in [go_private(&set), go_private(&unjudged)] {
            assert_eq!(found, GoPrivate { unshared: Vec::new(), unjudged: vec!["corp.example".to_owned()] });
        }
    }

    #[test]
    fn memory_is_never_more_than_its_part() {
        assert!(cache_memory() <= defaults::CACHE_MEMORY);
    }
}
