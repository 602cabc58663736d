import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.*;
import java.util.concurrent.*;

/** Interop LABEL THREADS all|SCENARIO...: runs scenarios side by side (they mostly wait), a line for each. */
public final class Interop {
    public static void main(String[] args) throws Exception {
        Map<String, Kit.Scenario> known = new LinkedHashMap<>();
        Consuming.scenarios(known); // the slow ones first: they wait while others work
        Sending.scenarios(known);
        Admin.scenarios(known);
        Operating.standard(known);
        Versioned.scenarios(known);
        Set<String> standard = new LinkedHashSet<>(known.keySet());
        Rules.scenarios(known);
        known.put("group-refused", Rules::groupRefused);
        known.put("far-behind", Rules::farBehind);
        known.put("overload", Rules::overload);
        Load.scenarios(known);
        Servers.scenarios(known);
        Operating.scenarios(known);
        Fixtures.scenarios(known);
        Secure.scenarios(known);
        Versioned.others(known);

        List<String> wanted = new ArrayList<>();
        for (String name : Arrays.asList(args).subList(2, args.length)) {
            if (name.equals("all")) {
                wanted.addAll(standard);
            } else if (name.equals("list")) {
                standard.forEach(System.out::println);
            } else if (known.containsKey(name)) {
                wanted.add(name);
            } else {
                System.out.println("FAIL " + args[0] + name + " 0.0 (no such scenario for this client)");
                System.exit(1);
            }
        }
        ExecutorService pool = Executors.newFixedThreadPool(Integer.parseInt(args[1]));
        List<Future<Boolean>> results = new ArrayList<>();
        for (String name : wanted) {
            results.add(pool.submit(() -> run(args[0].isEmpty() || args[0].endsWith("/") ? args[0] + name : args[0], name, known.get(name))));
        }
        boolean good = true;
        for (Future<Boolean> result : results) {
            good &= result.get();
        }
        System.exit(good ? 0 : 1);
    }

    private static boolean run(String label, String name, Kit.Scenario scenario) {
        long start = System.nanoTime();
        String failure = null;
        try (Kit kit = new Kit(name)) {
            scenario.run(kit);
        } catch (Throwable t) {
            StringWriter trace = new StringWriter();
            t.printStackTrace(new PrintWriter(trace));
            failure = trace.toString();
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        StringBuilder line = new StringBuilder(String.format("%-5s%s %.1f", failure == null ? "ok" : "FAIL", label, seconds));
        if (failure != null) {
            failure.lines().limit(14).forEach(l -> line.append("\n     ").append(l));
            failure.lines().skip(14).filter(l -> l.startsWith("Caused by")).forEach(l -> line.append("\n     ").append(l));
        }
        System.out.println(line);
        return failure == null;
    }
}
