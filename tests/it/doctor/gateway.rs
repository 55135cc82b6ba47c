//! What the doctor says of a gateway's rules: changed by hand, taken away, leading to nobody.

use super::*;

const NFT: [&str; 4] = ["root", "ip", "nft", "unshare"];

/// A machine that builds well, and is no gateway yet.
fn router() -> (Machine, (Serving, Serving)) {
    let machine = machine(ONE_SERVER);
    let world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    (machine, world)
}

#[test]
fn rules_that_were_changed_are_laid_again_and_those_that_lead_to_nobody_are_told() {
    if !have("rules_that_were_changed_are_laid_again_and_those_that_lead_to_nobody_are_told", &NFT) {
        return;
    }
    let (machine, _world) = router();
    assert_eq!(machine.doctor().find("gateway", ""), None, "where there are no rules there is nothing to say");
    let apply = "goanyway gateway apply --subnet 10.7.0.0/16 --transparent 0.0.0.0:3129 --client 10.7.0.0/16";
    let applied = machine.type_in(apply);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let told = machine.doctor();
    told.is_well("gateway", "");
    let deserted = told.is_bad("fault", "gateway", "0.0.0.0:3129").saw("nobody listens");
    assert!(deserted.who().contains("goanyway serve with --transparent 0.0.0.0:3129"), "{}", deserted.who());

    let _serves = machine.netns.serve(|| async { TcpListener::bind("0.0.0.0:3129").await.unwrap() });
    assert_eq!(machine.doctor().find("gateway", "0.0.0.0:3129"), None);
    assert_eq!(machine.type_in("nft flush chain inet goanyway quic").code, Some(0));
    let changed = machine.doctor().is_bad("fault", "gateway", "").saw("not as they were made (missing in chain quic: ");
    assert!(changed.command().starts_with("goanyway gateway apply --mode redirect --subnet 10.7.0.0/16"));
    machine.mends(&changed);

    // The settings have it listen elsewhere now.
    let machine = machine.set("GOANYWAY_TRANSPARENT", "0.0.0.0:4129").set("GOANYWAY_CLIENT", "10.7.0.0/16");
    let moved = machine.doctor().is_bad("fault", "gateway", "").saw("redirect to :4129");
    assert!(moved.command().contains("--transparent 0.0.0.0:4129"), "{}", moved.command());
    machine.mends(&moved);
}

/// A shell below whose `/etc` has the service's own file in it, for as long as the line runs.
fn with_options(options: &str, line: &str) -> String {
    format!(
        "mkdir -p \"$HOME/etc\" && unshare -m sh -c 'mount -t tmpfs none \"$HOME/etc\" && cd \"$HOME/etc\" && \
         mkdir -p upper/goanyway work && cat /etc/resolv.conf > upper/resolv.conf && \
         echo \"OPTIONS={options}\" > upper/goanyway/gateway.env && \
         mount -t overlay overlay -o \"lowerdir=/etc,upperdir=$HOME/etc/upper,workdir=$HOME/etc/work\" /etc && {line}'"
    )
}

#[test]
fn a_service_whose_rules_are_gone_is_told_with_the_command_that_lays_them() {
    if !have("a_service_whose_rules_are_gone_is_told_with_the_command_that_lays_them", &NFT) {
        return;
    }
    let (machine, _world) = router();
    let _serves = machine.netns.serve(|| async { TcpListener::bind("0.0.0.0:3129").await.unwrap() });
    let options = "--subnet 10.7.0.0/16 --transparent 0.0.0.0:3129 --client 10.7.0.0/16";
    let doctor = |options| Told::of(machine.type_in(&with_options(options, "goanyway doctor --json")));
    let gone = doctor(options).is_bad("fault", "gateway", "").saw("no rule that does so is in place");
    assert_eq!(gone.command(), format!("goanyway gateway apply {options}"));
    assert_eq!(machine.type_in(&gone.command()).code, Some(0));
    doctor(options).is_well("gateway", "");
    let other = "--subnet 10.8.0.0/16 --transparent 0.0.0.0:3129 --client 10.8.0.0/16";
    let changed =
        doctor(other).is_bad("fault", "gateway", "").saw("missing in set clients_v4: elements = { 10.8.0.0/16 }");
    assert_eq!(changed.command(), format!("goanyway gateway apply {other}"));
    let wrong = doctor("--subnt 10.7.0.0/16").is_bad("fault", "gateway", "").saw("--subnt");
    assert!(wrong.who().contains("gateway.env"), "{}", wrong.who());
}
