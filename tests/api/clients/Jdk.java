import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;

/** The JDK's HttpClient as Spring AI, LangChain4j and Quarkus use it: it offers h2c by default. */
class Jdk {
    public static void main(String[] arguments) throws Exception {
        var url = URI.create(arguments[0]);
        var body = arguments[1];
        var client = HttpClient.newHttpClient();
        var answers = new ArrayList<String>();
        for (int turn = 0; turn < 3; turn++) {
            answers.add(ask(client, "POST", url, BodyPublishers.ofString(body)));
            var stream = new ByteArrayInputStream(body.getBytes());
            answers.add(ask(client, "POST", url, BodyPublishers.ofInputStream(() -> stream)));
        }
        var older = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        answers.add(ask(older, "POST", url, BodyPublishers.ofString(body)));
        answers.add(ask(client, "POST", url, BodyPublishers.ofString(body + " ".repeat(1 << 20))));
        var requests = new ArrayList<java.util.concurrent.CompletableFuture<String>>();
        for (int number = 0; number < 8; number++) {
            var request = request("POST", url, BodyPublishers.ofString(body));
            requests.add(client.sendAsync(request, BodyHandlers.ofString()).thenApply(each -> each.body()));
        }
        for (var request : requests) {
            answers.add(request.get());
        }
        System.out.println("[" + String.join(",", answers) + "]");
    }

    static String ask(HttpClient client, String method, URI url, BodyPublisher body) throws Exception {
        return client.send(request(method, url, body), BodyHandlers.ofString()).body();
    }

    static HttpRequest request(String method, URI url, BodyPublisher body) {
        var builder = HttpRequest.newBuilder(url).header("Content-Type", "application/json");
        return builder.method(method, body).build();
    }
}
