//! What trusting our CA means: each client that the machine has takes a leaf for the hosts in the
//! constraints and refuses one for any other, forged with the real key of the intermediate; and the
//! trust stores that hand the root to them. What a machine lacks is skipped by name.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use goanyway::intercept::{Authority, IfThere, Making};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;

use crate::support::authority::{Authority as World, everybody, serving};
use crate::support::binary::{Ended, Home, home};
use crate::support::client::{handshake, roots};
use crate::support::clients::JAVA;
use crate::support::needs::have;
use crate::support::origin::{Origin, text};

/// A CA for `mirror.example`, and one whose key fell into the wrong hands: ours.
struct Thief {
    home: Home,
}

/// An HTTPS server under a name, whether or not the CA may speak for it.
struct Stolen {
    name: &'static str,
    origin: Origin,
}

fn thief() -> Thief {
    let home = home();
    let hosts = ["mirror.example".parse().unwrap()];
    Authority::create(&home.at("ca"), &hosts, SystemTime::now(), Making::default()).unwrap();
    Thief { home }
}

impl Thief {
    fn ca(&self) -> PathBuf {
        self.home.at("ca/ca.pem")
    }

    /// Serves as `name`, with a leaf that the real intermediate's key signed.
    async fn serve(&self, name: &'static str) -> Stolen {
        let read = |file: &str| std::fs::read_to_string(self.home.at("ca").join(file)).unwrap();
        let issuer_pem = read("issuer.pem");
        let issuer = Issuer::from_ca_cert_pem(&issuer_pem, KeyPair::from_pem(&read("issuer.key")).unwrap()).unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        (params.not_before, params.not_after) = ((now - day).into(), (now + day).into());
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let chain = vec![leaf.der().clone(), CertificateDer::from_pem_slice(issuer_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // git's plain protocol: a repository without a branch.
        let origin = Origin::tls_at("127.0.0.1:0", serving(chain, key, everybody()), |_| text(200, "")).await;
        Stolen { name, origin }
    }

    /// Runs one client against a host inside the constraints, one beneath it, and two outside.
    async fn judged_by(&self, client: impl Fn(&Stolen) -> Command) {
        for (name, accepted) in HOSTS {
            let stolen = self.serve(name).await;
            let mut command = client(&stolen);
            let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let ended = Ended::of(ended);
            assert_eq!(ended.code == Some(0), accepted, "{name}: {ended:?}");
        }
    }

    /// A program with nothing of our own environment but the PATH.
    fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.home.surround(&mut command);
        command.args(arguments).current_dir(self.home.at("."));
        command
    }
}

impl Stolen {
    fn port(&self) -> u16 {
        self.origin.address.port()
    }
}

/// Names, and whether the CA may speak for them. A constraint covers what is beneath a name (RFC 5280
/// section 4.2.1.10), and not what only ends in it.
const HOSTS: [(&str, bool); 4] =
    [("mirror.example", true), ("a.mirror.example", true), ("bank.example", false), ("evilmirror.example", false)];

#[tokio::test(flavor = "multi_thread")]
async fn rustls_is_bound_by_the_constraints() {
    let thief = thief();
    let pem = std::fs::read_to_string(thief.ca()).unwrap();
    for (name, accepted) in HOSTS {
        let stolen = thief.serve(name).await;
        let stream = TcpStream::connect(stolen.origin.address).await.unwrap();
        let shaken = handshake(stream, name, roots(&pem), &[b"http/1.1"]).await;
        assert_eq!(shaken.is_ok(), accepted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_bound_by_the_constraints() {
    if !have("curl_is_bound_by_the_constraints", &["curl"]) {
        return;
    }
    let thief = thief();
    let client = |stolen: &Stolen| {
        let (name, port) = (stolen.name, stolen.port());
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        thief.program("curl", &["-sS", "--noproxy", "*", "--cacert", "ca/ca.pem", "--resolve", &resolve, &url])
    };
    thief.judged_by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_bound_by_the_constraints() {
    if !have("openssl_is_bound_by_the_constraints", &["openssl"]) {
        return;
    }
    let thief = thief();
    let client = |stolen: &Stolen| {
        let (name, at) = (stolen.name, stolen.origin.address.to_string());
        let rest = ["-verify_return_error", "-CAfile", "ca/ca.pem"];
        let mut command = thief.program("openssl", &["s_client", "-connect", &at, "-servername", name]);
        command.args(["-verify_hostname", name]).args(rest).stdin(std::process::Stdio::null());
        command
    };
    thief.judged_by(client).await;
}

/// Debian's git is of GnuTLS.
#[tokio::test(flavor = "multi_thread")]
async fn git_is_bound_by_the_constraints() {
    if !have("git_is_bound_by_the_constraints", &["git"]) {
        return;
    }
    let thief = thief();
    let client = |stolen: &Stolen| {
        let (name, port) = (stolen.name, stolen.port());
        let (resolve, url) =
            (format!("http.curloptResolve={name}:{port}:127.0.0.1"), format!("https://{name}:{port}/repo.git"));
        let mut command = thief.program("git", &["-c", &resolve, "ls-remote", &url]);
        command.env("GIT_SSL_CAINFO", thief.ca());
        command
    };
    thief.judged_by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_is_bound_by_the_constraints() {
    if !have("node_is_bound_by_the_constraints", &["node"]) {
        return;
    }
    let thief = thief();
    let script = "const [port, servername] = process.argv.slice(1); \
                  const ca = require('fs').readFileSync('ca/ca.pem'); \
                  require('tls').connect({ host: '127.0.0.1', port, servername, ca }) \
                    .on('secureConnect', function () { process.exit(this.authorized ? 0 : 1) }) \
                    .on('error', error => { console.error(error.code); process.exit(1) })";
    let client = |stolen: &Stolen| thief.program("node", &["-e", script, &stolen.port().to_string(), stolen.name]);
    thief.judged_by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_is_bound_by_the_constraints() {
    if !have("python_is_bound_by_the_constraints", &["python3"]) {
        return;
    }
    let thief = thief();
    let script = "import socket, ssl, sys\n\
                  context = ssl.create_default_context(cafile='ca/ca.pem')\n\
                  stream = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
                  context.wrap_socket(stream, server_hostname=sys.argv[2])";
    let client = |stolen: &Stolen| thief.program("python3", &["-c", script, &stolen.port().to_string(), stolen.name]);
    thief.judged_by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_is_bound_by_the_constraints() {
    if !have("go_is_bound_by_the_constraints", &["go"]) {
        return;
    }
    let thief = thief();
    let probe = thief.home.at("probe");
    std::fs::write(thief.home.at("probe.go"), GO).unwrap();
    let mut build = thief.program("go", &["build", "-o", "probe", "probe.go"]);
    // Its own store of compiled packages: compiling all of crypto anew proves nothing.
    let store = Command::new("go").args(["env", "GOCACHE"]).output().unwrap().stdout;
    build.env("GOCACHE", String::from_utf8(store).unwrap().trim()).env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
    let built = tokio::task::spawn_blocking(move || Ended::of(build.output().unwrap())).await.unwrap();
    assert_eq!(built.code, Some(0), "{built:?}");
    let client = |stolen: &Stolen| {
        let mut command = thief.program(probe.to_str().unwrap(), &[&stolen.origin.address.to_string(), stolen.name]);
        command.env("SSL_CERT_FILE", thief.ca()).env("SSL_CERT_DIR", "/nowhere");
        command
    };
    thief.judged_by(client).await;
}

const GO: &str = r#"package main

import (
	"crypto/tls"
	"fmt"
	"os"
)

func main() {
	_, err := tls.Dial("tcp", os.Args[1], &tls.Config{ServerName: os.Args[2]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
"#;

/// Java ignores the constraints of a root, so it is the intermediate's that hold it.
#[tokio::test(flavor = "multi_thread")]
async fn java_is_bound_by_the_constraints() {
    if !have("java_is_bound_by_the_constraints", &["java", "keytool"]) {
        return;
    }
    let thief = thief();
    std::fs::write(thief.home.at("Client.java"), JAVA).unwrap();
    let client =
        |stolen: &Stolen| thief.program("java", &["Client.java", "ca/ca.pem", stolen.name, &stolen.port().to_string()]);
    thief.judged_by(client).await;
}

/// A home with a CA, for what is typed.
fn with_ca() -> Home {
    let home = home();
    assert_eq!(home.run(&["ca", "init"]).code, Some(0));
    home
}

fn root_of(home: &Home) -> String {
    std::fs::read_to_string(home.at("data/goanyway/certs/ca.pem")).unwrap()
}

/// What there is of Debian's in an image, and one root of its own: without any, its bundle is never written.
fn debian(folder: &Path) {
    for place in [
        "usr/local/share/ca-certificates",
        "usr/share/ca-certificates",
        "etc/ssl/certs",
        "etc/ca-certificates/update.d",
    ] {
        std::fs::create_dir_all(folder.join(place)).unwrap();
    }
    std::fs::write(folder.join("etc/ca-certificates.conf"), "other.crt\n").unwrap();
    std::fs::write(folder.join("usr/share/ca-certificates/other.crt"), World::new().pem()).unwrap();
}

#[test]
fn debian_trusts_what_is_installed_until_it_is_uninstalled() {
    if !have("debian_trusts_what_is_installed_until_it_is_uninstalled", &["update-ca-certificates", "openssl"]) {
        return;
    }
    let home = with_ca();
    let image = home.at("image");
    debian(&image);
    let ca = |verb: &str, more: &[&str]| {
        let ended = home.run(&[&["ca", verb, "--root", image.to_str().unwrap()], more].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    let bundle = || std::fs::read_to_string(image.join("etc/ssl/certs/ca-certificates.crt")).unwrap_or_default();
    let planned = ca("install", &["--dry-run"]);
    assert!(planned.contains("\nrun update-ca-certificates ") && bundle().is_empty(), "{planned}");
    assert_eq!(ca("install", &[]), planned, "what was announced is what is done");
    assert!(bundle().contains(root_of(&home).trim()));
    assert!(ca("install", &[]).contains("is trusted already"));
    let undone = ca("uninstall", &[]);
    assert!(undone.starts_with("remove ") && undone.contains("update-ca-certificates --fresh"), "{undone}");
    assert!(!bundle().contains(root_of(&home).trim()));
    assert!(ca("uninstall", &[]).contains("nothing to do"));
    let names = std::fs::read_dir(image.join("etc/ssl/certs")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("goanyway")), "no link lies about");
}

#[test]
fn browsers_trust_what_is_installed_until_it_is_uninstalled() {
    if !have("browsers_trust_what_is_installed_until_it_is_uninstalled", &["certutil"]) {
        return;
    }
    let home = with_ca();
    let folder = home.at(".pki/nssdb");
    std::fs::create_dir_all(&folder).unwrap();
    let database = format!("sql:{}", folder.display());
    let certutil = |arguments: &[&str]| {
        Ended::of(Command::new("certutil").args(["-d", &database]).args(arguments).output().unwrap())
    };
    assert_eq!(certutil(&["-N", "--empty-password"]).code, Some(0));
    let ca = |verb: &str| {
        let ended = home.run(&["ca", verb, "--system", "none"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    assert!(ca("install").starts_with("run certutil -d "));
    let listed = certutil(&["-L"]).out;
    assert!(listed.contains("goanyway ") && listed.contains("C,,"), "{listed}");
    assert!(ca("install").contains("nothing to do"));
    ca("uninstall");
    assert!(!certutil(&["-L"]).out.contains("goanyway "));
    assert!(ca("uninstall").contains("nothing to do"));
}

#[test]
fn java_is_left_alone_unless_somebody_asks() {
    if !have("java_is_left_alone_unless_somebody_asks", &["keytool"]) {
        return;
    }
    let home = with_ca();
    let store = home.at("cacerts");
    let ca = |arguments: &[&str]| {
        let ended = home.run(&[&["ca"], arguments, &["--system", "none"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    assert_eq!(ca(&["install"]), "there is no trust store to change\n");
    let asked = format!("--java={}", store.display());
    assert!(ca(&["install", &asked]).contains("keytool -importcert"));
    assert!(store.is_file());
    assert!(ca(&["install", &asked]).contains("is trusted already"));
    assert!(ca(&["uninstall", &asked]).contains("keytool -delete"));
    assert!(ca(&["uninstall", &asked]).contains("nothing to do"));
    assert!(ca(&["install", "--java", "--dry-run"]).contains("-cacerts"));
}

#[test]
fn a_store_that_cannot_be_changed_is_named_with_what_to_do() {
    let home = with_ca();
    let nowhere = home.at("nowhere");
    let ended = home.run(&["ca", "install", "--system", "debian", "--root", nowhere.to_str().unwrap()]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("cannot change") && ended.err.contains("--ca-dir"), "{}", ended.err);
}

#[test]
fn without_a_ca_there_is_nothing_to_give_out() {
    let home = home();
    for verb in ["show", "rotate", "export", "install", "uninstall"] {
        let ended = home.run(&["ca", verb]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{verb}: {ended:?}");
        assert!(ended.err.contains("goanyway ca init"), "{verb}: {}", ended.err);
    }
}

/// The start recommends `goanyway ca rotate --intercept HOST`: flags after the verb were refused.
#[test]
fn a_rotation_is_typed_as_the_start_recommends_it() {
    let home = with_ca();
    let old = root_of(&home);
    let folder = home.at("data/goanyway/certs");
    let at = folder.to_str().unwrap();
    let rotated = home.run(&["ca", "rotate", "--intercept", "athens.example", "--ca-dir", at, "--overlap", "3"]);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    assert!(rotated.out.contains("athens.example") && rotated.out.contains("before it"), "{}", rotated.out);
    assert_ne!(root_of(&home), old);
    let exported = home.run(&["ca", "export"]).out;
    assert_eq!(exported, root_of(&home) + &old, "the new root first");
    let file = home.at("root.der");
    let to_file = home.run(&["ca", "export", "--format", "der", "--out", file.to_str().unwrap()]);
    assert_eq!((to_file.code, to_file.out.as_str()), (Some(0), ""));
    let der = CertificateDer::from_pem_slice(root_of(&home).as_bytes()).unwrap();
    assert_eq!(std::fs::read(file).unwrap(), der.as_ref());
    let bundle = home.run(&["ca", "export", "--bundle"]);
    assert!(bundle.code == Some(1) || bundle.out.contains(root_of(&home).trim()), "{}", bundle.err);
}

/// A root that only its owner could read was no root for anybody's build.
#[test]
fn what_is_exported_is_a_file_like_any_other() {
    let home = with_ca();
    let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
    let (any, shared) = (home.at("any"), home.at("shared.pem"));
    std::fs::write(&any, "").unwrap();
    let export = |file: &Path| assert_eq!(home.run(&["ca", "export", "--out", file.to_str().unwrap()]).code, Some(0));
    export(&shared);
    assert_eq!(mode(&shared), mode(&any), "what the umask leaves, as of any file");
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o604)).unwrap();
    export(&shared);
    assert_eq!(mode(&shared), 0o604, "who may read it is its owner's business");
    let link = home.at("latest.pem");
    std::os::unix::fs::symlink("not-yet.pem", &link).unwrap();
    export(&link);
    assert!(link.is_symlink() && home.at("not-yet.pem").is_file(), "as a shell's `>` would");
}

/// Rotated by one process while another serves: both folders are one, and nobody is left without a CA.
#[test]
fn processes_that_share_a_folder_rotate_one_after_the_other() {
    let home = with_ca();
    let folder = home.at("data/goanyway/certs");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(home.run(&["ca", "rotate"]).code, Some(0)));
        }
    });
    let now = SystemTime::now();
    assert_eq!(Authority::earlier(&folder, now).unwrap().len(), 4);
    let making = Making { if_there: IfThere::Refuse, keep_root: None };
    assert!(Authority::create(&folder, &["goproxy.cn".parse().unwrap()], now, making).is_err(), "one is there");
}

/// What `--keep-root` is for, as certs/README.md says it: the same root signs for another year.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_kept_signs_the_intermediate_again() {
    if !have("a_root_that_was_kept_signs_the_intermediate_again", &["openssl", "sh"]) {
        return;
    }
    let home = home();
    let (dir, key) = (home.at("ca"), home.at("root.key"));
    let made = home.run(&["ca", "init", "--ca-dir", dir.to_str().unwrap(), "--keep-root", key.to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let before = std::fs::read_to_string(dir.join("issuer.pem")).unwrap();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/README.md")).unwrap();
    let recipe =
        readme.split("```\n").find(|block| block.starts_with("openssl")).unwrap().replace("FILE", "../root.key");
    let mut command = Command::new("sh");
    let signed = command.args(["-ec", &recipe]).current_dir(&dir).output().unwrap();
    assert!(signed.status.success(), "{signed:?}");
    assert_ne!(std::fs::read_to_string(dir.join("issuer.pem")).unwrap(), before);
    let shown = home.run(&["ca", "show", "--ca-dir", dir.to_str().unwrap()]);
    assert!(shown.code == Some(0) && shown.out.contains("state        good"), "{shown:?}");
    assert!(
        Command::new("openssl")
            .args(["verify", "-CAfile", "ca.pem", "issuer.pem"])
            .current_dir(&dir)
            .output()
            .unwrap()
            .status
            .success()
    );
}
