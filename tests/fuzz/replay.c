/* replay.c - a main for fuzz targets without libFuzzer: runs the target on every file of the
 * folders (or files) given. Exit 1 where there was none to run. */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

static size_t n_run;

static void run_file(const char *path)
{
    FILE *in = fopen(path, "rb");
    struct stat info;
    if (!in || fstat(fileno(in), &info) != 0) {
        perror(path);
        exit(1);
    }
    size_t n_bytes = (size_t)info.st_size;
    uint8_t *data = malloc(n_bytes > 0 ? n_bytes : 1); /* no more: a sanitizer sees its end */
    if (!data || fread(data, 1, n_bytes, in) != n_bytes) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(in);
    printf("%s: %zu bytes\n", path, n_bytes);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, n_bytes);
    free(data);
    n_run++;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (!folder) {
            run_file(argv[i]);
            continue;
        }
        for (struct dirent *entry; (entry = readdir(folder));) {
            char path[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            run_file(path);
        }
        closedir(folder);
    }
    printf("%zu inputs\n", n_run);
    return n_run > 0 ? 0 : 1;
}
