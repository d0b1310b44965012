#include "check.h"
#include "fixture.h"
#include "soak.h"

CASE(three_hundred_cycles) /* E6 */
{
    soak(RIG_FEW(300, 50));
}

CHECK_MAIN(ENTRY(three_hundred_cycles))
