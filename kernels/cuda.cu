/* cuda.cu - the device, the table, and the thin layer over the runtime that keeps CUDA's headers
 * out of everything above. */
#include "launch.cuh"

#include <cstdio>
#include <cstring>

extern "C" {
int tarnk_embed_cuda(const tarnk_embed_args *, const tarnk_context *);
int tarnk_silu_mul_cuda(const tarnk_silu_mul_args *, const tarnk_context *);
int tarnk_norm_rms_cuda(const tarnk_norm_rms_args *, const tarnk_context *);
int tarnk_norm_gated_cuda(const tarnk_norm_gated_args *, const tarnk_context *);
int tarnk_matmul_cuda(const tarnk_matmul_args *, uint32_t n_parts, const tarnk_context *);
int tarnk_conv1d_cuda(const tarnk_conv1d_args *, const tarnk_context *);
int tarnk_kda_gate_cuda(const tarnk_kda_gate_args *, const tarnk_context *);
int tarnk_kda_cuda(const tarnk_kda_args *, const tarnk_context *);
int tarnk_mla_latent_cuda(const tarnk_mla_latent_args *, const tarnk_context *);
int tarnk_mla_cuda(const tarnk_mla_args *, const tarnk_context *);
int tarnk_moe_route_cuda(const tarnk_moe_route_args *, const tarnk_context *);
int tarnk_moe_cuda(const tarnk_moe_args *, const tarnk_context *);
}

static const tarnk_ops cuda_table = {
    "cuda",
    "cuda-1",
    tarnk_embed_cuda,
    tarnk_silu_mul_cuda,
    tarnk_norm_rms_cuda,
    tarnk_norm_gated_cuda,
    tarnk_matmul_cuda,
    tarnk_conv1d_cuda,
    tarnk_kda_gate_cuda,
    tarnk_kda_cuda,
    tarnk_mla_latent_cuda,
    tarnk_mla_cuda,
    tarnk_moe_route_cuda,
    tarnk_moe_cuda,
};

const tarnk_ops *tarnk_cuda_ops(void)
{
    return &cuda_table;
}

/* ---- the device ------------------------------------------------------------------------------ */

int tarnk_cuda_count(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

/* There is a driver, it is new enough, and it has the device. */
static cudaError_t check_driver(int device, char *why, size_t why_bytes)
{
    int driver = 0, runtime = 0, n = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t error = cudaGetDeviceCount(&n);
    if (driver == 0) {
        snprintf(why, why_bytes, "no NVIDIA driver here: %s", cudaGetErrorName(error));
        return error != cudaSuccess ? error : cudaErrorNoDevice;
    }
    if (driver / 1000 < runtime / 1000) {
        snprintf(why, why_bytes,
                 "the NVIDIA driver serves CUDA %d.%d, this library was built with CUDA %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
        return cudaErrorInsufficientDriver;
    }
    if (error != cudaSuccess || n == 0) {
        snprintf(why, why_bytes, "no CUDA device here: %s",
                 cudaGetErrorName(error != cudaSuccess ? error : cudaErrorNoDevice));
        return error != cudaSuccess ? error : cudaErrorNoDevice;
    }
    if (device < 0 || device >= n) {
        snprintf(why, why_bytes, "CUDA device %d was asked for, there are %d", device, n);
        return cudaErrorInvalidDevice;
    }
    return cudaSuccess;
}

static cudaError_t describe(tarnk_cuda *out, int device, char *why, size_t why_bytes)
{
    cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        snprintf(why, why_bytes, "CUDA device %d cannot be used: %s", device,
                 cudaGetErrorName(error));
        return error;
    }
    out->device = device;
    out->arch = static_cast<uint32_t>(properties.major * 10 + properties.minor);
    out->n_sms = static_cast<uint32_t>(properties.multiProcessorCount);
    out->shared_bytes_max = properties.sharedMemPerBlockOptin;
    out->memory_bytes = properties.totalGlobalMem;
    snprintf(out->name, sizeof out->name, "%.63s", properties.name);
    if (out->arch < TARNK_CUDA_ARCH_MIN) {
        snprintf(why, why_bytes, "%s has compute capability %d.%d, this needs %d.%d", out->name,
                 properties.major, properties.minor, TARNK_CUDA_ARCH_MIN / 10,
                 TARNK_CUDA_ARCH_MIN % 10);
        return cudaErrorInvalidDevice;
    }
    return cudaSuccess;
}

int tarnk_cuda_open(tarnk_cuda *out, int device, size_t workspace_bytes, char *why,
                    size_t why_bytes)
{
    memset(out, 0, sizeof *out);
    cudaError_t error = check_driver(device, why, why_bytes);
    if (error == cudaSuccess)
        error = describe(out, device, why, why_bytes);
    if (error != cudaSuccess || workspace_bytes == 0)
        return error;
    error = cudaMalloc(&out->workspace, workspace_bytes);
    if (error != cudaSuccess) {
        size_t left = 0, total = 0;
        cudaMemGetInfo(&left, &total);
        snprintf(why, why_bytes, "%s: %zu MiB of workspace, %zu MiB of %zu are free: %s", out->name,
                 workspace_bytes >> 20, left >> 20, total >> 20, cudaGetErrorName(error));
        out->workspace = nullptr;
        return error;
    }
    out->workspace_bytes = workspace_bytes;
    return cudaSuccess;
}

void tarnk_cuda_close(tarnk_cuda *cuda)
{
    cudaFree(cuda->workspace);
    memset(cuda, 0, sizeof *cuda);
}

int tarnk_cuda_use(const tarnk_cuda *cuda)
{
    return cudaSetDevice(cuda->device);
}

size_t tarnk_cuda_workspace(const tarnk_cuda_sizes *s)
{
    constexpr size_t KEYS = 8192, KEY_BYTES = 512, ROPE_BYTES = 128, RECORD_BYTES = 74240,
                     CHUNKS = 64;
    const size_t rows = s->n_rows_max, chunks = rows / TARNK_KDA_CHUNK_MIN;
    const size_t n_long = chunks < s->n_seqs_max ? chunks : s->n_seqs_max;
    const size_t each = n_long == 0 ? 0 : (chunks + n_long - 1) / n_long + 1;
    const size_t inputs = 2 * ((rows * s->n_in_max * sizeof(uint16_t) + 255) / 256 * 256);
    const size_t kda = n_long * (each < CHUNKS ? each : CHUNKS) * s->kda_heads * RECORD_BYTES;
    const size_t mla = rows < TARNK_MLA_APPEND_MIN
                           ? 0
                           : s->mla_heads * (rows * 2 * sizeof(float) + KEYS * KEY_BYTES) +
                                 KEYS * ROPE_BYTES + 512;
    size_t most = inputs > kda ? inputs : kda;
    return most > mla ? most : mla;
}

/* ---- memory, streams, graphs ----------------------------------------------------------------- */

static cudaStream_t stream_of(void *stream)
{
    return static_cast<cudaStream_t>(stream);
}

int tarnk_cuda_alloc(void **out, size_t n_bytes)
{
    return cudaMalloc(out, n_bytes);
}

int tarnk_cuda_memory(size_t *free_bytes, size_t *all_bytes)
{
    return cudaMemGetInfo(free_bytes, all_bytes);
}

void tarnk_cuda_free(void *memory)
{
    cudaFree(memory);
}

int tarnk_cuda_pin(void **out, size_t n_bytes)
{
    return cudaMallocHost(out, n_bytes);
}

void tarnk_cuda_unpin(void *memory)
{
    cudaFreeHost(memory);
}

int tarnk_cuda_upload(void *to, const void *from, size_t n_bytes, void *stream)
{
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, stream_of(stream));
}

int tarnk_cuda_download(void *to, const void *from, size_t n_bytes, void *stream)
{
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, stream_of(stream));
}

int tarnk_cuda_copy(void *to, const void *from, size_t n_bytes, void *stream)
{
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, stream_of(stream));
}

int tarnk_cuda_fill(void *to, int value, size_t n_bytes, void *stream)
{
    return cudaMemsetAsync(to, value, n_bytes, stream_of(stream));
}

int tarnk_cuda_stream_create(void **out)
{
    cudaStream_t stream = nullptr;
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    *out = stream;
    return error;
}

void tarnk_cuda_stream_free(void *stream)
{
    if (stream)
        cudaStreamDestroy(stream_of(stream));
}

int tarnk_cuda_wait(void *stream)
{
    return cudaStreamSynchronize(stream_of(stream));
}

int tarnk_cuda_record_begin(void *stream)
{
    return cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal);
}

int tarnk_cuda_record_end(void *stream, void **graph)
{
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t made = nullptr;
    *graph = nullptr;
    cudaError_t error = cudaStreamEndCapture(stream_of(stream), &recorded);
    if (error == cudaSuccess)
        error = cudaGraphInstantiate(&made, recorded, 0);
    if (recorded)
        cudaGraphDestroy(recorded);
    *graph = made;
    return error;
}

int tarnk_cuda_graph_run(void *graph, void *stream)
{
    return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream));
}

void tarnk_cuda_graph_free(void *graph)
{
    if (graph)
        cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

int tarnk_cuda_event_create(void **out)
{
    cudaEvent_t event = nullptr;
    cudaError_t error = cudaEventCreate(&event);
    *out = event;
    return error;
}

void tarnk_cuda_event_free(void *event)
{
    if (event)
        cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

int tarnk_cuda_event_mark(void *event, void *stream)
{
    return cudaEventRecord(static_cast<cudaEvent_t>(event), stream_of(stream));
}

int tarnk_cuda_event_wait(void *event)
{
    return cudaEventSynchronize(static_cast<cudaEvent_t>(event));
}

bool tarnk_cuda_event_passed(void *event)
{
    return cudaEventQuery(static_cast<cudaEvent_t>(event)) != cudaErrorNotReady;
}

int tarnk_cuda_stream_after(void *stream, void *event)
{
    return cudaStreamWaitEvent(stream_of(stream), static_cast<cudaEvent_t>(event), 0);
}

int tarnk_cuda_event_ms(void *begin, void *end, float *ms)
{
    cudaError_t error = cudaEventSynchronize(static_cast<cudaEvent_t>(end));
    if (error != cudaSuccess)
        return error;
    return cudaEventElapsedTime(ms, static_cast<cudaEvent_t>(begin), static_cast<cudaEvent_t>(end));
}

const char *tarnk_cuda_error(int error)
{
    return cudaGetErrorName(static_cast<cudaError_t>(error));
}
