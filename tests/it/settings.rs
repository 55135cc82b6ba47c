//! `goanyway config`: every file of settings that we ship or show is sound by our own judgement, and what is shown of
//! the settings here can be read again.

use std::path::{Path, PathBuf};

use crate::support::binary::{Ended, Home, home};

/// The files of a folder, those below it too.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The blocks between these fences.
fn fenced(text: &str) -> Vec<String> {
    text.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

/// What a manifest embeds as `goanyway.toml: |`, as YAML reads it (section 8.1.1.1: by the first line's indent).
fn embedded(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.trim_start().trim_end().ends_with("goanyway.toml: |") {
            continue;
        }
        let indent = lines.peek().map_or(0, |line| line.len() - line.trim_start().len());
        let mut block = String::new();
        while let Some(line) = lines.next_if(|line| line.trim().is_empty() || line.starts_with(&" ".repeat(indent))) {
            block += &format!("{}\n", line.get(indent..).unwrap_or_default());
        }
        found.push(block);
    }
    found
}

/// Everything in this repository that is, or shows, settings, with its name.
fn samples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = files(&root.join("deploy"));
    let pages = files(&root.join("docs")).into_iter().chain([root.join("README.md")]);
    let mut samples = Vec::new();
    for path in shipped.into_iter().chain(pages) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let found = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") if name.contains("goanyway") => vec![text],
            Some("md") => fenced(&text),
            Some("yaml" | "yml") => embedded(&text),
            _ => Vec::new(),
        };
        samples.extend((1..).zip(found).map(|(number, text)| (format!("{name} {number}"), text)));
    }
    samples
}

#[test]
fn every_file_of_settings_that_we_ship_or_show_is_sound() {
    let (home, samples) = (home(), samples());
    for kind in ["deploy/systemd/goanyway.toml 1", "deploy/container/kubernetes/goanyway.yaml 1", "README.md 1"] {
        assert!(samples.iter().any(|(name, _)| name == kind), "{kind} was not found");
    }
    let mut line = vec!["config".to_owned(), "check".to_owned()];
    for (number, (name, text)) in samples.iter().enumerate() {
        let file = home.at(&format!("{number} {}", name.replace('/', "-")));
        std::fs::write(&file, text).unwrap();
        line.push(file.display().to_string());
    }
    let ended = home.run(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert_eq!(ended.out.lines().count(), samples.len(), "{}", ended.out);
}

/// The settings here, with a file, a variable and a flag.
fn show(home: &Home, more: &[&str]) -> Ended {
    std::fs::create_dir_all(home.at("config/goanyway")).unwrap();
    std::fs::write(home.at("config/goanyway/goanyway.toml"), "[cache]\nsize = \"50GiB\"\n").unwrap();
    let mut command =
        home.goanyway(&[&["config", "show", "--parent", "http://u:s3cret@proxy.example:3128"], more].concat());
    Ended::of(command.env("GOANYWAY_TRUSTED_BY", "10.7.0.0/16").output().unwrap())
}

#[test]
fn each_setting_is_shown_with_where_it_comes_from_and_without_passwords() {
    let home = home();
    let shown = show(&home, &[]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let line = |start: &str| {
        shown.out.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {}", shown.out))
    };
    assert!(line("size = \"50GiB\"").ends_with("config/goanyway/goanyway.toml:2"));
    assert!(line("trusted_by = [\"10.7.0.0/16\"]").ends_with("# GOANYWAY_TRUSTED_BY"));
    assert!(line("parent = [\"http://***@proxy.example:3128\"]").contains("# --parent; *** stands for"));
    assert!(line("# listen = [\"127.0.0.1:3128\"]").ends_with("# default: 127.0.0.1:3128"));
    assert!(!shown.out.contains("s3cret"), "{}", shown.out);

    std::fs::write(home.at("copy.toml"), &shown.out).unwrap();
    let checked = home.run(&["config", "check", home.at("copy.toml").to_str().unwrap()]);
    assert_eq!(checked.code, Some(0), "{}", checked.out);
    let json: serde_json::Value = serde_json::from_str(&show(&home, &["--json"]).out).unwrap();
    let size = json["settings"].as_array().unwrap().iter().find(|one| one["key"] == "cache.size").unwrap();
    assert_eq!((&size["value"], &size["source"]), (&"50GiB".into(), &"file".into()));
}

#[test]
fn without_a_file_what_serve_would_read_here_is_checked() {
    let home = home();
    assert_eq!(home.run(&["config", "check"]).code, Some(0));
    std::fs::create_dir_all(home.at("config/goanyway")).unwrap();
    std::fs::write(home.at("config/goanyway/goanyway.toml"), "[cache]\nsize = \"much\"\n").unwrap();
    let mut command = home.goanyway(&["config", "check"]);
    let ended = Ended::of(command.env("GOANYWAY_LISTEN", "here").output().unwrap());
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let told = [
        ":2:8: cache.size = \"much\": expected a size",
        "GOANYWAY_LISTEN: \"here\": expected ADDRESS:PORT",
        ": 2 faults",
    ];
    assert!(told.iter().all(|words| ended.out.contains(words)), "{}", ended.out);
}
