//! go.mod files, as far as they tell which other modules are wanted (x/mod/modfile).
//!
//! Of a stranger's file a line that cannot be read is passed over: go itself judges it. The file of a build that is
//! to be filled for is read whole or not at all, as go reads it. What matters is what it requires, what stands in
//! for that, and whether its graph is pruned (go 1.17 and later list all that a build needs; before, go reads
//! what the required modules require in turn).

use super::lines::{BadFile, BadLine, numbered};
use super::path::{Module, Version};

/// Requirements of one stranger's go.mod that are read; the longest real ones have a few hundred.
const REQUIRES: usize = 1000;
/// Whatever a go.mod may say (x/mod/modfile, File.add).
const VERBS: [&str; 10] =
    ["module", "go", "toolchain", "godebug", "require", "exclude", "replace", "retract", "tool", "ignore"];

/// What a go.mod says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoMod {
    /// It has graph pruning: go 1.17 or later (gover.ExplicitIndirectVersion).
    pub is_pruned: bool,
    /// The versions that it requires, all of them canonical.
    pub requires: Vec<(Module, Version)>,
    replaces: Vec<Replace>,
    /// What stands in for names that nobody can fetch, as the module of a folder may have.
    stand_ins: Vec<(String, Option<(Module, Version)>)>,
    has_module: bool,
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
    /// Reads the go.mod of a module that somebody requires.
    pub fn read(text: &str) -> GoMod {
        read_lines(text.lines().enumerate(), REQUIRES, |_| Ok(())).unwrap_or_default()
    }

    /// Reads the go.mod of a build, whole.
    pub fn read_whole(text: &str) -> Result<GoMod, BadFile> {
        let mut unnamed = Vec::new();
        let mut go_mod = read_lines(numbered(text)?, usize::MAX, |bad| match bad.why {
            BadLine::NoPath(path) => {
                unnamed.push((bad.line, path));
                Ok(())
            }
            _ => Err(bad),
        })?;
        if !go_mod.has_module {
            return Err(BadLine::NoModule.at(1));
        }
        for (line, path) in unnamed {
            // A name that nobody can fetch is legal where something stands in for it.
            let found = go_mod.stand_ins.iter().find(|(name, _)| *name == path);
            let (_, by) = found.ok_or_else(|| BadLine::NoPath(path).at(line))?;
            go_mod.requires.extend(by.clone());
        }
        Ok(go_mod)
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

    fn take(&mut self, verb: &str, line: &str) -> Result<(), BadLine> {
        let none = || BadLine::NoDirective(format!("{verb} {line}").trim().to_owned());
        let words = words(line).ok_or_else(none)?;
        match (verb, &words[..]) {
            ("module", [path]) if self.has_module => return Err(BadLine::SecondModule((*path).to_owned())),
            ("module", [_]) => self.has_module = true,
            ("go", [version]) => {
                self.is_pruned = has_pruning(version);
                return if is_go_version(version) { Ok(()) } else { Err(none()) };
            }
            ("require", [module, version]) => self.requires.push(read_version(module, version)?),
            ("replace", [module, "=>", by @ ..]) => self.replace(module, None, by).ok_or_else(none)??,
            ("replace", [module, version, "=>", by @ ..]) => {
                self.replace(module, Some(version), by).ok_or_else(none)??;
            }
            ("toolchain", [_]) | ("exclude", [_, _]) | ("godebug" | "retract" | "tool" | "ignore", [_, ..]) => {}
            (verb, ["()"]) if VERBS.contains(&verb) => {}
            _ => return Err(none()),
        }
        Ok(())
    }

    /// None where what stands in is neither a folder nor a module version.
    fn replace(&mut self, module: &str, version: Option<&str>, by: &[&str]) -> Option<Result<(), BadLine>> {
        let by = match by {
            [folder] if is_folder(folder) => None,
            [module, version] if !is_folder(module) => match read_version(module, version) {
                Ok(by) => Some(by),
                Err(why @ BadLine::NoVersion(_)) => return Some(Err(why)),
                Err(_) => return None,
            },
            _ => return None,
        };
        let version = match version.map(read_canonical).transpose() {
            Ok(version) => version,
            Err(why) => return Some(Err(why)),
        };
        match Module::new(module) {
            Ok(module) => self.replaces.push(Replace { module, version, by }),
            Err(_) => self.stand_ins.push((module.to_owned(), by)),
        }
        Some(Ok(()))
    }
}

/// Reads the lines of a go.mod and so many requirements; what cannot be read is put to `excuse`.
fn read_lines<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    most: usize,
    mut excuse: impl FnMut(BadFile) -> Result<(), BadFile>,
) -> Result<GoMod, BadFile> {
    let mut go_mod = GoMod::default();
    let mut block: Option<(usize, &str)> = None;
    for (at, line) in lines {
        let line = line.split("//").next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if line == ")" && block.take().is_some() {
            continue;
        }
        if let Some(verb) = line.strip_suffix('(').map(str::trim) {
            if let Some((open, verb)) = block.replace((at, verb)) {
                excuse(BadLine::Unclosed(format!("{verb} (")).at(open))?;
            }
            if !VERBS.contains(&verb) {
                excuse(BadLine::NoDirective(line.to_owned()).at(at))?;
            }
            continue;
        }
        let (verb, rest) = match block {
            Some((_, verb)) => (verb, line),
            None => line.split_once(char::is_whitespace).unwrap_or((line, "")),
        };
        if verb == "require" && go_mod.requires.len() >= most {
            continue;
        }
        go_mod.take(verb, rest).or_else(|why| excuse(why.at(at)))?;
    }
    if let Some((open, verb)) = block {
        excuse(BadLine::Unclosed(format!("{verb} (")).at(open))?;
    }
    Ok(go_mod)
}

/// The words of a line, of which one in quotes may have blanks; none where a quote is never closed.
fn words(line: &str) -> Option<Vec<&str>> {
    let (mut words, mut rest) = (Vec::new(), line.trim());
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '`' => rest[1..].split_once(first)?,
            _ => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

/// modfile.GoVersionRE, as far as a slip of the hand would break it.
fn is_go_version(version: &str) -> bool {
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    version.split_once('.').is_some_and(|(major, rest)| major.parse::<u32>().is_ok() && begins(rest))
}

/// modfile.IsDirectoryPath
fn is_folder(path: &str) -> bool {
    path.starts_with(['.', '/', '\\']) || path.as_bytes().get(1) == Some(&b':')
}

fn has_pruning(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(minor))) => minor >= 17,
        (Some(Ok(major)), _) => major > 1,
        _ => false,
    }
}

fn read_version(module: &str, version: &str) -> Result<(Module, Version), BadLine> {
    let module = Module::new(module).map_err(|_| BadLine::NoPath(module.to_owned()));
    // What is wrong with the version is said first: nothing can stand in for that.
    let version = read_canonical(version)?;
    Ok((module?, version))
}

fn read_canonical(version: &str) -> Result<Version, BadLine> {
    let canonical = Version::new(version).ok().filter(Version::is_canonical);
    canonical.ok_or_else(|| BadLine::NoVersion(version.to_owned()))
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

    /// As `go mod edit -json` of go 1.26 takes or refuses them; that one resolves what is no canonical version.
    #[test]
    fn the_go_mod_of_a_build_is_read_whole_or_not_at_all() {
        let bad = |line: usize, why: BadLine| Err(BadFile { line, why });
        let none = |text: &str| BadLine::NoDirective(text.to_owned());
        let version = |text: &str| BadLine::NoVersion(text.to_owned());
        let table = [
            ("", bad(1, BadLine::NoModule)),
            ("go 1.21\n", bad(1, BadLine::NoModule)),
            ("<!doctype html>\n", bad(1, BadLine::WebPage)),
            ("module x\n<<<<<<< HEAD\n", bad(2, BadLine::Conflict)),
            ("module x\nrequire (\n\ta.b/c v1.0.0\n", bad(2, BadLine::Unclosed("require (".to_owned()))),
            ("module x\nrequire (\n\ta.b/c v1.0.0\nexclude (\n)\n", bad(2, BadLine::Unclosed("require (".to_owned()))),
            ("module x\nnonsense {\n", bad(2, none("nonsense {"))),
            ("module x\nnonsense (\n)\n", bad(2, none("nonsense ("))),
            ("module x\n)\n", bad(2, none(")"))),
            ("module x\nrequire a.b/c latest\n", bad(2, version("latest"))),
            ("module x\nrequire (\n\ta.b/c v1\n)\n", bad(3, version("v1"))),
            ("module x\nreplace a.b/c => a.b/d master\n", bad(2, version("master"))),
            ("module x\nreplace a.b/c v1 => ../d\n", bad(2, version("v1"))),
            ("module x\nreplace a.b/c => a.b/d\n", bad(2, none("replace a.b/c => a.b/d"))),
            ("module x\nrequire a.b/c v1.0.0 extra\n", bad(2, none("require a.b/c v1.0.0 extra"))),
            ("module x\nrequire a.b/c\n", bad(2, none("require a.b/c"))),
            ("module x\nrequire local v1.0.0\n", bad(2, BadLine::NoPath("local".to_owned()))),
            ("module x\nreplace a.b/c => \"./d\n", bad(2, none("replace a.b/c => \"./d"))),
            ("module x\ngo 1\n", bad(2, none("go 1"))),
            ("module\n", bad(1, none("module"))),
            ("module x\nmodule y\n", bad(2, BadLine::SecondModule("y".to_owned()))),
            ("/* x */\nmodule x\n", bad(1, none("/* x */"))),
            ("module x\nrequire ()\n", Ok("")),
            ("// why\r\nmodule (\r\n\tx\r\n)\r\nrequire a.b/c v1.0.0 // indirect\r\n", Ok("a.b/c@v1.0.0")),
            ("module x\nrequire local v0.0.0\nreplace local => \"./my folder\"\n", Ok("")),
            ("module x\nrequire local v0.0.0\nreplace local => a.b/c v1.0.0\n", Ok("a.b/c@v1.0.0")),
            (
                "module x\ngo 1.24rc1\ntoolchain go1.26.0\ngodebug x=y\ntool a.b/c\nignore ./x\nexclude a.b/c v1.0.0\n\
                 retract [v1.0.0, v1.1.0]\nretract (\n\tv1.2.0\n)\n",
                Ok(""),
            ),
        ];
        for (text, wanted) in table {
            let read = GoMod::read_whole(text).map(|read| read.requires.iter().map(name).collect::<Vec<_>>().join(" "));
            assert_eq!(read, wanted.map(str::to_owned), "{text}");
        }
        let many: String = (0..=REQUIRES).map(|at| format!("require a.b/c{at} v1.0.0\n")).collect();
        assert_eq!(GoMod::read_whole(&format!("module x\n{many}")).unwrap().requires.len(), REQUIRES + 1);
        assert_eq!(GoMod::read(&many).requires.len(), REQUIRES);
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
