/* A stranger's program: the headers and the library, as they were installed. Prints the version. */
#include <tarn.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
    tarn_model *model = NULL;
    tarn_error err;
    tarn_status status = tarn_model_open("no-such-folder", NULL, &model, &err);
    if (status != TARN_E_NOT_FOUND || model != NULL) {
        printf("opening a folder that does not exist gave %s\n", tarn_status_name(status));
        return 1;
    }
    if (err.status != status || strstr(err.detail, "no-such-folder") == NULL) {
        printf("the detail does not name the folder: %s\n", err.detail);
        return 1;
    }
    tarn_model_close(model);
    printf("%s\n", tarn_version());
    return 0;
}
