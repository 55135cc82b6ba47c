//! What a test needs of its machine. What is lacking is said by name and the test is skipped, except
//! where `GOANYWAY_TEST_REQUIRE=all` makes that a failure.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Whether everything in `needed` is here; if not, the skip has been said.
pub fn have(test: &str, needed: &[&str]) -> bool {
    let lacking: Vec<&str> = needed.iter().copied().filter(|need| !is_here(need)).collect();
    if lacking.is_empty() {
        return true;
    }
    let lacking = lacking.join(", ");
    assert!(std::env::var("GOANYWAY_TEST_REQUIRE").as_deref() != Ok("all"), "{test} needs {lacking}");
    // Past the harness, which swallows what passing tests print.
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs {lacking}");
    false
}

fn is_here(need: &str) -> bool {
    match need {
        "root" => rustix::process::geteuid().is_root(),
        // Of this project, fetched beside it.
        path if path.contains('/') => Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(),
        "ptrace" => may_trace(),
        // A library has no program to look for; named as its package.
        "python3-requests" => {
            let importing = std::process::Command::new("python3").args(["-c", "import requests"]).output();
            importing.is_ok_and(|ended| ended.status.success())
        }
        program => find(program).is_some(),
    }
}

/// Whether we may stop a thread of a process that is no child of the tracer (Yama, ptrace(2)).
fn may_trace() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Bit 19 is CAP_SYS_PTRACE.
    let is_capable =
        effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> 19 & 1 == 1);
    is_capable || matches!(scope.trim(), "" | "0")
}

/// A program on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}
