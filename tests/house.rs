//! The house keeps its order: every source file is read, and the rules of CONTRIBUTING.md are held.
//!
//! They are: rooms import *downhill only*; *siblings apart*; the *ground floor* (`target`, `metrics`)
//! imports nothing of ours; a room has *one door*, its `mod.rs`; every file has an *opening* in `//!`;
//! every public function, method and type has a *docstring* (fields and variants may speak for
//! themselves, as rustc's `missing_docs` would not let them); `lib.rs` is *the map*; and paths are
//! *plain names*, so that the others can be held. Nobody is exempt: unit tests live under the same
//! roof. `lib.rs` and `main.rs` stand outside the rooms and may use any door.
//!
//! Paths are read from the tokens, not from the syntax tree, so that `use` trees, types, expressions,
//! attributes (`#[serde(with = "crate::…")]` too) and macros are all one case. Left out are
//! documentation, whose links may point anywhere, `include!`, and macros called without a path.
//!
//! The houses under `tests/fixtures/house/` break every rule and keep every rule; a line of the
//! broken one that must be complained about says so itself, after `//~`.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::{Attribute, Ident, ImplItem, Item, ItemMod, LitStr, TraitItem, Visibility};

#[test]
fn the_house_keeps_its_order() {
    let house = House::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(house.mentions().any(|mention| mention.goes("admit", "target")), "the sources were not read");
    let complaints = house.complaints();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn a_house_that_breaks_the_rules_is_complained_about_line_by_line() {
    let broken = House::read(&fixture("broken"));
    assert_eq!(broken.complaints().join("\n"), broken.announced().join("\n"));
}

#[test]
fn every_rule_is_broken_somewhere() {
    let announced = House::read(&fixture("broken")).announced().join("\n");
    let rules = [
        "downhill only",
        "siblings apart",
        "ground floor",
        "one door",
        "opening",
        "docstring",
        "the map",
        "plain names",
    ];
    for rule in rules {
        assert!(announced.contains(&format!("({rule})")), "no line of the broken house breaks {rule}");
    }
}

#[test]
fn a_house_that_keeps_the_rules_is_left_in_peace() {
    let kept = House::read(&fixture("kept"));
    assert!(kept.mentions().any(|mention| mention.goes("flow", "cache")), "the fixture was not read");
    assert_eq!(kept.complaints(), Vec::<String>::new());
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/house").join(name)
}

/// All the sources below one `src/`.
struct House {
    sources: Vec<Source>,
    /// The children of the rooms, as (room, child).
    children: BTreeSet<(String, String)>,
}

impl House {
    fn read(root: &Path) -> House {
        let sources: Vec<Source> = list_files(&root.join("src")).iter().map(|file| Source::read(root, file)).collect();
        let children = sources.iter().flat_map(Source::children).collect();
        House { sources, children }
    }

    fn mentions(&self) -> impl Iterator<Item = &Mention> {
        self.sources.iter().flat_map(|source| &source.mentions)
    }

    /// What is wrong, as `file:line: sentence (rule)`, in the order of files and lines.
    fn complaints(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| source.place(self.judge(source))).collect()
    }

    fn judge(&self, source: &Source) -> Vec<(usize, String)> {
        let paths = source.mentions.iter().filter_map(|mention| Some((mention.line, self.judge_path(mention)?)));
        let rooms = source.judge_opening().into_iter().chain(source.judge_room());
        rooms.chain(source.judge_children()).chain(source.judge_map()).chain(source.judge_docs()).chain(paths).collect()
    }

    fn judge_path(&self, mention: &Mention) -> Option<String> {
        let Some(there) = mention.path.first() else { return mention.judge_root() };
        let here = mention.scope.first().map_or("crate", String::as_str);
        if here == there {
            return None;
        }
        let outside_the_rooms = mention.scope.is_empty();
        let uphill = if outside_the_rooms { None } else { judge_level(here, there) };
        uphill.or_else(|| self.judge_door(here, there, mention.path.get(1)?))
    }

    fn judge_door(&self, here: &str, there: &str, child: &str) -> Option<String> {
        let past = self.children.contains(&(there.to_owned(), child.to_owned()));
        past.then(|| format!("`{here}` goes past the door of `{there}` to its child `{child}` (one door)"))
    }

    /// The complaints that a fixture announces: whatever follows `//~` on a line.
    fn announced(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| source.place(source.announced())).collect()
    }
}

fn judge_level(here: &str, there: &str) -> Option<String> {
    let Some(other) = level(there) else {
        return Some(format!("`{here}` names `crate::{there}`, which is no room (plain names)"));
    };
    match level(here)? {
        _ if IMPORT_NOTHING.contains(&here) => {
            Some(format!("`{here}` imports `{there}`, and may import nothing of ours (ground floor)"))
        }
        own if own < other => Some(format!("`{here}` reaches up to `{there}`, which stands on it (downhill only)")),
        own if own == other => Some(format!("`{here}` calls `{there}`, which is on its level (siblings apart)")),
        _ => None,
    }
}

/// One file and what it says.
struct Source {
    /// As a complaint names it: `src/admit/mod.rs`.
    name: String,
    text: String,
    /// The module that the file is: `["admit", "clients"]`, nothing for `lib.rs` and `main.rs`.
    module: Vec<String>,
    /// The modules declared at its top level.
    declared: Vec<ItemMod>,
    /// What it offers without a docstring.
    unsaid: Vec<Ident>,
    mentions: Vec<Mention>,
}

impl Source {
    fn read(root: &Path, file: &Path) -> Source {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(file).unwrap();
        let tokens = text.parse::<TokenStream>().unwrap_or_else(|error| panic!("{name}: {error}"));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}")).items;
        let unsaid = items.iter().flat_map(undocumented).collect();
        let declared = items.into_iter().filter_map(|item| match item {
            Item::Mod(declared) => Some(declared),
            _ => None,
        });
        let declared = declared.collect();
        let module = module_of(&name);
        let mut reader = Reader { scope: module.clone(), found: Vec::new() };
        reader.read(tokens);
        Source { name, text, module, declared, unsaid, mentions: reader.found }
    }

    /// The children of a room that this file is or declares, as (room, child).
    fn children(&self) -> Vec<(String, String)> {
        match self.module.as_slice() {
            [] => Vec::new(),
            [room] => self.declared.iter().map(|child| (room.clone(), child.ident.to_string())).collect(),
            [room, child, ..] => vec![(room.clone(), child.clone())],
        }
    }

    fn judge_opening(&self) -> Option<(usize, String)> {
        let says = self.text.strip_prefix("//!").is_some_and(|rest| rest.lines().next().unwrap_or("").len() > 1);
        (!says).then(|| (1, "does not say in `//!` what the file is for (opening)".to_owned()))
    }

    fn judge_room(&self) -> Option<(usize, String)> {
        let room = self.module.first()?;
        let homeless = level(room).is_none();
        homeless.then(|| {
            (1, format!("`{room}` has no level in tests/house.rs, so nothing can be said of it (downhill only)"))
        })
    }

    fn judge_children(&self) -> Vec<(usize, String)> {
        let [room] = self.module.as_slice() else { return Vec::new() };
        let open = self.declared.iter().filter(|child| !matches!(child.vis, Visibility::Inherited));
        let complain = |child: &ItemMod| {
            let sentence = format!("`{room}` lets its child `{}` be seen from outside (one door)", child.ident);
            (child.ident.span().start().line, sentence)
        };
        open.map(complain).collect()
    }

    fn judge_map(&self) -> Vec<(usize, String)> {
        if self.name != "src/lib.rs" {
            return Vec::new();
        }
        let rank = |room: &ItemMod| MAP.iter().position(|known| room.ident == known);
        let known: Vec<&ItemMod> = self.declared.iter().filter(|room| rank(room).is_some()).collect();
        let late = known.windows(2).filter(|pair| rank(pair[0]) > rank(pair[1]));
        let complain = |pair: &[&ItemMod]| {
            let (before, after) = (pair[0], pair[1]);
            let sentence =
                format!("`{}` stands after `{}`, and a request meets it before (the map)", after.ident, before.ident);
            (after.ident.span().start().line, sentence)
        };
        late.map(complain).collect()
    }

    fn judge_docs(&self) -> Vec<(usize, String)> {
        let complain =
            |name: &Ident| (name.span().start().line, format!("`{name}` is public and says nothing (docstring)"));
        self.unsaid.iter().map(complain).collect()
    }

    fn announced(&self) -> Vec<(usize, String)> {
        let lines = (1..).zip(self.text.lines());
        lines.filter_map(|(line, text)| Some((line, text.split_once("//~ ")?.1.to_owned()))).collect()
    }

    /// Puts the file's name before each complaint, and all in the order of lines.
    fn place(&self, mut complaints: Vec<(usize, String)>) -> Vec<String> {
        complaints.sort();
        complaints.dedup();
        complaints.iter().map(|(line, sentence)| format!("{}:{line}: {sentence}", self.name)).collect()
    }
}

/// A path that starts at the crate, at `self` or at `super`, made absolute.
struct Mention {
    line: usize,
    /// The module that it stands in.
    scope: Vec<String>,
    /// Where it leads: `["admit", "Permit"]` for `crate::admit::Permit`.
    path: Vec<String>,
    ending: Ending,
}

/// What follows a path.
#[derive(PartialEq)]
enum Ending {
    Name,
    Glob,
    Alias,
    /// No path at all, but a `#[path]`, which would bring in a file under another room's name.
    Elsewhere,
}

impl Mention {
    fn goes(&self, from: &str, to: &str) -> bool {
        self.scope.first().is_some_and(|room| room == from) && self.path.first().is_some_and(|room| room == to)
    }

    /// `use crate::*` and `use crate as house` would let every later path lead anywhere unseen.
    fn judge_root(&self) -> Option<String> {
        match self.ending {
            Ending::Name => None,
            Ending::Glob => Some("brings in the whole house by `*` (plain names)".to_owned()),
            Ending::Elsewhere => Some("takes a module from where its name does not say (plain names)".to_owned()),
            Ending::Alias => Some("gives the house another name (plain names)".to_owned()),
        }
    }
}

/// Finds the paths in a stream of tokens.
struct Reader {
    scope: Vec<String>,
    found: Vec<Mention>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while !rest.is_empty() {
            let taken = self.read_next(rest);
            rest = &rest[taken..];
        }
    }

    /// Reads what stands at the front, and says how many tokens that were.
    fn read_next(&mut self, tokens: &[TokenTree]) -> usize {
        use TokenTree::{Group, Ident, Punct};
        match tokens {
            [Ident(word), Ident(name), Group(body), ..] if word == "mod" => {
                self.scope.push(name.to_string());
                self.read(body.stream());
                self.scope.pop();
                3
            }
            [Punct(hash), Group(body), ..] if hash.as_char() == '#' => self.read_attribute(body, 2),
            [Punct(hash), Punct(_), Group(body), ..] if hash.as_char() == '#' => self.read_attribute(body, 3),
            [Group(body), ..] => {
                self.read(body.stream());
                1
            }
            [Ident(word), ..] if STARTS.contains(&word.to_string().as_str()) => self.read_path(tokens, None),
            _ => 1,
        }
    }

    /// Reads a path that goes on from `path`, or starts here, and all the branches that it may have.
    fn read_path(&mut self, tokens: &[TokenTree], mut path: Option<Vec<String>>) -> usize {
        let mut taken = 0;
        loop {
            match &tokens[taken..] {
                [TokenTree::Ident(word), ..] => path = Some(self.enter(path, &word.to_string())),
                [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
                    branches(group).iter().for_each(|branch| _ = self.read_path(branch, path.clone()));
                    return taken + 1;
                }
                [TokenTree::Punct(star), ..] if star.as_char() == '*' => {
                    self.note(&tokens[taken], path, Ending::Glob);
                    return taken + 1;
                }
                _ if taken == 0 => return 1,
                _ => {
                    self.note(&tokens[taken - 1], path, Ending::Name);
                    return taken;
                }
            }
            taken += 1;
            match &tokens[taken..] {
                [TokenTree::Punct(one), TokenTree::Punct(two), ..] if (one.as_char(), two.as_char()) == (':', ':') => {
                    taken += 2;
                }
                [TokenTree::Ident(word), ..] if word == "as" || word == "self" => {
                    self.note(&tokens[taken - 1], path, Ending::Alias);
                    return taken;
                }
                _ => {
                    self.note(&tokens[taken - 1], path, Ending::Name);
                    return taken;
                }
            }
        }
    }

    /// Where one more word leads.
    fn enter(&self, path: Option<Vec<String>>, word: &str) -> Vec<String> {
        match (path, word) {
            (None, "crate" | "goanyway") => Vec::new(),
            (None, "super") => self.scope[..self.scope.len().saturating_sub(1)].to_vec(),
            (None, _) => self.scope.clone(),
            (Some(path), "self") => path,
            (Some(path), "super") => path[..path.len().saturating_sub(1)].to_vec(),
            (Some(path), name) => [path, vec![name.trim_start_matches("r#").to_owned()]].concat(),
        }
    }

    fn note(&mut self, last: &TokenTree, path: Option<Vec<String>>, ending: Ending) {
        let path = path.unwrap_or_default();
        self.found.push(Mention { line: last.span().start().line, scope: self.scope.clone(), path, ending });
    }

    /// An attribute may hold paths in strings. Documentation holds only links.
    fn read_attribute(&mut self, attribute: &Group, length: usize) -> usize {
        let name = attribute.stream().into_iter().next();
        match &name {
            Some(TokenTree::Ident(word)) if word == "doc" => return length,
            Some(TokenTree::Ident(word)) if word == "path" => {
                self.note(name.as_ref().unwrap(), None, Ending::Elsewhere)
            }
            _ => {}
        }
        self.read(attribute.stream());
        self.read_strings(attribute.stream());
        length
    }

    fn read_strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            match &token {
                TokenTree::Group(group) => self.read_strings(group.stream()),
                TokenTree::Literal(_) => self.read_string(&token),
                _ => {}
            }
        }
    }

    fn read_string(&mut self, literal: &TokenTree) {
        let Ok(text) = syn::parse2::<LitStr>(literal.clone().into()) else { return };
        let is_path = text.value().split_once("::").is_some_and(|(start, _)| STARTS.contains(&start));
        let Ok(tokens) = text.value().parse::<TokenStream>() else { return };
        let known = self.found.len();
        if is_path {
            self.read(tokens);
        }
        self.found[known..].iter_mut().for_each(|mention| mention.line = literal.span().start().line);
    }
}

/// The public names of an item that have no docstring: its own, or those of its methods.
fn undocumented(item: &Item) -> Vec<Ident> {
    let own = |attributes, visibility, name: &Ident| unsaid(attributes, visibility, name).into_iter().collect();
    match item {
        Item::Const(item) => own(&item.attrs, &item.vis, &item.ident),
        Item::Enum(item) => own(&item.attrs, &item.vis, &item.ident),
        Item::Fn(item) => own(&item.attrs, &item.vis, &item.sig.ident),
        Item::Static(item) => own(&item.attrs, &item.vis, &item.ident),
        Item::Struct(item) => own(&item.attrs, &item.vis, &item.ident),
        Item::Type(item) => own(&item.attrs, &item.vis, &item.ident),
        Item::Trait(item) => {
            let methods = item.items.iter().filter_map(|inner| match inner {
                TraitItem::Fn(method) => unsaid(&method.attrs, &item.vis, &method.sig.ident),
                _ => None,
            });
            unsaid(&item.attrs, &item.vis, &item.ident).into_iter().chain(methods).collect()
        }
        Item::Impl(item) => {
            let methods = item.items.iter().filter_map(|inner| match inner {
                ImplItem::Fn(method) => unsaid(&method.attrs, &method.vis, &method.sig.ident),
                _ => None,
            });
            methods.collect()
        }
        _ => Vec::new(),
    }
}

fn unsaid(attributes: &[Attribute], visibility: &Visibility, name: &Ident) -> Option<Ident> {
    let documented = attributes.iter().any(|attribute| attribute.path().is_ident("doc"));
    (matches!(visibility, Visibility::Public(_)) && !documented).then(|| name.clone())
}

/// The branches of a `use` tree.
fn branches(group: &Group) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',');
    tokens.split(is_comma).filter(|branch| !branch.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

/// The module that a file is, from its name: `src/admit/mod.rs` is `admit`.
fn module_of(name: &str) -> Vec<String> {
    let inside = name.trim_start_matches("src/").trim_end_matches(".rs");
    if matches!(inside, "lib" | "main") {
        return Vec::new();
    }
    inside.trim_end_matches("/mod").split('/').map(str::to_owned).collect()
}

fn list_files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let files = entries.into_iter().flat_map(|path| if path.is_dir() { list_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms from the bottom up: each may use those on the lines before its own.
const LEVELS: [&[&str]; 9] = [
    &["target", "metrics", "socket", "kept", "service", "trace"],
    &["gateway", "admit", "classify", "accept", "intercept", "tunnel", "resolve", "cache"],
    &["connect"],
    &["fetch"],
    &["forward", "goproxy", "otlp"],
    &["respond", "config"],
    &["flow", "dns", "admin"],
    &["daemon"],
    &["cli"],
];

/// What may import nothing even from beside it, so that everything can stand on it.
const IMPORT_NOTHING: [&str; 2] = ["target", "metrics"];

/// The rooms as `lib.rs` lists them: as a request meets them, what all stand on last.
#[rustfmt::skip]
const MAP: [&str; 26] = [
    "cli", "config", "daemon", "flow", "dns", "admin", "gateway", "accept", "classify", "admit", "intercept", "goproxy",
    "cache", "forward", "otlp", "fetch", "tunnel", "connect", "resolve", "respond", "target", "metrics", "socket", "kept",
    "service", "trace",
];

/// The words that a path within the house starts with.
const STARTS: [&str; 4] = ["crate", "self", "super", "goanyway"];
