/* replay.c - feeds a fuzz target every file of the folders named, in the order of their names. */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

static void feed(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    MUST(file && fstat(fileno(file), &info) == 0);
    size_t n_bytes = (size_t)info.st_size;
    uint8_t *data = malloc(n_bytes + 1);
    MUST(data && fread(data, 1, n_bytes, file) == n_bytes);
    fclose(file);
    LLVMFuzzerTestOneInput(data, n_bytes);
    free(data);
}

int main(int argc, char **argv)
{
    size_t n_inputs = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int n = scandir(argv[i], &entries, NULL, alphasort);
        for (int k = 0; k < n; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[k]->d_name);
            if (entries[k]->d_name[0] != '.') {
                printf("%s\n", path); /* the last one printed is the one that failed */
                fflush(stdout);
                feed(path);
                n_inputs++;
            }
            free(entries[k]);
        }
        if (n >= 0)
            free(entries);
    }
    printf("%zu inputs\n", n_inputs);
    return n_inputs > 0 ? 0 : 1;
}
