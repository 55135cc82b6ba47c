//! A request path, read: which module file or which part of a checksum database it asks for.
//!
//! The grammar is that of `go help goproxy` and of x/mod's `sumdb/server.go`. A path is first
//! percent-decoded (go writes `!` as `%21`), then unescaped by x/mod's rules, strictly: whatever
//! go could not have sent is refused with one clear sentence, so that no rule further on meets a
//! second spelling of a module. Nothing here awaits, asks or keeps.

use std::fmt;

use super::version;
use crate::target::Target;

/// A module path in its plain spelling: `github.com/BurntSushi/toml`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Module(String);

impl Module {
    /// Takes a plain module path (module.CheckPath).
    pub fn new(path: &str) -> Result<Module, NotOurs> {
        check_path(path).map_err(|why| NotOurs::Module(path.to_owned(), why))?;
        Ok(Module(path.to_owned()))
    }

    /// Reads the escaped spelling, in which an upper-case letter is `!` and the lower-case one.
    pub fn unescape(escaped: &str) -> Result<Module, NotOurs> {
        let path = unescape(escaped).map_err(|why| NotOurs::Module(escaped.to_owned(), why))?;
        Module::new(&path)
    }

    /// The plain spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The spelling of paths and files, in which no letter is upper case.
    pub fn escaped(&self) -> String {
        escape(&self.0)
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version or a query for one (branch, hash, `v1`), in its plain spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(String);

impl Version {
    /// Takes a plain version: anything that may be a file name (module.EscapeVersion).
    pub fn new(text: &str) -> Result<Version, NotOurs> {
        let bad = |why| NotOurs::Version(text.to_owned(), why);
        check_file_element(text).map_err(bad)?;
        if text.contains('!') { Err(bad(Why::BadEscape)) } else { Ok(Version(text.to_owned())) }
    }

    /// Reads the escaped spelling.
    pub fn unescape(escaped: &str) -> Result<Version, NotOurs> {
        let text = unescape(escaped).map_err(|why| NotOurs::Version(escaped.to_owned(), why))?;
        Version::new(&text)
    }

    /// The plain spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The spelling of paths and files, in which no letter is upper case.
    pub fn escaped(&self) -> String {
        escape(&self.0)
    }

    /// Whether what it names never changes.
    pub fn is_canonical(&self) -> bool {
        version::is_canonical(&self.0)
    }

    /// Whether it is a canonical version without a pre-release part.
    pub fn is_release(&self) -> bool {
        self.is_canonical() && !self.0.contains('-')
    }

    /// Whether it comes after another in the order of versions (semver.Compare).
    pub fn is_after(&self, other: &Version) -> bool {
        version::compare(&self.0, &other.0).is_gt()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a checksum database: a host, perhaps with a path (cmd/go/internal/modfetch/sumdb.go, dbDial).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Database(String);

impl Database {
    /// Takes a name.
    pub fn new(name: &str) -> Result<Database, NotOurs> {
        let sound = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':');
            !part.is_empty() && part.bytes().any(|byte| byte != b'.') && part.bytes().all(plain)
        };
        let host = name.split('/').next().unwrap_or_default();
        let fits = name.len() <= 200 && name.split('/').all(sound) && Target::parse_authority(host, 443).is_ok();
        if fits { Ok(Database(name.to_owned())) } else { Err(NotOurs::Database(name.to_owned())) }
    }

    /// The plain spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleRequest {
    /// The tagged versions of a module.
    List { module: Module },
    /// Its latest version.
    Latest { module: Module },
    /// What a version, or a query for one, is.
    Info { module: Module, version: Version },
    /// Its go.mod.
    Mod { module: Module, version: Version },
    /// Its files.
    Zip { module: Module, version: Version },
    /// Whether we pass a checksum database on.
    SumSupported { database: Database },
    /// Its newest tree head.
    SumLatest { database: Database },
    /// The sums of a module version.
    SumLookup { database: Database, module: Module, version: Version },
    /// A piece of its tree.
    SumTile { database: Database, tile: tlog_tiles::Tile },
}

impl ModuleRequest {
    /// Reads the path of a request to a module mirror, as it came on the wire.
    pub fn parse(raw: &str) -> Result<ModuleRequest, NotOurs> {
        let path = decode(raw)?;
        match path.strip_prefix("sumdb/") {
            Some(rest) => parse_sumdb(rest),
            None => parse_module(&path),
        }
    }

    /// Reads the path of a request to a checksum database's own host, where no `/sumdb/NAME` stands in front.
    pub fn parse_database(database: &Database, raw: &str) -> Result<ModuleRequest, NotOurs> {
        parse_database_path(database.clone(), &decode(raw)?)
    }

    /// The module that it is about, if it is about one.
    pub fn module(&self) -> Option<&Module> {
        match self {
            Self::List { module }
            | Self::Latest { module }
            | Self::Info { module, .. }
            | Self::Mod { module, .. }
            | Self::Zip { module, .. }
            | Self::SumLookup { module, .. } => Some(module),
            Self::SumSupported { .. } | Self::SumLatest { .. } | Self::SumTile { .. } => None,
        }
    }

    /// The checksum database that it is put to, if it is put to one.
    pub fn database(&self) -> Option<&Database> {
        match self {
            Self::SumSupported { database }
            | Self::SumLatest { database }
            | Self::SumLookup { database, .. }
            | Self::SumTile { database, .. } => Some(database),
            _ => None,
        }
    }

    /// Whether the answer, once right, is right for ever.
    pub fn is_immutable(&self) -> bool {
        match self {
            Self::Info { version, .. } => version.is_canonical(),
            Self::Mod { .. } | Self::Zip { .. } | Self::SumTile { .. } => true,
            _ => false,
        }
    }

    /// Where the answer lies in a tree laid out as `GOMODCACHE/cache/download`.
    pub fn file(&self) -> String {
        match self {
            Self::List { module } => format!("{}/@v/list", module.escaped()),
            Self::Latest { module } => format!("{}/@latest", module.escaped()),
            Self::Info { module, version } => format!("{}/@v/{}.info", module.escaped(), version.escaped()),
            Self::Mod { module, version } => format!("{}/@v/{}.mod", module.escaped(), version.escaped()),
            Self::Zip { module, version } => format!("{}/@v/{}.zip", module.escaped(), version.escaped()),
            Self::SumSupported { database } => format!("sumdb/{database}/supported"),
            Self::SumLatest { database } => format!("sumdb/{database}/latest"),
            Self::SumLookup { database, module, version } => {
                format!("sumdb/{database}/lookup/{}@{}", module.escaped(), version.escaped())
            }
            Self::SumTile { database, tile } => format!("sumdb/{database}/{}", tile.path()),
        }
    }

    /// The path below a mirror's base, encoded as go would send it.
    pub fn wire(&self) -> String {
        format!("/{}", encode(&self.file()))
    }

    /// What go expects it to be; on success it does not look.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Latest { .. } | Self::Info { .. } => "application/json",
            Self::Zip { .. } => "application/zip",
            Self::SumTile { tile, .. } if !tile.is_data() => "application/octet-stream",
            _ => "text/plain; charset=utf-8",
        }
    }
}

impl fmt::Display for ModuleRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List { module } => write!(f, "the versions of {module}"),
            Self::Latest { module } => write!(f, "the latest version of {module}"),
            Self::Info { module, version } => write!(f, "{module}@{version} (.info)"),
            Self::Mod { module, version } => write!(f, "{module}@{version} (go.mod)"),
            Self::Zip { module, version } => write!(f, "{module}@{version} (zip)"),
            Self::SumSupported { database } | Self::SumLatest { database } => write!(f, "checksum database {database}"),
            Self::SumLookup { database, module, version } => write!(f, "the sums of {module}@{version} in {database}"),
            Self::SumTile { database, tile } => write!(f, "{} of {database}", tile.path()),
        }
    }
}

/// Why a path is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    #[error("a path here starts with / and is percent-encoded text; an encoded slash is not allowed")]
    Encoding,
    #[error("{0:?} has an empty, . or .. component")]
    Component(String),
    #[error(
        "{0:?} is no module request: those end in /@v/list, /@latest, /@v/VERSION.info, .mod or .zip, or start with /sumdb/"
    )]
    Grammar(String),
    #[error("{0:?} is no escaped module path: {1}")]
    Module(String, Why),
    #[error("{0:?} is no escaped version: {1}")]
    Version(String, Why),
    #[error("{0:?} is not canonical, and a .mod or .zip is asked for by its canonical version")]
    NotCanonical(String),
    #[error("{0:?} is no name of a checksum database: a host, perhaps with a path")]
    Database(String),
    #[error("{0:?} is no tile: those are tile/H/L/NNN or tile/H/L/NNN.p/W")]
    Tile(String),
}

/// What is wrong with a module path or version (module.CheckPath and its like).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("an upper-case letter is written as ! and the lower-case one, and ! stands for nothing else")]
    BadEscape,
    #[error("it is empty")]
    Empty,
    #[error("it starts with a dash")]
    LeadingDash,
    #[error("it has an empty component")]
    EmptyElement,
    #[error("a component consists of dots")]
    Dots,
    #[error("a component starts with a dot")]
    LeadingDot,
    #[error("a component ends in a dot")]
    TrailingDot,
    #[error("the character {0:?} may not stand there")]
    Char(char),
    #[error("a component is a reserved file name on Windows")]
    Reserved,
    #[error("a component ends in a tilde and digits, as short names on Windows do")]
    ShortName,
    #[error("the first component has no dot")]
    NoDot,
    #[error("its major version suffix is not one: /v2 and up, or .vN on gopkg.in")]
    Major,
}

fn parse_module(path: &str) -> Result<ModuleRequest, NotOurs> {
    if let Some(escaped) = path.strip_suffix("/@latest") {
        return Ok(ModuleRequest::Latest { module: Module::unescape(escaped)? });
    }
    let (escaped, file) = path.rsplit_once("/@v/").ok_or_else(|| NotOurs::Grammar(path.to_owned()))?;
    if file == "list" {
        return Ok(ModuleRequest::List { module: Module::unescape(escaped)? });
    }
    let (version, kind) = file.rsplit_once('.').ok_or_else(|| NotOurs::Grammar(path.to_owned()))?;
    if !matches!(kind, "info" | "mod" | "zip") {
        return Err(NotOurs::Grammar(path.to_owned()));
    }
    let (module, version) = (Module::unescape(escaped)?, Version::unescape(version)?);
    match kind {
        "info" => Ok(ModuleRequest::Info { module, version }),
        _ if !version.is_canonical() => Err(NotOurs::NotCanonical(version.0)),
        "mod" => Ok(ModuleRequest::Mod { module, version }),
        _ => Ok(ModuleRequest::Zip { module, version }),
    }
}

/// `NAME/supported`, `NAME/latest`, `NAME/lookup/…`, `NAME/tile/…`. A name may hold slashes, and a
/// module path may hold `tile` or `lookup`: the first such component ends the name.
fn parse_sumdb(rest: &str) -> Result<ModuleRequest, NotOurs> {
    let verb = ["/lookup/", "/tile/"].iter().filter_map(|verb| rest.find(verb)).min();
    let at = verb.or_else(|| rest.rfind('/')).ok_or_else(|| NotOurs::Grammar(format!("sumdb/{rest}")))?;
    parse_database_path(Database::new(&rest[..at])?, &rest[at + 1..])
}

fn parse_database_path(database: Database, path: &str) -> Result<ModuleRequest, NotOurs> {
    match path {
        "supported" => return Ok(ModuleRequest::SumSupported { database }),
        "latest" => return Ok(ModuleRequest::SumLatest { database }),
        _ => {}
    }
    if let Some(asked) = path.strip_prefix("lookup/") {
        let (module, version) = asked.split_once('@').ok_or_else(|| NotOurs::Grammar(path.to_owned()))?;
        let (module, version) = (Module::unescape(module)?, Version::unescape(version)?);
        // The database knows whole versions only (x/mod/sumdb/server.go, ServeHTTP).
        if !version.is_canonical() {
            return Err(NotOurs::NotCanonical(version.0));
        }
        return Ok(ModuleRequest::SumLookup { database, module, version });
    }
    if path.starts_with("tile/") {
        let tile = parse_tile(path).ok_or_else(|| NotOurs::Tile(path.to_owned()))?;
        return Ok(ModuleRequest::SumTile { database, tile });
    }
    Err(NotOurs::Grammar(path.to_owned()))
}

/// Reads a tile's path (tlog.ParseTilePath). The crate's own reader panics on a level above 63 and
/// on a width of 0, so those are refused before it sees them.
fn parse_tile(path: &str) -> Option<tlog_tiles::Tile> {
    let mut parts = path.split('/').skip(2);
    let level = parts.next()?;
    let level_fits = level == "data" || level.parse::<u8>().is_ok_and(|level| level < 64);
    let width_fits = match path.rsplit_once(".p/") {
        Some((_, width)) => width.parse::<u32>().is_ok_and(|width| width > 0),
        None => true,
    };
    if level_fits && width_fits { tlog_tiles::Tile::from_path(path).ok() } else { None }
}

/// Percent-decodes a raw path and takes its first slash off.
fn decode(raw: &str) -> Result<String, NotOurs> {
    let raw = raw.strip_prefix('/').ok_or(NotOurs::Encoding)?;
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(if first == b'%' { decode_byte(&mut rest)? } else { first });
    }
    let path = String::from_utf8(bytes).map_err(|_| NotOurs::Encoding)?;
    match path.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some(_) => Err(NotOurs::Component(path)),
        None => Ok(path),
    }
}

fn decode_byte(rest: &mut &[u8]) -> Result<u8, NotOurs> {
    let (digits, tail) = rest.split_at_checked(2).ok_or(NotOurs::Encoding)?;
    let digit = |byte: u8| (byte as char).to_digit(16).ok_or(NotOurs::Encoding);
    let byte = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
    *rest = tail;
    if byte == b'/' { Err(NotOurs::Encoding) } else { Ok(byte) }
}

/// Encodes as Go's url.PathEscape does, slashes kept.
pub(super) fn encode(path: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b':')
        .remove(b'=')
        .remove(b'@')
        .remove(b'/');
    percent_encoding::utf8_percent_encode(path, KEPT).to_string()
}

/// module.escapeString
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

/// module.unescapeString
fn unescape(escaped: &str) -> Result<String, Why> {
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => match chars.next() {
                Some(lower) if lower.is_ascii_lowercase() => plain.push(lower.to_ascii_uppercase()),
                _ => return Err(Why::BadEscape),
            },
            upper if upper.is_ascii_uppercase() => return Err(Why::BadEscape),
            other if other.is_ascii() => plain.push(other),
            other => return Err(Why::Char(other)),
        }
    }
    Ok(plain)
}

/// module.CheckPath
fn check_path(path: &str) -> Result<(), Why> {
    if path.is_empty() {
        return Err(Why::Empty);
    }
    if path.starts_with('-') {
        return Err(Why::LeadingDash);
    }
    path.split('/').try_for_each(check_module_element)?;
    let first = path.split('/').next().unwrap_or(path);
    if !first.contains('.') {
        return Err(Why::NoDot);
    }
    let host_ok = |c: char| matches!(c, '-' | '.' | '0'..='9' | 'a'..='z');
    if let Some(bad) = first.chars().find(|&c| !host_ok(c)) {
        return Err(Why::Char(bad));
    }
    if has_sound_major(path) { Ok(()) } else { Err(Why::Major) }
}

/// module.checkElem, for a module path
fn check_module_element(element: &str) -> Result<(), Why> {
    check_dots(element)?;
    if element.starts_with('.') {
        return Err(Why::LeadingDot);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    if let Some(bad) = element.chars().find(|&c| !allowed(c)) {
        return Err(Why::Char(bad));
    }
    let short = element.split('.').next().unwrap_or(element);
    if is_reserved(short) {
        return Err(Why::Reserved);
    }
    match short.rsplit_once('~') {
        Some((_, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(Why::ShortName)
        }
        _ => Ok(()),
    }
}

/// module.checkElem, for one component of a file path
pub(super) fn check_file_element(element: &str) -> Result<(), Why> {
    check_dots(element)?;
    // module.fileNameOK
    let allowed = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || "!#$%&()+,-.=@[]^_{}~ ".contains(c),
        false => c.is_alphabetic(),
    };
    if let Some(bad) = element.chars().find(|&c| !allowed(c)) {
        return Err(Why::Char(bad));
    }
    let short = element.split('.').next().unwrap_or(element);
    if is_reserved(short) { Err(Why::Reserved) } else { Ok(()) }
}

fn check_dots(element: &str) -> Result<(), Why> {
    if element.is_empty() {
        return Err(Why::EmptyElement);
    }
    if element.bytes().all(|byte| byte == b'.') {
        return Err(Why::Dots);
    }
    if element.ends_with('.') { Err(Why::TrailingDot) } else { Ok(()) }
}

/// module.badWindowsNames
fn is_reserved(short: &str) -> bool {
    let lower = short.to_ascii_lowercase();
    match lower.strip_prefix("com").or_else(|| lower.strip_prefix("lpt")) {
        Some(digit) => matches!(digit.as_bytes(), [b'1'..=b'9']),
        None => matches!(lower.as_str(), "con" | "prn" | "aux" | "nul"),
    }
}

/// Whether module.SplitPathVersion says ok.
fn has_sound_major(path: &str) -> bool {
    if let Some(rest) = path.strip_prefix("gopkg.in/") {
        let rest = rest.strip_suffix("-unstable").unwrap_or(rest);
        return match split_digits(rest, |c| c.is_ascii_digit()) {
            Some((front, digits)) => {
                front.ends_with(".v") && !digits.is_empty() && (digits == "0" || !digits.starts_with('0'))
            }
            None => false,
        };
    }
    match split_digits(path, |c| c.is_ascii_digit() || c == '.') {
        Some((front, number)) if !number.is_empty() && front.ends_with("/v") => {
            !number.contains('.') && !number.starts_with('0') && number != "1"
        }
        _ => true,
    }
}

/// Whether a version may be one of a module, by their majors (module.CheckPathMajor).
pub fn is_suited(module: &Module, version: &Version) -> bool {
    let (path, major) = (module.as_str(), version.as_str().split('.').next().unwrap_or_default());
    let is_gopkg = path.starts_with("gopkg.in/");
    let suffix =
        split_digits(path.strip_suffix("-unstable").filter(|_| is_gopkg).unwrap_or(path), |c| c.is_ascii_digit());
    match suffix {
        Some((front, number)) if front.ends_with(if is_gopkg { ".v" } else { "/v" }) && !number.is_empty() => {
            major.strip_prefix('v') == Some(number)
        }
        _ => matches!(major, "v0" | "v1") || version.as_str().ends_with("+incompatible"),
    }
}

fn split_digits(text: &str, is_digit: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    text.split_at_checked(text.trim_end_matches(is_digit).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> ModuleRequest {
        ModuleRequest::parse(path).unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    #[test]
    fn a_version_suits_a_module_by_its_major() {
        let table = [
            ("x.y/m", "v0.1.0", true),
            ("x.y/m", "v1.0.0", true),
            ("x.y/m", "v2.0.0", false),
            ("x.y/m", "v2.0.0+incompatible", true),
            ("x.y/m/v2", "v2.0.0", true),
            ("x.y/m/v2", "v1.0.0", false),
            ("x.y/m/v12", "v12.0.0-rc.1", true),
            ("x.y/rev2", "v1.0.0", true),
            ("gopkg.in/yaml.v3", "v3.0.1", true),
            ("gopkg.in/yaml.v3", "v2.0.0", false),
            ("gopkg.in/yaml.v3-unstable", "v3.0.1", true),
        ];
        for (module, version, suits) in table {
            let ModuleRequest::Info { module: read, version: asked } = parsed(&format!("/{module}/@v/{version}.info"))
            else {
                panic!("{module} {version}")
            };
            assert_eq!(is_suited(&read, &asked), suits, "{module} {version}");
        }
    }

    /// x/mod/module/module_test.go, `checkPathTests`: path, and whether a module may be called that,
    /// and a file.
    const PATHS: &[(&str, bool, bool)] = &[
        ("x.y/z", true, true),
        ("x.y", true, true),
        ("", false, false),
        ("/x.y/z", false, false),
        ("x./z", false, false),
        (".x/z", false, true),
        ("-x/z", false, true),
        ("x..y/z", true, true),
        ("x.y/z/../../w", false, false),
        ("x.y//z", false, false),
        ("x.y/z//w", false, false),
        ("x.y/z/", false, false),
        ("x.y/z/v0", false, true),
        ("x.y/z/v1", false, true),
        ("x.y/z/v2", true, true),
        ("x.y/z/v2.0", false, true),
        ("X.y/z", false, true),
        ("!x.y/z", false, true),
        ("_x.y/z", false, true),
        ("x.y\"/z", false, false),
        ("x.y#/z", false, true),
        ("x.y%/z", false, true),
        ("x.y*/z", false, false),
        ("x.y+/z", false, true),
        ("x.y-/z", true, true),
        ("x.y./zt", false, false),
        ("x.y:/z", false, false),
        ("x.y\\/z", false, false),
        ("x.y_/z", false, true),
        ("x.y~/z", false, true),
        ("x.y/z!", false, true),
        ("x.y/z'", false, false),
        ("x.y/z-", true, true),
        ("x.y/z.t", true, true),
        ("x.y/z/t", true, true),
        ("x.y/z?", false, false),
        ("x.y/z@", false, true),
        ("x.y/z_", true, true),
        ("x.y/z|", false, false),
        ("x.y/z~", true, true),
        ("x.y/z~1", false, true),
        ("x.y/x.foo", true, true),
        ("x.y/aux.foo", false, false),
        ("x.y/prn", false, false),
        ("x.y/prn2", true, true),
        ("x.y/com", true, true),
        ("x.y/com1", false, false),
        ("x.y/COM1.txt", false, false),
        ("x.y/calm1", true, true),
        ("github.com/!123/logrus", false, true),
        ("github.com/user/unicode/испытание", false, true),
        ("../x", false, false),
        ("./y", false, false),
        ("x:y", false, false),
        ("\\temp\\foo", false, false),
        (".gitignore", false, true),
        (".github/ISSUE_TEMPLATE", false, true),
        ("x☺y", false, false),
        ("gopkg.in/yaml.v2", true, true),
        ("gopkg.in/yaml", false, true),
        ("gopkg.in/yaml.v2-unstable", true, true),
        ("gopkg.in/yaml.v02", false, true),
    ];

    #[test]
    fn paths_are_judged_as_x_mod_judges_them() {
        for &(path, module, file) in PATHS {
            assert_eq!(Module::new(path).is_ok(), module, "module {path:?}: {:?}", Module::new(path));
            let as_file = path.split('/').try_for_each(check_file_element);
            assert_eq!(as_file.is_ok(), file, "file {path:?}: {as_file:?}");
        }
    }

    #[test]
    fn what_is_no_escaped_path_is_refused() {
        // x/mod/module/module_test.go, `badUnescape`
        let bad = [
            "github.com/GoogleCloudPlatform/omega",
            "github.com/!google!cloud!platform!/omega",
            "github.com/!0google!cloud!platform/omega",
            "github.com/!_google!cloud!platform/omega",
            "github.com/!!google!cloud!platform/omega",
            "",
        ];
        for escaped in bad {
            assert!(Module::unescape(escaped).is_err(), "{escaped}");
        }
    }

    #[test]
    fn escaping_goes_there_and_back() {
        let module = Module::unescape("github.com/!google!cloud!platform/omega").unwrap();
        assert_eq!(module.as_str(), "github.com/GoogleCloudPlatform/omega");
        assert_eq!(module.escaped(), "github.com/!google!cloud!platform/omega");
        let plain = "ascii.com/abcdefghijklmnopqrstuvwxyz.-/~_0123456789";
        assert_eq!(Module::unescape(plain).unwrap().escaped(), plain);
    }

    #[test]
    fn every_request_go_makes_is_read_and_written_again() {
        // Path as go sends it, file in the tree, whether it may be kept for ever.
        let table = [
            ("/golang.org/x/net/@v/list", "golang.org/x/net/@v/list", false),
            ("/golang.org/x/net/@latest", "golang.org/x/net/@latest", false),
            ("/golang.org/x/net/@v/v0.1.0.info", "golang.org/x/net/@v/v0.1.0.info", true),
            ("/golang.org/x/net/@v/master.info", "golang.org/x/net/@v/master.info", false),
            ("/golang.org/x/net/@v/v1.info", "golang.org/x/net/@v/v1.info", false),
            ("/golang.org/x/net/@v/v0.1.0.mod", "golang.org/x/net/@v/v0.1.0.mod", true),
            ("/golang.org/x/net/@v/v0.1.0.zip", "golang.org/x/net/@v/v0.1.0.zip", true),
            (
                "/github.com/%21burnt%21sushi/toml/@v/v1.0.0+incompatible.zip",
                "github.com/!burnt!sushi/toml/@v/v1.0.0+incompatible.zip",
                true,
            ),
            ("/sumdb/sum.golang.org/supported", "sumdb/sum.golang.org/supported", false),
            ("/sumdb/sum.golang.org/latest", "sumdb/sum.golang.org/latest", false),
            (
                "/sumdb/localhost.localdev/sumdb/lookup/rsc.io/quote@v1.0.0",
                "sumdb/localhost.localdev/sumdb/lookup/rsc.io/quote@v1.0.0",
                false,
            ),
            (
                "/sumdb/sum.golang.org/lookup/x.y/tile/latest@v1.0.0",
                "sumdb/sum.golang.org/lookup/x.y/tile/latest@v1.0.0",
                false,
            ),
            ("/sumdb/sum.golang.org/tile/8/1/x001/067.p/5", "sumdb/sum.golang.org/tile/8/1/x001/067.p/5", true),
        ];
        for (raw, file, immutable) in table {
            let request = parsed(raw);
            assert_eq!(request.file(), file, "{raw}");
            assert_eq!(request.is_immutable(), immutable, "{raw}");
            assert_eq!(parsed(&request.wire()), request, "{raw}");
        }
        assert_eq!(
            parsed("/github.com/!burnt!sushi/toml/@v/list").wire(),
            "/github.com/%21burnt%21sushi/toml/@v/list",
            "upstream it goes as go writes it"
        );
    }

    #[test]
    fn a_databases_own_host_has_no_prefix() {
        let database = Database::new("sum.golang.org").unwrap();
        let lookup = ModuleRequest::parse_database(&database, "/lookup/rsc.io/quote@v1.5.2").unwrap();
        assert_eq!(lookup, parsed("/sumdb/sum.golang.org/lookup/rsc.io/quote@v1.5.2"));
        assert!(ModuleRequest::parse_database(&database, "/rsc.io/quote/@v/list").is_err());
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        let refused = [
            "golang.org/x/net/@v/list",
            "/",
            "/index.html",
            "/golang.org/x/net",
            "/golang.org/x/net/@v/",
            "/golang.org/x/net/@v/v1.0.0",
            "/golang.org/x/net/@v/v1.0.0.tar",
            "/golang.org/x/net/@v/v1.mod",
            "/golang.org/x/net/@v/master.zip",
            "/golang.org/x/net/@v/../../etc/passwd.info",
            "/golang.org/../x/@v/list",
            "/golang.org/%2e%2e/x/@v/list",
            "/golang.org%2fx/net/@v/list",
            "/golang.org/x%2Fnet/@v/list",
            "/golang.org/x/%zz/@v/list",
            "/golang.org/x/%2",
            "/golang.org/x//net/@v/list",
            "//golang.org/x/net/@v/list",
            "/GitHub.com/x/net/@v/list",
            "/github.com/BurntSushi/toml/@v/list",
            "/github.com/!!burnt/toml/@v/list",
            "/golang.org/x/net/@v/V1.0.0.info",
            "/golang.org/x/net/@v/%00.info",
            "/golang.org/x/net/@v/\u{e9}.info",
            "/golang.org/x/%ff/@v/list",
            "/@v/list",
            "/cached-only/golang.org/x/net/@v/list",
            "/sumdb/",
            "/sumdb/supported",
            "/sumdb/sum.golang.org",
            "/sumdb/sum.golang.org/tile/8/0/0",
            "/sumdb/sum.golang.org/tile/8/0/000.p/256",
            "/sumdb/sum.golang.org/tile/8/0/000.p/0",
            "/sumdb/sum.golang.org/tile/8/0/000.p/00",
            "/sumdb/sum.golang.org/tile/8/64/000",
            "/sumdb/sum.golang.org/tile/0/0/000",
            "/sumdb/sum.golang.org/tile/31/0/000",
            "/sumdb/sum.golang.org/lookup/rsc.io/quote",
            "/sumdb/sum.golang.org/lookup/rsc.io/quote@master",
            "/sumdb/sum.golang.org/lookup/rsc.io/Quote@v1.0.0",
            "/sumdb/a b/supported",
            "/sumdb/a..b/supported",
            "/sumdb/a:b/supported",
        ];
        for path in refused {
            let why = ModuleRequest::parse(path).expect_err(path);
            assert!(!why.to_string().contains('\n'), "{why}");
        }
    }

    #[test]
    fn what_is_read_is_one_spelling_and_stays_in_its_tree() {
        // The law for whatever a stranger sends: no panic; what parses is written back as itself, and lies
        // below its folder under a name without upper case, empty or dotted components.
        let mut random = fastrand::Rng::with_seed(20);
        let alphabet: Vec<char> = "ab.Z!/@v%25~-_0129+xsumdbtilelookup:\\\u{e9} ".chars().collect();
        let words = [
            "/@v/",
            "/@latest",
            "list",
            ".info",
            ".mod",
            ".zip",
            "sumdb/",
            "/tile/8/0/",
            "x001/",
            "/lookup/",
            "v1.0.0",
            "a.b",
        ];
        let mut read = 0;
        for _ in 0..200_000 {
            let mut path = String::from("/");
            for _ in 0..random.usize(1..7) {
                match random.bool() {
                    true => path.push_str(words[random.usize(..words.len())]),
                    false => path.push(alphabet[random.usize(..alphabet.len())]),
                }
            }
            let Ok(request) = ModuleRequest::parse(&path) else { continue };
            read += 1;
            assert_eq!(ModuleRequest::parse(&request.wire()).as_ref(), Ok(&request), "{path}");
            let file = request.file();
            assert!(file.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}: {file}");
            let is_module = !file.starts_with("sumdb/");
            assert!(!is_module || file.chars().all(|c| c.is_ascii() && !c.is_ascii_uppercase()), "{path}: {file}");
        }
        assert!(read > 500, "{read}");
    }

    #[test]
    fn no_path_makes_the_parser_panic() {
        let pieces =
            ["/", "%", "%2", "@v", "@latest", "sumdb", "tile", "8", "lookup", "!", "é", "v1.0.0.zip", "x.y", "."];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let _ = ModuleRequest::parse(&format!("/{a}{b}/{c}"));
                    let _ = ModuleRequest::parse(&format!("{a}/{b}{c}"));
                    let _ = ModuleRequest::parse(&format!("/sumdb/x/{a}/{b}/{c}"));
                }
            }
        }
    }
}
