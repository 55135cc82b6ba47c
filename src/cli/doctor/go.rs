//! What the go command is set to: asked of go itself, which knows its environment and its own file.
//!
//! A setting is mended where it stands: what the environment says, in the shell; what go's file says, by
//! `go env`, which `--fix` may do.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use super::finding::{Finding, Mend, quote};
use super::surroundings::Surroundings;
use crate::cli::env::Environment;
use crate::goproxy::{Module, Patterns};

const CHECK: &str = "go";
/// What is asked of `go env`.
const NAMES: [&str; 10] = [
    "GOVERSION",
    "GOPROXY",
    "GOFLAGS",
    "GOSUMDB",
    "GONOSUMDB",
    "GONOSUMCHECK",
    "GOPRIVATE",
    "GONOPROXY",
    "GOINSECURE",
    "GOENV",
];
/// Modules that everybody takes from a mirror.
const PUBLIC: [&str; 3] = ["golang.org/x/mod", "github.com/spf13/cobra", "google.golang.org/grpc"];

/// All that there is to say about go's settings.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let asked = Command::new("go").args(["env", "-json"]).args(NAMES).stdin(Stdio::null()).output();
    let output = match asked {
        Ok(output) => output,
        Err(_) => {
            return vec![Finding::ok(CHECK, "", "there is no go on the PATH; builds in containers have their own")];
        }
    };
    let Ok(said) = serde_json::from_slice::<HashMap<String, String>>(&output.stdout) else {
        let why = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it printed nothing").to_owned();
        let ask = Mend::Ask("you: go env must work before go build can".to_owned());
        return vec![Finding::fault(CHECK, "", format!("go env fails: {why}"), ask)];
    };
    let has_vendor = around.here.join("vendor/modules.txt").exists();
    Settings { said: &said, environment: &around.environment, has_vendor }.judge()
}

/// go's settings, and where each stands.
struct Settings<'a> {
    said: &'a HashMap<String, String>,
    environment: &'a Environment,
    has_vendor: bool,
}

impl Settings<'_> {
    fn judge(&self) -> Vec<Finding> {
        let version =
            Finding::ok(CHECK, "", format!("{} (settings: {})", self.value("GOVERSION"), self.value("GOENV")));
        let mut findings = vec![version, self.judge_proxy(), self.judge_flags()];
        findings.extend(self.judge_private("GOPRIVATE").or_else(|| self.judge_private("GONOPROXY")));
        findings.push(self.judge_sums());
        findings.extend(self.judge_insecure());
        findings
    }

    fn value(&self, name: &str) -> &str {
        self.said.get(name).map_or("", String::as_str).trim()
    }

    /// The variable back at its default, or at this.
    fn mend(&self, name: &str, to: Option<&str>) -> Mend {
        let in_environment = self.environment.get(name).is_some_and(|value| !value.is_empty());
        match (in_environment, to.filter(|to| !to.is_empty())) {
            (true, None) => Mend::Type(format!("unset {name}")),
            (true, Some(to)) => Mend::Type(format!("export {name}={}", quote(to))),
            (false, None) => Mend::Run(["go", "env", "-u", name].map(str::to_owned).into()),
            (false, Some(to)) => Mend::Run(vec!["go".into(), "env".into(), "-w".into(), format!("{name}={to}")]),
        }
    }

    fn judge_proxy(&self) -> Finding {
        let value = self.value("GOPROXY");
        let first = value.split([',', '|']).map(str::trim).find(|entry| !entry.is_empty()).unwrap_or_default();
        match first {
            "off" => Finding::fault(CHECK, "GOPROXY", "off: go downloads nothing at all", self.mend("GOPROXY", None)),
            "direct" => {
                let saw = "direct comes first, so no mirror is asked: nothing is kept, and every host must be reached";
                Finding::warning(CHECK, "GOPROXY", saw, self.mend("GOPROXY", None))
            }
            _ => Finding::ok(CHECK, "GOPROXY", value),
        }
    }

    fn judge_flags(&self) -> Finding {
        let value = self.value("GOFLAGS");
        let without = |bad: &str| {
            let kept: Vec<&str> =
                value.split_whitespace().filter(|flag| *flag != bad && *flag != bad.trim_start_matches('-')).collect();
            self.mend("GOFLAGS", Some(&kept.join(" ")))
        };
        let flag = |wanted: &str| value.split_whitespace().find(|flag| flag.trim_start_matches('-') == wanted);
        if let Some(vendor) = flag("mod=vendor") {
            let saw = format!("{vendor}: go takes modules from vendor/ alone, and downloads none");
            return match self.has_vendor {
                true => Finding::ok(CHECK, "GOFLAGS", saw),
                false => Finding::fault(CHECK, "GOFLAGS", format!("{saw}; there is no vendor/ here"), without(vendor)),
            };
        }
        if let Some(insecure) = flag("insecure") {
            let saw = format!("{insecure}: go get refuses it since 1.17; what is meant is GOINSECURE");
            return Finding::fault(CHECK, "GOFLAGS", saw, without(insecure));
        }
        Finding::ok(CHECK, "GOFLAGS", if value.is_empty() { "none" } else { value })
    }

    /// Patterns that were meant for one's own modules, and cover everybody's.
    fn judge_private(&self, name: &str) -> Option<Finding> {
        let value = self.value(name);
        let covered = covers(value)?;
        let saw = format!("{value}: it covers {covered}, so that is asked of no mirror and verified by nobody");
        Some(Finding::fault(CHECK, name, saw, self.mend(name, without_public(value).as_deref())))
    }

    fn judge_sums(&self) -> Finding {
        if self.value("GOSUMDB") == "off" {
            let saw = "off: nobody tells go that a download is what everybody else got";
            return Finding::warning(CHECK, "GOSUMDB", saw, self.mend("GOSUMDB", None));
        }
        // What GOPRIVATE says is GONOSUMDB's default, and judged there.
        let own = Some(self.value("GONOSUMDB")).filter(|value| *value != self.value("GOPRIVATE"));
        if let Some(covered) = own.and_then(covers) {
            let saw = format!("it covers {covered}, which go then does not verify");
            return Finding::warning(CHECK, "GONOSUMDB", saw, self.mend("GONOSUMDB", None));
        }
        if !self.value("GONOSUMCHECK").is_empty() && self.value("GONOSUMCHECK") != "0" {
            let saw = "no go since 1.13 knows it: GONOSUMDB and GOPRIVATE are what is meant";
            return Finding::warning(CHECK, "GONOSUMCHECK", saw, Mend::Type("unset GONOSUMCHECK".to_owned()));
        }
        Finding::ok(CHECK, "GOSUMDB", self.value("GOSUMDB"))
    }

    fn judge_insecure(&self) -> Option<Finding> {
        let covered = covers(self.value("GOINSECURE"))?;
        let saw = format!("it covers {covered}, whose host go then asks without verifying it");
        Some(Finding::warning(CHECK, "GOINSECURE", saw, self.mend("GOINSECURE", None)))
    }
}

/// A public module that these patterns cover.
fn covers(patterns: &str) -> Option<&'static str> {
    let patterns = Patterns::new(&[patterns]);
    PUBLIC.into_iter().find(|module| Module::new(module).is_ok_and(|module| patterns.cover(&module)))
}

/// The patterns that cover nothing public; none if nothing is left.
fn without_public(patterns: &str) -> Option<String> {
    let kept: Vec<&str> = patterns.split(',').filter(|pattern| covers(pattern).is_none()).collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    const DEFAULTS: [(&str, &str); 3] =
        [("GOVERSION", "go1.26.0"), ("GOPROXY", "https://goproxy.cn,direct"), ("GOENV", "/home/u/go/env")];

    fn judged(set: &[(&str, &str)], environment: &[(&str, &str)]) -> Vec<(String, Verdict, String)> {
        let said = DEFAULTS.iter().chain(set).map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let findings = Settings { said: &said, environment: &environment, has_vendor: false }.judge();
        let bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        bad.map(|finding| (finding.subject, finding.verdict, finding.mend.unwrap().command().unwrap())).collect()
    }

    #[test]
    fn go_as_it_comes_is_well() {
        assert_eq!(judged(&[("GOFLAGS", "-modcacherw"), ("GOPRIVATE", "*.corp.example,github.com/ours")], &[]), []);
    }

    #[test]
    fn a_setting_is_mended_where_it_stands() {
        let table = [
            ("GOPROXY", "off", "GOPROXY", Verdict::Fault, "unset GOPROXY", "go env -u GOPROXY"),
            ("GOPROXY", "direct", "GOPROXY", Verdict::Warning, "unset GOPROXY", "go env -u GOPROXY"),
            ("GOFLAGS", "-mod=vendor", "GOFLAGS", Verdict::Fault, "unset GOFLAGS", "go env -u GOFLAGS"),
            ("GOFLAGS", "-mod=vendor -v", "GOFLAGS", Verdict::Fault, "export GOFLAGS=-v", "go env -w GOFLAGS=-v"),
            ("GOFLAGS", "-insecure", "GOFLAGS", Verdict::Fault, "unset GOFLAGS", "go env -u GOFLAGS"),
            ("GOSUMDB", "off", "GOSUMDB", Verdict::Warning, "unset GOSUMDB", "go env -u GOSUMDB"),
            ("GONOSUMDB", "*", "GONOSUMDB", Verdict::Warning, "unset GONOSUMDB", "go env -u GONOSUMDB"),
            (
                "GOPRIVATE",
                "*,corp.example",
                "GOPRIVATE",
                Verdict::Fault,
                "export GOPRIVATE=corp.example",
                "go env -w GOPRIVATE=corp.example",
            ),
            ("GOINSECURE", "github.com", "GOINSECURE", Verdict::Warning, "unset GOINSECURE", "go env -u GOINSECURE"),
        ];
        for (name, value, subject, verdict, in_shell, in_file) in table {
            let expected = |line: &str| vec![(subject.to_owned(), verdict, line.to_owned())];
            assert_eq!(judged(&[(name, value)], &[(name, value)]), expected(in_shell));
            assert_eq!(judged(&[(name, value)], &[]), expected(in_file));
        }
    }
}
