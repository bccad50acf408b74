// Stores one row: kpi FILE USERS LOAD
package main

import (
	"fmt"
	"os"
)

func main() {
	file, users, load := os.Args[1], os.Args[2], os.Args[3]
	row := fmt.Sprintf("current_users,load\n%s,%s\n", users, load)
	// Opens, writes and closes. The partition answers at close, whose error this returns; `defer file.Close()` would drop it.
	if err := os.WriteFile(file, []byte(row), 0o666); err != nil {
		fmt.Fprintln(os.Stderr, "not stored:", err)
		os.Exit(1)
	}
}
