//! The settings in the words of whoever reads them: a shell, a CI system, a container engine.
//!
//! Shells and GitHub's runner are on this host and get every variable. Containers (docker, GitLab's
//! jobs) have neither this host's loopback nor its files: they get the address by which they reach the
//! host, and modules without TLS, which needs no CA; whoever wants one in an image all the same gets its
//! SHA-256, because the path by which it is fetched proves nothing. `NO_PROXY` is written for each
//! client: networks only where Go reads it, since most others take them for names.

use std::net::IpAddr;

use clap::ValueEnum;

use super::env::Settings;

/// Who reads the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// sh, bash, zsh, dash: eval "$(goanyway env)"
    #[default]
    Sh,
    /// fish: goanyway env --shell fish | source
    Fish,
    /// PowerShell: goanyway env --shell powershell | Out-String | Invoke-Expression
    Powershell,
    /// A step of GitHub Actions: goanyway env --shell github >> "$GITHUB_ENV"
    Github,
    /// GitLab CI: the variables of .gitlab-ci.yml
    Gitlab,
    /// Docker: daemon.json, config.json, build arguments, a secret mount
    Docker,
    /// BuildKit: a builder with driver options
    Buildkit,
}

impl Shell {
    /// Whether its programs run in containers, where our loopback is not theirs.
    pub fn is_contained(self) -> bool {
        matches!(self, Shell::Gitlab | Shell::Docker)
    }

    /// Whether who reads it has no other place for the root's digest than what a person sees.
    pub fn leaves_no_comments(self) -> bool {
        self == Shell::Github
    }
}

/// The settings as that reader takes them.
pub fn print(shell: Shell, settings: &Settings) -> String {
    let each = |line: &dyn Fn(&str, &str) -> String| {
        settings.variables.iter().map(|(name, value)| line(name, value)).collect::<String>()
    };
    match shell {
        Shell::Sh => each(&|name, value| format!("export {name}={}\n", quote_sh(value))),
        Shell::Fish => each(&|name, value| format!("set -gx {name} {}\n", quote_fish(value))),
        Shell::Powershell => each(&|name, value| format!("$env:{name} = '{}'\n", value.replace('\'', "''"))),
        Shell::Github => each(&|name, value| format!("{name}={value}\n")),
        Shell::Gitlab => print_gitlab(settings),
        Shell::Docker => print_docker(settings),
        Shell::Buildkit => print_buildkit(settings),
    }
}

/// What a container is told: no CA, and an address that leads to this host from inside.
fn contained(settings: &Settings) -> Vec<(&'static str, String)> {
    let proxy = format!("http://{}", seen_from_inside(settings));
    let names = exemptions(settings, true);
    let plain: Vec<String> = names.iter().filter(|entry| !is_network(entry)).cloned().collect();
    let mut variables: Vec<_> =
        ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"].map(|name| (name, proxy.clone())).into();
    variables.extend([("NO_PROXY", names.join(",")), ("no_proxy", plain.join(","))]);
    variables.push(("GOPROXY", goproxy_inside(settings)));
    variables
}

/// The GOPROXY of a container, which needs no CA.
pub fn goproxy_inside(settings: &Settings) -> String {
    settings.without_tls.replace(&settings.proxy.to_string(), &seen_from_inside(settings))
}

/// Docker gives that name to the host where `host-gateway` is asked for.
fn seen_from_inside(settings: &Settings) -> String {
    if settings.proxy.ip().is_loopback() {
        return format!("{INSIDE}:{}", settings.proxy.port());
    }
    settings.proxy.to_string()
}

/// The exemptions for Go programs, which know networks; `inside`, the host itself is among them: what is
/// asked of the proxy is not asked through the proxy.
fn exemptions(settings: &Settings, inside: bool) -> Vec<String> {
    let mut list: Vec<String> = settings.exempt.iter().filter(|entry| *entry != "127.0.0.1").cloned().collect();
    list.push("127.0.0.1".to_owned());
    list.push("127.0.0.0/8".to_owned());
    if inside {
        let host = if settings.proxy.ip().is_loopback() { INSIDE.to_owned() } else { settings.proxy.ip().to_string() };
        list.push(host);
    }
    list
}

fn is_network(entry: &str) -> bool {
    entry.split_once('/').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok())
}

fn print_gitlab(settings: &Settings) -> String {
    let mut text = "# .gitlab-ci.yml: jobs in containers ask for modules without TLS, which needs no CA\n".to_owned();
    if settings.proxy.ip().is_loopback() {
        text += &format!("# the runner's config.toml: extra_hosts = [\"{INSIDE}:host-gateway\"]\n");
    }
    text += &digest_comment(settings);
    text += "variables:\n";
    for (name, value) in contained(settings) {
        text += &format!("  {name}: {}\n", quote_yaml(&value));
    }
    text
}

fn print_docker(settings: &Settings) -> String {
    let (daemon, inside) = (format!("http://{}", settings.proxy), contained(settings));
    let value = |wanted: &str| inside.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value.as_str());
    let proxies = serde_json::json!({ "proxies": {
        "http-proxy": daemon, "https-proxy": daemon, "no-proxy": exemptions(settings, false).join(","),
    }});
    let client = serde_json::json!({ "proxies": { "default": {
        "httpProxy": value("HTTP_PROXY"), "httpsProxy": value("HTTPS_PROXY"), "noProxy": value("NO_PROXY"),
    }}});
    let arguments: String =
        inside.iter().map(|(name, value)| format!("  --build-arg {name}={} \\\n", quote_sh(value))).collect();
    let gateway = gateway(settings);
    let mut text = format!(
        "# docker reads its settings in four places; what is set in one is not known to the others.\n\
         \n\
         # 1. the daemon, for docker pull: merge into /etc/docker/daemon.json and restart it\n{}\n\
         \n\
         # 2. the client, for docker run: merge into ~/.docker/config.json\n{}\n\
         \n\
         # 3. docker build; modules come without TLS, which needs no CA (the Dockerfile says: ARG GOPROXY)\n\
         docker build \\\n{gateway}{arguments}  .\n\
         \n\
         # 4. a builder of its own: goanyway env --shell buildkit\n",
        pretty(&proxies),
        pretty(&client),
    );
    if let Some(sha256) = &settings.sha256 {
        let user = format!("ca-{}:x", &sha256[..8]);
        text += &format!(
            "\n# where an image is to be built with the CA after all: nothing of it stays in a layer\n\
             {}curl -fsSo ca-bundle.pem http://{}/ca-bundle.pem\n\
             docker build --secret id=goanyway,src=ca-bundle.pem \\\n{gateway}  .\n\
             # and in the Dockerfile:\n\
             # RUN --mount=type=secret,id=goanyway SSL_CERT_FILE=/run/secrets/goanyway \\\n\
             #     HTTPS_PROXY=http://{user}@{} go mod download\n",
            digest_comment(settings),
            settings.proxy,
            seen_from_inside(settings),
        );
    }
    text
}

/// A builder in a container of its own, on the host's network: there our loopback is its own.
fn print_buildkit(settings: &Settings) -> String {
    let proxy = format!("http://{}", settings.proxy);
    let exempt = exemptions(settings, false).join(",");
    let mut text = "# what the builder itself fetches (images, git contexts); RUN steps want the build arguments of\n\
                    # goanyway env --shell docker\n\
                    docker buildx create --name goanyway --driver docker-container --driver-opt network=host"
        .to_owned();
    for (name, value) in [
        ("HTTP_PROXY", &proxy),
        ("HTTPS_PROXY", &proxy),
        ("NO_PROXY", &exempt),
        ("http_proxy", &proxy),
        ("https_proxy", &proxy),
        ("no_proxy", &exempt),
    ] {
        // Options are read as CSV, so one with commas stands in quotes of its own.
        text += &format!(" \\\n  --driver-opt '\"env.{name}={value}\"'");
    }
    text + "\n"
}

fn gateway(settings: &Settings) -> String {
    if settings.proxy.ip().is_loopback() { format!("  --add-host {INSIDE}:host-gateway \\\n") } else { String::new() }
}

fn digest_comment(settings: &Settings) -> String {
    let comment =
        |sha256: &String| format!("# the CA's root, should you want it: compare its SHA-256 with\n# {sha256}\n");
    settings.sha256.as_ref().map_or_else(String::new, comment)
}

/// For people who read JSON. Of strings, numbers, lists and maps: nothing in it could fail.
pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Bare where a shell takes it literally, else in single quotes.
pub(super) fn quote_sh(value: &str) -> String {
    if is_plain(value) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

/// In fish's single quotes a backslash escapes itself and the quote.
fn quote_fish(value: &str) -> String {
    if is_plain(value) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

fn quote_yaml(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+=".contains(&byte);
    !value.is_empty() && value.bytes().all(plain)
}

/// The host's name in a container (docker run --add-host host.docker.internal:host-gateway).
pub(super) const INSIDE: &str = "host.docker.internal";

#[cfg(test)]
mod tests {
    use super::super::env::{Environment, Facts, Trust, settings};
    use super::*;
    use std::process::Command;

    fn facts(proxy: &str) -> Facts {
        let trust = Trust { fingerprint: "1a2b3c4d".into(), bundle: "/state/it's a bundle.pem".into() };
        Facts {
            proxy: proxy.parse().unwrap(),
            listening: true,
            password: None,
            trust: Some(trust),
            module_path: String::new(),
            sha256: Some(format!("1a2b3c4d{}", "0".repeat(56))),
        }
    }

    fn of(pairs: &[(&str, &str)], proxy: &str) -> Settings {
        let environment: Environment =
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        settings(&environment, &facts(proxy))
    }

    fn company() -> Settings {
        of(&[("NO_PROXY", "*.corp.example,10.0.0.0/8"), ("GOPROXY", "https://goproxy.cn,direct")], "127.0.0.1:3128")
    }

    #[test]
    fn every_reader_gets_its_own_words() {
        for (shell, file) in [
            (Shell::Sh, "sh"),
            (Shell::Fish, "fish"),
            (Shell::Powershell, "powershell"),
            (Shell::Github, "github"),
            (Shell::Gitlab, "gitlab"),
            (Shell::Docker, "docker"),
            (Shell::Buildkit, "buildkit"),
        ] {
            super::super::golden::compare(&format!("{file}.txt"), &print(shell, &company()));
        }
    }

    #[test]
    fn a_proxy_beyond_loopback_is_reached_by_its_address_from_everywhere() {
        let text = print(Shell::Docker, &of(&[], "10.0.0.5:3128"));
        assert!(!text.contains(INSIDE) && text.contains("--build-arg GOPROXY=http://10.0.0.5:3128,direct"), "{text}");
        assert!(text.contains("--build-arg NO_PROXY=localhost,::1,127.0.0.1,127.0.0.0/8,10.0.0.5"), "{text}");
    }

    #[test]
    fn networks_stand_only_where_go_reads() {
        let inside = contained(&company());
        let value = |wanted: &str| inside.iter().find(|(name, _)| *name == wanted).unwrap().1.clone();
        let names = "*.corp.example,.corp.example,10.0.0.0/8,localhost,::1,127.0.0.1,127.0.0.0/8,host.docker.internal";
        assert_eq!(value("NO_PROXY"), names);
        assert_eq!(value("no_proxy"), names.replace(",10.0.0.0/8", "").replace(",127.0.0.0/8", ""));
        assert_eq!(value("GOPROXY"), "http://host.docker.internal:3128,direct");
    }

    /// Every JSON text in what docker is told, as a person would cut it out.
    #[test]
    fn what_docker_reads_is_json() {
        let text = print(Shell::Docker, &company());
        let pieces: Vec<serde_json::Value> = text
            .split("\n{\n")
            .skip(1)
            .map(|piece| format!("{{\n{}", &piece[..piece.find("\n}\n").unwrap() + 2]))
            .map(|json| serde_json::from_str(&json).unwrap())
            .collect();
        assert_eq!(pieces[0]["proxies"]["https-proxy"], "http://127.0.0.1:3128");
        assert_eq!(pieces[1]["proxies"]["default"]["httpsProxy"], "http://host.docker.internal:3128");
    }

    /// What a shell that took `script` then has in these variables.
    fn taken(shell: &[&str], script: &str) -> String {
        let output = Command::new(shell[0]).args(&shell[1..]).arg(script).env_clear().output().unwrap();
        assert!(output.status.success(), "{shell:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn real_shells_read_back_what_was_meant() {
        let awkward = ["", "plain", "a b", "it's", r"back\slash\", "$HOME `x` \"y\" (z)", "[::1]:3128", "*,a|b;c&d"];
        let shells: [(Shell, &[&str], &str); 3] = [
            (Shell::Sh, &["/bin/sh", "-c"], "printf %s \"$V\""),
            (Shell::Fish, &["/usr/bin/fish", "--no-config", "-c"], "printf %s \"$V\""),
            (Shell::Powershell, &["/usr/bin/pwsh", "-NoProfile", "-Command"], "Write-Host -NoNewline $env:V"),
        ];
        for (shell, line, tail) in shells {
            if !std::path::Path::new(line[0]).exists() {
                skip("real_shells_read_back_what_was_meant", line[0], shell != Shell::Powershell);
                continue;
            }
            for value in awkward {
                let settings = Settings { variables: vec![("V", value.to_owned())], ..company() };
                let script = format!("{}{tail}", print(shell, &settings));
                assert_eq!(taken(line, &script), value, "{shell:?}");
            }
        }
    }

    /// Says what is lacking here, past the harness; where CI requires everything, that is a failure, but
    /// for what Debian does not have.
    fn skip(test: &str, lacking: &str, can_be_had: bool) {
        let required = can_be_had && std::env::var("GOANYWAY_TEST_REQUIRE").as_deref() == Ok("all");
        assert!(!required, "{test} needs {lacking}");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {test} needs {lacking}\n"));
    }
}
