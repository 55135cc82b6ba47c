//! The findings as a person reads them, and as a program does (docs/doctor.md).
//!
//! One finding a paragraph: the verdict in a column of its own, what was seen beside it, and below it
//! what mends it, on a line that is never broken so that it can be copied.

use std::fmt::Write as _;

use serde::Serialize;

use super::finding::{Finding, Mend, Verdict};
use crate::cli::count;

/// How wide sentences may be.
const WIDTH: usize = 80;
/// As wide as the longest verdict, and two spaces.
const MARGIN: usize = 9;

/// `doctor --json`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    /// Of this form. Fields may be added to it; none is renamed, removed or given another meaning.
    version: u32,
    goanyway: &'static str,
    /// Whether there is no fault.
    healthy: bool,
    faults: usize,
    warnings: usize,
    findings: &'a [Finding],
    /// What `--fix` ran.
    fixed: &'a [Fixed],
}

/// A command that `--fix` ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fixed {
    pub command: String,
    /// Its exit code; none where it could not be started or was ended by a signal.
    pub code: Option<i32>,
}

impl<'a> Report<'a> {
    pub(super) fn of(findings: &'a [Finding], fixed: &'a [Fixed]) -> Report<'a> {
        let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        let (faults, warnings) = (count(Verdict::Fault), count(Verdict::Warning));
        let goanyway = env!("CARGO_PKG_VERSION");
        Report { version: 1, goanyway, healthy: faults == 0, faults, warnings, findings, fixed }
    }

    /// Whether the exit code is 0.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy
    }

    pub(super) fn json(&self) -> String {
        // Strings, numbers and lists: nothing in it could fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Colours, if there are any, only repeat what the verdict's word says.
    pub(super) fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        for alike in self.findings.chunk_by(Finding::is_well_like) {
            let subjects: Vec<&str> = alike.iter().map(|finding| finding.subject.as_str()).collect();
            let told = Finding { subject: subjects.join(", "), ..alike[0].clone() };
            text.push_str(&paragraph(&told, colour));
        }
        let well = self.findings.len() - self.faults - self.warnings;
        let (warnings, faults) = (count(self.warnings as u64, "warning"), count(self.faults as u64, "fault"));
        let _ = writeln!(text, "\n{well} ok, {warnings}, {faults}");
        text
    }
}

fn paragraph(finding: &Finding, colour: bool) -> String {
    let word = format!("{:<MARGIN$}", finding.verdict.word());
    let mut text = wrap(&finding.to_string(), &word);
    match &finding.mend {
        Some(Mend::Ask(who)) => text.push_str(&wrap(who, &format!("{:MARGIN$}who:  ", ""))),
        Some(mend) => {
            let _ = writeln!(text, "{:MARGIN$}mend: {}", "", mend.command().unwrap_or_default());
        }
        None => {}
    }
    if colour { paint(finding.verdict) + &text[..MARGIN] + "\u{1b}[0m" + &text[MARGIN..] } else { text }
}

fn paint(verdict: Verdict) -> String {
    let number = match verdict {
        Verdict::Ok => 32,
        Verdict::Warning => 33,
        Verdict::Fault => 31,
    };
    format!("\u{1b}[{number}m")
}

/// Words in lines, the later ones as far in as the first one's text begins.
fn wrap(words: &str, first: &str) -> String {
    let indent = " ".repeat(first.len());
    let (mut text, mut line, mut is_fresh) = (String::new(), first.to_owned(), true);
    for word in words.split(' ') {
        if !is_fresh && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            (line, is_fresh) = (indent.clone(), true);
        }
        if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    text + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::super::golden::compare;
    use super::*;

    fn healthy() -> Vec<Finding> {
        vec![
            Finding::ok("place", "", "this machine itself: linux x86_64"),
            Finding::ok("dns", "10.0.0.53", "answers in 3 ms"),
            Finding::ok("go-lookup", "goproxy.cn", "go alone finds it: 1.1.1.9"),
            Finding::ok("mirror", "https://goproxy.cn", "answers 200 in 41 ms"),
            Finding::ok("trust", "go", "trusts the CA 1a2b3c4d: a handshake was made"),
            Finding::ok("port", "127.0.0.1:3128", "is free"),
            Finding::ok("port", "127.0.0.1:3127", "is free"),
        ]
    }

    fn broken() -> Vec<Finding> {
        let mut findings = healthy();
        findings[1] = Finding::fault(
            "dns",
            "10.0.0.53",
            "does not answer, and go waits five seconds for each question before it asks the next server",
            Mend::Type("echo \"$(sed '/^nameserver 10\\.0\\.0\\.53$/d' /etc/resolv.conf)\" > /etc/resolv.conf".into()),
        );
        findings[4] = Finding::warning(
            "ca",
            "",
            "it ends on 2027-01-31",
            Mend::ours(&["ca", "rotate"], vec!["--ca-dir".into(), "/srv/my certs".into()]),
        );
        findings.push(Finding::fault(
            "mirror",
            "https://goproxy.cn",
            "403 Forbidden: it was reached, and does not want to serve us",
            Mend::Ask("whoever runs goproxy.cn, or what stands before it; another mirror: --upstream URL".into()),
        ));
        findings
    }

    #[test]
    fn a_person_reads_what_is_well_and_what_is_not() {
        compare("doctor-healthy.txt", &Report::of(&healthy(), &[]).text(false));
        compare("doctor-broken.txt", &Report::of(&broken(), &[]).text(false));
    }

    #[test]
    fn a_program_reads_the_same() {
        let findings = broken();
        let fixed = [Fixed { command: "goanyway ca rotate".into(), code: Some(0) }];
        let read: serde_json::Value = serde_json::from_str(&Report::of(&findings, &fixed).json()).unwrap();
        assert_eq!(read["version"], 1);
        assert_eq!((&read["healthy"], &read["faults"], &read["warnings"]), (&false.into(), &2.into(), &1.into()));
        assert_eq!(read["findings"][0]["mend"], serde_json::Value::Null);
        let rotate = serde_json::json!({"command": "goanyway ca rotate --ca-dir '/srv/my certs'", "fixable": true});
        assert_eq!(read["findings"][4]["mend"], rotate);
        assert_eq!(read["findings"][1]["mend"]["fixable"], false);
        assert!(read["findings"][7]["mend"]["who"].as_str().unwrap().starts_with("whoever runs goproxy.cn"));
        assert_eq!(read["fixed"], serde_json::json!([{"command": "goanyway ca rotate", "code": 0}]));
    }

    /// Whoever sees no colours misses nothing.
    #[test]
    fn colour_adds_nothing() {
        let findings = broken();
        let report = Report::of(&findings, &[]);
        let coloured = report.text(true);
        let stripped = ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"];
        let bare = stripped.iter().fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert_ne!(coloured, bare);
        assert_eq!(bare, report.text(false));
    }
}
