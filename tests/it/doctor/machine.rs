//! What the doctor says of the machine itself: its disk, its clock, who has our ports.

use super::*;

/// A mount namespace that lives as long as its keeper, and the small disk that is mounted in it alone.
struct Disk {
    keeper: Beside,
}

impl Disk {
    fn mount(machine: &Machine, place: &Path) -> Disk {
        let script = format!("mount -t tmpfs -o size=8m none {} && echo ready && cat", place.display());
        let mut command = machine.command("unshare");
        command.args(["-m", "sh", "-c", &script]);
        Disk { keeper: beside(command, "ready") }
    }

    fn type_in(&self, machine: &Machine, line: &str) -> Ended {
        let mut command = machine.command("nsenter");
        command.args(["-m", "-t", &self.keeper.0.id().to_string(), "sh", "-c", line]);
        Ended::of(command.output().unwrap())
    }
}

/// A module with 3 MiB in it.
fn large_zip() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in [("go.mod", "module example.com/m\n\ngo 1.20\n".to_owned()), ("notes", "x".repeat(3 << 20))] {
        writer.start_file(format!("example.com/m@v1.0.0/{name}"), options).unwrap();
        std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_full_disk_is_told_and_the_cache_gives_way() {
    if !have("a_full_disk_is_told_and_the_cache_gives_way", &["root", "ip", "unshare", "nsenter"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let tree = machine.at("tree");
    for (path, bytes) in files("example.com/m", &["v1.0.0"]) {
        let file = tree.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, if path.ends_with(".zip") { large_zip() } else { bytes.to_vec() }).unwrap();
    }
    let place = machine.at("disk");
    std::fs::create_dir(&place).unwrap();
    let machine = machine.set("GOANYWAY_CACHE_DIR", place.to_str().unwrap());
    let disk = Disk::mount(&machine, &place);
    let fill = format!(
        "goanyway cache import {} >&2; dd if=/dev/zero of={}/other bs=64k 2>/dev/null; true",
        tree.display(),
        place.display()
    );
    let filled = disk.type_in(&machine, &fill);
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let told = Told::of(disk.type_in(&machine, "goanyway doctor --json"));
    let full = told.is_bad("fault", "cache", place.to_str().unwrap()).saw("the disk is full");
    assert!(full.command().starts_with("goanyway cache prune --to "), "{}", full.command());
    let line = format!("{} >&2 || exit 99; goanyway doctor --json", full.command());
    Told::of(disk.type_in(&machine, &line)).is_well("cache", place.to_str().unwrap());
}

/// It said that they are held, which memory did, and ended.
#[test]
fn what_a_full_disk_does_not_take_is_not_said_to_be_held() {
    if !have("what_a_full_disk_does_not_take_is_not_said_to_be_held", &["root", "ip", "unshare", "nsenter"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let place = machine.at("disk");
    std::fs::create_dir(&place).unwrap();
    let machine = machine.set("GOANYWAY_CACHE_DIR", place.to_str().unwrap());
    let disk = Disk::mount(&machine, &place);
    let warm = "goanyway warm --sumdb off golang.org/x/mod@v0.1.0";
    let sound = disk.type_in(&machine, warm);
    assert!(sound.code == Some(0) && sound.err.contains("1 version, 3 files ("), "{sound:?}");
    assert!(sound.err.contains(") are held, 3 of them fetched now"), "{}", sound.err);
    let fill = format!("rm -r {0}/download; dd if=/dev/zero of={0}/other bs=4k 2>/dev/null; {warm}", place.display());
    let full = disk.type_in(&machine, &fill);
    assert_eq!(full.code, Some(3), "{full:?}");
    assert!(full.err.contains(" came, ") && full.err.contains("could not be kept on the disk"), "{}", full.err);
}

#[test]
fn a_wrong_clock_is_told_with_the_right_time() {
    if !have("a_wrong_clock_is_told_with_the_right_time", &["root", "ip", "faketime"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("FAKETIME_DONT_FAKE_MONOTONIC", "1").set("DONT_FAKE_MONOTONIC", "1");
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    for (by, verdict) in [("-2h", "warning"), ("-900d", "fault"), ("+900d", "fault")] {
        let told = Told::of(machine.type_in(&format!("faketime -f {by} goanyway doctor --json")));
        let wrong = told.is_bad(verdict, "clock", "").saw("and servers say ");
        // This machine's clock is nobody's to set: a process's own is.
        let command = wrong.command();
        let right = command.strip_prefix("date --utc --set=").unwrap_or_else(|| panic!("{command}"));
        let told = machine.type_in(&format!("faketime \"$(date --utc -d {right} '+%F %T')\" goanyway doctor --json"));
        Told::of(told).is_well("clock", "");
    }
    machine.doctor().is_well("clock", "");
}

/// A CA that `--fix` made under a clock that is ahead would count for nobody once the clock is right.
#[test]
fn under_a_wrong_clock_no_ca_is_made_or_followed() {
    if !have("under_a_wrong_clock_no_ca_is_made_or_followed", &["root", "ip", "faketime"]) {
        return;
    }
    let machine = machine(ONE_SERVER).set("FAKETIME_DONT_FAKE_MONOTONIC", "1").set("DONT_FAKE_MONOTONIC", "1");
    let _world = (machine.names(&[("127.0.0.1", HONEST)]), machine.mirror(HERE, "mirror.example", Mood::Healthy));
    let later = || Told::of(machine.type_in("faketime -f +900d goanyway doctor --fix --json"));
    let ca = later().is_bad("warning", "ca", "").saw("the clock first, which is wrong");
    assert!(ca.command().starts_with("date --utc --set="), "{}", ca.command());
    assert_eq!(machine.type_in("goanyway ca init").code, Some(0));
    let ca = later().is_bad("fault", "ca", "").saw("the clock first, which is wrong");
    assert!(ca.command().starts_with("date --utc --set="), "{}", ca.command());
    machine.doctor().is_well("ca", "");
}

#[test]
fn a_port_that_another_program_has_is_told_with_a_free_one() {
    if !have("a_port_that_another_program_has_is_told_with_a_free_one", &["root", "ip", "python3"]) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let script =
        "import socket, sys; s = socket.create_server(('127.0.0.1', 3128)); print('up', flush=True); sys.stdin.read()";
    let mut command = machine.command("python3");
    command.args(["-c", script]);
    let squatter = beside(command, "up");
    let taken = machine.doctor().is_bad("fault", "port", "127.0.0.1:3128");
    assert!(
        taken.saw.contains("python") && taken.saw.contains(&format!("process {}", squatter.0.id())),
        "{}",
        taken.saw
    );
    let line = taken.command();
    let told = machine.doctor_after(&line);
    let place = line.strip_prefix("export GOANYWAY_LISTEN=").unwrap();
    assert!(told.find("port", place).is_some(), "{line}: {}", told.ended.out);
    told.is_well("port", place);
}

#[test]
fn another_users_goanyway_on_the_port_is_not_ours() {
    if !have("another_users_goanyway_on_the_port_is_not_ours", &["root", "ip", "setpriv"]) {
        return;
    }
    let (ours, theirs) = (machine(ONE_SERVER), home());
    let _names = ours.names(&[("127.0.0.1", HONEST)]);
    for place in [theirs.folder.path(), ours.home.folder.path()] {
        use std::os::unix::fs::{PermissionsExt, chown};
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
        if place == theirs.folder.path() {
            chown(place, Some(4242), Some(4242)).unwrap();
        }
    }
    let program = ours.at("their-goanyway");
    std::fs::copy(env!("CARGO_BIN_EXE_goanyway"), &program).unwrap();
    let mut command = ours.netns.command("setpriv");
    theirs.surround(&mut command);
    command.args(["--reuid", "4242", "--regid", "4242", "--clear-groups"]).arg(&program).arg("serve");
    let _served = theirs.spawn(command);
    let told = ours.doctor();
    for (port, variable) in [("127.0.0.1:3128", "GOANYWAY_LISTEN"), ("127.0.0.1:3127", "GOANYWAY_ADMIN")] {
        let taken = told.is_bad("fault", "port", port).saw("another user's goanyway").saw("of user 4242");
        let line = taken.command();
        let place = line.strip_prefix(&format!("export {variable}=")).unwrap_or_else(|| panic!("{line}"));
        let after = ours.doctor_after(&line);
        assert!(after.find("port", place).is_some(), "{line}: {}", after.ended.out);
        after.is_well("port", place);
    }
}

#[test]
fn our_own_goanyway_on_the_port_is_well() {
    if !have("our_own_goanyway_on_the_port_is_well", &NEEDED) {
        return;
    }
    let machine = machine(ONE_SERVER);
    let _names = machine.names(&[("127.0.0.1", HONEST)]);
    let _served = machine.serve();
    let told = machine.doctor();
    told.is_well("port", "127.0.0.1:3128");
    let admin = told.find("port", "127.0.0.1:3127").unwrap();
    assert_eq!(admin["saw"], format!("goanyway {} serves there", env!("CARGO_PKG_VERSION")), "{admin}");
}
