//! go.sum files: which module versions a build is made of, and what their files must hash to.
//!
//! A file is taken whole or not at all: what cannot be read of it is a version that would be missing.

use std::collections::BTreeMap;

use super::lines::{BadFile, BadLine, numbered};
use super::log::Sums;
use super::path::{Module, ModuleRequest, Version};

/// The sums of a go.sum file.
#[derive(Clone, Debug, Default)]
pub struct GoSum(BTreeMap<(Module, Version), Sums>);

impl GoSum {
    /// Reads `MODULE VERSION[/go.mod] h1:SUM` lines. A file without any is one of a module that requires nothing.
    pub fn parse(text: &str) -> Result<GoSum, BadFile> {
        let mut sums = GoSum::default();
        for (at, line) in numbered(text)? {
            sums.take(line).map_err(|why| why.at(at))?;
        }
        Ok(sums)
    }

    /// Adds what another one has.
    pub fn extend(&mut self, other: GoSum) {
        for (version, sums) in other.0 {
            let entry = self.0.entry(version).or_default();
            entry.zip.extend(sums.zip);
            entry.go_mod.extend(sums.go_mod);
        }
    }

    /// Every version in it, and whether a build wants its zip.
    pub fn versions(&self) -> impl Iterator<Item = (&(Module, Version), bool)> {
        self.0.iter().map(|(version, sums)| (version, !sums.zip.is_empty()))
    }

    /// The sums that a file may have; none if it is not in here.
    pub fn sums_of(&self, request: &ModuleRequest) -> &[String] {
        let (module, version) = match request {
            ModuleRequest::Zip { module, version } | ModuleRequest::Mod { module, version } => (module, version),
            _ => return &[],
        };
        let Some(sums) = self.0.get(&(module.clone(), version.clone())) else { return &[] };
        if matches!(request, ModuleRequest::Zip { .. }) { &sums.zip } else { &sums.go_mod }
    }

    pub(super) fn sums(&self, module: &Module, version: &Version) -> Sums {
        self.0.get(&(module.clone(), version.clone())).cloned().unwrap_or_default()
    }

    /// Whether a build with this go.sum may ask for the file.
    pub(super) fn names(&self, request: &ModuleRequest) -> bool {
        match request {
            ModuleRequest::Info { module, version } => self.0.contains_key(&(module.clone(), version.clone())),
            _ => !self.sums_of(request).is_empty(),
        }
    }

    fn take(&mut self, line: &str) -> Result<(), BadLine> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [module, version, sum] = words[..] else {
            return if words.is_empty() { Ok(()) } else { Err(BadLine::NoSum(line.to_owned())) };
        };
        let path = Module::new(module).map_err(|_| BadLine::NoPath(module.to_owned()))?;
        let (plain, is_mod) = version.strip_suffix("/go.mod").map_or((version, false), |plain| (plain, true));
        let canonical = Version::new(plain).ok().filter(Version::is_canonical);
        let canonical = canonical.ok_or_else(|| BadLine::NoVersion(version.to_owned()))?;
        match sum.split_once(':') {
            Some(("h1", hash)) if is_whole(hash) => {
                let sums = self.0.entry((path, canonical)).or_default();
                let files = if is_mod { &mut sums.go_mod } else { &mut sums.zip };
                files.push(sum.to_owned());
                Ok(())
            }
            // go skips what another hash algorithm made (cmd/go/internal/modfetch, readGoSum).
            Some((algorithm, _)) if algorithm != "h1" => Ok(()),
            _ => Err(BadLine::CutSum(sum.to_owned())),
        }
    }
}

/// Whether it is 32 bytes in base64: a cut one would be known for wrong only after everything was fetched.
fn is_whole(hash: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    hash.len() == 44 && hash.strip_suffix('=').is_some_and(|digits| digits.bytes().all(is_of_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(digit: &str) -> String {
        format!("h1:{}=", digit.repeat(43))
    }

    fn parse(text: &str) -> Result<GoSum, BadFile> {
        let sums =
            ["x", "y", "z"].iter().fold(text.to_owned(), |text, one| text.replace(&format!("h1:{one}"), &sum(one)));
        GoSum::parse(&sums)
    }

    #[test]
    fn a_go_sum_says_what_of_each_version_is_needed() {
        let go_sum = parse(
            "a.b/C v1.0.0 h1:x\na.b/C v1.0.0/go.mod h1:y\n\nd.e/f v2.0.0+incompatible/go.mod h1:z\na.b/C v1.0.0 h2:odd\n",
        );
        let go_sum = go_sum.unwrap();
        let versions: Vec<String> =
            go_sum.versions().map(|((module, version), zip)| format!("{module}@{version} {zip}")).collect();
        assert_eq!(versions, ["a.b/C@v1.0.0 true", "d.e/f@v2.0.0+incompatible false"]);
        let of = |path: &str| go_sum.sums_of(&ModuleRequest::parse(path).unwrap()).to_vec();
        assert_eq!(of("/a.b/!c/@v/v1.0.0.zip"), [sum("x")]);
        assert_eq!(of("/a.b/!c/@v/v1.0.0.mod"), [sum("y")]);
        assert_eq!(of("/a.b/!c/@v/v1.1.0.mod"), [""; 0]);
        let mut both = parse("a.b/C v1.0.0 h1:z\n").unwrap();
        both.extend(go_sum);
        assert_eq!(both.sums_of(&ModuleRequest::parse("/a.b/!c/@v/v1.0.0.zip").unwrap()), [sum("z"), sum("x")]);
    }

    #[test]
    fn a_go_sum_is_read_whole_or_not_at_all() {
        type Why = fn(String) -> BadLine;
        let table: [(&str, usize, Why); 9] = [
            ("a.b/c v1.0.0 h1:x\n<<<<<<< HEAD\na.b/c v1.1.0 h1:y\n", 2, |_| BadLine::Conflict),
            ("a.b/c v1.0.0 h1:x\n=======\n", 2, |_| BadLine::Conflict),
            ("\n<html>404</html>\n", 2, |_| BadLine::WebPage),
            ("a.b/c v1.0.0 h1:x\na.b/c v1.0.0/go.mod\n", 2, BadLine::NoSum),
            ("a.b/c v1.0.0 h1:x\nnonsense", 2, BadLine::NoSum),
            ("a.b/c v1.0.0 h1:AAAA\n", 1, |_| BadLine::CutSum("h1:AAAA".to_owned())),
            ("a.b/c v1.0.0 h1\n", 1, |_| BadLine::CutSum("h1".to_owned())),
            ("c v1.0.0 h1:x\n", 1, |_| BadLine::NoPath("c".to_owned())),
            ("a.b/c v1 h1:x\n", 1, |_| BadLine::NoVersion("v1".to_owned())),
        ];
        for (text, line, why) in table {
            let bad = parse(text).unwrap_err();
            let last = text.lines().nth(line - 1).unwrap().to_owned();
            assert_eq!(bad, why(last).at(line), "{text}");
        }
        for empty in ["", "\n\n"] {
            assert_eq!(parse(empty).unwrap().versions().count(), 0);
        }
    }
}
