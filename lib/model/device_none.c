/* device_none.c - in place of device_cuda.c in a build without CUDA. */
#include "device.h"

const tarni_device_class *tarni_cuda_class(void)
{
    return NULL;
}

uint32_t tarni_cuda_count(void)
{
    return 0;
}

uint64_t tarni_cuda_bytes(uint32_t index)
{
    (void)index;
    return 0;
}

tarn_status tarni_cuda_open(tarni_device *out, uint32_t index, const tarni_device_needs *needs,
                            tarn_error *err)
{
    (void)out, (void)needs;
    return tarni_fail(err, TARN_E_NO_DEVICE, "device is cuda:%u, this build has: cpu", index);
}
