/* runtime.cpp - streams as lists of work that runs when waited for, events as places in them,
 * graphs as recorded lists. After a fault every call that waits returns an error, as on a device.
 */
#include "inside.hpp"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

struct emu_event {
    uint64_t asked = 0, done = 0; /* records */
    emu_stream *stream = nullptr;
};
struct piece {
    std::function<void()> run;
    char kind; /* emu.hpp, watch_begin; 0: an event */
};
struct emu_graph {
    std::vector<piece> work;
};
struct emu_stream {
    std::deque<piece> work;
    emu_graph *capturing = nullptr;
    int device = 0; /* kernels go to it from threads that have chosen that device */
    char number = '0';
};

namespace
{

emu_stream default_stream;
std::vector<emu_stream *> streams{&default_stream};
std::vector<emu_event *> events;
int devices = 1;
thread_local int chosen;

cudaError_t state()
{
    return emu::faulty() ? cudaErrorIllegalAddress : cudaSuccess;
}
emu_stream *of(cudaStream_t s)
{
    return s ? s : &default_stream;
}

bool watching;
std::string watched;

int breaks_in = -1;

void run_first(emu_stream *s)
{
    if (breaks_in == 0)
        emu::break_down();
    breaks_in -= breaks_in >= 0;
    piece first = s->work.front();
    s->work.pop_front();
    first.run();
    if (watching && first.kind)
        (watched += s->number) += first.kind;
}

cudaError_t drain(emu_stream *s)
{
    while (!s->work.empty())
        run_first(s);
    return state();
}

void put(cudaStream_t stream, char kind, std::function<void()> run)
{
    emu_stream *s = of(stream);
    piece work = {std::move(run), kind};
    if (s->capturing)
        s->capturing->work.push_back(std::move(work));
    else
        s->work.push_back(std::move(work));
}

char kind_of(cudaMemcpyKind kind)
{
    return kind == cudaMemcpyHostToDevice ? 'u' : kind == cudaMemcpyDeviceToHost ? 'd' : 'c';
}

} // namespace

namespace emu
{

static std::recursive_mutex everything;

turn::turn()
{
    everything.lock();
}
turn::~turn()
{
    everything.unlock();
}

void device_count(int n)
{
    devices = n;
}

void break_after(int pieces)
{
    turn lock;
    breaks_in = pieces;
}

bool work_left()
{
    for (const emu_stream *s : streams)
        if (!s->work.empty())
            return true;
    return false;
}

void watch_begin()
{
    turn lock;
    watching = true;
    watched.clear();
}

const char *watch_end()
{
    turn lock;
    watching = false;
    return watched.c_str();
}

int enqueue_kernel(void *stream, const launch &l, void (*call)(const void *), const void *arguments,
                   size_t n_bytes)
{
    uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
    if (threads == 0 || threads > THREADS_MAX || l.shared_bytes > SHARED_MAX || l.grid.x == 0 ||
        l.grid.y == 0 || l.grid.z == 0 || l.grid.y > 65535 || l.grid.z > 65535 ||
        n_bytes > ARGUMENT_BYTES_MAX)
        return cudaErrorInvalidConfiguration;
    if (of(static_cast<cudaStream_t>(stream))->device != chosen)
        return cudaErrorInvalidDevice;
    turn lock;
    auto *bytes = static_cast<const uint8_t *>(arguments);
    std::vector<uint8_t> copy(bytes, bytes + n_bytes);
    put(static_cast<cudaStream_t>(stream), 'k',
        [=] { run_grid(l, call, copy.data(), copy.size()); });
    return cudaSuccess;
}

} // namespace emu

cudaError_t cudaGetDeviceCount(int *n)
{
    const char *hidden = getenv("CUDA_VISIBLE_DEVICES");
    *n = hidden && !*hidden ? 0 : devices;
    return *n ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int d)
{
    if (d < 0 || d >= devices)
        return cudaErrorInvalidDevice;
    chosen = d;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "emulated");
    p->totalGlobalMem = size_t(8) << 30;
    p->multiProcessorCount = 4;
    p->major = 9;
    p->sharedMemPerBlockOptin = emu::SHARED_MAX;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v)
{
    return *v = 13000, cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v)
{
    return *v = 13000, cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    emu::turn lock;
    put(stream, kind_of(kind), [=] {
        if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
            emu::check_global(to, n, true);
        if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
            emu::check_global(from, n, false);
        memcpy(to, from, n);
    });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    emu::turn lock;
    cudaDeviceSynchronize();
    cudaMemcpyAsync(to, from, n, kind, nullptr);
    return drain(&default_stream);
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t stream)
{
    emu::turn lock;
    put(stream, 'f', [=] {
        emu::check_global(to, n, true);
        memset(to, value, n);
    });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    emu::turn lock;
    streams.push_back(*out = new emu_stream);
    (*out)->device = chosen;
    (*out)->number = char('0' + streams.size() - 1);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    emu::turn lock;
    drain(s);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == s)
            streams.erase(streams.begin() + long(i));
    for (emu_event *e : events)
        if (e->stream == s)
            e->stream = nullptr; /* it has happened */
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    emu::turn lock;
    if (of(s)->capturing)
        return cudaErrorStreamCaptureInvalidated;
    return drain(of(s));
}
cudaError_t cudaDeviceSynchronize()
{
    emu::turn lock;
    for (size_t i = 0; i < streams.size(); i++)
        drain(streams[i]);
    return state();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    emu::turn lock;
    events.push_back(*out = new emu_event);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    emu::turn lock;
    if (e && e->stream)
        drain(e->stream);
    for (size_t i = 0; i < events.size(); i++)
        if (events[i] == e)
            events.erase(events.begin() + long(i));
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream)
{
    emu::turn lock;
    uint64_t ticket = ++e->asked;
    e->stream = of(stream);
    put(stream, 0, [e, ticket] { e->done = ticket; });
    return cudaSuccess;
}
/* Runs the event's stream no further than the event. */
static void reach(cudaEvent_t e, uint64_t ticket)
{
    while (e->done < ticket && e->stream && !e->stream->work.empty())
        run_first(e->stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    emu::turn lock;
    reach(e, e->asked);
    return state();
}
/* What has been asked for goes on while somebody looks: one piece of work each time. */
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    emu::turn lock;
    if (e->done >= e->asked || !e->stream || e->stream->work.empty() || emu::faulty())
        return state();
    run_first(e->stream);
    return e->done < e->asked ? cudaErrorNotReady : state();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned)
{
    emu::turn lock;
    uint64_t ticket = e->asked;
    put(stream, 0, [e, ticket] { reach(e, ticket); });
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    emu::turn lock;
    if (of(stream)->capturing)
        return cudaErrorInvalidValue;
    of(stream)->capturing = new emu_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    emu::turn lock;
    *out = of(stream)->capturing;
    of(stream)->capturing = nullptr;
    return *out ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    emu::turn lock;
    *out = new emu_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    emu::turn lock;
    for (const piece &work : graph->work)
        put(stream, work.kind, work.run);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    emu::turn lock;
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g)
{
    emu::turn lock;
    cudaDeviceSynchronize();
    delete g;
    return cudaSuccess;
}
cudaError_t cudaPeekAtLastError()
{
    emu::turn lock;
    return state();
}
cudaError_t cudaGetLastError()
{
    emu::turn lock;
    return state();
}
const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorAlreadyMapped:
        return "cudaErrorAlreadyMapped";
    case cudaErrorNotMapped:
        return "cudaErrorNotMapped";
    case cudaErrorIllegalState:
        return "cudaErrorIllegalState";
    case cudaErrorSymbolNotFound:
        return "cudaErrorSymbolNotFound";
    case cudaErrorNotSupported:
        return "cudaErrorNotSupported";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    default:
        return "cudaError";
    }
}
const char *cudaGetErrorString(cudaError_t e)
{
    return cudaGetErrorName(e);
}
