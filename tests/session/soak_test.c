#include "check.h"
#include "soak.h"

CASE(three_hundred_cycles) /* E6 */
{
    soak(300);
}

CHECK_MAIN(ENTRY(three_hundred_cycles))
