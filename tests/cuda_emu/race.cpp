/* race.cpp - happened-before for shared memory.
 *
 * Thread i has a clock that grows with each of its releases (barrier, arrival). What thread t knows
 * of thread i is the largest of: base[i], common to the block since its last barrier; what the
 * lanes of a warp told each other; and, if named barriers or mbarriers are used, a vector of its
 * own. An access is a race if an earlier one to the same two bytes, one of both being a write,
 * carries a clock its successor does not know. Clocks never go back, so what is left of an earlier
 * block is always known and nothing needs clearing.
 *
 * Two readers are remembered for each place. A third may push one out: a race may be missed in one
 * run, and the random order of fibers finds it in another; none is ever reported that is not one.
 */
#include "inside.hpp"

#include <cstdlib>
#include <vector>

namespace emu
{

uint8_t *shared_base;
uint32_t shared_bytes;

namespace
{

struct mark {
    uint32_t clock;
    uint32_t thread;
};
struct place {
    mark written;
    mark read[2];
    uint32_t in_flight;
    bool by_engine; /* written by the copy engine */
};

std::vector<place> places;
uint32_t clocks[THREADS_MAX], base[THREADS_MAX];
uint32_t fenced[THREADS_MAX]; /* the clock up to which a thread's stores are behind its fence */
uint32_t lanes_know[THREADS_MAX][32];
std::vector<uint32_t> own[THREADS_MAX]; /* empty until needed */
bool own_used;

bool known(uint32_t t, const mark &m)
{
    if (m.thread == t || m.clock <= base[m.thread])
        return true;
    if (m.thread / 32 == t / 32 && m.clock <= lanes_know[t][m.thread % 32])
        return true;
    return own_used && !own[t].empty() && m.clock <= own[t][m.thread];
}

void need_own(uint32_t t)
{
    own_used = true;
    if (own[t].empty())
        own[t].assign(THREADS_MAX, 0);
}

uint32_t knows(uint32_t t, uint32_t i)
{
    if (t == i)
        return clocks[i];
    uint32_t k = base[i];
    if (i / 32 == t / 32 && lanes_know[t][i % 32] > k)
        k = lanes_know[t][i % 32];
    if (!own[t].empty() && own[t][i] > k)
        k = own[t][i];
    return k;
}

} // namespace

void race_begin_block(uint32_t n)
{
    if (!shared_base) {
        void *p = nullptr;
        if (posix_memalign(&p, 1024, SHARED_MAX))
            abort();
        shared_base = static_cast<uint8_t *>(p);
        places.resize(SHARED_MAX / 2);
    }
    uint32_t top = 0;
    for (uint32_t i = 0; i < THREADS_MAX; i++)
        top = clocks[i] > top ? clocks[i] : top;
    for (uint32_t i = 0; i < THREADS_MAX; i++) {
        base[i] = top;
        clocks[i] = top + 1;
        if (own_used)
            own[i].clear();
    }
    own_used = false;
    memset(lanes_know, 0, sizeof lanes_know[0] * n);
    memset(shared_base, 0xff, shared_bytes);
    for (size_t i = 0; i < (shared_bytes + 1) / 2; i++)
        places[i].in_flight = 0;
}

void race_join_block()
{
    for (uint32_t i = 0; i < n_threads(); i++)
        base[i] = clocks[i]++;
}

void race_join_lanes(uint32_t warp, uint32_t mask)
{
    /* What one lane has heard elsewhere, all hear. */
    if (own_used)
        for (uint32_t l = 0; l < 32; l++)
            if ((mask >> l & 1) && !own[warp * 32 + l].empty())
                for (uint32_t o = 0; o < 32; o++)
                    if ((mask >> o & 1) && o != l) {
                        need_own(warp * 32 + o);
                        for (uint32_t i = 0; i < n_threads(); i++)
                            if (own[warp * 32 + l][i] > own[warp * 32 + o][i])
                                own[warp * 32 + o][i] = own[warp * 32 + l][i];
                    }
    uint32_t joined[32] = {0};
    for (uint32_t l = 0; l < 32; l++)
        if (mask >> l & 1)
            for (uint32_t i = 0; i < 32; i++) {
                uint32_t k = l == i ? clocks[warp * 32 + i] : lanes_know[warp * 32 + l][i];
                joined[i] = k > joined[i] ? k : joined[i];
            }
    for (uint32_t l = 0; l < 32; l++)
        if (mask >> l & 1) {
            memcpy(lanes_know[warp * 32 + l], joined, sizeof joined);
            clocks[warp * 32 + l]++;
        }
}

void race_join(const uint32_t *threads, uint32_t n)
{
    std::vector<uint32_t> joined(THREADS_MAX, 0);
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < n_threads(); i++) {
            uint32_t k = knows(threads[j], i);
            joined[i] = k > joined[i] ? k : joined[i];
        }
    for (uint32_t j = 0; j < n; j++) {
        need_own(threads[j]);
        own[threads[j]] = joined;
        clocks[threads[j]]++;
    }
}

void race_release(uint32_t *out)
{
    uint32_t t = thread_idx();
    for (uint32_t i = 0; i < n_threads(); i++) {
        uint32_t k = knows(t, i);
        out[i] = k > out[i] ? k : out[i];
    }
    clocks[t]++;
}

void race_acquire(const uint32_t *in)
{
    uint32_t t = thread_idx();
    need_own(t);
    for (uint32_t i = 0; i < n_threads(); i++)
        if (in[i] > own[t][i])
            own[t][i] = in[i];
}

void race_fence()
{
    uint32_t t = thread_idx();
    fenced[t] = clocks[t]++;
}

void race_read_by_engine(size_t offset, size_t n_bytes)
{
    race_touch(offset, n_bytes, false);
    for (size_t i = offset / 2; i < (offset + n_bytes + 1) / 2 && i < shared_bytes / 2; i++) {
        const place &p = places[i];
        if (!p.by_engine && p.written.clock > fenced[p.written.thread])
            fault("the tensor cores read shared byte %zu, which thread %u stored with no "
                  "fence_async since",
                  i * 2, p.written.thread);
    }
}

void race_land(uint32_t t, size_t offset, size_t n_bytes, uint32_t *out)
{
    for (size_t i = offset / 2; i < (offset + n_bytes + 1) / 2; i++) {
        place &p = places[i];
        if (p.written.thread != t)
            fault("race: a copy of thread %u lands on shared byte %zu, which thread %u wrote since",
                  t, i * 2, p.written.thread);
        for (const mark &r : p.read)
            if (!known(t, r))
                fault("race: a copy lands on shared byte %zu, which thread %u read since it began",
                      i * 2, r.thread);
        p.written = {clocks[t], t};
        p.by_engine = true;
    }
    out[t] = clocks[t] > out[t] ? clocks[t] : out[t];
    clocks[t]++;
}

void race_touch(size_t offset, size_t n_bytes, bool write)
{
    uint32_t t = thread_idx();
    if (offset + n_bytes > shared_bytes) {
        fault("%s shared memory at byte %zu, the block has %u", write ? "writes" : "reads", offset,
              shared_bytes);
        return;
    }
    for (size_t i = offset / 2; i < (offset + n_bytes + 1) / 2; i++) {
        place &p = places[i];
        if (p.in_flight)
            fault("%s shared byte %zu while an asynchronous copy into it is under way",
                  write ? "writes" : "reads", i * 2);
        if (!known(t, p.written))
            fault("race: %s shared byte %zu, which thread %u wrote with no barrier between",
                  write ? "writes" : "reads", i * 2, p.written.thread);
        if (write) {
            for (const mark &r : p.read)
                if (!known(t, r))
                    fault("race: writes shared byte %zu, which thread %u read with no barrier "
                          "between",
                          i * 2, r.thread);
            p.written = {clocks[t], t};
            p.by_engine = false;
        } else {
            mark *r = p.read[0].thread == t || known(t, p.read[0]) ? &p.read[0] : &p.read[1];
            *r = {clocks[t], t};
        }
    }
}

void race_in_flight(size_t offset, size_t n_bytes, bool begins)
{
    if (offset + n_bytes > shared_bytes)
        return; /* reported by the touch before */
    for (size_t i = offset / 2; i < (offset + n_bytes + 1) / 2; i++)
        places[i].in_flight = begins ? places[i].in_flight + 1 : 0;
}

} // namespace emu
