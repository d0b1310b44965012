/* asyncs.cpp - copies that are under way until somebody waits for them.
 *
 * From its start to its landing a copy's destination holds NaN and may not be touched. A cp.async
 * lands when its thread waits for its group. A bulk copy lands when its mbarrier needs nothing but
 * the bytes to go over to the next phase, and somebody waits for that. The source is read at the
 * landing, so that a source changed too early shows. */
#include "inside.hpp"

#include <map>
#include <vector>

namespace emu
{

namespace
{

struct copy {
    uint8_t *to;
    const uint8_t *from;
    uint32_t n_bytes, n_read;
    uint32_t thread;
};
struct thread_copies {
    std::vector<std::vector<copy>> groups; /* committed, oldest first */
    std::vector<copy> open;
};
struct mbarrier {
    uint32_t arrivals, missing, phase;
    int64_t tx_bytes;
    std::vector<copy> copies;
    std::vector<uint32_t> waiting;
    std::vector<uint32_t> clocks, last_clocks;
};

thread_copies copies[THREADS_MAX];
std::map<uint64_t *, mbarrier> mbarriers;

size_t offset_of(const void *p)
{
    return size_t(static_cast<const uint8_t *>(p) - shared_base);
}

void start(const copy &c)
{
    if (!is_shared(c.to)) {
        fault("an asynchronous copy goes to %p, which is not shared memory", (void *)c.to);
        return;
    }
    if (c.n_read > 0)
        check_global(c.from, c.n_read, false);
    race_touch(offset_of(c.to), c.n_bytes, true);
    race_in_flight(offset_of(c.to), c.n_bytes, true);
    if (offset_of(c.to) + c.n_bytes <= shared_bytes)
        memset(c.to, 0xff, c.n_bytes);
}

/* A bulk copy's landing is told to who acquires `clocks`; without, the thread itself has waited. */
void land(const copy &c, uint32_t *clocks)
{
    if (!is_shared(c.to) || offset_of(c.to) + c.n_bytes > shared_bytes)
        return;
    race_in_flight(offset_of(c.to), c.n_bytes, false);
    memset(c.to, 0, c.n_bytes);
    if (c.n_read > 0)
        memcpy(c.to, c.from, c.n_read);
    if (clocks)
        race_land(c.thread, offset_of(c.to), c.n_bytes, clocks);
    else
        race_touch(offset_of(c.to), c.n_bytes, true);
}

mbarrier *find(uint64_t *bar, const char *what)
{
    auto it = mbarriers.find(bar);
    if (it == mbarriers.end()) {
        fault("%s on an mbarrier that was not made", what);
        return nullptr;
    }
    return &it->second;
}

/* Goes over to the next phase if only bytes are missing and somebody waits. */
void try_flip(mbarrier &b)
{
    if (b.missing > 0 || (b.tx_bytes > 0 && b.waiting.empty()))
        return;
    int64_t in_flight = 0;
    for (const copy &c : b.copies)
        in_flight += c.n_bytes;
    if (in_flight < b.tx_bytes)
        return; /* more was announced than has been asked for: not yet */
    if (in_flight > b.tx_bytes)
        fault("an mbarrier expects %ld bytes and %ld are on their way", long(b.tx_bytes),
              long(in_flight));
    for (const copy &c : b.copies)
        land(c, b.clocks.data());
    b.copies.clear();
    b.tx_bytes = 0;
    b.missing = b.arrivals;
    b.phase++;
    b.last_clocks = b.clocks;
    for (uint32_t t : b.waiting)
        wake(t);
    b.waiting.clear();
}

} // namespace

void asyncs_begin_block()
{
    mbarriers.clear();
}

void asyncs_end_thread()
{
    thread_copies &c = copies[thread_idx()];
    size_t left = c.open.size();
    for (auto &g : c.groups)
        left += g.size();
    if (left > 0)
        fault("ends with %zu asynchronous copies it never waited for", left);
    c.open.clear();
    c.groups.clear();
}

void asyncs_end_block()
{
    for (auto &b : mbarriers)
        if (!b.second.copies.empty())
            fault("ends with %zu bulk copies nobody waited for", b.second.copies.size());
    mbarriers.clear();
}

void copy_async(void *to, const void *from, uint32_t n_bytes, uint32_t n_read)
{
    if (uintptr_t(to) % n_bytes || (n_read > 0 && uintptr_t(from) % n_bytes))
        fault("an asynchronous copy of %u bytes is not aligned to that", n_bytes);
    copy c = {static_cast<uint8_t *>(to), static_cast<const uint8_t *>(from), n_bytes, n_read,
              thread_idx()};
    start(c);
    copies[thread_idx()].open.push_back(c);
}

void copy_commit()
{
    thread_copies &c = copies[thread_idx()];
    c.groups.push_back(c.open);
    c.open.clear();
}

void copy_wait(uint32_t groups_left)
{
    auto &groups = copies[thread_idx()].groups;
    while (groups.size() > groups_left) {
        for (const copy &c : groups.front())
            land(c, nullptr);
        groups.erase(groups.begin());
    }
}

void mbarrier_init(uint64_t *bar, uint32_t arrivals)
{
    touch(bar, 8, true);
    const std::vector<uint32_t> none(THREADS_MAX, 0);
    mbarriers[bar] = {arrivals, arrivals, 0, 0, {}, {}, none, none};
}

void mbarrier_arrive(uint64_t *bar, uint32_t tx_bytes)
{
    mbarrier *b = find(bar, "arrives");
    if (!b)
        return;
    if (b->missing == 0) {
        fault("more threads arrive at an mbarrier than it counts (%u)", b->arrivals);
        return;
    }
    b->tx_bytes += tx_bytes;
    b->missing--;
    race_release(b->clocks.data());
    try_flip(*b);
}

bool mbarrier_done(uint64_t *bar, uint32_t parity)
{
    mbarrier *b = find(bar, "asks");
    if (!b)
        return true;
    if ((b->phase & 1) == (parity & 1))
        return false;
    race_acquire(b->last_clocks.data());
    return true;
}

void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
    mbarrier *b = find(bar, "waits");
    while (b && !mbarrier_done(bar, parity)) {
        b->waiting.push_back(thread_idx());
        try_flip(*b);
        sleep_on("mbarrier");
    }
}

void bulk_copy(void *to, const void *from, uint32_t n_bytes, uint64_t *bar)
{
    mbarrier *b = find(bar, "a bulk copy reports");
    if (uintptr_t(to) % 16 || uintptr_t(from) % 16 || n_bytes % 16)
        fault("a bulk copy of %u bytes from %p: address or size is no multiple of 16", n_bytes,
              from);
    if (!b)
        return;
    copy c = {static_cast<uint8_t *>(to), static_cast<const uint8_t *>(from), n_bytes, n_bytes,
              thread_idx()};
    start(c);
    b->copies.push_back(c);
    try_flip(*b);
}

} // namespace emu
