import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;

public class Threads {
    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Long>> futures = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            final int n = i;
            futures.add(pool.submit(() -> { long s = 0; for (int k = 0; k < 10000 * n; k++) s += k % 7; return s; }));
        }
        long total = 0;
        for (Future<Long> future : futures) total += future.get();
        pool.shutdown();
        System.out.println(total);
        try (ServerSocket server = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            Thread echo = new Thread(() -> {
                try (Socket s = server.accept(); BufferedReader in = new BufferedReader(new InputStreamReader(s.getInputStream()))) {
                    s.getOutputStream().write((in.readLine() + " back\n").getBytes());
                } catch (IOException e) { throw new UncheckedIOException(e); }
            });
            echo.start();
            try (Socket s = new Socket(server.getInetAddress(), server.getLocalPort())) {
                s.getOutputStream().write("hello\n".getBytes());
                System.out.println(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine());
            }
            echo.join();
        }
        Process process = new ProcessBuilder("sh", "-c", "echo child; exit 6").start();
        System.out.println(new String(process.getInputStream().readAllBytes()).trim() + process.waitFor());
        Path file = Files.createTempFile(Paths.get("."), "j", ".txt");
        Files.writeString(file, "text");
        System.out.println(Files.size(file) + " " + Files.readString(file));
        try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("null pointer"); }
        byte[][] garbage = new byte[1000][];
        for (int i = 0; i < 20000; i++) garbage[i % 1000] = new byte[10000];
        System.gc();
        System.exit(3);
    }
}
