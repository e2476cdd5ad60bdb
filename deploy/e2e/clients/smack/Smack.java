import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import org.jivesoftware.smack.ConnectionConfiguration.SecurityMode;
import org.jivesoftware.smack.ConnectionListener;
import org.jivesoftware.smack.SmackConfiguration;
import org.jivesoftware.smack.XMPPConnection;
import org.jivesoftware.smack.c2s.ModularXmppClientToServerConnection;
import org.jivesoftware.smack.c2s.ModularXmppClientToServerConnectionConfiguration;
import org.jivesoftware.smack.filter.StanzaTypeFilter;
import org.jivesoftware.smack.packet.Message;
import org.jivesoftware.smack.websocket.XmppWebSocketTransportModuleDescriptor;
import org.jxmpp.jid.impl.JidCreate;

/** A client of Smack that does what it is told; ../README.md has the commands. */
public final class Smack implements ConnectionListener {
    private final ModularXmppClientToServerConnectionConfiguration configuration;
    private ModularXmppClientToServerConnection connection;

    private Smack(String url, String domain, String user, String password) throws Exception {
        var config = ModularXmppClientToServerConnectionConfiguration.builder();
        config.removeAllModules()
            .setXmppDomain(domain)
            .setUsernameAndPassword(user, password)
            .setResource("smack");
        if (url.startsWith("ws:")) {
            config.setSecurityMode(SecurityMode.disabled);
        }
        var webSocket = XmppWebSocketTransportModuleDescriptor.getBuilder(config);
        webSocket.explicitlySetWebSocketEndpointAndDiscovery(url, false);
        config.addModule(webSocket.build());
        configuration = config.build();
    }

    /** Connects anew: a connection does not notice that it is lost, and cannot be used again then. */
    private void connect() throws Exception {
        if (connection != null) {
            connection.removeConnectionListener(this);
            connection.instantShutdown();
        }
        connection = new ModularXmppClientToServerConnection(configuration);
        connection.addConnectionListener(this);
        connection.addSyncStanzaListener(stanza -> {
            String body = ((Message) stanza).getBody();
            if (body != null) {
                tell("message", Base64.getEncoder().encodeToString(body.getBytes(StandardCharsets.UTF_8)));
            }
        }, StanzaTypeFilter.MESSAGE);
        connection.connect().login(); // sends presence
    }

    private static synchronized void tell(String event, Object... args) {
        var line = new StringBuilder("> ").append(event);
        for (Object arg : args) {
            line.append(' ').append(arg);
        }
        System.out.println(line);
    }

    @Override
    public void authenticated(XMPPConnection c, boolean resumed) {
        tell("online", c.getUser(), resumed ? "resumed" : "new");
    }

    @Override
    public void connectionClosed() {
        tell("closed");
    }

    @Override
    public void connectionClosedOnError(Exception e) {
        e.printStackTrace();
        tell("lost");
    }

    private void run(String[] words) throws Exception {
        switch (words[0]) {
            case "connect" -> connect();
            case "say" -> connection.sendStanza(connection.getStanzaFactory().buildMessageStanza()
                .to(JidCreate.from(words[1]))
                .ofType(Message.Type.chat)
                .setBody(new String(Base64.getDecoder().decode(words[2]), StandardCharsets.UTF_8))
                .build());
            case "close" -> connection.disconnect();
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    public static void main(String[] args) throws Exception {
        var client = new Smack(args[0], args[1], args[2], args[3]);
        tell("version", SmackConfiguration.getVersion().split(" ")[0]);
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            try {
                client.run(line.split(" "));
            } catch (Exception e) {
                tell("failed", e);
            }
        }
        System.exit(0);
    }
}
