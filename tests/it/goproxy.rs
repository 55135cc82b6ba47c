//! Modules: fetched once, kept, served when nobody else can; the truth told about the rest.

use tokio::net::TcpStream;

use crate::support::authority::Authority;
use crate::support::book::recorded;
use crate::support::client::{get, get_through, request};
use crate::support::daemon::goanyway;
use crate::support::mirror::{Mirror, Mood, files};
use crate::support::origin::{Origin, closed_port, text};

const MODULE: &str = "example.com/m";

fn paths() -> [&'static str; 6] {
    [
        "/example.com/m/@v/list",
        "/example.com/m/@latest",
        "/example.com/m/@v/v1.0.0.info",
        "/example.com/m/@v/v1.0.0.mod",
        "/example.com/m/@v/v1.0.0.zip",
        "/example.com/m/@v/v1.1.0.zip",
    ]
}

#[tokio::test]
async fn what_the_mirror_has_is_served_byte_for_byte_and_fetched_once() {
    let mirror = Mirror::of(MODULE, &["v1.0.0", "v1.1.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let truth = files(MODULE, &["v1.0.0", "v1.1.0"]);
    for path in paths().into_iter().chain(paths()) {
        let answer = get(proxy.address(), path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let expected = String::from_utf8_lossy(&truth[path]);
        assert_eq!(answer.text().trim_end(), expected.trim_end(), "{path}");
    }
    for path in paths() {
        assert_eq!(mirror.asked(path), 1, "{path}");
    }
}

#[tokio::test]
async fn a_warm_cache_needs_no_mirror_and_no_dns_also_after_a_restart() {
    let authority = Authority::new();
    let mirror = Mirror::tls(authority.server(&["mirror.example"]), MODULE, &["v1.0.0", "v1.1.0"]).await;
    let url = format!("https://mirror.example:{}", mirror.origin.address.port());
    let proxy = goanyway()
        .with("goproxy.upstreams", &url)
        .trusting(&authority)
        .knowing("mirror.example", mirror.origin.address)
        .start();
    for path in paths() {
        assert_eq!(get(proxy.address(), path).await.status, 200, "{path}");
    }
    // The name is not known any more, the mirror is gone.
    let proxy = goanyway().after(proxy.stop()).with("goproxy.upstreams", &url).start();
    drop(mirror);
    let truth = files(MODULE, &["v1.0.0", "v1.1.0"]);
    for path in paths() {
        let answer = get(proxy.address(), path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.text().trim_end(), String::from_utf8_lossy(&truth[path]).trim_end(), "{path}");
    }
}

#[tokio::test]
async fn not_found_is_said_only_where_an_upstream_said_so() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let absent = get(proxy.address(), "/example.com/absent/@v/list").await;
    assert_eq!((absent.status, absent.header("content-type")), (404, Some("text/plain; charset=utf-8")));
    assert!(absent.text().contains("not found: /example.com/absent/@v/list"), "{}", absent.text());

    let dead = format!("http://{}", closed_port().await);
    let proxy = goanyway().with("goproxy.upstreams", &dead).start();
    let failed = get(proxy.address(), "/example.com/m/@v/list").await;
    assert!(failed.status == 502 || failed.status == 504, "{failed:?}");
    let text = failed.text();
    assert!(text.starts_with("goanyway: ") && text.lines().count() <= 8 && text.len() <= 648, "{text}");
    assert!(text.contains(&dead["http://".len()..]), "{text}");
}

#[tokio::test]
async fn a_second_mirror_serves_when_the_first_fails() {
    let (first, second) = (Mirror::of(MODULE, &["v1.0.0"]).await, Mirror::of(MODULE, &["v1.0.0"]).await);
    for status in [500, 502, 503, 403, 429] {
        first.becomes(Mood::Says(status));
        let proxy = goanyway().with("goproxy.upstreams", &first.url()).and("goproxy.upstreams", &second.url()).start();
        for path in &paths()[..5] {
            let answer = get(proxy.address(), path).await;
            assert_eq!(answer.status, 200, "{status} {path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_module_host_in_absolute_form_is_served_from_the_same_store() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway()
        .with("goproxy.upstreams", &mirror.url())
        .and("admit.ports", &mirror.origin.address.port().to_string())
        .start();
    let path = "/example.com/m/@v/v1.0.0.mod";
    assert_eq!(get(proxy.address(), path).await.status, 200);
    assert_eq!(get_through(proxy.address(), &format!("{}{path}", mirror.url())).await.status, 200);
    assert_eq!(mirror.asked(path), 1);
}

#[tokio::test]
async fn fifty_clients_cost_one_request() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let address = proxy.address();
    let asking: Vec<_> =
        (0..50).map(|_| tokio::spawn(async move { get(address, "/example.com/m/@v/v1.0.0.zip").await })).collect();
    let mut bodies = Vec::new();
    for asked in asking {
        bodies.push(asked.await.unwrap().body);
    }
    bodies.dedup();
    assert_eq!((bodies.len(), mirror.asked("v1.0.0.zip")), (1, 1));
}

#[tokio::test]
async fn the_tree_on_disk_is_a_file_proxy() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    for path in &paths()[..5] {
        get(proxy.address(), path).await;
    }
    let folder = proxy.stop();
    let tree = folder.path().join("cache/download/example.com/m/@v");
    let mut names: Vec<_> =
        std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["list", "v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"]);
}

#[tokio::test]
async fn a_file_cut_behind_our_back_is_fetched_again() {
    let mirror = Mirror::of(MODULE, &["v1.0.0"]).await;
    let proxy = goanyway().with("goproxy.upstreams", &mirror.url()).start();
    let path = "/example.com/m/@v/v1.0.0.zip";
    let whole = get(proxy.address(), path).await.body;
    let folder = proxy.stop();
    let file = folder.path().join("cache/download/example.com/m/@v/v1.0.0.zip");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let proxy = goanyway().after(folder).with("goproxy.upstreams", &mirror.url()).start();
    let again = get(proxy.address(), path).await;
    assert!(again.body == whole && !again.cut);
    assert_eq!(mirror.asked(path), 2);
}

/// What one client may see is not another's: with credentials a request goes to its origin, and its answer
/// is nobody else's.
#[tokio::test]
async fn a_file_fetched_with_credentials_is_given_to_nobody_else() {
    let path = "/corp.example/secret/@v/v1.0.0.mod";
    let mirror =
        Origin::plain(|heard| match heard.headers.get("authorization").and_then(|value| value.to_str().ok()) {
            Some("Basic YTph") => text(200, "module corp.example/secret // for a\n"),
            _ => text(404, "not found: who are you"),
        })
        .await;
    let (port, url) = (mirror.address.port().to_string(), format!("http://{}", mirror.address));
    let proxy = goanyway().with("goproxy.upstreams", &url).and("admit.ports", &port).start();
    let ask = async |authorization: &str| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let host = mirror.address;
        let head = format!("GET {url}{path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n");
        request(&mut stream, &head).await
    };
    let a = "Authorization: Basic YTph\r\n";
    for _ in 0..2 {
        let answer = ask(a).await;
        assert_eq!((answer.status, answer.text().contains("for a")), (200, true), "{answer:?}");
        for other in [ask("").await, ask("Authorization: Basic Yjpi\r\n").await, get(proxy.address(), path).await] {
            assert_eq!((other.status, other.text().contains("for a")), (404, false), "{other:?}");
        }
    }
    assert_eq!(ask(a).await.status, 200, "nor does another's absence stand for a");
}

/// One goanyway is the other's mirror, for files and for the checksum database.
#[tokio::test]
async fn a_goanyway_behind_a_goanyway_works_warm_and_verified() {
    let (mirror, key) = recorded(MODULE, "v1.0.0").await;
    let truth = files(MODULE, &["v1.0.0"]);
    let inner =
        goanyway().with("goproxy.upstreams", &format!("http://{}", mirror.address)).with("goproxy.sumdb", &key).start();
    let outer = goanyway()
        .with("goproxy.upstreams", &format!("http://{}", inner.address()))
        .with("goproxy.sumdb", &key)
        .start();
    let module = paths().into_iter().filter(|path| truth.contains_key(*path));
    let all: Vec<String> = module
        .map(str::to_owned)
        .chain(
            ["supported", "latest", "lookup/example.com/m@v1.0.0", "tile/8/0/001.p/45"]
                .map(|rest| format!("/sumdb/127.0.0.1:9/sum/{rest}")),
        )
        .collect();
    let mut cold = Vec::new();
    for path in &all {
        let answer = get(outer.address(), path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        cold.push(answer.body);
    }
    assert!(outer.metrics().contains("goanyway_goproxy_verified_total{verdict=\"right\"} 2"), "{}", outer.metrics());
    // Both go away and the outer one starts again.
    drop((inner, mirror));
    let outer = goanyway()
        .after(outer.stop())
        .with("goproxy.upstreams", "http://127.0.0.1:9")
        .with("goproxy.sumdb", &key)
        .start();
    for (path, before) in all.iter().zip(cold) {
        let answer = get(outer.address(), path).await;
        assert_eq!((answer.status, answer.body == before), (200, true), "{path}: {}", answer.text());
    }
}
