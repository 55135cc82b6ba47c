//! What is kept: the tools look at it, take it out and carry it while a daemon serves, and a process
//! that is killed at any moment leaves nothing that is wrong.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::binary::{Ended, Home, Served, home};
use crate::support::book::recorded;
use crate::support::client::get;
use crate::support::mirror::{Mirror, files};
use crate::support::needs::have;
use crate::support::origin::{Origin, text};

const MODULE: &str = "example.com/m";
const PATHS: [&str; 5] = [
    "/example.com/m/@v/list",
    "/example.com/m/@v/v1.0.0.info",
    "/example.com/m/@v/v1.0.0.mod",
    "/example.com/m/@v/v1.0.0.zip",
    "/example.com/m/@v/v1.1.0.zip",
];

impl Home {
    /// `goanyway cache …`
    fn cache(&self, arguments: &[&str]) -> Ended {
        self.run(&[&["cache"], arguments].concat())
    }

    /// The same with `--json`, which must be one object.
    fn cache_json(&self, arguments: &[&str]) -> serde_json::Value {
        let ended = self.cache(&[arguments, &["--json"]].concat());
        serde_json::from_str(&ended.out).unwrap_or_else(|why| panic!("{why}: {ended:?}"))
    }

    fn serve_from(&self, upstream: &str) -> Served {
        self.serve(&["--upstream", upstream])
    }
}

/// A mirror, a daemon in front of it that has fetched everything, and where it keeps that.
async fn warm() -> (Mirror, Home, Served) {
    let mirror = Mirror::of(MODULE, &["v1.0.0", "v1.1.0"]).await;
    let home = home();
    let served = home.serve_from(&mirror.url());
    for path in PATHS {
        assert_eq!(get(served.address, path).await.status, 200, "{path}");
    }
    kept(&home, PATHS.len()).await;
    (mirror, home, served)
}

/// Files go to disk behind the answer, and what is known of each after it; this returns when so many
/// are there, and their notes. (A busy machine once showed the third file without its note.)
async fn kept(home: &Home, files: usize) {
    let are_there = || {
        let stat = home.cache_json(&["stat"]);
        stat["files"].as_u64() >= Some(files as u64) && stat["unnoted"] == 0
    };
    let there = async {
        while !are_there() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), there).await.expect("they are kept at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn stat_and_list_say_what_is_there() {
    let (_mirror, home, _served) = warm().await;
    let stat = home.cache_json(&["stat"]);
    let truth = files(MODULE, &["v1.0.0", "v1.1.0"]);
    let bytes: usize = PATHS.iter().map(|path| truth[*path].len()).sum();
    assert_eq!((stat["files"].as_u64(), stat["bytes"].as_u64()), (Some(5), Some(bytes as u64)));
    assert_eq!((&stat["kinds"]["zip"]["files"], &stat["kinds"]["list"]["files"]), (&2.into(), &1.into()));
    assert_eq!((&stat["verified"], &stat["unverified"], &stat["unnoted"]), (&0.into(), &3.into(), &0.into()));
    assert_eq!(stat["folder"], home.at("cache/goanyway").to_str().unwrap());

    let listed = home.cache(&["list"]);
    let lines: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(
        lines,
        [["example.com/m", "list"], ["example.com/m@v1.0.0", "info,mod,zip"], ["example.com/m@v1.1.0", "zip"]],
        "{listed:?}"
    );
    assert_eq!(home.cache(&["list", "example.com@v1.1.0"]).out.lines().count(), 1);
    assert_eq!(home.cache(&["list", "other.example"]).out, "");

    let nowhere = home.cache(&["stat", "--cache-dir", home.at("nowhere").to_str().unwrap()]);
    assert!(nowhere.code == Some(1) && nowhere.err.contains("no cache in"), "{nowhere:?}");
    assert_eq!(home.cache(&["prune"]).code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_was_altered_and_repair_takes_it_out() {
    let (mirror, home, served) = warm().await;
    assert_eq!(home.cache(&["verify"]).code, Some(0));
    let path = "/example.com/m/@v/v1.0.0.zip";
    let zip = home.at("cache/goanyway/download/example.com/m/@v/v1.0.0.zip");
    let mut altered = fs::read(&zip).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(&zip, altered).unwrap();

    let found = home.cache(&["verify"]);
    assert_eq!(found.code, Some(1));
    assert!(found.out.contains("download/example.com/m/@v/v1.0.0.zip: altered"), "{found:?}");
    assert_eq!(home.cache(&["verify", "example.com/m@v1.1.0"]).code, Some(0), "only what is asked for");
    let repaired = home.cache(&["verify", "--repair"]);
    assert!(repaired.code == Some(0) && repaired.out.contains("1 file taken out"), "{repaired:?}");
    assert!(!zip.exists());
    let report = home.cache_json(&["verify"]);
    assert_eq!((&report["checked"], &report["right"]), (&4.into(), &4.into()));

    served_anew(&mirror, served.address, path).await;
    assert_eq!(get(served.address, path).await.body, files(MODULE, &["v1.0.0"])[path]);
}

/// Asks until the mirror is asked again: a daemon forgets within a second what was taken out.
async fn served_anew(mirror: &Mirror, address: SocketAddr, path: &str) {
    let before = mirror.asked(path);
    let asked = async {
        while mirror.asked(path) == before {
            assert_eq!(get(address, path).await.status, 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it is fetched anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pruned_is_not_served_from_memory() {
    let (mirror, home, served) = warm().await;
    let path = "/example.com/m/@v/v1.0.0.mod";
    get(served.address, path).await;
    let said = home.cache(&["prune", "--dry-run", "example.com/m@v1.0.0"]);
    assert!(said.code == Some(0) && said.out.lines().count() == 3 && said.err.contains("would be"), "{said:?}");
    assert_eq!(home.cache_json(&["stat"])["files"], 5);
    let said = home.cache(&["prune", "example.com/m@v1.0.0"]);
    assert!(said.code == Some(0) && said.err.contains("3 files") && said.err.contains("taken out"), "{said:?}");
    assert_eq!(home.cache_json(&["stat"])["files"], 2);
    served_anew(&mirror, served.address, path).await;
    // What it has just fetched is on its way to the disk until it has ended.
    served.tell_to_stop();
    served.ended();
    assert_eq!(home.cache(&["prune", "--older-than", "1d"]).out, "");
    assert_eq!(home.cache(&["prune", "--to", "0"]).code, Some(0));
    assert_eq!(home.cache_json(&["stat"])["files"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_modules_go_only_by_name() {
    let (_mirror, home, _served) = warm().await;
    fs::write(home.at("goanyway.toml"), "[cache]\npins = [\"example.com/*\"]\n").unwrap();
    let file = home.at("goanyway.toml").display().to_string();
    let prune = |rest: &[&str]| home.cache(&[&["prune", "--config", &file], rest].concat()).out.lines().count();
    assert_eq!(prune(&["--to", "0"]), 0);
    assert_eq!(prune(&["--unverified"]), 0);
    assert_eq!(prune(&["example.com/m"]), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_carried_into_another_cache_and_a_damaged_one_is_not() {
    let (_mirror, home, _served) = warm().await;
    let out = home.at("out").display().to_string();
    let exported = home.cache(&["export", &out]);
    assert!(exported.code == Some(0) && exported.out.contains(&format!("GOPROXY=file://{out}")), "{exported:?}");
    assert_eq!(home.cache(&["export", &out]).code, Some(2), "it is not empty");

    let elsewhere = crate::support::binary::home();
    let imported = elsewhere.cache_json(&["import", &out]);
    assert_eq!((&imported["files"], &imported["verified"]), (&5.into(), &0.into()));
    assert_eq!(elsewhere.cache(&["verify"]).code, Some(0));
    // A daemon with no mirror at all serves from it.
    let served = elsewhere.serve_from("http://127.0.0.1:9");
    let path = "/example.com/m/@v/v1.0.0.zip";
    assert_eq!(get(served.address, path).await.body, files(MODULE, &["v1.0.0"])[path]);

    fs::write(home.at("out/example.com/m/@v/v1.0.0.zip"), "no zip").unwrap();
    let third = crate::support::binary::home();
    let refused = third.cache(&["import", &out]);
    assert!(refused.code == Some(1) && refused.err.contains("v1.0.0.zip: not a zip"), "{refused:?}");
    assert_eq!(third.cache_json(&["stat"])["files"], 0);
    assert_eq!(third.cache(&["import", third.at("cache").to_str().unwrap()]).code, Some(2), "no tree");
}

/// With one bit of a tile flipped nothing was compared with the records any more: exit code 0, "0 of them verified".
#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_tiles_are_damaged_is_refused_whole() {
    let (mirror, key) = recorded(MODULE, "v1.0.0").await;
    let home = home();
    let served = home.serve(&["--upstream", &format!("http://{}", mirror.address), "--sumdb", &key]);
    for path in &PATHS[1..4] {
        assert_eq!(get(served.address, path).await.status, 200, "{path}");
    }
    served.tell_to_stop();
    served.ended();
    let out = home.at("out").display().to_string();
    let exported = home.cache_json(&["export", &out, "--sumdb", &key]);
    assert_eq!((&exported["files"], &exported["records"]), (&3.into(), &1.into()));

    let import = |into: &Home| into.cache(&["import", &out, "--sumdb", &key, "--json"]);
    let taken = import(&crate::support::binary::home());
    assert!(taken.code == Some(0) && taken.out.contains("\"verified\":2"), "{taken:?}");
    let root = home.at("out/sumdb").join(key.split('+').next().unwrap());
    for harmed in ["tile/8/0/001.p/45", "latest"] {
        let right = fs::read(root.join(harmed)).unwrap();
        let mut wrong = right.clone();
        wrong[0] ^= 1;
        fs::write(root.join(harmed), wrong).unwrap();
        let third = crate::support::binary::home();
        let refused = import(&third);
        assert_eq!(refused.code, Some(1), "{harmed}: {refused:?}");
        assert!(refused.err.contains("is damaged, and nothing of it is kept"), "{harmed}: {refused:?}");
        assert_eq!(third.cache_json(&["stat"])["files"], 0, "{harmed}");
        fs::write(root.join(harmed), right).unwrap();
    }
}

/// A mirror of one module with as many versions as anybody asks for, each with a zip of a quarter MiB.
async fn endless() -> Origin {
    let origin = Origin::plain(|heard| {
        let number = |ending: &str| heard.uri.strip_suffix(ending)?.rsplit("v1.0.").next()?.parse::<u32>().ok();
        if let Some(number) = number(".info") {
            text(200, format!("{{\"Version\":\"v1.0.{number}\",\"Time\":\"2024-01-02T03:04:05Z\"}}"))
        } else if number(".mod").is_some() {
            text(200, "module example.com/m\n")
        } else if let Some(number) = number(".zip") {
            text(200, big_zip(number))
        } else {
            text(404, "not found")
        }
    });
    origin.await
}

fn big_zip(number: u32) -> Bytes {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("go.mod", &b"module example.com/m\n"[..]), ("data", &vec![number as u8; 256 << 10])] {
        writer.start_file(format!("example.com/m@v1.0.{number}/{name}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner().into()
}

/// Asks, and does not mind if it is killed while it answers.
async fn ask(address: SocketAddr, path: String) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

/// What became of all those who were killed.
#[derive(Debug, Default)]
struct Fates {
    kills: u32,
    /// How many of them had a file open that was being written.
    writing: u32,
    /// Zips that were read afterwards, and were right.
    right: u32,
}

/// Two daemons on one folder, downloading; one of them is killed at a random moment, and what it left is
/// looked at while the other goes on. Every fourth time both are.
async fn kill_again_and_again(kills: u32) -> Fates {
    let origin = endless().await;
    let home = home();
    let arguments =
        ["--upstream", &format!("http://{}", origin.address), "--cache-size", "4MiB", "--log-level", "error"];
    let start = || home.serve(&arguments);
    let (mut fates, mut other) = (Fates::default(), start());
    while fates.kills < kills {
        let victim = start();
        let before = origin.heard().len();
        // Versions that nobody asked for before; half of what one asks for the other asks for too.
        let turn = fates.kills * 24;
        let load: Vec<_> = (0..16)
            .flat_map(|at| [(victim.address, turn + at), (other.address, turn + at + 8)])
            .flat_map(|(address, at)| {
                // Mostly what takes a moment to write.
                let kinds: &[&str] = if at % 4 == 0 { &["info", "mod", "zip"] } else { &["zip"] };
                kinds.iter().map(move |&kind| (address, at, kind))
            })
            .map(|(address, at, kind)| tokio::spawn(ask(address, format!("/{MODULE}/@v/v1.0.{at}.{kind}"))))
            .collect();
        // Anywhere between the first answer and the last; four times of five some way into the writing of a file.
        let enough = before + 1 + fastrand::usize(..30);
        let mut looks = if fates.kills % 5 == 0 { 0 } else { 1 + fastrand::u32(..6) };
        let tmp = home.at("cache/goanyway/tmp");
        while (origin.heard().len() < enough || looks > 0) && !load.iter().all(tokio::task::JoinHandle::is_finished) {
            looks = looks.saturating_sub(u32::from(is_writing(&tmp, victim.pid())));
            tokio::task::yield_now().await;
        }
        fates.writing += u32::from(is_writing(&tmp, victim.pid()));
        drop(victim);
        fates.kills += 1;
        if fates.kills.is_multiple_of(4) {
            drop(std::mem::replace(&mut other, start()));
        }
        let verified = home.cache(&["verify", "--json"]);
        assert_eq!(verified.code, Some(0), "after {} kills: {verified:?}", fates.kills);
        for asked in load {
            let _ = asked.await;
        }
        fates.right += look(&other, turn).await;
    }
    assert_eq!(home.cache(&["verify"]).code, Some(0));
    drop(other);
    let last = start();
    assert_eq!(leftovers(&home.at("cache/goanyway/tmp")), 0, "a start sweeps what the dead left");
    fates.right += look(&last, 0).await;
    fates
}

/// Whether this process has a file under that folder open.
fn is_writing(folder: &Path, pid: u32) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path| path.starts_with(folder))
}

fn leftovers(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// How many zips that a daemon serves are right; none may be wrong.
async fn look(served: &Served, turn: u32) -> u32 {
    for number in [turn, turn + 11, turn + 17] {
        let path = format!("/{MODULE}/@v/v1.0.{number}.zip");
        let answer = ask(served.address, path.clone()).await.unwrap();
        let head = String::from_utf8_lossy(&answer[..200.min(answer.len())]);
        assert!(answer.ends_with(&big_zip(number)), "{path}: {head}");
    }
    3
}

/// A disk of its own, so small that it can be filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> SmallDisk {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m", "goanyway-test"]).arg(folder);
        assert!(mount.status().unwrap().success());
        SmallDisk(folder.into())
    }

    /// Somebody else takes all that is left of it, at moments that nobody knows, and gives it back.
    async fn is_filled_and_emptied(&self) {
        let theirs = self.0.join("theirs");
        loop {
            let _ = fs::write(&theirs, vec![0; 3 << 20]);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
            let _ = fs::remove_file(&theirs);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_random_moments_costs_no_answer_and_keeps_nothing_short() {
    if !have("a_disk_that_is_full_at_random_moments_costs_no_answer_and_keeps_nothing_short", &["root"]) {
        return;
    }
    let origin = endless().await;
    let home = home();
    let disk = SmallDisk::mount(&home.at("cache"));
    let upstream = format!("http://{}", origin.address);
    // Memory does not keep what the disk could not.
    let mut serve = home.goanyway(&["serve", "--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let served = home.spawn({
        serve.env("GOANYWAY_CACHE_MEMORY", "0");
        serve
    });
    let build = async {
        for turn in 0..20 {
            let zips = (0..6).map(|at| turn * 6 + at).map(async |number| {
                let path = format!("/{MODULE}/@v/v1.0.{number}.zip");
                let answer = ask(served.address, path.clone()).await.unwrap();
                assert!(answer.ends_with(&big_zip(number)), "{path}: {}", String::from_utf8_lossy(&answer[..200]));
            });
            futures_util::future::join_all(zips).await;
            assert_eq!(home.cache(&["verify"]).code, Some(0), "after turn {turn}");
        }
    };
    tokio::select! {
        () = build => (),
        () = disk.is_filled_and_emptied() => unreachable!(),
    }
    drop(served);
    let again = home.serve(&["--upstream", &upstream]);
    assert_eq!(leftovers(&home.at("cache/goanyway/tmp")), 0, "a start sweeps what did not fit");
    assert!(look(&again, 100).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_leaves_nothing_wrong() {
    let fates = kill_again_and_again(20).await;
    println!("{fates:?}");
    assert!(fates.writing > 0, "{fates:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "200 kills take some minutes: cargo test --test it killed_two_hundred_times -- --ignored --nocapture"]
async fn a_daemon_that_is_killed_two_hundred_times_leaves_nothing_wrong() {
    let fates = kill_again_and_again(200).await;
    println!("{fates:?}");
    assert!(fates.writing >= 150, "{fates:?}");
}
