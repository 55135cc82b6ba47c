//! The completions as shells use them, the manual as its readers render it, and colours where they belong.

use std::path::Path;
use std::process::Command;

use crate::support::binary::{Ended, home};
use crate::support::needs::have;

#[test]
fn bash_completes_commands_and_flags() {
    if !have("bash_completes_commands_and_flags", &["bash"]) {
        return;
    }
    let home = home();
    let script = home.run(&["completions", "bash"]);
    assert_eq!(script.code, Some(0), "{script:?}");
    std::fs::write(home.at("script"), script.out).unwrap();
    let complete = |words: &str| {
        let typed = format!(
            "source ./script && COMP_WORDS=({words}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) && \
             _goanyway goanyway \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        home.surround(&mut bash);
        let ended = Ended::of(bash.args(["--norc", "-c", &typed]).current_dir(home.at(".")).output().unwrap());
        assert!(ended.code == Some(0) && ended.err.is_empty(), "{words}: {ended:?}");
        ended.out.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("goanyway ca ro"), ["rotate"]);
    assert_eq!(complete("goanyway doct"), ["doctor"]);
    assert_eq!(complete("goanyway serve --cache-d"), ["--cache-dir"]);
    assert_eq!(complete("goanyway env --shell pow"), ["powershell"]);
}

#[test]
fn fish_completes_commands_and_says_what_they_do() {
    if !have("fish_completes_commands_and_says_what_they_do", &["fish"]) {
        return;
    }
    let home = home();
    std::fs::write(home.at("script.fish"), home.run(&["completions", "fish"]).out).unwrap();
    let complete = |line: &str| {
        let mut fish = Command::new("fish");
        home.surround(&mut fish);
        let typed = format!("source script.fish; complete -C {line:?}");
        let ended = Ended::of(fish.args(["-N", "-c", &typed]).current_dir(home.at(".")).output().unwrap());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    assert_eq!(
        complete("goanyway ca ro").trim(),
        "rotate\tMake the next CA; clients of the one before are served for a while"
    );
    assert!(complete("goanyway serve --cache-d").starts_with("--cache-dir\tWhere modules are kept"));
}

/// groff says of a page what is wrong with it, and it has something on it.
fn render(page: &Path) -> String {
    let ended = Ended::of(Command::new("groff").args(["-man", "-Tascii", "-ww", "-P-c"]).arg(page).output().unwrap());
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{}: {}", page.display(), ended.err);
    // Bold is a letter typed twice.
    let mut text = String::new();
    for char in ended.out.chars() {
        if char == '\u{8}' { _ = text.pop() } else { text.push(char) }
    }
    text
}

#[test]
fn every_page_of_the_manual_is_rendered_without_a_complaint() {
    if !have("every_page_of_the_manual_is_rendered_without_a_complaint", &["groff"]) {
        return;
    }
    let home = home();
    let dir = home.at("man/man1");
    let written = home.run(&["man", dir.to_str().unwrap()]);
    assert_eq!(written.code, Some(0), "{written:?}");
    let pages: Vec<&str> = written.out.lines().collect();
    assert!(pages.len() > 25 && pages.len() == std::fs::read_dir(&dir).unwrap().count(), "{pages:?}");
    for page in &pages {
        let text = render(Path::new(page));
        assert!(text.contains("EXAMPLES") && text.lines().count() > 15, "{page}: {text}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("\\")), "{page}: {text}");
    }
    let serve = render(&dir.join("goanyway-serve.1"));
    assert!(serve.contains("--cache-size") && serve.contains("GOANYWAY_CACHE_SIZE"), "{serve}");
    // One page goes to standard output where no folder is named.
    let one = home.run(&["man"]);
    assert_eq!(one.out, std::fs::read_to_string(dir.join("goanyway.1")).unwrap());
    assert!(render(&dir.join("goanyway.1")).contains("EXIT STATUS"));
}

/// A program that has a terminal for both of its outputs, made by python.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
def quiet(terminal):
    try:
        data = os.read(terminal, 4096)
    except OSError:
        data = b''
    return data
pty.spawn(sys.argv[1:], quiet)
"#;

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    if !have("colours_are_for_terminals_and_for_those_who_want_them", &["python3"]) {
        return;
    }
    let home = home();
    let binary = env!("CARGO_BIN_EXE_goanyway");
    let on_a_terminal = |arguments: &[&str], set: &[(&str, &str)]| {
        let mut python = Command::new("python3");
        home.surround(&mut python);
        python.env("TERM", "xterm-256color").envs(set.iter().copied());
        let ended = Ended::of(python.args(["-c", ON_A_TERMINAL, binary]).args(arguments).output().unwrap());
        assert!(!ended.out.is_empty(), "{ended:?}");
        ended.out
    };
    let escape = '\u{1b}';
    for arguments in [&["doctor", "--listen", "nonsense"][..], &["serve", "--listn"], &["--help"]] {
        let shown = on_a_terminal(arguments, &[]);
        assert!(shown.contains(escape), "{arguments:?}: {shown:?}");
        for set in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = on_a_terminal(arguments, &[set]);
            assert!(!plain.contains(escape), "{arguments:?} {set:?}: {plain:?}");
        }
        let piped = home.run(arguments);
        assert!(!piped.out.contains(escape) && !piped.err.contains(escape), "{arguments:?}: {piped:?}");
        // What has colours has the same words without.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&without_escapes(&shown)), words(&format!("{}{}", piped.out, piped.err)), "{arguments:?}");
    }
}

/// Takes out what begins with ESC [ and ends with a letter (ECMA-48 section 5.4).
fn without_escapes(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|char: char| !char.is_alphabetic()).get(1..).unwrap_or_default()
    })
}
