//! Modules: fetched once, kept, served when nobody else can; the truth told about the rest.

use crate::support::authority::Authority;
use crate::support::client::{get, get_through};
use crate::support::daemon::goanyway;
use crate::support::mirror::{Mirror, Mood, files};
use crate::support::origin::closed_port;

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
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&roots, authority.pem()).unwrap();
    let url = format!("https://mirror.example:{}", mirror.origin.address.port());
    let proxy = goanyway()
        .with("goproxy.upstreams", &url)
        .with("fetch.extra_roots", &roots.path().display().to_string())
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
