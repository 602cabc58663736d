import java.util.*;
import java.util.concurrent.*;
import org.junit.runner.*;
import org.junit.runner.notification.Failure;

/** Published LABEL CLASS[#METHOD]...: runs JUnit classes one after the other, a line for each, and what failed in it. */
public final class Published {
    public static void main(String[] args) throws Exception {
        boolean good = true;
        for (String name : Arrays.asList(args).subList(1, args.length)) {
            long start = System.nanoTime();
            String[] parts = name.split("#");
            Class<?> tests = Class.forName(parts[0]);
            Request request = parts.length == 1 ? Request.aClass(tests) : Request.method(tests, parts[1]);
            FutureTask<Result> run = new FutureTask<>(() -> new JUnitCore().run(request));
            Thread thread = new Thread(run, name);
            thread.setDaemon(true);
            thread.start();
            List<String> problems = new ArrayList<>();
            int count = 0;
            try {
                Result result = run.get(10, TimeUnit.MINUTES);
                count = result.getRunCount();
                for (Failure failure : result.getFailures()) {
                    problems.add(failure.getTestHeader());
                    failure.getTrace().lines().filter(l -> !l.matches("\\s+at (org.junit|java|jdk|com.google).*")).limit(5)
                        .forEach(l -> problems.add("  " + (l.length() > 300 ? l.substring(0, 300) + "..." : l)));
                }
                good &= result.wasSuccessful();
            } catch (TimeoutException e) {
                problems.add("no end after ten minutes");
                Arrays.stream(thread.getStackTrace()).limit(8).forEach(at -> problems.add("  at " + at));
                good = false;
            }
            System.out.printf("%-5s%s%s %.1f (%d tests)%n", problems.isEmpty() ? "ok" : "FAIL", args[0],
                name.substring(name.lastIndexOf('.') + 1), (System.nanoTime() - start) / 1e9, count);
            problems.forEach(line -> System.out.println("     " + line));
        }
        System.exit(good ? 0 : 1);
    }
}
