/* hooks.cpp - what the tests written in C ask of the emulator. */
#include "emu.hpp"

extern "C" unsigned mirror_faults(const char **first);
extern "C" void mirror_seed(uint64_t seed);

unsigned mirror_faults(const char **first)
{
    return emu::faults(first);
}

extern "C" void emu_break();

/* From here on the device answers as after a fault of a kernel, until mirror_faults is asked. */
void emu_break()
{
    emu::break_down();
}

extern "C" void emu_break_after(int pieces);

/* The same when so much more work has been done, if it ever is. */
void emu_break_after(int pieces)
{
    emu::break_after(pieces);
}

extern "C" void emu_watch_begin();
extern "C" const char *emu_watch_end();

void emu_watch_begin()
{
    emu::watch_begin();
}

/* Two letters for each piece of work that was done meanwhile: stream, then kind (emu.hpp). */
const char *emu_watch_end()
{
    return emu::watch_end();
}

extern "C" void emu_device_count(int n);
extern "C" void emu_memory_limit(size_t n_bytes);
extern "C" void emu_range_unit(size_t n_bytes);
extern "C" void emu_fail_maps(int after);
extern "C" void emu_fail_pins(int after);
extern "C" void emu_range_support(bool value);
extern "C" void emu_hide_entry(const char *name);

/* They share one memory; what is asked of the wrong one is refused. */
void emu_device_count(int n)
{
    emu::device_count(n);
}

/* How much memory the device has from now on; what is taken stays. */
void emu_memory_limit(size_t n_bytes)
{
    emu::memory_limit(n_bytes);
}

/* As emu.hpp says. */
void emu_range_unit(size_t n_bytes)
{
    emu::range_unit(n_bytes);
}

void emu_fail_maps(int after)
{
    emu::fail_maps(after);
}

void emu_fail_pins(int after)
{
    emu::fail_pins(after);
}

void emu_range_support(bool value)
{
    emu::range_support(value);
}

void emu_hide_entry(const char *name)
{
    emu::hide_entry(name);
}

void mirror_seed(uint64_t seed)
{
    emu::seed(seed);
}
