//! Where this runs: on the machine itself, or in a container, whose loopback and whose way out are its own.

use std::path::Path;

use super::finding::Finding;
use super::surroundings::Surroundings;
use crate::cli::env::Environment;

/// Says where we are: what follows holds there and nowhere else.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let saw = match container(&around.root, &around.environment) {
        Some(kind) => format!("inside a container ({kind}), {system}: what follows is its own way out"),
        None => format!("on the machine itself, {system}"),
    };
    vec![Finding::ok("place", "", saw)]
}

/// What kind of container this is, if it is one.
pub(super) fn container(root: &Path, environment: &Environment) -> Option<String> {
    if environment.contains_key("KUBERNETES_SERVICE_HOST") {
        return Some("kubernetes".to_owned());
    }
    if root.join("run/.containerenv").exists() {
        return Some("podman".to_owned());
    }
    if root.join(".dockerenv").exists() {
        return Some("docker".to_owned());
    }
    // systemd-nspawn, lxc and others tell their first process (systemd's container interface).
    if let Some(kind) = environment.get("container").filter(|kind| !kind.is_empty()) {
        return Some(kind.clone());
    }
    let groups = std::fs::read_to_string(root.join("proc/1/cgroup")).unwrap_or_default();
    let known = ["kubepods", "docker", "containerd", "libpod", "lxc", "buildkit"];
    known.into_iter().find(|kind| groups.contains(kind)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_what_its_runtime_leaves_in_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let nothing = Environment::new();
        assert_eq!(container(root.path(), &nothing), None);
        std::fs::create_dir_all(at("proc/1")).unwrap();
        std::fs::write(at("proc/1/cgroup"), "0::/kubepods/besteffort/pod1\n").unwrap();
        assert_eq!(container(root.path(), &nothing).as_deref(), Some("kubepods"));
        std::fs::write(at(".dockerenv"), "").unwrap();
        assert_eq!(container(root.path(), &nothing).as_deref(), Some("docker"));
        std::fs::create_dir_all(at("run")).unwrap();
        std::fs::write(at("run/.containerenv"), "").unwrap();
        assert_eq!(container(root.path(), &nothing).as_deref(), Some("podman"));
    }
}
