/* calm.cpp - the emulator of a program that tests what lies above the kernels. */
#include "emu.hpp"

namespace
{

const struct calmer {
    calmer()
    {
        emu::calm();
    }
} at_start;

} // namespace
