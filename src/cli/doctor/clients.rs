//! How each program of this machine is had to shake hands with a server on loopback that stands under the
//! name of a host elsewhere, with the roots, settings and variables that it has here.
//!
//! Those that can are led there by a proxy variable of their own, the others are told the address. What
//! a program thinks of the answer is nothing to us: that it went on after our certificate is all.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// A program that speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Go,
    Git,
    Curl,
    Node,
    Python,
    Java,
}

impl Client {
    pub(super) const ALL: [Client; 6] =
        [Client::Go, Client::Git, Client::Curl, Client::Node, Client::Python, Client::Java];

    /// As it is typed.
    pub(super) fn program(self) -> &'static str {
        match self {
            Client::Go => "go",
            Client::Git => "git",
            Client::Curl => "curl",
            Client::Node => "node",
            Client::Python => "python3",
            Client::Java => "java",
        }
    }

    /// A command that asks `host` for something, at this port of loopback. Whatever it leaves lies in `folder`.
    pub(super) fn command(self, host: &str, port: u16, folder: &Path) -> std::io::Result<Command> {
        let (url, proxy, number) = (format!("https://{host}"), format!("http://127.0.0.1:{port}"), port.to_string());
        let mut command = Command::new(self.program());
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        match self {
            Client::Go => {
                command.args(["list", "-m", "goanyway.example/doctor@v1.0.0"]);
                command.env("HTTPS_PROXY", &proxy).env("GOPROXY", &url).env("GOMODCACHE", folder.join("mod"));
                command
                    .env("GOSUMDB", "off")
                    .env("GONOPROXY", "none")
                    .env("GOTOOLCHAIN", "local")
                    .env("GO111MODULE", "on");
                // Not empty, or go's file would have a say; and what lies there is to be removed again.
                command.env("GOFLAGS", "-modcacherw").env("GOWORK", "off");
            }
            Client::Git => {
                command.args(["-c", &format!("http.proxy={proxy}"), "ls-remote", &format!("{url}/doctor.git")]);
                command.env("GIT_TERMINAL_PROMPT", "0");
            }
            Client::Curl => {
                command.args([
                    "--silent",
                    "--show-error",
                    "--max-time",
                    "10",
                    "--noproxy",
                    "",
                    "--proxy",
                    &proxy,
                    &url,
                ]);
            }
            Client::Node => _ = command.args(["-e", NODE, &number, host]),
            Client::Python => _ = command.args(["-c", PYTHON, &number, host]),
            Client::Java => {
                let source = folder.join("Doctor.java");
                std::fs::write(&source, JAVA)?;
                // Nothing runs long enough for the second compiler to pay.
                command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]).arg(source).args([&number, host]);
            }
        }
        Ok(command)
    }
}

/// What would lead a program past us.
const VARIABLES: [&str; 8] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];

const NODE: &str = "const [port, servername] = process.argv.slice(1); \
    require('tls').connect({ host: '127.0.0.1', port, servername }) \
      .on('secureConnect', () => process.exit(0)) \
      .on('error', error => { console.error(error.code); process.exit(1) })";

const PYTHON: &str = "import socket, ssl, sys\n\
    stream = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
    ssl.create_default_context().wrap_socket(stream, server_hostname=sys.argv[2])";

const JAVA: &str = r#"
import java.net.Socket;
import javax.net.ssl.*;

public class Doctor {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
        SSLSocket socket = (SSLSocket) factory.createSocket(new Socket("127.0.0.1", port), args[1], port, true);
        SSLParameters parameters = socket.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        socket.setSSLParameters(parameters);
        socket.startHandshake();
    }
}
"#;
