//! `goanyway man [DIR]`: the manual, a page for each command, from the one definition of the command line.
//!
//! Nothing in a page changes from day to day, so that packages of the same source are the same.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::output::{print, print_bytes};
use super::{Failure, examples};

/// Write the manual: a page for each command
#[derive(Args, Clone, Debug)]
pub(super) struct ManArgs {
    /// A folder for goanyway.1, goanyway-serve.1 and so on [default: goanyway.1 to standard output]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Who reads a page is shown how it ends and what it reads, once, in the first of them.
const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "Done."),
    ("1", "The answer is no: a name is absent, something is not what it should be, doctor found a fault."),
    ("2", "Wrong usage or settings; nothing was done."),
    ("3", "It could not be found out: no server answered, an upstream was out of reach."),
    ("other", "run ends as its command does, with 127 where that does not exist and 126 where it cannot be run."),
];

const FILES: [(&str, &str); 4] = [
    ("$XDG_CONFIG_HOME/goanyway/goanyway.toml, ~/.config/goanyway/goanyway.toml", "A user's settings."),
    ("/etc/goanyway/goanyway.toml", "The machine's, where the user has none."),
    ("/var/cache/goanyway, ~/.cache/goanyway", "What is kept: a tree that is itself a GOPROXY=file:// one."),
    ("/var/lib/goanyway, ~/.local/state/goanyway, ~/.local/share/goanyway/certs", "What was learnt, and the local CA."),
];

const ENVIRONMENT: [(&str, &str); 4] = [
    ("GOANYWAY_...", "Each setting: its flag in capitals with _ for -; goanyway config show --json has them all."),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "The way out, where --parent names none."),
    ("SSL_CERT_FILE, SSL_CERT_DIR", "The roots that servers are judged by."),
    ("NO_COLOR", "Anything: no colours. A terminal alone gets them."),
];

pub(super) fn write(args: &ManArgs) -> Result<ExitCode, Failure> {
    let mut pages = pages()?;
    let Some(dir) = &args.dir else {
        return print_bytes(&pages.swap_remove(0).1);
    };
    std::fs::create_dir_all(dir).map_err(|error| Failure::Write { path: dir.clone(), error })?;
    for (name, page) in pages {
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(|error| Failure::Write { path: path.clone(), error })?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Each page with its file's name, the first one first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, "", &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, path: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    pages.push(page(command, path)?);
    for sub in command.get_subcommands() {
        let path = format!("{path} {}", sub.get_name());
        collect(sub, path.trim(), pages)?;
    }
    Ok(())
}

fn page(command: &Command, path: &str) -> io::Result<(String, Vec<u8>)> {
    let version = concat!("goanyway ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(version).manual("goanyway manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if path.is_empty() {
        list(&mut rest, "EXIT STATUS", &EXIT_STATUS);
        list(&mut rest, "ENVIRONMENT", &ENVIRONMENT);
        list(&mut rest, "FILES", &FILES);
    }
    rest.control("SH", ["EXAMPLES"]);
    rest.control("nf", []);
    examples::of(path).iter().for_each(|line| _ = rest.text([roman(*line)]));
    rest.control("fi", []);
    if !path.is_empty() {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold("goanyway"), roman("(1) has the exit status, the environment and the files")]);
    }
    rest.to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

fn list(roff: &mut Roff, heading: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (what, about) in entries {
        roff.control("TP", []);
        roff.text([bold(*what)]);
        roff.text([roman(*about)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command: &Command, before: &str, names: &mut Vec<String>) {
        names.push(format!("{before}.1"));
        command.get_subcommands().for_each(|sub| self::names(sub, &format!("{before}-{}", sub.get_name()), names));
    }

    #[test]
    fn each_command_has_a_page_of_its_own() {
        let mut wanted = Vec::new();
        names(&super::super::command(), "goanyway", &mut wanted);
        let pages = pages().unwrap();
        assert_eq!(pages.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), wanted);
        assert!(pages.len() > 25, "{wanted:?}");
        for (name, page) in &pages {
            let text = String::from_utf8(page.clone()).unwrap();
            for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SH EXAMPLES"] {
                let after = text.split_once(section).unwrap_or_else(|| panic!("{name} has no {section}: {text}")).1;
                assert!(after.lines().any(|line| line.contains(char::is_alphabetic) && !line.starts_with('.')));
            }
        }
    }

    #[test]
    fn the_pages_of_one_source_are_the_same_each_time() {
        assert_eq!(pages().unwrap(), pages().unwrap());
    }
}
