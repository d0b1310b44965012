// program.c once more, as C++.
#include <tarn.h>

#include <iostream>
#include <string>

int main()
{
    tarn_model *model = nullptr;
    tarn_error err{};
    tarn_status status = tarn_model_open("no-such-folder", nullptr, &model, &err);
    if (status != TARN_E_NOT_FOUND || model != nullptr ||
        std::string(err.detail).find("no-such-folder") == std::string::npos) {
        std::cout << tarn_status_name(status) << ": " << err.detail << '\n';
        return 1;
    }
    tarn_model_close(model);
    std::cout << tarn_version() << '\n';
    return 0;
}
