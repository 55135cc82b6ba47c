//! What the doctor says of name servers: dead, lying, denying; and of a search list that a VPN took along.

use super::*;

#[test]
fn a_dead_name_server_goes_where_another_one_answers() {
    if !have("a_dead_name_server_goes_where_another_one_answers", &NEEDED) {
        return;
    }
    let machine = machine("nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
    let _world = machine.names(&[("127.0.0.2", "silent"), ("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    told.is_bad("warning", "go-lookup", "mirror.example").saw("after 5 s");
    let dead = told.is_bad("fault", "dns", "127.0.0.2").saw("does not answer");
    machine.mends(&dead);
    machine.doctor().is_well("go-lookup", "mirror.example");
}

#[test]
fn a_lying_name_server_is_replaced_by_one_that_does_not_lie() {
    if !have("a_lying_name_server_is_replaced_by_one_that_does_not_lie", &NEEDED) {
        return;
    }
    let machine = machine("search corp.example\nnameserver 127.0.0.2\n").set("GOANYWAY_FALLBACK", "127.0.0.3");
    // A public address: whoever gives an inner one makes the name the site's own, and nobody else is asked.
    let _world = machine.names(&[("127.0.0.2", "answers 45.0.0.66"), ("127.0.0.3", HONEST)]);
    let lying = machine.doctor().is_bad("fault", "dns", "127.0.0.2").saw("45.0.0.66 for a name that does not exist");
    machine.mends(&lying);
    let told = machine.doctor();
    told.is_well("dns", "127.0.0.3");
    assert!(told.find("dns", "127.0.0.3").is_some());
    told.is_well("go-lookup", "mirror.example");
}

#[test]
fn a_name_server_that_denies_is_a_fault_of_go_alone() {
    if !have("a_name_server_that_denies_is_a_fault_of_go_alone", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOANYWAY_FALLBACK", "127.0.0.3,127.0.0.4");
    let servers = [("127.0.0.1", "nxdomain"), ("127.0.0.3", HONEST), ("127.0.0.4", HONEST)];
    let _world = (machine.names(&servers), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let told = machine.doctor();
    told.is_well("mirror", "https://mirror.example");
    let alone = told.is_bad("fault", "go-lookup", "mirror.example").saw("no such host");
    assert_eq!(alone.command(), "goanyway run -- go build ./...");
    let denying = told.is_bad("fault", "dns", "127.0.0.1").saw("denies mirror.example, which others find");
    machine.mends(&denying);
    machine.doctor().is_well("go-lookup", "mirror.example");
}

#[test]
fn a_search_suffix_that_went_with_the_vpn_is_missed() {
    if !have("a_search_suffix_that_went_with_the_vpn_is_missed", &NEEDED) {
        return;
    }
    let machine = machine("search corp.example\nnameserver 127.0.0.1\n").set("GOPRIVATE", "git/*");
    let says = "under git.corp.example answers 127.0.0.7 else under mirror.example answers 127.0.0.80 else nxdomain";
    let inside = machine.names(&[("127.0.0.1", says)]);
    std::fs::create_dir_all(machine.at("state/goanyway")).unwrap();
    let looked = machine.type_in("goanyway resolve git");
    assert_eq!(looked.code, Some(0), "{looked:?}");
    machine.doctor().is_well("dns-search", "git");
    machine.netns.write("resolv.conf", ONE_SERVER);
    let gone = machine.doctor().is_bad("fault", "dns-search", "git").saw("has lost corp.example");
    assert_eq!(gone.command(), "echo search corp.example >> /etc/resolv.conf");
    machine.mends(&gone);
    // With the VPN its servers went, too: only its user can bring them back.
    machine.netns.write("resolv.conf", ONE_SERVER);
    drop(inside);
    let _outside = machine.names(&[("127.0.0.1", HONEST)]);
    assert!(machine.doctor().is_bad("fault", "dns-search", "git").who().contains("connect the VPN"));
}
