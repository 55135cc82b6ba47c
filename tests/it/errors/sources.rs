//! The errors that the sources have, with the words that are their own: every `#[error("…")]`, and of the command line
//! also what is said in place (`Failure::Wanted(…)`, `eprintln!("error: …")`).

use std::fmt;
use std::path::Path;

use proc_macro2::{Group, TokenStream, TokenTree};
use syn::{Attribute, Item, LitStr};

/// What one kind of error says.
pub struct Words {
    /// The file, and the variant.
    pub name: String,
    /// What stands between the values, in its order.
    pieces: Vec<String>,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.pieces.join("…"))
    }
}

impl Words {
    /// Whether a line of a text has all of its words, in their order.
    pub fn is_seen_in(&self, text: &str) -> bool {
        text.lines().any(|line| self.fits(line))
    }

    /// Whether a file quotes the longest of its pieces.
    pub fn is_quoted_in(&self, text: &str) -> bool {
        self.pieces.iter().max_by_key(|piece| piece.len()).is_some_and(|piece| text.contains(piece.trim()))
    }

    fn fits(&self, line: &str) -> bool {
        let mut rest = line;
        self.pieces.iter().all(|piece| {
            let found = rest.split_once(piece.as_str());
            rest = found.map_or("", |(_, after)| after);
            found.is_some()
        })
    }
}

/// All of them that have words of their own, and do not only pass on another's.
pub fn all() -> Vec<Words> {
    let mut found = Vec::new();
    read_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    found
}

fn read_folder(folder: &Path, found: &mut Vec<Words>) {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_folder(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read_file(&path, found);
        }
    }
}

fn read_file(path: &Path, found: &mut Vec<Words>) {
    let text = std::fs::read_to_string(path).unwrap();
    let file = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
    if file.starts_with("src/cli/") {
        read_tokens(text.parse().unwrap(), &file, found);
    }
    if !text.contains("#[error(") {
        return;
    }
    for item in syn::parse_file(&text).unwrap().items {
        let (name, kinds): (_, Vec<_>) = match item {
            Item::Enum(item) => {
                let variants = item.variants.into_iter();
                (item.ident, variants.map(|variant| (format!("::{}", variant.ident), variant.attrs)).collect())
            }
            Item::Struct(item) => (item.ident, vec![(String::new(), item.attrs)]),
            _ => continue,
        };
        for (variant, attributes) in kinds {
            let format = attributes.iter().find_map(format_of).unwrap_or_default();
            found.extend(words(format!("{file} {name}{variant}"), &format));
        }
    }
}

/// None where it has no word, and so passes on another's.
fn words(name: String, format: &str) -> Option<Words> {
    let pieces = pieces(format);
    let has_words = |piece: &String| piece.chars().filter(|char| char.is_alphabetic()).count() >= 3;
    pieces.iter().any(has_words).then_some(Words { name, pieces })
}

/// What a command says in the very place where it goes wrong.
fn read_tokens(tokens: TokenStream, file: &str, found: &mut Vec<Words>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before: Vec<String> = tokens[at.saturating_sub(2)..at].iter().map(ToString::to_string).collect();
        let text = match before.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [.., "Wanted"] => first_text(group),
            ["eprintln", "!"] => first_text(group).and_then(|text| Some(text.strip_prefix("error: ")?.to_owned())),
            _ => None,
        };
        let name = format!("{file}:{}", group.span_open().start().line);
        // A hint follows on a line of its own.
        found.extend(text.and_then(|text| words(name, text.lines().next()?)));
        read_tokens(group.stream(), file, found);
    }
}

/// The first literal within.
fn first_text(group: &Group) -> Option<String> {
    group.stream().into_iter().find_map(|token| match &token {
        TokenTree::Literal(_) => Some(syn::parse2::<LitStr>(token.into()).ok()?.value()),
        TokenTree::Group(group) => first_text(group),
        _ => None,
    })
}

/// The text of `#[error("…", …)]`.
fn format_of(attribute: &Attribute) -> Option<String> {
    attribute.path().is_ident("error").then_some(())?;
    let read = attribute.parse_args_with(|input: syn::parse::ParseStream<'_>| {
        let text: LitStr = input.parse()?;
        input.parse::<proc_macro2::TokenStream>()?;
        Ok(text.value())
    });
    read.ok()
}

/// What stands between the braces; two of them are one.
fn pieces(format: &str) -> Vec<String> {
    let (mut pieces, mut piece, mut depth) = (Vec::new(), String::new(), 0);
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '{' | '}' if depth == 0 && chars.peek() == Some(&char) => piece.extend(chars.next()),
            '{' => {
                depth += 1;
                pieces.push(std::mem::take(&mut piece));
            }
            '}' => depth -= 1,
            char if depth == 0 => piece.push(char),
            _ => {}
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[test]
fn a_format_is_taken_apart() {
    assert_eq!(pieces("{origin} = {value:?}: {why}"), [" = ", ": "]);
    assert_eq!(pieces("a {{b}} {0}c"), ["a {b} ", "c"]);
    let words = Words { name: String::new(), pieces: pieces("no answer for {name} from {tally}") };
    assert!(words.is_seen_in("x\nno answer for a.example from 2 servers\n"));
    assert!(!words.is_seen_in("no answer for a.example\nfrom 2 servers"));
}
