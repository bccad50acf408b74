// Stores one row: java Kpi.java FILE USERS LOAD

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

public class Kpi {
    public static void main(String[] arguments) {
        Path file = Path.of(arguments[0]);
        String row = "current_users,load\n" + arguments[1] + "," + arguments[2] + "\n";
        try {
            // Opens, writes and closes. The partition answers at close, which throws; PrintWriter would hide it.
            Files.writeString(file, row);
        } catch (IOException refused) {
            System.err.println(file + ": not stored: " + refused);
            System.exit(1);
        }
    }
}
