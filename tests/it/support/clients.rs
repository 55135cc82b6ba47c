//! Programs of clients that are more than a line, for the chapters that ask what they trust.

/// `Client.java ROOT.pem NAME PORT`: a handshake with that name that trusts this root alone, through the proxy of
/// `HTTPS_PROXY` where there is one, else with a server on loopback.
pub const JAVA: &str = r#"
import java.io.FileInputStream;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Base64;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] args) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        store.setCertificateEntry("root",
            CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(args[0])));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        String name = args[1];
        int port = Integer.parseInt(args[2]);
        String proxy = System.getenv("HTTPS_PROXY");
        Socket plain = proxy == null ? new Socket("127.0.0.1", port) : tunnel(URI.create(proxy), name + ":" + port);
        SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(plain, name, port, true);
        SSLParameters parameters = socket.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        socket.setSSLParameters(parameters);
        socket.startHandshake();
    }

    static Socket tunnel(URI proxy, String target) throws Exception {
        Socket plain = new Socket(proxy.getHost(), proxy.getPort());
        String user = Base64.getEncoder().encodeToString(proxy.getUserInfo().getBytes());
        plain.getOutputStream().write(("CONNECT " + target + " HTTP/1.1\r\nHost: " + target
            + "\r\nProxy-Authorization: Basic " + user + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII));
        String head = "";
        while (!head.endsWith("\r\n\r\n")) head += (char) plain.getInputStream().read();
        if (!head.startsWith("HTTP/1.1 200")) throw new Exception(head);
        return plain;
    }
}
"#;
