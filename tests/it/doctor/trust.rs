//! What the doctor says of the CA and of the settings of programs: who trusts it, which way modules go.

use super::*;

#[test]
fn a_ca_that_go_does_not_trust_is_a_fault_where_the_environment_says_it_does() {
    if !have("a_ca_that_go_does_not_trust_is_a_fault_where_the_environment_says_it_does", &["root", "ip", "go"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let _served = machine.serve();
    let shown: Value = serde_json::from_str(&machine.type_in("goanyway ca show --json").out).unwrap();
    let proxy = format!("http://ca-{}:x@127.0.0.1:3128", shown["fingerprint"].as_str().unwrap());
    let machine = machine.set("HTTPS_PROXY", &proxy).set("https_proxy", &proxy);
    let before = machine.doctor();
    let untrusted = before.is_bad("fault", "trust", "go").saw("refuses the CA");
    assert_eq!(untrusted.command(), "eval \"$(goanyway env)\"");
    machine.mends(&untrusted);
    let told = machine.doctor_after(&untrusted.command());
    let made = |told: &Told, program: &str| {
        told.find("trust", program).unwrap()["saw"].as_str().unwrap().contains("a handshake was made")
    };
    assert!(made(&told, "go"), "{}", told.ended.out);
    // GnuTLS goes through the handshake, and looks at certificates afterwards: that is no trust.
    for program in ["git", "curl", "python3", "node", "java"].into_iter().filter(|program| find(program).is_some()) {
        told.is_well("trust", program);
        assert!(!made(&before, program), "{program}: {}", before.ended.out);
    }
}

#[test]
fn an_exemption_that_leads_past_the_proxy_is_taken_out() {
    if !have("an_exemption_that_leads_past_the_proxy_is_taken_out", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER).set("HTTPS_PROXY", "http://127.0.0.1:3128").set("NO_PROXY", "localhost,.example");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    let silent = told.is_bad("fault", "proxy", "HTTPS_PROXY").saw("127.0.0.1:3128").saw("nobody listens");
    machine.mends(&silent);
    let _served = machine.serve();
    let told = machine.doctor();
    told.is_well("proxy", "HTTPS_PROXY");
    let past = told.is_bad("fault", "proxy", "NO_PROXY").saw("lets mirror.example go past the proxy");
    assert_eq!(past.command(), "export NO_PROXY=localhost no_proxy=localhost");
    machine.mends(&past);
}

#[test]
fn gos_settings_are_mended_where_they_stand() {
    if !have("gos_settings_are_mended_where_they_stand", &["root", "ip", "go"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("GOFLAGS", "-mod=vendor -v").set("GOPROXY", "off");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let told = machine.doctor();
    machine.mends(&told.is_bad("fault", "go", "GOFLAGS").saw("-mod=vendor"));
    machine.mends(&told.is_bad("fault", "go", "GOPROXY").saw("off"));
    // The same in go's own file, which --fix may write.
    let machine = machine.set("GOFLAGS", "").set("GOPROXY", "");
    assert_eq!(machine.type_in("go env -w GOFLAGS=-mod=vendor GOPROXY=off").code, Some(0));
    let told = machine.doctor();
    assert_eq!(told.is_bad("fault", "go", "GOFLAGS").command(), "go env -u GOFLAGS");
    assert_eq!(told.is_bad("fault", "go", "GOPROXY").command(), "go env -u GOPROXY");
    let fixed = Told::of(machine.type_in("goanyway doctor --fix --json"));
    fixed.is_well("go", "GOFLAGS");
    fixed.is_well("go", "GOPROXY");
    assert!(fixed.report["fixed"].as_array().unwrap().iter().all(|one| one["code"] == 0), "{}", fixed.ended.out);
}

#[test]
fn an_expired_ca_is_followed_by_the_next_one() {
    if !have("an_expired_ca_is_followed_by_the_next_one", &["root", "ip", "faketime"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("FAKETIME_DONT_FAKE_MONOTONIC", "1").set("DONT_FAKE_MONOTONIC", "1");
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    assert_eq!(machine.type_in("goanyway ca init").code, Some(0));
    let later = |line: &str| Told::of(machine.type_in(&format!("faketime -f +400d sh -c '{line}'")));
    let expired = later("goanyway doctor --json").is_bad("fault", "ca", "").saw("ended on ");
    assert_eq!((expired.command().as_str(), &expired.mend["fixable"]), ("goanyway ca rotate", &Value::Bool(true)));
    later("goanyway doctor --fix --json").is_well("ca", "");
}

#[test]
fn settings_that_cannot_be_used_are_a_finding_and_no_crash() {
    let home = home();
    let ended = Ended::of(home.goanyway(&["doctor", "--json"]).env("GOANYWAY_LISTEN", "nonsense").output().unwrap());
    let settings = Told::of(ended).is_bad("fault", "settings", "").saw("GOANYWAY_LISTEN");
    assert!(settings.who().contains("goanyway serve --help"));
}
