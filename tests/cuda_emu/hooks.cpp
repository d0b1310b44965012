/* hooks.cpp - what the tests written in C ask of the emulator. */
#include "emu.hpp"

extern "C" unsigned mirror_faults(const char **first);
extern "C" void mirror_seed(uint64_t seed);

unsigned mirror_faults(const char **first)
{
    return emu::faults(first);
}

void mirror_seed(uint64_t seed)
{
    emu::seed(seed);
}
