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

void mirror_seed(uint64_t seed)
{
    emu::seed(seed);
}
