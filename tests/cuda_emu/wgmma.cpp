/* wgmma.cpp - products of a warpgroup that are under way until somebody waits for them.
 *
 * From its issue to the wait for its group a product's sums are NaN; its operands, in registers
 * and in shared memory, are read at the wait, so that one changed too early shows, and are looked
 * at for races at both ends. The 16 rows of a warp depend on no other warp, so each is computed by
 * itself; that the four of a warpgroup issue the same products is checked.
 *
 * A tile of shared memory is found through its descriptor, bit by bit as the hardware reads it:
 * start, leading and stride offsets in 16 bytes, and the swizzle of 128 bytes, which exchanges the
 * 16-byte pieces of a row by the three bits of the address above them. */
#include "inside.hpp"

#include <vector>

namespace emu
{

namespace
{

constexpr uint32_t N = 128, K = 16, TILES = N / 8;

struct product {
    float *d[32];
    const uint32_t *a[32];
    uint64_t a_tile, b_tile;
    bool in_registers, b_by_column, add, kept;
    float before[32][TILES * 4]; /* the sums, if they were not under way already */
};

struct warp_products {
    std::vector<std::vector<product>> groups; /* committed, oldest first */
    std::vector<product> open;
    bool fenced;
    uint64_t n_issued;
};
warp_products warps[THREADS_MAX / 32];
/* What each warpgroup issued, by its first warp to do so. */
std::vector<std::pair<uint64_t, uint64_t>> issued[THREADS_MAX / 128];

struct request {
    float *d;
    const uint32_t *a;
    uint64_t a_tile, b_tile;
    bool b_by_column, add;
};

/* Where element (i, k) of a tile of 128-byte rows lies: i counts rows where `by_column` is false,
 * else elements of a row. */
size_t element(uint64_t tile, uint32_t i, uint32_t k, bool by_column)
{
    const uint64_t start = (tile & 0x3fff) * 16, leading = (tile >> 16 & 0x3fff) * 16,
                   stride = (tile >> 32 & 0x3fff) * 16;
    uint64_t at = by_column ? start + i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2
                            : start + i / 8 * stride + i % 8 * 128 + k * 2;
    return at ^ (at >> 7 & 7) << 4;
}

float value(uint64_t tile, uint32_t i, uint32_t k, bool by_column)
{
    const size_t at = element(tile, i, k, by_column);
    uint16_t bits = 0x7fff;
    if (at + 2 <= SHARED_MAX)
        memcpy(&bits, shared_base + at, 2);
    return __uint_as_float(uint32_t(bits) << 16);
}

void look_at(const product &p, uint32_t warp)
{
    const bool columns = p.b_by_column;
    for (uint32_t i = 0; i < N; i += columns ? 8 : 1)
        for (uint32_t k = 0; k < K; k += columns ? 1 : 8)
            race_read_by_engine(element(p.b_tile, i, k, columns), 16);
    for (uint32_t i = 0; i < 16 && !p.in_registers; i++)
        for (uint32_t k = 0; k < K; k += 8)
            race_read_by_engine(element(p.a_tile, warp % 4 * 16 + i, k, false), 16);
}

bool under_way(const warp_products &w, const float *d)
{
    for (const product &p : w.open)
        if (p.d[0] == d)
            return true;
    for (const auto &g : w.groups)
        for (const product &p : g)
            if (p.d[0] == d)
                return true;
    return false;
}

void issue(void **payloads, uint32_t)
{
    const uint32_t warp = thread_idx() / 32;
    warp_products &w = warps[warp];
    product p = {};
    const request &first = *static_cast<request *>(payloads[0]);
    p.a_tile = first.a_tile;
    p.b_tile = first.b_tile;
    p.b_by_column = first.b_by_column;
    p.add = first.add;
    p.in_registers = first.a != nullptr;
    p.kept = !under_way(w, first.d);
    if (!w.fenced)
        fault("wgmma: no wgmma_fence since the last group");
    if (n_threads() / 128 <= warp / 4)
        fault("wgmma: warp %u is of no whole warpgroup", warp);
    for (uint64_t tile : {p.b_tile, p.in_registers ? p.b_tile : p.a_tile})
        if (tile >> 62 != 1 || (tile >> 49 & 7) != 0)
            fault("wgmma: descriptor %016lx is not of 128-byte swizzle", (unsigned long)tile);
    for (uint32_t l = 0; l < 32; l++) {
        const request &r = *static_cast<request *>(payloads[l]);
        if (r.a_tile != p.a_tile || r.b_tile != p.b_tile || r.add != p.add)
            fault("wgmma: lanes of warp %u disagree", warp);
        p.d[l] = r.d;
        p.a[l] = r.a;
        if (p.kept)
            memcpy(p.before[l], r.d, sizeof p.before[l]);
        memset(r.d, 0xff, sizeof p.before[l]);
    }
    auto &same = issued[warp / 4];
    if (same.size() == w.n_issued)
        same.emplace_back(p.a_tile, p.b_tile);
    else if (same[w.n_issued] != std::make_pair(p.a_tile, p.b_tile))
        fault("wgmma: warp %u issues another product than its warpgroup", warp);
    w.n_issued++;
    look_at(p, warp);
    w.open.push_back(p);
}

void finish(const product &p, uint32_t warp)
{
    float a[16][K], b[N][K];
    look_at(p, warp);
    for (uint32_t l = 0; l < 32 && p.in_registers; l++)
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t half = 0; half < 2; half++)
                a[l / 4 + i % 2 * 8][l % 4 * 2 + i / 2 * 8 + half] =
                    __uint_as_float(p.a[l][i] >> half * 16 << 16);
    for (uint32_t i = 0; i < 16 && !p.in_registers; i++)
        for (uint32_t k = 0; k < K; k++)
            a[i][k] = value(p.a_tile, warp % 4 * 16 + i, k, false);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t k = 0; k < K; k++)
            b[i][k] = value(p.b_tile, i, k, p.b_by_column);
    for (uint32_t l = 0; l < 32; l++) {
        if (p.kept)
            memcpy(p.d[l], p.before[l], sizeof p.before[l]);
        for (uint32_t n = 0; n < TILES; n++)
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t row = l / 4 + i / 2 * 8, column = n * 8 + l % 4 * 2 + i % 2;
                float sum = 0;
                for (uint32_t k = 0; k < K; k++)
                    sum += a[row][k] * b[column][k];
                float *d = p.d[l] + n * 4 + i;
                *d = p.add ? *d + sum : sum;
            }
    }
}

void land(void **payloads, uint32_t)
{
    const uint32_t warp = thread_idx() / 32, left = *static_cast<uint32_t *>(payloads[0]);
    warp_products &w = warps[warp];
    while (w.groups.size() > left) {
        for (const product &p : w.groups.front())
            finish(p, warp);
        w.groups.erase(w.groups.begin());
    }
    race_join_lanes(warp, 0xffffffffu); /* the reads were of all lanes, which are here together */
}

void commit(void **, uint32_t)
{
    warp_products &w = warps[thread_idx() / 32];
    w.groups.push_back(w.open);
    w.open.clear();
    w.fenced = false;
}

void fence(void **, uint32_t)
{
    warps[thread_idx() / 32].fenced = true;
}

} // namespace

void wgmma_begin_block()
{
    for (auto &i : issued)
        i.clear();
    for (warp_products &w : warps)
        w.n_issued = 0;
}

void wgmma_end_thread()
{
    warp_products &w = warps[thread_idx() / 32];
    if (!w.open.empty() || !w.groups.empty())
        fault("ends with products it never waited for");
    w.open.clear();
    w.groups.clear();
    w.fenced = false;
}

void fence_async()
{
    race_fence();
}

void wgmma(float *d, const uint32_t *a, uint64_t a_tile, uint64_t b_tile, bool b_by_column,
           bool add)
{
    request r = {d, a, a_tile, b_tile, b_by_column, add};
    warp_meet(0xffffffffu, issue, &r, "wgmma");
}

void wgmma_fence()
{
    warp_meet(0xffffffffu, fence, nullptr, "wgmma_fence");
}

void wgmma_commit()
{
    warp_meet(0xffffffffu, commit, nullptr, "wgmma_commit");
}

void wgmma_wait(uint32_t groups_left)
{
    warp_meet(0xffffffffu, land, &groups_left, "wgmma_wait");
}

} // namespace emu
