/* Stores one row: kpi FILE USERS LOAD */

#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s FILE USERS LOAD\n", argv[0]);
        return 2;
    }
    FILE *file = fopen(argv[1], "w");
    if (file == NULL) {
        perror(argv[1]);
        return 1;
    }
    int written = fprintf(file, "current_users,load\n%s,%s\n", argv[2], argv[3]);
    /* Close in any case, and look at it: this is where the partition answers. */
    if (fclose(file) != 0 || written < 0) {
        perror(argv[1]);
        return 1;
    }
    return 0;
}
