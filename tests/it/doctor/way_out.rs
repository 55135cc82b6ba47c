//! What the doctor says of the way out: mirrors that refuse or are silent, IPv6, portals, proxies, roots.

use super::*;

#[test]
fn a_mirror_that_refuses_gives_way_to_another_one_that_was_named() {
    if !have("a_mirror_that_refuses_gives_way_to_another_one_that_was_named", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_UPSTREAM", "https://mirror.example,https://second.example");
    let both = "under mirror.example answers 127.0.0.80 else under second.example answers 127.0.0.81 else nxdomain";
    let refusing = machine.mirror(HERE, "mirror.example", Mood::Says(403));
    let _world = (machine.names(&[("127.0.0.1", both)]), machine.mirror("127.0.0.81", "second.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://second.example");
    let refused =
        told.is_bad("warning", "mirror", "https://mirror.example").saw("403 Forbidden").saw("the mirror says 403");
    assert_eq!(refused.command(), "export GOANYWAY_UPSTREAM=https://second.example");
    machine.mends(&refused);
    // Where there is no other one, builds fail, and who can mend it is said.
    let machine = machine.set("GOANYWAY_UPSTREAM", "https://mirror.example");
    assert!(machine.doctor().is_bad("fault", "mirror", "https://mirror.example").who().contains("mirror.example"));
    drop(refusing);
}

#[test]
fn ipv6_that_swallows_is_made_to_fail_at_once() {
    if !have("ipv6_that_swallows_is_made_to_fail_at_once", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_ALLOW_TARGET", "127.0.0.0/8,2001:db8::/32");
    let hole = "ip link add hole type veth peer name pit && ip link set hole up && ip link set pit up && \
                ip -6 address add 2001:db8:1::1/64 dev hole nodad && ip -6 route add default dev hole && \
                ip -6 neighbour add 2001:db8:2::80 lladdr 02:00:00:00:00:01 dev hole";
    let dug = machine.type_in(hole);
    assert_eq!(dug.code, Some(0), "{dug:?}");
    let both = "under mirror.example answers 127.0.0.80 2001:db8:2::80 else nxdomain";
    let _world = (machine.names(&[("127.0.0.1", both)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://mirror.example");
    let swallowing = told.is_bad("warning", "ipv6", "").saw("2001:db8:2::80").saw("swallows connections");
    machine.mends(&swallowing);
    assert!(machine.doctor().find("ipv6", "").unwrap()["saw"].as_str().unwrap().contains("said at once"));
}

#[test]
fn a_captive_portal_is_told_with_its_address() {
    if !have("a_captive_portal_is_told_with_its_address", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let foreign = Authority::new().server(&["portal.hotel.example"]);
    let _portal = machine.netns.serve(move || async move {
        let page = |_: &Heard| {
            let mut answer = text(302, "<html>Welcome</html>");
            answer.headers_mut().insert("location", "http://portal.hotel.example/login".parse().unwrap());
            answer
        };
        (Origin::plain_at("127.0.0.80:80", page).await, Origin::tls_at("127.0.0.80:443", foreign, page).await)
    });
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    let portal = told.is_bad("fault", "portal", "").saw("this network wants a login");
    assert_eq!(portal.who(), "you, in a browser: http://portal.hotel.example/login");
    let mirror = told.is_bad("fault", "mirror", "https://mirror.example").saw("TLS: ");
    assert_eq!(mirror.who(), portal.who());
    // Logged in, the network is as any other.
    drop(_portal);
    let _mirror = machine.mirror(HERE, "mirror.example", Mood::Healthy);
    let told = machine.doctor();
    told.is_well("portal", "");
    told.is_well("mirror", "https://mirror.example");
}

/// A proxy that knows the way, as a company has one.
async fn company_proxy(at: &str, to: &'static str) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = read_head(&mut client).await?;
                if !head.starts_with("CONNECT ") {
                    return client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                }
                let mut server = TcpStream::connect(to).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
}

#[test]
fn a_proxy_that_is_needed_is_found_where_git_has_it() {
    if !have("a_proxy_that_is_needed_is_found_where_git_has_it", &["root", "ip", "git"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _world =
        (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror("127.0.0.81", "mirror.example", Mood::Healthy));
    let _proxy = machine.netns.serve(|| company_proxy("127.0.0.9:8080", "127.0.0.81:443"));
    let alone = machine.doctor().is_bad("fault", "mirror", "https://mirror.example").saw("no connection");
    assert!(alone.who().contains("whoever runs this network"), "{}", alone.who());
    assert_eq!(machine.type_in("git config --global http.proxy http://127.0.0.9:8080").code, Some(0));
    let told = machine.doctor();
    let needed = told.is_bad("fault", "parent", "").saw("git's http.proxy");
    assert_eq!(needed.command(), "export HTTPS_PROXY=\"$(git config --get http.proxy)\"");
    machine.mends(&needed);
    machine.doctor_after(&needed.command()).is_well("mirror", "https://mirror.example");
}

#[test]
fn an_old_bundle_in_an_image_is_replaced_by_its_package() {
    if !have("an_old_bundle_in_an_image_is_replaced_by_its_package", &["root", "ip", "apt-get"]) {
        return;
    }
    let mut machine = machine(ONE_SERVER);
    machine.set.retain(|(name, _)| *name != "GOANYWAY_FETCH_EXTRA_ROOTS");
    // The image's own: what its system had when it was built.
    let certs = machine.netns.folder("ssl/certs");
    std::fs::write(certs.join("ca-certificates.crt"), Authority::new().pem()).unwrap();
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    let old = told.is_bad("fault", "roots", "").saw("none of the 1 roots").saw("vouches for mirror.example");
    assert_eq!(told.is_bad("fault", "mirror", "https://mirror.example").command(), old.command());
    assert_eq!(old.command(), "apt-get update && apt-get install -y ca-certificates");
    // What the package would do, for there is no archive of packages in here.
    std::fs::create_dir(machine.at("bin")).unwrap();
    let script =
        "#!/bin/sh\n[ \"$1\" = install ] && cat \"$HOME/world.pem\" >> /etc/ssl/certs/ca-certificates.crt || :\n";
    std::fs::write(machine.at("bin/apt-get"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(machine.at("bin/apt-get"), mode).unwrap();
    machine.mends(&old);
    machine.doctor().is_well("mirror", "https://mirror.example");
    // A variable that names an old one is simply taken back.
    let stale = machine.at("stale.pem");
    std::fs::write(&stale, Authority::new().pem()).unwrap();
    let machine = machine.set("SSL_CERT_FILE", stale.to_str().unwrap());
    let named = machine.doctor().is_bad("fault", "roots", "").saw("SSL_CERT_FILE=");
    assert_eq!(named.command(), "unset SSL_CERT_FILE SSL_CERT_DIR");
    machine.mends(&named);
}

/// Takes connections, and keeps them.
async fn say_nothing(at: &str) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    })
}

/// Two questions after each other, both unanswered, took longer than the doctor waits: nothing was told of any mirror.
#[test]
fn a_mirror_that_takes_connections_and_says_nothing_is_told_in_time() {
    if !have("a_mirror_that_takes_connections_and_says_nothing_is_told_in_time", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let _silent =
        machine.netns.serve(|| async { (say_nothing("127.0.0.80:443").await, say_nothing("127.0.0.80:80").await) });
    let told = machine.doctor();
    told.is_bad("fault", "mirror", "https://mirror.example");
    assert_eq!(told.find("mirror", ""), None, "the check was not left behind");
}
