//! The root certificates of this machine: that there are some, and that they know whoever signs for
//! the mirrors. An image that was built years ago, or from scratch, fails here.

use std::path::{Path, PathBuf};

use super::finding::{Finding, Mend};
use super::surroundings::Surroundings;
use crate::cli::env::SYSTEM_FILES;

/// How many roots there are, and from where.
pub(super) struct Roots {
    pub count: usize,
    /// The variable that names others than the system's.
    pub named_by: Option<(&'static str, String)>,
}

/// Reads the roots as every request of ours does.
pub(super) fn find(around: &Surroundings) -> Roots {
    let named = |name| around.variable(name).map(|value| (name, value.to_owned()));
    let named_by = named("SSL_CERT_FILE").or_else(|| named("SSL_CERT_DIR"));
    Roots { count: rustls_native_certs::load_native_certs().certs.len(), named_by }
}

/// The system's own bundle, past any variable.
pub(super) fn system_bundle(around: &Surroundings) -> Option<PathBuf> {
    let places = SYSTEM_FILES.iter().map(|file| around.root.join(file.trim_start_matches('/')));
    places.into_iter().find(|path| path.is_file())
}

impl Roots {
    /// `unknown`, if they do not know who signed for a mirror; `known_to_system`, if the system's own do.
    pub(super) fn judge(&self, unknown: Option<&str>, known_to_system: bool, around: &Surroundings) -> Finding {
        let from = match &self.named_by {
            Some((variable, value)) => format!("{variable}={value}"),
            None => "this system".to_owned(),
        };
        let saw = match (self.count, unknown) {
            (0, _) => format!("{from} has no root certificate at all, so no TLS can be verified"),
            (count, Some(host)) => {
                format!("none of the {count} roots of {from} vouches for {host}: they are old, or TLS is intercepted")
            }
            (count, None) => return Finding::ok("roots", "", format!("{count} of {from}")),
        };
        let mend = match &self.named_by {
            Some(_) if known_to_system => Mend::Type("unset SSL_CERT_FILE SSL_CERT_DIR".to_owned()),
            Some((variable, value)) if self.count == 0 => {
                Mend::Ask(format!("whoever set {variable}: there is no root in {value}"))
            }
            _ => install(&around.root),
        };
        Finding::fault("roots", "", saw, mend)
    }
}

/// The system's package of roots, by the program that installs packages.
fn install(root: &Path) -> Mend {
    let here =
        |program: &str| ["usr/bin", "sbin", "usr/sbin", "bin"].iter().any(|dir| root.join(dir).join(program).exists());
    let lines = [
        ("apt-get", "apt-get update && apt-get install -y ca-certificates"),
        ("apk", "apk add --upgrade ca-certificates"),
        ("dnf", "dnf install -y ca-certificates && update-ca-trust"),
        ("microdnf", "microdnf install -y ca-certificates && update-ca-trust"),
        ("pacman", "pacman -Sy --noconfirm ca-certificates"),
        ("zypper", "zypper --non-interactive install ca-certificates-mozilla"),
    ];
    match lines.iter().find(|(program, _)| here(program)) {
        Some((_, line)) => Mend::Type((*line).to_owned()),
        None => Mend::Ask(
            "whoever builds this image: copy /etc/ssl/certs/ca-certificates.crt from one that has it".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_a_package_of_roots() {
        for (program, begins) in
            [("usr/bin/apt-get", "apt-get update"), ("sbin/apk", "apk add"), ("usr/bin/dnf", "dnf ")]
        {
            let root = tempfile::tempdir().unwrap();
            assert!(install(root.path()).command().is_none(), "from scratch there is no program");
            std::fs::create_dir_all(root.path().join(program).parent().unwrap()).unwrap();
            std::fs::write(root.path().join(program), "").unwrap();
            assert!(install(root.path()).command().unwrap().starts_with(begins));
        }
    }
}
