//! What one types, for each command: the end of its help and of its page in the manual.
//!
//! A test has clap itself read every one of them.

use clap::Command;

/// The lines for a command, which is named by what is typed after `goanyway`.
pub(super) fn of(path: &str) -> &'static [&'static str] {
    EXAMPLES.iter().find(|(known, _)| *known == path).map_or(&[], |(_, lines)| lines)
}

/// Ends the help of every command with its examples.
pub(super) fn add(command: Command) -> Command {
    add_below(command, "")
}

fn add_below(mut command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let below = format!("{path} {name}");
        command = command.mut_subcommand(&name, |sub| add_below(sub, below.trim()));
    }
    let lines: String = of(path).iter().map(|line| format!("\n  {line}")).collect();
    command.after_help(format!("Examples:{lines}"))
}

/// Behind a `#`, as in a shell, stands what a line is for.
#[rustfmt::skip]
const EXAMPLES: &[(&str, &[&str])] = &[
    ("", &[
        "goanyway run -- go build ./...        # one command, nothing set up, nothing left behind",
        "goanyway serve                        # a proxy for this machine, on 127.0.0.1:3128",
        "eval \"$(goanyway env)\"                # and a shell whose builds use it",
        "goanyway doctor                       # what is wrong here, and what mends it",
    ]),
    ("serve", &[
        "goanyway serve",
        "goanyway serve --listen 0.0.0.0:3128 --client 10.7.0.0/16     # for the machines of a network",
        "goanyway serve --upstream https://athens.corp.example --goprivate 'git.corp.example/*'",
    ]),
    ("run", &[
        "goanyway run -- go build ./...",
        "goanyway run --summary build.json -- go test ./...   # write down what it was served",
        "goanyway run --frozen build.json -- go build ./...   # and have just that served again",
        "goanyway run --offline -- make                       # nothing may leave this machine",
    ]),
    ("warm", &[
        "goanyway warm go.sum",
        "goanyway warm go.mod golang.org/x/tools@latest",
        "goanyway warm --toolchains 1.26.0 --platforms linux/amd64,linux/arm64",
    ]),
    ("resolve", &[
        "goanyway resolve goproxy.cn",
        "goanyway resolve --json --type a goproxy.cn git.corp.example",
        "goanyway resolve --nameserver 10.7.0.53 --fallback none git.corp.example",
    ]),
    ("doctor", &[
        "goanyway doctor",
        "goanyway doctor --fix     # run what may be run, each command printed before",
        "goanyway doctor --json",
    ]),
    ("env", &[
        "eval \"$(goanyway env)\"",
        "goanyway env --shell fish | source",
        "goanyway env --shell github >> \"$GITHUB_ENV\"",
        "goanyway env --listen 10.7.0.2:3128 --shell docker",
    ]),
    ("ca", &[
        "goanyway ca show",
        "goanyway ca install                                     # have this machine's programs trust it",
        "goanyway ca rotate --intercept mirror.corp.example      # the next one, for one host more",
    ]),
    ("ca init", &["goanyway ca init", "goanyway ca init --keep-root /media/usb/root.key"]),
    ("ca show", &["goanyway ca show", "goanyway ca show --json"]),
    ("ca rotate", &["goanyway ca rotate", "goanyway ca rotate --overlap 7 --intercept mirror.corp.example"]),
    ("ca export", &["goanyway ca export > goanyway.pem", "goanyway ca export --bundle --out bundle.pem", "goanyway ca export --format der --out goanyway.der"]),
    ("ca install", &["goanyway ca install --dry-run", "goanyway ca install", "goanyway ca install --java --root /srv/image"]),
    ("ca uninstall", &["goanyway ca uninstall --dry-run", "goanyway ca uninstall"]),
    ("cache", &[
        "goanyway cache stat",
        "goanyway cache list 'golang.org/x/*'",
        "goanyway cache export --go-sum go.sum /media/usb/modules    # for a machine without a network",
    ]),
    ("cache stat", &["goanyway cache stat", "goanyway cache stat --json --cache-dir /srv/goanyway"]),
    ("cache list", &["goanyway cache list", "goanyway cache list 'golang.org/x/*'", "goanyway cache list --json golang.org/x/tools@v0.30.0"]),
    ("cache verify", &["goanyway cache verify", "goanyway cache verify --repair 'golang.org/x/*'"]),
    ("cache prune", &["goanyway cache prune --older-than 30d --dry-run", "goanyway cache prune golang.org/x/tools@v0.30.0", "goanyway cache prune --to 10GiB"]),
    ("cache export", &["goanyway cache export /media/usb/modules", "goanyway cache export --go-sum go.sum --module 'golang.org/*' modules"]),
    ("cache import", &["goanyway cache import \"$(go env GOMODCACHE)/cache/download\"", "goanyway cache import --go-sum go.sum /media/usb/modules"]),
    ("gateway", &[
        "goanyway gateway print --subnet 10.7.0.0/16 --transparent 0.0.0.0:3129 --dns 0.0.0.0:53",
        "goanyway gateway apply --subnet 10.7.0.0/16 --interface eth1   # listeners from goanyway.toml",
        "goanyway gateway remove",
    ]),
    ("gateway print", &[
        "goanyway gateway print --subnet 10.7.0.0/16 --transparent 0.0.0.0:3129 --dns 0.0.0.0:53",
        "goanyway gateway print --subnet 10.7.0.0/16 --mode tproxy --keep-dns 10.7.0.53",
    ]),
    ("gateway apply", &[
        "goanyway gateway apply --subnet 10.7.0.0/16 --interface eth1 --dry-run",
        "goanyway gateway apply --subnet 10.7.0.0/16 --subnet fd07::/64 --interface eth1",
    ]),
    ("gateway check", &["goanyway gateway check --subnet 10.7.0.0/16 --interface eth1", "goanyway gateway check --json --subnet 10.7.0.0/16"]),
    ("gateway remove", &["goanyway gateway remove --dry-run", "goanyway gateway remove"]),
    ("config", &[
        "goanyway config show",
        "goanyway config check /etc/goanyway/goanyway.toml",
    ]),
    ("config show", &[
        "goanyway config show",
        "goanyway config show --json --config deploy/goanyway.toml",
        "goanyway config show > goanyway.toml       # what was typed becomes a file",
    ]),
    ("config check", &[
        "goanyway config check goanyway.toml",
        "goanyway config check                  # the usual file and the variables of this shell",
        "goanyway config check --json deploy/one.toml deploy/other.toml",
    ]),
    ("completions", &[
        "goanyway completions bash > /etc/bash_completion.d/goanyway",
        "goanyway completions fish > ~/.config/fish/completions/goanyway.fish",
        "goanyway completions zsh > /usr/local/share/zsh/site-functions/_goanyway",
    ]),
    ("man", &["goanyway man | man -l -", "goanyway man /usr/local/share/man/man1"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    /// The commands of ours in a line of a shell.
    fn typed(line: &str) -> Vec<Vec<String>> {
        let (mut commands, mut words, mut word, mut quote) = (Vec::new(), Vec::new(), None::<String>, None);
        let end = |word: &mut Option<String>, words: &mut Vec<String>| words.extend(word.take());
        for char in line.chars() {
            match (quote, char) {
                (Some(open), char) if char == open => quote = None,
                (None, '\'' | '"') => (quote, word) = (Some(char), word.or_else(|| Some(String::new()))),
                (None, ' ') => end(&mut word, &mut words),
                (None | Some('"'), '(' | ')' | '|' | '>' | '#') if line.contains("$(") || quote.is_none() => {
                    end(&mut word, &mut words);
                    commands.push(std::mem::take(&mut words));
                    // What is within $( ) begins anew.
                    quote = None;
                }
                (_, char) => word.get_or_insert_default().push(char),
            }
        }
        end(&mut word, &mut words);
        commands.push(words);
        commands.retain(|words| words.first().is_some_and(|word| word == "goanyway"));
        commands
    }

    #[test]
    fn a_line_of_a_shell_is_taken_apart() {
        let words = |line| typed(line).into_iter().map(|words| words.join("+")).collect::<Vec<_>>();
        assert_eq!(words("goanyway serve --a 'b c'   # d"), ["goanyway+serve+--a+b c"]);
        assert_eq!(words("eval \"$(goanyway env)\""), ["goanyway+env"]);
        assert_eq!(words("goanyway env | source"), ["goanyway+env"]);
        assert_eq!(words("cat x | goanyway man >> \"$Y\""), ["goanyway+man"]);
    }

    fn each(command: &Command, path: &str, see: &mut dyn FnMut(&Command, &str)) {
        see(command, path);
        for sub in command.get_subcommands() {
            each(sub, format!("{path} {}", sub.get_name()).trim(), see);
        }
    }

    #[test]
    fn every_command_has_examples_and_clap_understands_them() {
        let mut seen = 0;
        each(&command(), "", &mut |_, path| {
            let lines = of(path);
            assert!(!lines.is_empty(), "goanyway {path} has no example");
            seen += 1;
            let own = format!("goanyway {path}");
            let is_own = |line: &&&str| typed(line).iter().any(|words| words.join(" ").starts_with(own.trim()));
            assert!(lines.iter().filter(is_own).count() == lines.len(), "an example of another command: {lines:?}");
            for words in lines.iter().flat_map(|line| typed(line)) {
                let read = command().try_get_matches_from(&words);
                assert!(read.is_ok(), "{words:?}: {}", read.unwrap_err());
            }
        });
        assert_eq!(seen, EXAMPLES.len(), "examples for a command that is not there");
    }

    #[test]
    fn every_help_fits_a_screen() {
        let mut whole = command().disable_help_subcommand(true).term_width(100);
        whole.build();
        each(&whole, "", &mut |command, path| {
            let help = command.clone().term_width(100).render_help().to_string();
            let (lines, widest) = (help.lines().count(), help.lines().map(|line| line.chars().count()).max());
            assert!(lines <= 60, "-h of {path} has {lines} lines:\n{help}");
            assert!(widest <= Some(100), "-h of {path} is {widest:?} wide:\n{help}");
            assert!(help.contains("Examples:\n  "), "{help}");
        });
    }

    /// What most people need of the settings, and all of them where one asks for more.
    #[test]
    fn the_help_of_serve_is_short_and_its_long_one_is_whole() {
        let serve = command().find_subcommand("serve").unwrap().clone().term_width(100);
        let (short, long) = (serve.clone().render_help().to_string(), serve.clone().render_long_help().to_string());
        assert!(short.lines().count() <= 45, "{short}");
        for row in crate::config::ROWS {
            let name = row.flag.map_or(row.key.to_owned(), |flag| format!("--{flag} "));
            assert!(long.contains(&name) && long.contains(&row.variable()), "{name}: {long}");
        }
    }
}
