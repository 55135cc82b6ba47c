//! go.mod files, as far as they tell which other modules are wanted (x/mod/modfile).
//!
//! A line that cannot be read is passed over: go itself judges the file. What matters is what it
//! requires, what stands in for that, and whether its graph is pruned (go 1.17 and later list all that
//! a build needs; before, go reads what the required modules require in turn).

use super::path::{Module, Version};

/// Requirements of one go.mod that are read; the longest real ones have a few hundred.
const REQUIRES: usize = 1000;

/// What a go.mod says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoMod {
    /// It has graph pruning: go 1.17 or later (gover.ExplicitIndirectVersion).
    pub is_pruned: bool,
    /// The versions that it requires, all of them canonical.
    pub requires: Vec<(Module, Version)>,
    replaces: Vec<Replace>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Replace {
    module: Module,
    /// Only this version of it, or each.
    version: Option<Version>,
    /// What stands in for it; nothing where that is a folder.
    by: Option<(Module, Version)>,
}

impl GoMod {
    /// Reads a go.mod.
    pub fn read(text: &str) -> GoMod {
        let mut go_mod = GoMod::default();
        let mut block = String::new();
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            if line == ")" {
                block.clear();
            } else if let Some(verb) = line.strip_suffix('(') {
                block = verb.trim().to_owned();
            } else if block.is_empty() {
                let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                go_mod.take(verb, rest);
            } else {
                go_mod.take(&block.clone(), line);
            }
        }
        go_mod
    }

    /// What go asks for where this module is required; nothing where a folder stands in for it. The
    /// replacements of the main module alone count.
    pub fn stand_in(&self, module: &Module, version: &Version) -> Option<(Module, Version)> {
        let is_for = |replace: &&Replace| {
            replace.module == *module && replace.version.as_ref().is_none_or(|only| only == version)
        };
        // The one for this very version comes before the one for each.
        let found = self.replaces.iter().filter(is_for).max_by_key(|replace| replace.version.is_some());
        found.map_or_else(|| Some((module.clone(), version.clone())), |replace| replace.by.clone())
    }

    fn take(&mut self, verb: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().map(|word| word.trim_matches(['"', '`'])).collect();
        match (verb, &words[..]) {
            ("go", [version]) => self.is_pruned = has_pruning(version),
            ("require", [module, version]) if self.requires.len() < REQUIRES => {
                self.requires.extend(read_version(module, version));
            }
            ("replace", [module, "=>", by @ ..]) => self.replaces.extend(read_replace(module, None, by)),
            ("replace", [module, version, "=>", by @ ..]) => {
                self.replaces.extend(read_replace(module, Some(version), by));
            }
            _ => {}
        }
    }
}

fn has_pruning(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(minor))) => minor >= 17,
        (Some(Ok(major)), _) => major > 1,
        _ => false,
    }
}

fn read_version(module: &str, version: &str) -> Option<(Module, Version)> {
    let (module, version) = (Module::new(module).ok()?, Version::new(version).ok()?);
    version.is_canonical().then_some((module, version))
}

fn read_replace(module: &str, version: Option<&str>, by: &[&str]) -> Option<Replace> {
    let by = match by {
        [module, version] => read_version(module, version),
        _ => None,
    };
    let version = version.map(Version::new).transpose().ok()?;
    Some(Replace { module: Module::new(module).ok()?, version, by })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "module x.y/z // no\n\ngo 1.16\n\nrequire a.b/c v1.2.3 // indirect\nrequire (\n\t\"d.e/F\" v0.1.0\n\
                        \tg.h/i v2.0.0+incompatible\n\t// j.k/l v1.0.0\n\tm.n/o master\n)\n\nreplace a.b/c => ../c\n\
                        replace (\n\td.e/F v0.1.0 => p.q/r v1.0.0\n\td.e/F => p.q/r v9.0.0+incompatible\n)\nexclude (\n\ts.t/u v1.0.0\n)\n";

    fn name((module, version): &(Module, Version)) -> String {
        format!("{module}@{version}")
    }

    #[test]
    fn requirements_are_read_as_go_writes_them() {
        let go_mod = GoMod::read(TEXT);
        let requires: Vec<String> = go_mod.requires.iter().map(name).collect();
        assert_eq!(requires, ["a.b/c@v1.2.3", "d.e/F@v0.1.0", "g.h/i@v2.0.0+incompatible"]);
        assert!(!go_mod.is_pruned);
        for none in ["<html>", "require (\n)\na.b/c v1.0.0\n", "require(\n", ""] {
            assert_eq!(GoMod::read(none), GoMod::default(), "{none}");
        }
    }

    #[test]
    fn what_stands_in_is_asked_for_and_a_folder_is_not() {
        let go_mod = GoMod::read(TEXT);
        let stand_in = |module: &str, version: &str| {
            let found = go_mod.stand_in(&Module::new(module).unwrap(), &Version::new(version).unwrap());
            found.as_ref().map(name)
        };
        assert_eq!(stand_in("a.b/c", "v1.2.3"), None);
        assert_eq!(stand_in("d.e/F", "v0.1.0").as_deref(), Some("p.q/r@v1.0.0"));
        assert_eq!(stand_in("d.e/F", "v0.2.0").as_deref(), Some("p.q/r@v9.0.0+incompatible"));
        assert_eq!(stand_in("g.h/i", "v1.0.0").as_deref(), Some("g.h/i@v1.0.0"));
    }

    #[test]
    fn pruning_came_with_go_1_17() {
        let table = [("1.16", false), ("1.17", true), ("1.9", false), ("1.21.0", true), ("1.21rc2", true), ("2", true)];
        for (version, pruned) in table {
            assert_eq!(has_pruning(version), pruned, "{version}");
        }
        assert!(!has_pruning("x"));
    }
}
