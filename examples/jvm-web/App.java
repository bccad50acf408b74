// A web application whose own numbers, and its JVM's, are KPIs, a row a second: java App.java FILE PORT

import com.sun.net.httpserver.Filter;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryUsage;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

public class App {
    /** Counts what a web application does. */
    static class Kpis extends Filter {
        private static final int LIMIT = 10_000;
        private long requests;
        private long errors;
        private double[] latencies = new double[LIMIT]; // milliseconds, since the last row
        private int served;
        private final Map<InetAddress, Long> users = new LinkedHashMap<>(); // who came, and when; the oldest first

        @Override
        public String description() {
            return "counts requests";
        }

        @Override
        public void doFilter(HttpExchange exchange, Chain chain) throws IOException {
            long begin = System.nanoTime();
            try {
                chain.doFilter(exchange);
            } finally {
                boolean failed = exchange.getResponseCode() < 0 || exchange.getResponseCode() >= 500;
                served(exchange.getRemoteAddress().getAddress(), failed, (System.nanoTime() - begin) / 1e6);
            }
        }

        /** A request costs this and nothing else: no I/O is done under the lock. */
        private synchronized void served(InetAddress user, boolean failed, double milliseconds) {
            requests++;
            errors += failed ? 1 : 0;
            latencies[served++ % LIMIT] = milliseconds;
            users.remove(user);
            users.put(user, System.nanoTime());
            if (users.size() > LIMIT) {
                users.remove(users.keySet().iterator().next());
            }
        }

        /** What to store: totals since the start, latencies since the last row, users of the last minute. */
        String row() {
            double[] since;
            String counts;
            int active;
            synchronized (this) {
                since = Arrays.copyOf(latencies, Math.min(served, LIMIT));
                served = 0;
                long minuteAgo = System.nanoTime() - TimeUnit.MINUTES.toNanos(1);
                users.values().removeIf(when -> when - minuteAgo < 0);
                counts = requests + "," + errors;
                active = users.size();
            }
            Arrays.sort(since);
            return "requests_total,errors_total,latency_p50_ms,latency_p99_ms,users," + Jvm.LABELS + "\n"
                + String.join(",", counts, percentile(since, 0.5), percentile(since, 0.99), "" + active, Jvm.values()) + "\n";
        }

        /** By nearest rank; an empty field, which is no value, where nothing was served. */
        private static String percentile(double[] sorted, double share) {
            // In some locales a number would have a comma.
            return sorted.length == 0 ? ""
                : String.format(Locale.ROOT, "%.3f", sorted[(int) Math.ceil(share * sorted.length) - 1]);
        }
    }

    /** What the JVM says of itself. */
    static class Jvm {
        static final String LABELS = "heap_used_bytes,heap_max_bytes,threads,gc_runs_total,gc_seconds_total";

        static String values() {
            MemoryUsage heap = ManagementFactory.getMemoryMXBean().getHeapMemoryUsage();
            int threads = ManagementFactory.getThreadMXBean().getThreadCount();
            long runs = 0;
            long milliseconds = 0;
            for (GarbageCollectorMXBean collector : ManagementFactory.getGarbageCollectorMXBeans()) {
                runs += Math.max(0, collector.getCollectionCount()); // -1 where it does not know
                milliseconds += Math.max(0, collector.getCollectionTime());
            }
            return heap.getUsed() + "," + heap.getMax() + "," + threads + "," + runs + "," + milliseconds / 1e3;
        }
    }

    /** Runs beside the application. Without a partition it goes on, and says so once; when it is back, likewise. */
    static void export(Kpis kpis, Path file) {
        String trouble = "";
        while (true) {
            String before = trouble;
            try {
                Thread.sleep(1000);
                Files.writeString(file, kpis.row());
                trouble = "";
            } catch (IOException refused) {
                trouble = refused.toString();
            } catch (InterruptedException ended) {
                return;
            }
            if (!trouble.equals(before)) {
                System.err.println(file + ": " + (trouble.isEmpty() ? "stored" : "not stored: " + trouble));
            }
        }
    }

    /** What is measured. */
    static void answer(HttpExchange exchange) throws IOException {
        try (exchange) {
            boolean broken = exchange.getRequestURI().getPath().equals("/broken");
            byte[] text = (broken ? "broken\n" : "hello\n").getBytes();
            exchange.sendResponseHeaders(broken ? 500 : 200, text.length);
            exchange.getResponseBody().write(text);
        }
    }

    public static void main(String[] arguments) throws IOException {
        Kpis kpis = new Kpis();
        Thread beside = new Thread(() -> export(kpis, Path.of(arguments[0])));
        beside.setDaemon(true);
        beside.start();
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])), 0);
        server.createContext("/", App::answer).getFilters().add(kpis);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
