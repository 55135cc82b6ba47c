//! What can be wrong with a go.mod or a go.sum that somebody wants read whole, and in which line.
//!
//! What a stranger's module brings is read leniently instead ([`super::GoMod::read`]): go judges that itself.

/// Nothing of the file is taken: the line where it goes wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {why}")]
pub struct BadFile {
    /// The first line is 1.
    pub line: usize,
    pub why: BadLine,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("a merge conflict that nobody resolved")]
    Conflict,
    #[error("a web page, and no file that go wrote")]
    WebPage,
    #[error("no line of a go.sum (MODULE VERSION HASH): {0:?}")]
    NoSum(String),
    #[error("the sum is not whole (h1: and 44 characters): {0:?}")]
    CutSum(String),
    #[error("no module path: {0:?}")]
    NoPath(String),
    #[error("no canonical version (v1.2.3): {0:?}")]
    NoVersion(String),
    #[error("no line of a go.mod: {0:?}")]
    NoDirective(String),
    #[error("the bracket of {0:?} is never closed")]
    Unclosed(String),
    #[error("a second module line: {0:?}")]
    SecondModule(String),
    #[error("there is no module line")]
    NoModule,
}

impl BadLine {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            BadLine::Conflict => "resolve it (of a go.sum, keep the lines of both sides), then: go mod tidy",
            BadLine::WebPage => "that is what a web server answered; have the file itself, as it is in the repository",
            BadLine::NoSum(_) | BadLine::CutSum(_) => "go mod tidy writes go.sum anew; git has the last whole one",
            BadLine::NoVersion(_) => "go mod tidy writes the version that is meant; or goanyway warm MODULE@VERSION",
            BadLine::NoModule => "go mod edit -module=NAME go.mod gives it one",
            _ => "go mod edit -json FILE says what go makes of it; git has the last whole one",
        }
    }

    pub(super) fn at(self, line: usize) -> BadFile {
        BadFile { line, why: self }
    }
}

/// The lines of a file and their numbers, unless it is none that go or a person wrote.
pub(super) fn numbered(text: &str) -> Result<impl Iterator<Item = (usize, &str)>, BadFile> {
    let lines = || text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if let Some((line, _)) = lines().find(|(_, line)| is_conflict(line)) {
        return Err(BadLine::Conflict.at(line));
    }
    match lines().find(|(_, line)| !line.trim().is_empty()) {
        Some((line, first)) if first.trim_start().starts_with('<') => Err(BadLine::WebPage.at(line)),
        _ => Ok(lines()),
    }
}

/// What git leaves in a file that two sides changed.
fn is_conflict(line: &str) -> bool {
    line == "=======" || ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark))
}
