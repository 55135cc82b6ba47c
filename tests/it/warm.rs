//! `goanyway warm`: a cache filled ahead of a build serves it with every mirror gone; what cannot be had
//! is told, and the exit code says which kind of no it was.

use crate::support::binary::{Ended, Home, home};
use crate::support::book::{h1, h1_of_zip};
use crate::support::client::get;
use crate::support::mirror::{Mirror, Mood, files};
use crate::support::origin::closed_port;

const MODULE: &str = "example.com/m";

/// Warms with this program, in this home, from this mirror.
async fn warm(home: &Home, upstream: &str, arguments: &[&str]) -> Ended {
    let all: Vec<&str> = ["warm", "--upstream", upstream].into_iter().chain(arguments.iter().copied()).collect();
    let mut command = home.goanyway(&all);
    tokio::task::spawn_blocking(move || Ended::of(command.output().unwrap())).await.unwrap()
}

fn written(home: &Home, name: &str, text: &str) -> String {
    std::fs::write(home.at(name), text).unwrap();
    home.at(name).display().to_string()
}

/// The go.sum of these files.
fn sums(of: &[(&str, &str)]) -> String {
    let line = |(version, kind): &(&str, &str)| {
        let file = files(MODULE, &[version])[&format!("/{MODULE}/@v/{version}.{kind}")].to_vec();
        match *kind {
            "zip" => format!("{MODULE} {version} {}\n", h1_of_zip(&file)),
            _ => format!("{MODULE} {version}/go.mod {}\n", h1(&[("go.mod".to_owned(), file)])),
        }
    };
    of.iter().map(line).collect()
}

/// Which of these paths a proxy in this home serves with nobody to ask.
async fn served_alone(home: &Home, paths: &[&str]) -> Vec<u16> {
    let dead = format!("http://{}", closed_port().await);
    let served = home.serve(&["--upstream", &dead]);
    let mut found = Vec::new();
    for path in paths {
        found.push(get(served.address, path).await.status);
    }
    served.tell_to_stop();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_sum_a_go_mod_or_a_version_is_fetched_and_served_without_any_mirror() {
    let mirror = Mirror::of(MODULE, &["v1.0.0", "v1.1.0"]).await;
    let of = |version: &str, kind: &str| format!("/{MODULE}/@v/{version}.{kind}");
    let paths: Vec<String> =
        ["v1.0.0", "v1.1.0"].iter().flat_map(|version| ["info", "mod", "zip"].map(|kind| of(version, kind))).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let sums = sums(&[("v1.0.0", "zip"), ("v1.0.0", "mod"), ("v1.1.0", "mod")]);
    let requires = format!(
        "module x.y/z\n\ngo 1.21\n\nrequire {MODULE} v1.0.0\nrequire x.y/local v1.0.0\nreplace x.y/local => ./local\n"
    );
    let latest = format!("{MODULE}@latest");
    let table: [(&str, Option<&str>, [u16; 6]); 3] = [
        ("go.sum", Some(&sums), [200, 200, 200, 502, 200, 502]),
        ("go.mod", Some(&requires), [200, 200, 200, 502, 502, 502]),
        (&latest, None, [502, 502, 502, 200, 200, 200]),
    ];
    for (what, text, served) in table {
        let home = home();
        let what = text.map_or(what.to_owned(), |text| written(&home, what, text));
        let ended = warm(&home, &mirror.url(), &[&what]).await;
        assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
        assert!(ended.err.contains("files") && ended.out.is_empty(), "{what}: {ended:?}");
        assert_eq!(served_alone(&home, &paths).await, served, "{what}");
        let asked = mirror.origin.heard().len();
        let again = warm(&home, &mirror.url(), &[&what]).await;
        assert!(again.err.contains(", 0 of them fetched now"), "{what}: {again:?}");
        assert!(mirror.origin.heard().len() <= asked + 1, "{what}: a list may be asked for again, and nothing else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_go_sum_says_is_named() {
    let (mirror, home) = (Mirror::of(MODULE, &["v1.0.0", "v1.1.0"]).await, home());
    let right = sums(&[("v1.0.0", "zip"), ("v1.0.0", "mod"), ("v1.1.0", "mod")]);
    let other = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let sum = right.lines().next().unwrap().rsplit(' ').next().unwrap();
    let file = written(&home, "go.sum", &right.replace(sum, other));
    // Fetched, and then held: it is not what go.sum says either way.
    for _ in 0..2 {
        let ended = warm(&home, &mirror.url(), &["--json", &file]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let told = format!("error: {MODULE}@v1.0.0: its zip has {sum}, and go.sum has {other}");
        assert!(ended.err.contains(&told) && ended.err.contains("1 versions are not"), "{ended:?}");
        assert_eq!((ended.out.lines().count(), ended.out.matches("\"differs\":[]").count()), (2, 1), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_told_by_name_and_by_exit_code() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let (here, absent) = (format!("{MODULE}@v1.0.0"), format!("{MODULE}@v9.0.0"));
    let ended = warm(&home(), &mirror.url(), &["--json", &here, &absent]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<serde_json::Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert_eq!(
        (&lines[0]["held"], &lines[0]["files"], &lines[0]["verified"]),
        (&true.into(), &3.into(), &false.into())
    );
    assert_eq!((&lines[1]["version"], &lines[1]["held"]), (&"v9.0.0".into(), &false.into()));

    mirror.becomes(Mood::Says(503));
    let ended = warm(&home(), &mirror.url(), &[&here]).await;
    assert!(ended.code == Some(3) && ended.err.contains("503"), "{ended:?}");

    let home = home();
    for wrong in [&["nothing.txt"][..], &["nowhere/go.sum"], &[], &["--toolchains", "1.26.0", "--platforms", "x"]] {
        assert_eq!(warm(&home, &mirror.url(), wrong).await.code, Some(2), "{wrong:?}");
    }
}

/// It said `error: M@V: M@V (go.mod)`: the name twice, and neither whom it had asked nor what that said.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_with_the_mirror_that_says_so() {
    let (mirror, home) = (Mirror::of(MODULE, &["v1.0.0"]).await, home());
    let version = format!("{MODULE}@v9.0.0");
    let reason = format!("{version} (go.mod); {}: 404 Not Found: not found: /{MODULE}/@v/v9.0.0.mod", mirror.url());
    // Asked for, and then remembered.
    for _ in 0..2 {
        let ended = warm(&home, &mirror.url(), &["--json", &version]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(&format!("error: {reason}\n")), "{ended:?}");
        let told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(told["reason"], reason, "{ended:?}");
    }
    assert_eq!(mirror.asked("v9.0.0.mod"), 1);
    let nobody = warm(&home, &mirror.url(), &["example.com/gone@latest"]).await;
    let (versions, list) =
        ("error: example.com/gone@latest: the versions of example.com/gone; ", "/example.com/gone/@v/list");
    assert!(nobody.err.contains(versions) && nobody.err.contains(list), "{nobody:?}");
}

/// All of these were `0 versions`, or as many as could be read, and exit code 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_names_the_line_and_fetches_nothing() {
    let (mirror, home) = (Mirror::of(MODULE, &["v1.0.0"]).await, home());
    let right = sums(&[("v1.0.0", "zip"), ("v1.0.0", "mod")]);
    let requires = format!("module x.y/z\n\nrequire {MODULE} v1.0.0\n");
    let table: [(&str, String, &str); 11] = [
        ("go.sum", format!("{right}<<<<<<< HEAD\n{right}=======\n>>>>>>> other\n"), "3: a merge conflict"),
        ("go.sum", "<html>404</html>\n".to_owned(), "1: a web page"),
        ("go.sum", right[..right.len() - 9].to_owned(), "2: the sum is not whole"),
        ("go.sum", format!("{right}{MODULE} v1.1"), "3: no line of a go.sum"),
        (
            "go.mod",
            format!("{requires}require (\n\t{MODULE} v1.0.0\n"),
            "4: the bracket of \"require (\" is never closed",
        ),
        ("go.mod", format!("{requires}nonsense {{\n"), "4: no line of a go.mod: \"nonsense {\""),
        ("go.mod", format!("{requires}require {MODULE} latest\n"), "4: no canonical version (v1.2.3): \"latest\""),
        ("go.mod", format!("{requires}require {MODULE} v1\n"), "4: no canonical version (v1.2.3): \"v1\""),
        ("go.mod", String::new(), "1: there is no module line"),
        ("go.mod", format!("require {MODULE} v1.0.0\n"), "1: there is no module line"),
        ("go.mod", "<html>404</html>\n".to_owned(), "1: a web page"),
    ];
    let here = format!("{MODULE}@v1.0.0");
    for (name, text, said) in table {
        let file = written(&home, name, &text);
        let ended = warm(&home, &mirror.url(), &["--json", &here, &file]).await;
        assert_eq!(ended.code, Some(2), "{text}: {ended:?}");
        assert!(ended.err.contains(&format!("error: {file}:{said}")), "{text}: {ended:?}");
        assert!(ended.err.contains("\n\nhint: ") && ended.out.is_empty(), "{text}: {ended:?}");
    }
    assert_eq!(mirror.origin.heard().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_requires_nothing_is_nothing_to_fetch() {
    let (mirror, home) = (Mirror::of(MODULE, &["v1.0.0"]).await, home());
    for (name, text) in [("go.sum", ""), ("go.sum", "\n"), ("go.mod", "module x.y/z\n\ngo 1.21\n")] {
        let file = written(&home, name, text);
        let ended = warm(&home, &mirror.url(), &[&file]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains(&format!("goanyway: {file}: nothing to fetch")), "{ended:?}");
    }
    assert_eq!(mirror.origin.heard().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn toolchains_are_fetched_for_every_platform_named() {
    let versions = ["v0.0.1-go1.26.0.linux-amd64", "v0.0.1-go1.26.0.darwin-arm64"];
    let mirror = Mirror::of("golang.org/toolchain", &versions).await;
    let home = home();
    let wanted = ["--toolchains", "1.26.0", "--platforms", "linux/amd64,darwin/arm64"];
    let ended = warm(&home, &mirror.url(), &wanted).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let paths = versions.map(|version| format!("/golang.org/toolchain/@v/{version}.zip"));
    assert_eq!(served_alone(&home, &[&paths[0], &paths[1]]).await, [200, 200]);
}
